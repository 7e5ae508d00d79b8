"""Packets as large as the path takes, found by real nodes over real links that change."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Network, ip_address

import pytest

from warren.edge.linux.route_messages import Route, RouteSocket
from warren.edge.linux.routes import TunRoutes
from warren.lab import sandbox
from warren.lab.kinds import WAN
from warren.lab.layout import INTERNET
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan
from warren.lab.program import ProgramFailed
from warren.lab.world import World

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.skipif(not sandbox.tun_available(), reason="no TUN device here"),
]

PORT = 7009
PLAN = Plan(
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("alice", address="203.0.113.10"),
        Host("bob", address="203.0.113.20"),
    )
)
PLAN_6 = Plan(
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("alice", address="203.0.113.10", ipv6="2001:db8:1::10"),
        Host("bob", address="203.0.113.20", ipv6="2001:db8:2::10"),
    )
)
NO_FRAGMENTS = """
table ip narrow {
  chain before { type filter hook prerouting priority -450; ip frag-off & 0x3fff != 0 drop; }
}
"""
ONLY_6 = """
table ip apart {
  chain through {
    type filter hook forward priority 0;
    ip saddr 203.0.113.0/24 ip daddr 203.0.113.0/24 drop;
  }
}
"""
NO_ERRORS = """
table ip mute {
  chain out { type filter hook output priority 0; icmp type destination-unreachable drop; }
}
"""


class Mesh:
    """alice and bob on the internet, which is one router between their links."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.server = Server(world["server"], world.scratch / "server")
        self.server.start()
        self.server.create_user("tester")
        key = self.server.create_key("tester", "--reusable")
        self.alice, self.bob = self.join("alice", key), self.join("bob", key)
        self.alice.ping_until_direct("bob", 40)
        self.bob.ping_until_direct("alice", 40)

    def join(self, name: str, key: str) -> Node:
        node = Node(self.world[name], name, self.world.scratch / name, tun=True)
        node.start()
        node.wait_daemon()
        node.up(self.server.url, key)
        return node

    def link(self, name: str, mtu: int, *, far: int | None = None) -> None:
        """Give the link between a host and the internet an MTU; far: another one at the host."""
        internet, host = self.world[INTERNET], self.world[name]
        route = internet.run(["ip", "-o", "route", "get", str(host.address)]).split()
        port = route[route.index("dev") + 1]
        for part, device, size in ((internet, port, mtu), (host, WAN, far or mtu)):
            part.run(["ip", "link", "set", device, "mtu", str(size)])

    def mtu(self, node: Node, peer: str) -> int | None:
        status = node.peer(peer)
        assert status is not None
        size = status["path"]["mtu_bytes"]
        return None if size is None else int(size)

    def reaches(self, mtu: int, deadline_s: float = 8.0) -> None:
        """Both ways, while somebody talks."""

        def found() -> bool:
            self.alice.ping("bob")
            self.bob.ping("alice")
            return self.mtu(self.alice, "bob") == self.mtu(self.bob, "alice") == mtu

        self.world.wait(lambda: found() or None, deadline_s, f"packets of {mtu} bytes")

    def forget(self) -> None:
        """Let both search anew: their sockets are opened anew, as on another network."""
        for node in (self.alice, self.bob):
            node.run("down")
            node.up(self.server.url, None)
        self.alice.ping_until_direct("bob", 40)
        self.bob.ping_until_direct("alice", 40)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with World(PLAN) as world:
        try:
            yield Mesh(world)
        finally:
            for program in world.programs:
                assert "Traceback" not in program.output(), program.tail(60)


def whole_ping(node: Node, address: str, size: int) -> None:
    """One echo of so many bytes with Don't Fragment. Raises ProgramFailed."""
    headers = 28 if ip_address(address).version == 4 else 48
    words = ["ping", "-M", "do", "-n", "-c", "1", "-W", "3", "-s", str(size - headers), address]
    node.part.run(words)


def addresses(node: Node) -> list[str]:
    status = node.status()["self"]
    assert status is not None
    return list(status["addresses"])


def test_an_ordinary_path_carries_1440(mesh: Mesh) -> None:
    mesh.reaches(1440)
    for address in addresses(mesh.bob):
        whole_ping(mesh.alice, address, 1440)
        with pytest.raises(ProgramFailed, match=r"mtu[ =:]+1440"):
            whole_ping(mesh.alice, address, 1441)
    assert "up to 1440 bytes" in mesh.alice.run("why", "bob")
    assert not mesh.alice.status()["drops"].get("packet-too-big")


def test_a_narrow_router_between_them(mesh: Mesh) -> None:
    mesh.link("bob", 1400, far=1500)
    mesh.forget()
    try:
        mesh.reaches(1340)
        for address in addresses(mesh.bob):
            whole_ping(mesh.alice, address, 1340)
    finally:
        mesh.link("bob", 1500)
        mesh.forget()
    mesh.reaches(1440)


def test_over_ipv6_it_is_20_bytes_less() -> None:
    with World(PLAN_6) as world:
        world[INTERNET].nft(ONLY_6)
        mesh = Mesh(world)
        mesh.reaches(1420, 20)
        for address in addresses(mesh.bob):
            whole_ping(mesh.alice, address, 1420)


def test_jumbo_frames(mesh: Mesh) -> None:
    for name in ("alice", "bob"):
        mesh.link(name, 9000)
    try:
        mesh.forget()
        mesh.reaches(8940)
        for address in addresses(mesh.bob):
            whole_ping(mesh.alice, address, 8940)
    finally:
        for name in ("alice", "bob"):
            mesh.link(name, 1500)
        mesh.forget()
    mesh.reaches(1440)


def test_a_relay_carries_what_the_direct_path_did(mesh: Mesh) -> None:
    """Nothing needs to shrink when UDP dies, and nothing flaps when it is back."""
    mesh.reaches(1440)
    mesh.world[INTERNET].block_udp()
    try:
        mesh.world.wait(
            lambda: mesh.alice.ping("bob").via == "relay" or None, 15, "they meet at the relay"
        )
        for address in addresses(mesh.bob):
            whole_ping(mesh.alice, address, 1440)
        assert mesh.mtu(mesh.alice, "bob") is None, "a relay has no limit of its own"
    finally:
        mesh.world[INTERNET].allow_udp()
    mesh.alice.ping_until_direct("bob", 40)
    mesh.reaches(1440)


class Stream:
    """bytes from bob to alice over one TCP connection through the tunnel, until closed."""

    def __init__(self, mesh: Mesh) -> None:
        self.received: list[tuple[float, int]] = []
        self._listener = mesh.alice.part.socket(socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((mesh.alice.address, PORT))
        self._listener.listen()
        self._out = mesh.bob.part.socket(socket.SOCK_STREAM)
        self._out.settimeout(30)
        self._out.connect((mesh.alice.address, PORT))
        self._in, _ = self._listener.accept()
        self._in.settimeout(30)
        self._threads = [threading.Thread(target=work) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        try:
            while True:
                self._out.sendall(bytes(65_536))
                time.sleep(0.002)
        except OSError:
            return

    def _receive(self) -> None:
        try:
            while data := self._in.recv(65_536):
                self.received.append((time.monotonic(), len(data)))
        except OSError:
            return

    def close(self) -> None:
        for sock in (self._out, self._in):
            sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in (self._out, self._in, self._listener):
            sock.close()

    def flows_since(self, since: float) -> bool:
        return sum(size for at, size in self.received if at > since) > 1 << 20


def test_a_path_that_shrinks_silently_under_a_connection(mesh: Mesh) -> None:
    """No ICMP comes back and fragments are lost: the connection goes on all the same."""
    mesh.reaches(1440)
    stream = Stream(mesh)
    try:
        time.sleep(2)
        assert stream.received
        mesh.world[INTERNET].nft(NO_ERRORS)
        mesh.world["alice"].nft(NO_FRAGMENTS)
        mesh.link("alice", 1400, far=1500)
        since = time.monotonic()
        mesh.world.wait(
            lambda: mesh.mtu(mesh.bob, "alice") == 1340 or None, 10, "bob notices the narrow path"
        )
        # How soon TCP itself asks again depends on how far its timer has backed off by then.
        noticed = time.monotonic()
        assert noticed - since < 6
        mesh.world.wait(lambda: stream.flows_since(noticed) or None, 12, "it flows again")
        mesh.link("alice", 1500)
    finally:
        stream.close()
        mesh.world[INTERNET].nft("delete table ip mute")
        mesh.world["alice"].nft("delete table ip narrow")
        mesh.link("alice", 1500)
        mesh.forget()
    mesh.reaches(1440)


def test_a_connection_grows_with_its_path(mesh: Mesh) -> None:
    """Begun before the size is known, it uses what is found later."""
    mesh.forget()
    stream = Stream(mesh)
    try:

        def segment() -> int:
            return stream._out.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)

        mesh.world.wait(lambda: segment() >= 1440 - 52 or None, 8, "segments grow")
    finally:
        stream.close()


def test_routes_say_what_passes_and_what_is_asked_for(mesh: Mesh) -> None:
    """A peer is asked for segments of the device's size; hosts behind a peer for safe ones."""
    part = mesh.world["server"]
    part.run(["ip", "tuntap", "add", "dev", "tun9", "mode", "tun"])
    routes = TunRoutes("tun9", 8941)
    own = ["100.64.0.9/32", "fd7a:115c:a1e0::9/128"]
    wanted = {"100.64.0.10/32": 1440, "10.9.0.0/16": 1440, "fd7a:115c:a1e0::10/128": 1420}
    try:
        for size in (1440, 1280, 8940):
            wanted["100.64.0.10/32"] = size
            part.inside(lambda: routes.apply(own, wanted))
            shown = part.run(["ip", "route", "show", "dev", "tun9"])
            assert f"mtu {size} advmss 8901" in line_of(shown, "100.64.0.10")
            assert "mtu 1440 advmss 1240" in line_of(shown, "10.9.0.0/16")
            shown = part.run(["ip", "-6", "route", "show", "dev", "tun9"])
            assert "mtu 1420 advmss 8881" in line_of(shown, "fd7a:115c:a1e0::10")
        del wanted["10.9.0.0/16"]
        part.inside(lambda: routes.apply(own, wanted))
        assert "10.9.0.0" not in part.run(["ip", "route", "show", "dev", "tun9"])
    finally:
        part.run(["ip", "link", "del", "tun9"])


def test_the_routes_of_a_large_network_are_set_at_once(mesh: Mesh) -> None:
    part = mesh.world["server"]
    part.run(["ip", "tuntap", "add", "dev", "tun9", "mode", "tun"])
    routes = TunRoutes("tun9", 8941)
    own = ["100.64.0.9/32", "fd7a:115c:a1e0::9/128"]
    numbers = range(0x0100, 0x0500)
    wanted = {f"100.64.{n >> 8}.{n & 255}/32": 1440 for n in numbers}
    wanted |= {f"fd7a:115c:a1e0::{n:x}/128": 1280 for n in numbers}

    def shown(family: str, table: str) -> int:
        words = ["ip", family, "route", "show", "dev", "tun9", "proto", "82", "table", table]
        return len(part.run(words).splitlines())

    def refused() -> list[str]:
        index = socket.if_nametoindex("tun9")
        good = Route(IPv4Network("10.7.0.0/16"), index, 254, 1, 1280, 1240)
        with RouteSocket() as kernel:
            said = kernel.change([good, good._replace(device=index + 5000), good] * 40)
            return said + kernel.change([good, good], remove=True)

    try:
        part.inside(lambda: routes.apply(own, wanted))
        tables = ["main", str(82_000 + part.inside(lambda: socket.if_nametoindex("tun9")))]
        assert [shown("-4", table) for table in tables] == [len(numbers)] * 2
        assert [shown("-6", table) for table in tables] == [len(numbers)] * 2
        part.inside(lambda: routes.apply(own, {}))
        assert [shown(family, table) for family in ("-4", "-6") for table in tables] == [0] * 4
        # Every answer is that to its own message.
        expected = ["", "no such device", ""] * 40 + ["", "no such process"]
        assert part.inside(refused) == expected
    finally:
        part.run(["ip", "link", "del", "tun9"])


def line_of(shown: str, start: str) -> str:
    found = [line for line in shown.splitlines() if line.startswith(start)]
    assert len(found) == 1, shown
    return found[0]
