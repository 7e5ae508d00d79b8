"""The engine's twin, where it carries more than plain datagrams."""

from warren.engine.commands import (
    CloseSockets,
    KeepSocket,
    OpenSockets,
    SendDatagram,
    SetForward,
    SetPath,
)
from warren.engine.events import Bound, Datagram, Fault
from warren.engine.memory import MemoryEngine, MemoryNetwork
from warren.engine.protocol import EngineConfig
from warren.netmap.endpoint import Endpoint

DISCO = b"TS\xf0\x9f\x92\xac" + bytes(60)


def engines(count: int) -> list[MemoryEngine]:
    network = MemoryNetwork(lambda: 0.0)
    made = [
        MemoryEngine(EngineConfig(tun=None), network, Endpoint.parse(f"192.0.2.{n}:41641"))
        for n in range(1, count + 1)
    ]
    assert [engine.poll() for engine in made] == [[Bound(port4=41641, port6=0)]] * count
    return made


def test_sockets_of_a_group_have_addresses_of_their_own() -> None:
    a, b = engines(2)
    a.apply([OpenSockets(group=3, count=256)])
    a.apply([SendDatagram(to="192.0.2.2:41641", data=DISCO, group=3, index=200)])
    (probe,) = b.poll()
    assert isinstance(probe, Datagram)
    assert probe.src != "192.0.2.1:41641"
    b.apply([SendDatagram(to=probe.src, data=b"reply")])
    assert a.poll() == [Datagram(src="192.0.2.2:41641", data=b"reply", group=3, index=200)]
    path = SetPath(peer=b"k", addr="192.0.2.2:41641", lease_ms=1000, group=3, index=200)
    a.apply([KeepSocket(group=3, index=200), path])
    assert len(a.sockets) == 2
    assert a.direct(b"k", 0.5) == "192.0.2.2:41641"
    a.apply([CloseSockets(group=3), SendDatagram(to=probe.src, data=b"", group=3, index=200)])
    assert a.direct(b"k", 0.5) is None
    assert not b.poll()
    a.apply([KeepSocket(group=3, index=0), OpenSockets(group=1, count=512)])
    a.apply([OpenSockets(group=1, count=1), OpenSockets(group=2, count=513)])
    assert [type(event) for event in a.poll()] == [Fault] * 3


def test_a_relay_passes_on_between_two_addresses() -> None:
    a, b, relay = engines(3)
    at = str(relay.endpoint)
    relay.apply([SetForward(vni=5, a=str(a.endpoint), b=str(b.endpoint))])
    a.apply([SendDatagram(to=at, data=DISCO, vni=5)])
    assert b.poll() == [Datagram(src=at, data=DISCO, vni=5)]
    b.apply([SendDatagram(to=at, data=DISCO, vni=5, control=True)])
    assert relay.poll() == [Datagram(src=str(b.endpoint), data=DISCO, vni=5, control=True)]
    relay.apply([SendDatagram(to=at, data=DISCO, vni=5), SetForward(vni=5, a=None, b=None)])
    assert not relay.poll(), "a stranger's"
    a.apply([SendDatagram(to=at, data=DISCO, vni=5)])
    assert relay.poll() == [Datagram(src=str(a.endpoint), data=DISCO, vni=5)]
