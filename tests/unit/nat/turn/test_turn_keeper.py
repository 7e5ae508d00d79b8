"""One allocation among several servers: which one, when another, and when none."""

from __future__ import annotations

import random

from turn_world import ALICE, BOB, PEER, World, flow_of

from warren.nat.stun import TxId
from warren.nat.turn.allocation import CloseRelay, Flow, OpenRelay, ToClient, Transport
from warren.nat.turn.credentials import Credentials
from warren.nat.turn.events import Allocated, Cause, ChannelOpen, Lost
from warren.nat.turn.keeper import (
    HEAD_START_S,
    MAX_ASKED,
    MAX_STREAMS_ASKED,
    KeeperEvent,
    Left,
    Server,
    Trying,
    TurnKeeper,
    Unserved,
)
from warren.nat.turn.message import encode_message, parse_message_untrusted
from warren.nat.turn.numbers import Attribute, Class, Method
from warren.netmap.endpoint import Endpoint

FIRST, SECOND, DEAD = (Server(Endpoint.parse(f"5.5.5.{n}:3478")) for n in (1, 2, 3))
CLIENT = Endpoint.parse("7.7.7.1:1001")


class Net:
    """Two servers, one that never answers, and a keeper."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.servers = {FIRST: World(), SECOND: World()}
        self.keeper = TurnKeeper(random.Random(4).randbytes)
        self.events: list[KeeperEvent] = []

    def run(self) -> list[KeeperEvent]:
        """Carry everything; return what the keeper told."""
        flow = Flow(Transport.UDP, CLIENT, 1)
        while (out := self.keeper.poll_transmit()) is not None:
            world = self.servers.get(out.to)
            if world is None:
                continue
            world.now = self.now
            world.server.receive(flow, out.data, self.now)
            while True:
                change, answer = world.server.poll_event(), world.server.poll_transmit()
                if isinstance(change, OpenRelay | CloseRelay):
                    world._sockets(change)
                if isinstance(answer, ToClient):
                    self.keeper.receive(answer.data, out.to, self.now)
                if change is None and answer is None:
                    break
        told = []
        while (event := self.keeper.poll_event()) is not None:
            told.append(event)
        return told

    def after(self, seconds: float) -> list[KeeperEvent]:
        end, told = self.now + seconds, []
        while self.now < end:
            due = self.keeper.next_timeout()
            self.now = min(end, max(due, self.now + 0.01)) if due is not None else end
            self.keeper.handle_timeout(self.now)
            told += self.run()
        return told

    def start(self, *servers: Server, credentials: Credentials = ALICE) -> list[KeeperEvent]:
        self.keeper.set_servers(dict.fromkeys(servers, credentials), self.now)
        return self.run()


def test_the_first_server_that_serves_is_used() -> None:
    net = Net()
    trying, allocated = net.start(FIRST, SECOND)
    assert trying == Trying(FIRST) and isinstance(allocated, Allocated)
    assert net.keeper.server == FIRST and len(net.servers[SECOND].server) == 0
    assert net.keeper.open_channel(PEER, net.now)
    assert net.run() == [ChannelOpen(PEER, 0x4000)]
    client = net.keeper.client
    assert client is not None and client.channel_of(PEER) == 0x4000
    assert client.peer_of(0x4000) == PEER and client.peer_of(0x4001) is None
    assert net.after(7200) == [] and net.keeper.server == FIRST


def test_a_silent_server_is_not_waited_for() -> None:
    net = Net()
    assert net.start(DEAD, SECOND) == [Trying(DEAD)]
    trying, allocated, left = net.after(HEAD_START_S)
    assert trying == Trying(SECOND) and isinstance(allocated, Allocated) and left == Left(DEAD)
    assert net.keeper.server == SECOND and net.keeper.asked == (SECOND,)
    assert net.after(60) == [], "who has an allocation looks for no other"


def test_a_server_that_is_only_slow_is_used_if_it_answers_first() -> None:
    net = Net()
    slow, net.servers[FIRST] = net.servers[FIRST], World()
    net.keeper.set_servers({FIRST: ALICE, DEAD: ALICE}, net.now)
    net.servers = {}
    assert net.after(HEAD_START_S) == [Trying(FIRST), Trying(DEAD)]
    net.servers = {FIRST: slow}
    allocated, left = net.after(2)
    assert isinstance(allocated, Allocated) and left == Left(DEAD)


def test_no_more_servers_are_asked_at_once_than_is_decent() -> None:
    """All are silent: UDP is blocked, and the streams do not open."""
    net = Net()
    ways = [
        Server(Endpoint.parse(f"5.5.6.{n}:3478"), transport)
        for transport in (Transport.UDP, Transport.TLS, Transport.TCP)
        for n in range(1, 5)
    ]
    told = net.start(*ways) + net.after(10)
    tried = [event.server for event in told if isinstance(event, Trying)]
    assert tried == ways[: 4 + MAX_STREAMS_ASKED]
    net.after(120)
    assert len(net.keeper.asked) <= MAX_ASKED
    for server in net.keeper.asked:
        net.keeper.end_stream(server, "closed", net.now)
    told = net.run()
    assert [e.failed.reason for e in told if isinstance(e, Unserved)] == ["closed"] * len(
        [e for e in told if isinstance(e, Left)]
    )


def test_a_stream_that_ends_gives_the_next_its_turn_at_once() -> None:
    net = Net()
    tls = Server(FIRST.at, Transport.TLS)
    assert net.start(tls, SECOND) == [Trying(tls)]
    net.keeper.end_stream(tls, "refused", net.now)
    left, unserved, trying, allocated = net.run()
    assert left == Left(tls) and isinstance(unserved, Unserved)
    assert unserved.failed.cause is Cause.NO_STREAM and unserved.failed.reason == "refused"
    assert trying == Trying(SECOND) and isinstance(allocated, Allocated)


def test_where_no_server_serves_tries_grow_rare() -> None:
    net = Net()
    told = net.start(FIRST, credentials=Credentials("alice", "wrong")) + net.after(7200)
    tries = [event for event in told if event == Trying(FIRST)]
    assert 8 <= len(tries) <= 14
    assert told[1] == Left(FIRST) and isinstance(told[2], Unserved)
    # The right ones are tried at once.
    *_, allocated = net.start(FIRST)
    assert isinstance(allocated, Allocated)


def test_new_credentials_keep_the_allocation_or_make_another() -> None:
    net = Net()
    net.start(FIRST)
    assert net.start(FIRST, credentials=ALICE) == []
    # Alice's is given back as Alice's, so that the port is free for Bob's.
    lost, allocated = net.start(FIRST, credentials=BOB)
    assert lost == Lost() and isinstance(allocated, Allocated)
    assert len(net.servers[FIRST].server) == 1
    assert net.after(7200) == []


def test_an_old_name_is_given_back_though_its_nonce_has_grown_old() -> None:
    net = Net()
    net.start(FIRST)
    net.after(1500)  # nonces last 600 s, and allocations are refreshed every 540 s
    lost, allocated = net.start(FIRST, credentials=BOB)
    assert lost == Lost() and isinstance(allocated, Allocated)
    assert len(net.servers[FIRST].server) == 1


def test_a_server_that_has_forgotten_us_is_found_out_when_asked() -> None:
    net = Net()
    net.start(FIRST)
    net.keeper.check(net.now)
    assert net.run() == []
    net.servers[FIRST] = World()
    net.keeper.check(net.now)
    lost, allocated = net.run()
    assert lost == Lost() and isinstance(allocated, Allocated)
    del net.servers[FIRST]
    net.keeper.check(net.now)
    lost, left, unserved = net.after(8)
    assert (lost, left) == (Lost(), Left(FIRST)) and isinstance(unserved, Unserved)
    assert unserved.failed.cause is Cause.NO_ANSWER


def test_servers_that_are_taken_away_and_networks_that_change() -> None:
    net = Net()
    net.start(FIRST)
    told = net.start(SECOND)
    assert told[:3] == [Lost(), Left(FIRST), Trying(SECOND)] and isinstance(told[3], Allocated)
    assert not net.servers[FIRST].open
    net.keeper.network_changed(net.now)
    told = net.run()
    assert told[:3] == [Lost(), Left(SECOND), Trying(SECOND)] and isinstance(told[3], Allocated)
    net.keeper.set_servers({}, net.now)
    assert net.run() == [Lost(), Left(SECOND)]
    assert net.keeper.next_timeout() is None and not net.servers[SECOND].open
    assert not net.keeper.permit(PEER.ip, net.now)


def names(net: Net, server: Server, other: Endpoint) -> None:
    """Let a server that was just asked name another one."""
    sent = net.keeper.poll_transmit()
    assert sent is not None and sent.to == server
    value = b"\0\1" + other.port.to_bytes(2, "big") + other.ip.packed
    data = encode_message(
        Method.ALLOCATE,
        Class.ERROR,
        parse_message_untrusted(sent.data).tx_id,
        [(Attribute.ERROR_CODE, b"\0\0\3\0"), (Attribute.ALTERNATE_SERVER, value)],
    )
    assert net.keeper.receive(data, server, net.now)


def test_another_server_that_a_server_names() -> None:
    net = Net()
    net.keeper.set_servers({DEAD: ALICE}, net.now)
    names(net, DEAD, SECOND.at)
    *_, trying, allocated = net.run()
    assert trying == Trying(SECOND) and isinstance(allocated, Allocated)
    # The next grant names only the first one again: the other stays as long as that does.
    assert net.start(DEAD) == [] and net.keeper.server == SECOND
    assert net.start(DEAD, credentials=BOB)[0] == Lost(), "new credentials are for both"
    assert net.keeper.server == SECOND
    assert net.start(FIRST)[:2] == [Lost(), Left(SECOND)]


def test_a_server_that_names_what_is_none() -> None:
    for text in ("127.0.0.1:3478", "224.0.0.1:3478", "5.5.5.9:0", "192.168.1.1:3478"):
        net = Net()
        net.keeper.set_servers({DEAD: ALICE}, net.now)
        names(net, DEAD, Endpoint.parse(text))
        assert [e for e in net.run() if isinstance(e, Trying)] == [Trying(DEAD)]


def test_others_datagrams_are_left_to_others() -> None:
    net = Net()
    net.start(FIRST)
    data = encode_message(Method.BINDING, Class.SUCCESS, TxId(bytes(12)), [])
    assert not net.keeper.receive(data, SECOND, net.now)
    assert not net.keeper.receive(b"", Server(flow_of().client), net.now)
    assert net.run() == []
