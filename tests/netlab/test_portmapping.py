"""Ports that a real router gives: miniupnpd by each of its protocols, alone and under nodes."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from igd import PUBLIC_A, PUBLIC_B, Igd, give_ipv6, renumber
from router_client import EVERY, PORT, Client

from warren.lab import sandbox
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.stock import StockClient
from warren.lab.world import Part, World
from warren.nat.mapping import Finding, MapProtocol, sentence
from warren.nat.portmap import Portmapper
from warren.netmap.endpoint import Endpoint

pytestmark = pytest.mark.netlab

NATPMP, PCP, UPNP = MapProtocol.NATPMP, MapProtocol.PCP, MapProtocol.UPNP
SERVER, SERVER_V6 = "198.51.100.10", "2001:db8:99::1"
HOME = Plan(
    routers=(Router("home", kind="symmetric", address="203.0.113.10"),),
    hosts=(
        Host("server", address=SERVER, ipv6=SERVER_V6),
        Host("alice", behind="home"),
        Host("bob", behind="home"),
    ),
)


@pytest.fixture(scope="module")
def home() -> Iterator[World]:
    with World(HOME) as world:
        renumber(world, "home", PUBLIC_A)
        yield world


@pytest.fixture(scope="module")
def chains(home: World) -> Igd:
    return Igd(home, "home")


@pytest.fixture
def igd(chains: Igd) -> Iterator[Igd]:
    yield chains
    chains.stop()


def crosses(world: World, inside: Part, to: Endpoint, port: int = PORT) -> bool:
    """Whether a datagram from the internet to `to` arrives at `inside`."""
    with (
        inside.socket(socket.SOCK_DGRAM) as here,
        world["server"].socket(socket.SOCK_DGRAM) as far,
    ):
        here.bind(("0.0.0.0", port))
        here.settimeout(0.5)
        far.sendto(b"hello", (str(to.ip), to.port))
        with contextlib.suppress(TimeoutError):
            return here.recvfrom(100)[0] == b"hello"
        return False


@pytest.mark.parametrize("protocol", EVERY)
def test_each_protocol_opens_and_closes(home: World, igd: Igd, protocol: MapProtocol) -> None:
    igd.start()
    with Client(home["alice"], protocol) as alice:
        external = alice.wait_mapped()
        assert external == Endpoint(PUBLIC_A, PORT)
        assert igd.mapped == {PORT: f"{home['alice'].address}:{PORT}"}
        assert crosses(home, home["alice"], external)
        began = time.monotonic()
    assert time.monotonic() - began < 30  # it does not wait for the dead router
    assert igd.mapped == {}
    assert not crosses(home, home["alice"], external)


@pytest.mark.parametrize("protocol", [PCP, UPNP])
def test_a_hole_in_an_ipv6_firewall(home: World, igd: Igd, protocol: MapProtocol) -> None:
    """Asked of the router of IPv6, beside the mapping of IPv4; and closed at the end."""
    alice, address = home["alice"], "2001:db8:a::2"
    give_ipv6(home, "home", "alice", address)
    igd.start(ipv6=True)
    hole = Endpoint.parse(f"[{address}]:{PORT}")

    def let_in() -> bool:
        with (
            alice.socket(socket.SOCK_DGRAM, socket.AF_INET6) as here,
            home["server"].socket(socket.SOCK_DGRAM, socket.AF_INET6) as far,
        ):
            here.bind((address, PORT))
            here.settimeout(0.5)
            far.sendto(b"hello", (address, PORT))
            with contextlib.suppress(TimeoutError):
                return here.recvfrom(100)[0] == b"hello"
            return False

    assert not let_in()
    with Client(alice, protocol, port6=PORT) as client:
        client.wait_mapped()

        def opened() -> Endpoint | None:
            made = [r.mapping for r in client.it.routers if r.gateway.ip.version == 6]
            return made[0].external if made and made[0] else None

        assert alice.wait(opened, 40, "a hole is open") == hole
        assert client.it.endpoints == (Endpoint(PUBLIC_A, PORT),)
        assert igd.pinholes == [PORT]
        assert let_in()
        # A router of IPv6 that restarts announces itself too (RFC 6887 §14.1, UPnP's ssdp:alive).
        time.sleep(3 if protocol is PCP else 0)  # its clock counts seconds
        igd.stop()
        assert igd.pinholes == [] and not let_in()
        igd.start(ipv6=True)
        home.wait(lambda: igd.pinholes, 40, "the hole is made anew")
        assert let_in()
    assert igd.pinholes == []
    assert not let_in()
    alice.run(["ip", "-6", "addr", "flush", "dev", "wan", "scope", "global"])
    alice.run(["ip", "-6", "route", "del", "default"])


def test_all_at_once_is_one_mapping(home: World, igd: Igd) -> None:
    igd.start()
    with Client(home["alice"]) as alice:
        alice.wait_mapped()
        alice.wait_found(UPNP, Finding.SPOKEN)
        assert alice.findings() == {
            NATPMP: Finding.MAPPED,
            PCP: Finding.SPOKEN,
            UPNP: Finding.SPOKEN,
        }
        assert len(igd.mapped) == 1


def test_upnp_version_1(home: World, igd: Igd) -> None:
    igd.start("force_igd_desc_v1=yes", natpmp=False)
    with Client(home["alice"]) as alice:
        assert alice.wait_mapped() == Endpoint(PUBLIC_A, PORT)
        assert alice.findings() == {
            NATPMP: Finding.SILENT,
            PCP: Finding.SILENT,
            UPNP: Finding.MAPPED,
        }
    assert igd.mapped == {}


def test_upnp_answered_by_minissdpd(home: World, igd: Igd) -> None:
    program = igd.start_minissdpd()
    igd.start(natpmp=False)
    try:
        with Client(home["alice"]) as alice:
            assert alice.wait_mapped() == Endpoint(PUBLIC_A, PORT)
            assert "M-SEARCH" in program.output()
    finally:
        program.stop()


def test_upnp_that_is_off_costs_a_moment(home: World, igd: Igd) -> None:
    igd.start(upnp=False)
    with Client(home["alice"]) as alice:
        alice.wait_mapped()
        alice.wait_found(UPNP, Finding.SILENT, 1)
    igd.stop()
    with Client(home["alice"]) as alice:
        for protocol in EVERY:
            alice.wait_found(protocol, Finding.SILENT, 1)
    igd.start()


@pytest.mark.parametrize(
    ("protocol", "options"),
    [(NATPMP, ()), (PCP, ()), (UPNP, ()), (UPNP, ("force_igd_desc_v1=yes",))],
)
def test_two_machines_want_the_same_port(
    home: World, igd: Igd, protocol: MapProtocol, options: tuple[str, ...]
) -> None:
    igd.start(*options)
    with Client(home["alice"], protocol) as alice, Client(home["bob"], protocol) as bob:
        first, second = alice.wait_mapped(), bob.wait_mapped()
        assert first.port != second.port and PORT in (first.port, second.port)
        assert crosses(home, home["alice"], first)
        assert crosses(home, home["bob"], second)


def test_refused_by_rule(home: World, igd: Igd) -> None:
    igd.start(rules=())
    with Client(home["alice"], UPNP) as alice:
        alice.wait_found(UPNP, Finding.REFUSED)
        assert alice.external is None and "(728)" in alice.details()[UPNP]


def test_a_router_that_hangs(home: World, igd: Igd) -> None:
    """When all is forbidden, this miniupnpd searches for a port for ever, and says nothing."""
    igd.start(rules=())
    with Client(home["alice"], NATPMP) as alice:
        alice.wait_found(NATPMP, Finding.BROKEN)
        assert "does not answer" in alice.details()[NATPMP]
        began = time.monotonic()
        igd.kill()
    assert time.monotonic() - began < 30  # it does not wait for the dead router


@pytest.mark.parametrize("protocol", EVERY)
def test_a_router_that_restarts(home: World, igd: Igd, protocol: MapProtocol) -> None:
    """It announces itself, so its mapping is back in a moment instead of an hour."""
    igd.start()
    with Client(home["alice"], protocol) as alice:
        alice.wait_mapped()
        time.sleep(3)
        igd.stop()
        assert igd.mapped == {}
        stopped = time.monotonic()
        igd.start()

        def made_anew() -> bool:
            # Its word, and not the first rule in the firewall: miniupnpd commits two, one that
            # leads the port inside and then one that lets it pass.
            mapping = alice.it.routers[0].mapping
            return mapping is not None and mapping.since > stopped

        home.wait(made_anew, 40, "the mapping is made anew")
        assert alice.external is not None and crosses(home, home["alice"], alice.external)


@pytest.mark.parametrize(("natpmp", "upnp"), [(True, False), (False, True)])
def test_switched_on_while_we_run(home: World, igd: Igd, natpmp: bool, upnp: bool) -> None:
    """Nobody waits ten minutes for a router that says that it is there."""
    igd.start()
    igd.stop()
    with Client(home["alice"]) as alice:
        for protocol in EVERY:
            alice.wait_found(protocol, Finding.SILENT, 1)
        igd.start(natpmp=natpmp, upnp=upnp)
        alice.wait_mapped(20)


def test_leases_are_renewed(home: World, igd: Igd, monkeypatch: pytest.MonkeyPatch) -> None:
    """With leases of 6 s, three protocols keep their ports for longer than two of them."""
    for module in ("datagram_asker", "upnp_asker"):
        monkeypatch.setattr(f"warren.nat.{module}.LEASE_S", 6)
    monkeypatch.setattr("warren.nat.datagram_asker.LEASE_MIN_S", 2)
    igd.start()
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(Client(home["alice"], protocol, port=PORT + number))
            for number, protocol in enumerate(EVERY)
        ]
        for client in clients:
            client.wait_mapped()
        end = time.monotonic() + 14
        while time.monotonic() < end:
            assert sorted(igd.mapped) == [PORT, PORT + 1, PORT + 2]
            time.sleep(0.5)
    assert igd.mapped == {}


@pytest.mark.parametrize("protocol", EVERY)
def test_a_crash_leaves_a_port_that_is_ours_again(
    home: World, igd: Igd, protocol: MapProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    igd.start()
    with monkeypatch.context() as crash:
        crash.setattr(Portmapper, "stop", lambda self, now: None)
        with Client(home["alice"], protocol) as alice:
            alice.wait_mapped()
    assert list(igd.mapped) == [PORT]
    with Client(home["alice"], protocol) as alice:
        assert alice.wait_mapped() == Endpoint(PUBLIC_A, PORT)
    assert igd.mapped == {}


def test_several_routers(home: World, igd: Igd) -> None:
    """The second gives nothing; what each one says is known apart."""
    alice, bob = home["alice"], home["bob"]
    alice.run(["ip", "route", "add", "default", "via", str(bob.address), "metric", "500"])
    try:
        igd.start()
        with Client(alice) as client:
            assert client.wait_mapped() == Endpoint(PUBLIC_A, PORT)
            home.wait(
                lambda: all(o.finding is Finding.SILENT for o in client.it.routers[1].outcomes),
                5,
                "the second router is silent",
            )
            first, second = client.it.routers
            assert first.gateway.ip == IPv4Address("192.168.1.1")
            assert second.gateway.ip == bob.address and second.mapping is None
    finally:
        alice.run(["ip", "route", "del", "default", "via", str(bob.address)])


def test_a_router_behind_another_nat() -> None:
    plan = Plan(
        routers=(
            Router("carrier", kind="port-restricted", address="203.0.113.10", lan="100.64.0.0/24"),
            Router("home", kind="port-restricted", behind="carrier"),
        ),
        hosts=(Host("alice", behind="home"),),
    )
    with World(plan) as world:
        inner = Igd(world, "home")
        inner.start()
        for protocol in EVERY:
            with Client(world["alice"], protocol) as alice:
                world.wait(
                    lambda alice=alice, protocol=protocol: (
                        alice.findings().get(protocol) in (Finding.SECOND_NAT, Finding.REFUSED)
                    ),
                    10,
                    f"{protocol} is of no use",
                )
                assert alice.external is None

                # By PCP this miniupnpd says that it has no more mappings to give.
                known = Finding.REFUSED if protocol is PCP else Finding.SECOND_NAT
                assert alice.findings()[protocol] is known
                (outcome,) = (o for o in alice.it.outcomes if o.protocol is protocol)
                assert ("itself behind a NAT" in sentence(outcome)) is (protocol is not PCP)
        assert inner.mapped == {}


TWO_HOMES = Plan(
    routers=(
        Router("home-a", kind="symmetric", address="203.0.113.10"),
        Router("home-b", kind="symmetric", address="203.0.113.20"),
    ),
    hosts=(
        Host("server", address=SERVER),
        Host("alice", behind="home-a"),
        Host("bob", behind="home-b"),
    ),
)


@pytest.mark.interop
@pytest.mark.parametrize("router_of", ["alice", "dave"])
def test_a_stock_client_is_direct_by_a_mapping_on_either_side(router_of: str) -> None:
    """A stock client and a node behind symmetric NATs, of which one has a router that maps."""
    homes = {"alice": "home-a", "dave": "home-b"}
    with World(TWO_HOMES) as world:
        renumber(world, "home-a", PUBLIC_A)
        renumber(world, "home-b", PUBLIC_B)
        igd = Igd(world, homes[router_of])
        igd.start()
        server = Server(world["server"], world.scratch / "server")
        server.start()
        server.create_user("tester")
        key = server.create_key("tester", "--reusable")
        tun = sandbox.tun_available()
        alice = Node(world["alice"], "alice", world.scratch / "alice", tun=tun, port=PORT)
        alice.start()
        alice.wait_daemon()
        alice.up(server.url, key)
        dave = StockClient(
            world["bob"],
            "dave",
            server=server.url,
            state=world.scratch / "dave",
            auth_key=key,
            port=PORT + 1,
        )
        dave.start()
        dave.wait_joined()
        world.wait(lambda: alice.peer("dave"), 30, "alice knows dave")
        pong = alice.ping_until_direct("dave", 40)
        # Not always by the mapped port itself: what comes in through it shows another way.
        assert pong.via == "direct" and str(pong.path).startswith(f"{PUBLIC_B}:")
        inside, port = ("alice", PORT) if router_of == "alice" else ("bob", PORT + 1)
        # A stock client may ask for another port as well, as its router's protocols answer.
        assert igd.mapped[port] == f"{world[inside].address}:{port}"


@pytest.mark.parametrize(("natpmp", "upnp"), [(True, False), (False, True)])
def test_two_symmetric_homes_are_direct_by_one_mapping(natpmp: bool, upnp: bool) -> None:
    with World(TWO_HOMES) as world:
        renumber(world, "home-a", PUBLIC_A)
        renumber(world, "home-b", PUBLIC_B)
        igd = Igd(world, "home-a")
        igd.start(natpmp=natpmp, upnp=upnp)
        server = Server(world["server"], world.scratch / "server")
        server.start()
        server.create_user("tester")
        key = server.create_key("tester", "--reusable")
        nodes = []
        for name in ("alice", "bob"):
            tun = sandbox.tun_available()
            node = Node(world[name], name, world.scratch / name, tun=tun, port=PORT)
            node.start()
            node.wait_daemon()
            node.up(server.url, key)
            nodes.append(node)
        alice, bob = nodes
        mapped = f"{PUBLIC_A}:{PORT}"
        began = time.monotonic()
        pong = bob.ping_until_direct("alice", 20)
        print(f"direct after {time.monotonic() - began:.1f} s")
        assert pong.via == "direct" and str(pong.path).startswith(f"{PUBLIC_A}:")
        assert alice.ping_until_direct("bob", 20).path
        assert alice.status()["self"]["endpoints"][0] == mapped
        assert igd.mapped == {PORT: f"{world['alice'].address}:{PORT}"}
        found = json.loads(alice.run("netcheck", "--json"))["routers"]
        assert [router["external"] for router in found] == [mapped]
        assert {p["protocol"]: p["finding"] for p in found[0]["protocols"]} == (
            {"NAT-PMP": "mapped", "PCP": "spoken", "UPnP": "silent"}
            if natpmp
            else {"NAT-PMP": "silent", "PCP": "silent", "UPnP": "mapped"}
        )
        off = "UPnP" if natpmp else "NAT-PMP"
        assert f"Your router's {off} is off" in " ".join(alice.run("netcheck").split())
        alice.run("down")
        world.wait(lambda: not igd.mapped, 20, "`warren down` gives the port back")
        alice.run("up")
        world.wait(lambda: igd.mapped, 40, "`warren up` asks for it again")
        assert alice.stop() == 0
        assert igd.mapped == {}, "given back on a clean stop"
        for program in world.programs:
            assert "Traceback" not in program.output(), program.tail(60)
