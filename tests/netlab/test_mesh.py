"""Warren nodes behind real NATs: relayed first, direct next, and alive through crashes."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from watched import watched

from warren.lab import sandbox
from warren.lab.mesh import SERVER_HTTP_PORT, SERVER_TLS_PORT, STUN_PORT, Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.web import WebServer, get
from warren.lab.world import World

pytestmark = pytest.mark.netlab

WEB_PORT = 8000
NODE_PORT = 41641
HOME_A, HOME_B = "203.0.113.10", "203.0.113.20"
PLAN = Plan(
    routers=(
        Router("home-a", kind="port-restricted", address=HOME_A),
        Router("home-b", kind="port-restricted", address=HOME_B),
        Router("office", kind="port-restricted", address="203.0.113.30"),
    ),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("alice", behind="home-a"),
        Host("bob", behind="home-b"),
        Host("carol", behind="office"),
    ),
)


class Mesh:
    """A world with a server; nodes join by name."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.server = Server(world["server"], world.scratch / "server")
        self.server.start()
        self.server.create_user("tester")
        self.key = self.server.create_key("tester", "--reusable")

    def node(self, name: str, *, tun: bool = True) -> Node:
        """Start a node on the host of this name and have it join."""
        state = self.world.scratch / name
        node = Node(
            self.world[name], name, state, tun=tun and sandbox.tun_available(), port=NODE_PORT
        )
        node.start()
        node.wait_daemon()
        node.up(self.server.url, self.key)
        return node


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with watched(PLAN) as world:
        yield Mesh(world)


def fetches(client: Node, server: Node, deadline_s: float = 15.0) -> None:
    """HTTP from one node to the other works, now or within a deadline."""
    with WebServer(server.part, WEB_PORT, f"hello from {server.name}"):

        def try_once() -> bool:
            try:
                page = get(client.route(), server.address, WEB_PORT, timeout_s=5)
            except OSError:
                return False
            return page.body == f"hello from {server.name}".encode()

        client.part.wait(try_once, deadline_s, f"{client.name} fetches from {server.name}")


def path_kind(node: Node, peer: str) -> str:
    known = node.peer(peer)
    return str(known["path"]["kind"]) if known else "unknown"


def test_relay_first_then_direct_and_back(mesh: Mesh) -> None:
    """Traffic never waits for UDP, uses it when it works, and leaves it when it dies."""
    mesh.world["home-a"].block_udp()
    alice, bob = mesh.node("alice"), mesh.node("bob")
    fetches(alice, bob)
    assert alice.ping("bob").via == "relay"

    mesh.world["home-a"].allow_udp()
    pong = alice.ping_until_direct("bob", 40)
    assert (pong.via, pong.path) == ("direct", f"{HOME_B}:{NODE_PORT}")
    fetches(alice, bob)
    fetches(bob, alice)

    mesh.world["home-b"].block_udp()
    fetches(alice, bob, 20)
    mesh.world.wait(lambda: path_kind(alice, "bob") == "relay", 20, "alice is back on the relay")


def test_a_node_without_privileges_reaches_and_is_reached(mesh: Mesh) -> None:
    alice, carol = mesh.node("alice"), mesh.node("carol", tun=False)
    fetches(alice, carol)
    fetches(carol, alice)


def test_killed_server_comes_back_with_everything(mesh: Mesh) -> None:
    """Direct traffic goes on without the server; afterwards identities are the same."""
    alice, bob = mesh.node("alice"), mesh.node("bob")
    alice.ping_until_direct("bob", 20)
    before = {node["name"]: node["addresses"] for node in mesh.server.nodes()}
    mesh.server.program.kill()
    fetches(alice, bob)
    mesh.server.start()
    assert {node["name"]: node["addresses"] for node in mesh.server.nodes()} == before
    mesh.node("carol")
    mesh.world.wait(lambda: alice.peer("carol"), 40, "alice hears of carol after the restart")
    assert alice.status()["self"]["addresses"] == before["alice"]
    fetches(alice, bob)


def test_killed_node_comes_back_as_itself(mesh: Mesh) -> None:
    """After SIGKILL the daemon alone, with no `up`, is the same machine again."""
    alice, bob = mesh.node("alice"), mesh.node("bob")
    fetches(alice, bob)
    address = bob.address
    bob.kill()
    bob.start()
    bob.wait_daemon()
    mesh.world.wait(lambda: running(bob), 20, "bob runs again")
    bob.learn()
    assert bob.address == address
    assert len(mesh.server.nodes()) == 2
    fetches(alice, bob, 30)
    fetches(bob, alice, 30)


def running(node: Node) -> bool:
    from warren.lab.program import ProgramFailed

    with contextlib.suppress(ProgramFailed):
        return node.status()["state"] == "running"
    return False


def test_garbage_on_every_port_changes_nothing(mesh: Mesh) -> None:
    """Noise from the internet costs a counted drop: no crash, no growth, no traceback."""
    alice, bob = mesh.node("alice"), mesh.node("bob")
    alice.ping_until_direct("bob", 20)
    programs = [mesh.server.program, bob.program]
    before = [resident_mb(program.pid) for program in programs]
    outside = mesh.world["carol"]
    for port in (SERVER_HTTP_PORT, SERVER_TLS_PORT):
        for blob in garbage():
            with outside.socket(socket.SOCK_STREAM) as sock, contextlib.suppress(OSError):
                sock.settimeout(2)
                sock.connect(("198.51.100.10", port))
                sock.sendall(blob)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
    # Alice's mapping at her NAT lets her own packets through to bob's port, so that this noise
    # arrives at the node and does not end at its router.
    for part, target in (
        (outside, ("198.51.100.10", STUN_PORT)),
        (alice.part, ("198.51.100.10", STUN_PORT)),
    ):
        spray(part.socket(socket.SOCK_DGRAM), target)
    spray(bob.part.socket(socket.SOCK_DGRAM), (str(bob.part.address), NODE_PORT))
    fetches(alice, bob)
    mesh.node("carol")
    for program, was in zip(programs, before, strict=True):
        assert program.running()
        assert resident_mb(program.pid) < was + 40, program.name


def garbage() -> list[bytes]:
    """Noise of several shapes: empty, random, huge, and cut-off beginnings of real protocols."""
    return [
        b"",
        b"\x00",
        os.urandom(300),
        b"GET /" + b"A" * 200_000,
        b"GET /ts2021 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /ts2021 HTTP/1.1\r\nHost: x\r\nUpgrade: tailscale-control-protocol\r\n"
        b"Connection: upgrade\r\nX-Tailscale-Handshake: !!!\r\n\r\n",
        b"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n"
        + os.urandom(5000),
        b"\x16\x03\x01\xff\xff" + os.urandom(1000),
        b"\x16\x03\x01\x00\x05\x01",
        b"POST /key HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
    ]


def spray(sock: socket.socket, target: tuple[str, int]) -> None:
    """Datagrams that look a little like STUN, disco and WireGuard, and some that do not."""
    with sock:
        for start in (
            b"",
            b"\x00\x01\x00\x00\x21\x12\xa4\x42",
            b"TS\xf0\x9f\x92\xac",
            b"\x01\0\0\0",
        ):
            for size in (0, 1, 20, 100, 148, 1200):
                with contextlib.suppress(OSError):
                    sock.sendto((start + os.urandom(size))[:1400], target)


def resident_mb(pid: int) -> float:
    """Memory of a process that is really in use."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
