"""Every NAT kind does to plain UDP sockets what its row in the table says (RFC 4787 §4.1, §5)."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator

import pytest

from warren.lab import connect_proxy
from warren.lab.kinds import KINDS
from warren.lab.plan import Host, Plan, Router
from warren.lab.world import World

pytestmark = pytest.mark.netlab

SERVER_A = "198.51.100.10"
SERVER_B = "198.51.100.20"
HOME = "203.0.113.10"
INSIDE_PORT = 41641


@pytest.fixture(scope="module", params=[name for name in KINDS if KINDS[name].udp])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    kind = request.param
    lan = "192.0.2.16/28" if not KINDS[kind].translate else "192.168.1.0/24"
    plan = Plan(
        routers=(Router("home", kind=kind, address=HOME, lan=lan),),
        hosts=(
            Host("a", address=SERVER_A),
            Host("b", address=SERVER_B),
            Host("in", behind="home"),
        ),
    )
    with World(plan) as built:
        built.kind = KINDS[kind]  # type: ignore[attr-defined]
        yield built


def udp(world: World, part: str, port: int) -> socket.socket:
    sock = world[part].socket(socket.SOCK_DGRAM)
    sock.settimeout(1.0)
    sock.bind(("0.0.0.0", port))
    return sock


def outside_of(inside: socket.socket, server: socket.socket, to: str, port: int) -> tuple[str, int]:
    """What `server` sees as the source of a packet that `inside` sends to it."""
    inside.sendto(b"hello", (to, port))
    data, source = server.recvfrom(100)
    assert data == b"hello"
    return source


def arrives(sock: socket.socket) -> bool:
    """Whether a packet waits, or comes within a moment."""
    sock.settimeout(0.15)
    with contextlib.suppress(TimeoutError):
        sock.recvfrom(100)
        return True
    return False


def test_mapping(world: World) -> None:
    kind = world.kind  # type: ignore[attr-defined]
    with (
        udp(world, "in", INSIDE_PORT) as inside,
        udp(world, "a", 3478) as a1,
        udp(world, "a", 3479) as a2,
        udp(world, "b", 3478) as b1,
    ):
        first = outside_of(inside, a1, SERVER_A, 3478)
        others = [
            outside_of(inside, a2, SERVER_A, 3479),
            outside_of(inside, b1, SERVER_B, 3478),
        ]
    if kind.mapping is None:
        assert first == (str(world["in"].address), INSIDE_PORT)
        assert others == [first, first]
    elif kind.mapping == "endpoint-independent":
        assert first == (HOME, INSIDE_PORT), "the port is kept while it is free"
        assert others == [first, first]
    else:
        assert {address for address, _ in (first, *others)} == {HOME}
        assert len({port for _, port in (first, *others)}) == 3


def test_filtering(world: World) -> None:
    kind = world.kind  # type: ignore[attr-defined]
    with (
        udp(world, "in", INSIDE_PORT + 1) as inside,
        udp(world, "a", 5000) as a1,
        udp(world, "a", 5001) as a2,
        udp(world, "b", 5000) as b1,
    ):
        mapped = outside_of(inside, a1, SERVER_A, 5000)
        a1.sendto(b"reply", mapped)
        assert arrives(inside)
        a2.sendto(b"same address, other port", mapped)
        other_port = arrives(inside)
        b1.sendto(b"other address", mapped)
        other_address = arrives(inside)
    assert (other_port, other_address) == {
        None: (True, True),
        "endpoint-independent": (True, True),
        "address-dependent": (True, False),
        "address-and-port-dependent": (False, False),
    }[kind.filtering]


def test_hairpin() -> None:
    """Two customers of a carrier that connects them see each other at their outside addresses."""
    plan = Plan(
        routers=(
            Router("with", kind="carrier-hairpin", address=HOME),
            Router("without", kind="full-cone", address="203.0.113.20"),
        ),
        hosts=(
            Host("a", address=SERVER_A),
            Host("in1", behind="with"),
            Host("in2", behind="with"),
            Host("out1", behind="without"),
            Host("out2", behind="without"),
        ),
    )
    with World(plan) as world, udp(world, "a", 3478) as server:
        for one, two, works in (("in1", "in2", True), ("out1", "out2", False)):
            with udp(world, one, 5001) as first, udp(world, two, 5002) as second:
                at_first = outside_of(first, server, SERVER_A, 3478)
                at_second = outside_of(second, server, SERVER_A, 3478)
                first.sendto(b"hairpin", at_second)
                assert arrives(second) is works
                if works:
                    second.sendto(b"back", at_first)
                    second.sendto(b"again", at_first)
                    data, source = first.recvfrom(100)
                    assert (data, source) == (b"back", at_second)


def test_sequential_ports() -> None:
    plan = Plan(
        routers=(Router("home", kind="symmetric-sequential", address=HOME),),
        hosts=(Host("a", address=SERVER_A), Host("in", behind="home")),
    )
    with World(plan) as world, contextlib.ExitStack() as stack:
        server = stack.enter_context(udp(world, "a", 3478))
        ports = []
        for number in range(6):
            inside = stack.enter_context(udp(world, "in", 6000 + 11 * number))
            ports.append(outside_of(inside, server, SERVER_A, 3478)[1])
        assert ports == list(range(ports[0], ports[0] + 6))


def test_block_of_ports() -> None:
    plan = Plan(
        routers=(Router("home", kind="carrier-block", address=HOME),),
        hosts=(Host("a", address=SERVER_A), Host("in", behind="home")),
    )
    with World(plan) as world, udp(world, "in", 6000) as inside, contextlib.ExitStack() as stack:
        ports = set()
        for number in range(12):
            server = stack.enter_context(udp(world, "a", 4000 + number))
            ports.add(outside_of(inside, server, SERVER_A, 4000 + number)[1])
        assert ports <= set(range(20480, 22528))
        assert len(ports) > 8


def test_early_packet_does_not_move_the_mapping() -> None:
    """The other side's unsolicited packet leaves no trace, so our port is still kept after it."""
    plan = Plan(
        routers=(Router("home", kind="port-restricted", address=HOME),),
        hosts=(Host("a", address=SERVER_A), Host("in", behind="home")),
    )
    with World(plan) as world, udp(world, "in", 6001) as inside, udp(world, "a", 6001) as far:
        far.sendto(b"too early", (HOME, 6001))
        assert not arrives(inside)
        assert outside_of(inside, far, SERVER_A, 6001) == (HOME, 6001)
        far.sendto(b"now", (HOME, 6001))
        assert arrives(inside)


def test_two_easy_nats_are_punched() -> None:
    """Two port-restricted homes reach each other once both have sent."""
    plan = Plan(
        routers=(
            Router("home-a", kind="port-restricted", address=HOME),
            Router("home-b", kind="port-restricted", address="203.0.113.20"),
        ),
        hosts=(Host("a", behind="home-a"), Host("b", behind="home-b")),
    )
    with World(plan) as world, udp(world, "a", 7001) as a, udp(world, "b", 7002) as b:
        a.sendto(b"one", ("203.0.113.20", 7002))
        assert not arrives(b)
        b.sendto(b"two", (HOME, 7001))
        assert arrives(a)
        a.sendto(b"three", ("203.0.113.20", 7002))
        assert arrives(b)


def test_no_udp_at_all() -> None:
    """`udp-blocked` and `block_udp` stop UDP and leave TCP alone; `allow_udp` lifts it."""
    plan = Plan(
        routers=(
            Router("dead", kind="udp-blocked", address=HOME),
            Router("home", kind="port-restricted", address="203.0.113.20"),
        ),
        hosts=(
            Host("a", address=SERVER_A),
            Host("x", behind="dead"),
            Host("y", behind="home"),
        ),
    )
    with World(plan) as world, udp(world, "a", 3478) as server:
        for part in ("x", "y"):
            if part == "y":
                world["home"].block_udp()
            with udp(world, part, 1000) as sock:
                sock.sendto(b"hello", (SERVER_A, 3478))
                assert not arrives(server)
            with world["a"].socket(socket.SOCK_STREAM) as listener:
                listener.bind((SERVER_A, 0))
                listener.listen()
                with world[part].socket(socket.SOCK_STREAM) as client:
                    client.settimeout(2)
                    client.connect(listener.getsockname())
        world["home"].allow_udp()
        with udp(world, "y", 1001) as sock:
            outside_of(sock, server, SERVER_A, 3478)


def test_only_the_proxy_leads_out() -> None:
    """`http-proxy` forwards neither UDP nor TCP; CONNECT at the router does."""
    plan = Plan(
        routers=(Router("office", kind="http-proxy", address=HOME),),
        hosts=(Host("a", address=SERVER_A), Host("in", behind="office")),
    )
    with World(plan) as world, contextlib.ExitStack() as stack:
        proxy = (str(world.lan_gateway("office")), connect_proxy.PORT)
        place = f"{proxy[0]}:{proxy[1]}"
        argv = [sys.executable, "-m", "warren.lab.connect_proxy", place]
        world["office"].spawn(argv, "proxy").wait_output("listening", 15)
        server = stack.enter_context(udp(world, "a", 3478))
        with udp(world, "in", 1000) as sock:
            sock.sendto(b"hello", (SERVER_A, 3478))
            assert not arrives(server)
        listener = stack.enter_context(world["a"].socket(socket.SOCK_STREAM))
        listener.bind((SERVER_A, 8080))
        listener.listen()
        listener.settimeout(2)

        def tcp(to: tuple[str, int]) -> socket.socket:
            sock = stack.enter_context(world["in"].socket(socket.SOCK_STREAM))
            sock.settimeout(0.5)
            sock.connect(to)
            return sock

        with pytest.raises(OSError):
            tcp((SERVER_A, 8080))
        inside = tcp(proxy)
        inside.sendall(f"CONNECT {SERVER_A}:8080 HTTP/1.1\r\n\r\n".encode())
        outside, _ = listener.accept()
        assert inside.recv(100).startswith(b"HTTP/1.1 200 ")
        with outside:
            inside.sendall(b"over")
            assert outside.recv(100) == b"over"
        assert inside.recv(100) == b"", "the end passes as well"
        for bad in (b"GET / HTTP/1.1\r\n\r\n", b"CONNECT :x HTTP/1.1\r\n\r\n", b"\xff" * 9000):
            sock = tcp(proxy)
            sock.sendall(bad)
            assert sock.recv(100).startswith(b"HTTP/1.1 405 ")


def test_ipv6_is_routed_and_filtered_and_never_translated() -> None:
    """Beside a NAT of IPv4, behind two routers, alone behind one, and alone with none."""
    plan = Plan(
        routers=(
            Router("home", kind="symmetric", address=HOME, lan_v6="2001:db8:a::/64"),
            Router("alone", kind="firewall", lan=None, lan_v6="2001:db8:b::/64"),
            Router("inner", kind="firewall", behind="alone", lan=None, lan_v6="2001:db8:c::/64"),
            Router("open", kind="public", lan=None, lan_v6="2001:db8:d::/64"),
            Router("dead", kind="udp-blocked", lan=None, lan_v6="2001:db8:e::/64"),
        ),
        hosts=(
            Host("a", address=SERVER_A, ipv6="2001:db8::1"),
            Host("b", ipv6="2001:db8::2"),
            Host("in-home", behind="home"),
            Host("in-inner", behind="inner"),
            Host("in-open", behind="open", ipv6="2001:db8:d::77"),
            Host("in-dead", behind="dead"),
        ),
    )
    with World(plan) as world, contextlib.ExitStack() as stack:
        ends = {}
        for name in (host.name for host in plan.hosts):
            ends[name] = world[name].socket(socket.SOCK_DGRAM, socket.AF_INET6)
            stack.enter_context(ends[name]).bind(("::", 5000))
            ends[name].settimeout(1)

        def reaches(near: str, far: str) -> bool:
            ends[near].sendto(b"hello", (str(world[far].address_v6), 5000))
            return arrives(ends[far])

        assert str(world["in-open"].address_v6) == "2001:db8:d::77"
        for name in ("in-home", "in-inner"):
            assert not reaches("a", name)
            ends[name].sendto(b"hello", ("2001:db8::1", 5000))
            _, source = ends["a"].recvfrom(100)
            assert source[:2] == (str(world[name].address_v6), 5000)
            assert reaches("a", name)
            assert not reaches("b", name), "nobody else may come in"
        assert reaches("b", "in-open")
        assert not reaches("in-dead", "a")
        # Both have sent: what comes now is an answer, for both firewalls.
        assert not reaches("in-home", "in-inner")
        assert reaches("in-inner", "in-home")
        assert reaches("in-home", "in-inner")
        with udp(world, "in-inner", 5001) as sock, pytest.raises(OSError):
            sock.sendto(b"hello", (SERVER_A, 3478))
        with udp(world, "in-home", 6001) as inside, udp(world, "a", 3478) as server:
            assert outside_of(inside, server, SERVER_A, 3478)[0] == HOME


def test_two_nats_in_a_row() -> None:
    """Behind two port-restricted NATs the port is still kept, and the filtering as strict."""
    plan = Plan(
        routers=(
            Router("carrier", kind="port-restricted", address=HOME, lan="100.64.1.0/24"),
            Router("home", kind="port-restricted", behind="carrier"),
        ),
        hosts=(Host("a", address=SERVER_A), Host("in", behind="home")),
    )
    with World(plan) as world, udp(world, "in", 6001) as inside, udp(world, "a", 3478) as server:
        assert outside_of(inside, server, SERVER_A, 3478) == (HOME, 6001)
        with udp(world, "a", 3479) as other:
            other.sendto(b"not asked for", (HOME, 6001))
            assert not arrives(inside)
        server.sendto(b"reply", (HOME, 6001))
        assert arrives(inside)
