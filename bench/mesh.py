"""The mesh's own figures, taken in a lab: one node behind a NAT, one on the internet, a server."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from bench.figure import Figure
from bench.machine import resident_mb
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.program import Program, ProgramFailed, wait_until
from warren.lab.world import Part, World

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAN = Plan(
    routers=(
        Router("home-a", kind="port-restricted", address="203.0.113.10"),
        Router("home-b", kind="port-restricted", address="203.0.113.20"),
    ),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("alice", behind="home-a"),
        Host("bob", behind="home-b"),
        Host("carol", address="198.51.100.20"),
    ),
)
ECHO_PORT = 7007
IPERF_PORT = 5201


class MeshBench:
    """Three nodes with TUN devices in a built world. alice and bob: behind port-restricted NATs."""

    def __init__(self, world: World, runs: int, seconds: float, say: Callable[[str], None]) -> None:
        self.world = world
        self.runs = runs
        self.seconds = seconds
        self.say = say
        self.server = Server(world["server"], world.scratch / "server")
        self.server.start()
        self.server.create_user("bench")
        key = self.server.create_key("bench", "--reusable")
        self.nodes: dict[str, Node] = {}
        for name in ("alice", "bob", "carol"):
            node = Node(world[name], name, world.scratch / name, tun=True)
            node.start()
            node.wait_daemon()
            node.up(self.server.url, key)
            self.nodes[name] = node

    def measure(self) -> list[Figure]:
        """Everything, in an order that lets memory be read while the nodes have little behind."""
        figures = [self.memory(), self.status_time(), self.direct_time(), self.first_packet()]
        figures += self.throughput()
        figures += self.round_trip()
        return figures

    def offloads(self) -> list[str]:
        """What the engine detected and uses."""
        return list(self.nodes["alice"].status()["offloads"])

    def memory(self) -> Figure:
        """Resident memory of an idle node."""
        self.say("memory of an idle node")
        figure = Figure("node_rss", "a node at rest", "MB", "60 at most")
        figure.samples = [resident_mb(node.program.pid) for node in self.nodes.values()]
        return figure

    def status_time(self) -> Figure:
        """Wall time of `warren status`, from its start to its end."""
        self.say("warren status")
        figure = Figure("status", "`warren status`", "s", "0.2 at most")
        for _ in range(max(5, self.runs)):
            began = time.monotonic()
            self.nodes["alice"].run("status")
            figure.samples.append(time.monotonic() - began)
        return figure

    def direct_time(self) -> Figure:
        """From the first packet between two restarted nodes to the first pong over UDP."""
        figure = Figure("direct", "direct path, two port-restricted NATs", "s", "3 at most")
        alice, bob = self.nodes["alice"], self.nodes["bob"]
        for turn in range(self.runs):
            self.say(f"direct path, run {turn + 1}")
            for node in (alice, bob):
                node.stop()
                node.start()
            for node in (alice, bob):
                node.wait_daemon()
                wait_until(partial(_running, node), 20, f"{node.name} runs again")
            self._sees("alice", "bob")
            self._sees("bob", "alice")
            began = time.monotonic()
            alice.ping_until_direct("bob", 30)
            figure.samples.append(time.monotonic() - began)
        return figure

    def first_packet(self) -> Figure:
        """From the start of `warren up` on a known machine to the first echo over the relay."""
        figure = Figure("first_packet", "first packet over the relay after `up`", "s", "1 at most")
        alice, bob = self.nodes["alice"], self.nodes["bob"]
        with echo_server(bob.part), self._relayed("bob"):
            for turn in range(self.runs):
                self.say(f"first packet after up, run {turn + 1}")
                alice.run("down")
                began = time.monotonic()
                command = alice.begin_up(None, None)
                _first_echo(alice.part, bob.address, 20.0)
                figure.samples.append(time.monotonic() - began)
                alice.finish_up(command)
        return figure

    def throughput(self) -> list[Figure]:
        """One TCP stream for a few seconds: plain veth, tunnel, relay, in turns."""
        plain = Figure("tcp_plain", "one TCP stream, plain veth and NAT", "Mbit/s")
        tunnel = Figure("tcp_tunnel", "one TCP stream, tunnel, direct", "Mbit/s")
        relay = Figure("tcp_relay", "one TCP stream, tunnel, over the relay", "Mbit/s")
        alice, carol = self.nodes["alice"], self.nodes["carol"]
        with iperf_server(carol.part):
            for turn in range(self.runs):
                self.say(f"throughput, run {turn + 1}")
                plain.samples.append(self._iperf(alice.part, str(carol.part.address)))
                alice.ping_until_direct("carol", 40)
                tunnel.samples.append(self._iperf(alice.part, carol.address))
                with self._relayed("carol"):
                    relay.samples.append(self._iperf(alice.part, carol.address))
        return [plain, tunnel, relay]

    def round_trip(self) -> list[Figure]:
        """Round trip of ICMP echoes on an idle path, the mean of two hundred in each turn."""
        plain = Figure("rtt_plain", "idle round trip, plain veth and NAT", "ms")
        tunnel = Figure("rtt_tunnel", "idle round trip, tunnel, direct", "ms")
        relay = Figure("rtt_relay", "idle round trip, tunnel, over the relay", "ms")
        alice, carol = self.nodes["alice"], self.nodes["carol"]
        for turn in range(self.runs):
            self.say(f"round trip, run {turn + 1}")
            plain.samples.append(_ping_ms(alice.part, str(carol.part.address)))
            alice.ping_until_direct("carol", 40)
            tunnel.samples.append(_ping_ms(alice.part, carol.address))
            with self._relayed("carol"):
                relay.samples.append(_ping_ms(alice.part, carol.address))
        return [plain, tunnel, relay]

    @contextmanager
    def _relayed(self, peer: str) -> Iterator[None]:
        """While it lasts, alice and the peer reach each other over the relay only."""
        self.world["home-a"].block_udp()
        try:
            for one, other in (("alice", peer), (peer, "alice")):
                self.world.wait(
                    partial(self._relay_only, one, other), 30, f"{one} reaches {other} by relay"
                )
            self.nodes["alice"].ping(peer)
            yield
        finally:
            self.world["home-a"].allow_udp()

    def _relay_only(self, one: str, other: str) -> bool:
        known = self.nodes[one].peer(other)
        return known is not None and known["path"]["kind"] == "relay"

    def _iperf(self, part: Part, address: str) -> float:
        argv = ["iperf3", "--json", "-c", address, "-p", str(IPERF_PORT), "-t", f"{self.seconds:g}"]
        for attempt in range(3):
            try:
                report = json.loads(part.run(argv, self.seconds + 30))
                return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6
            except ProgramFailed as error:
                # The server of iperf3 takes one client at a time and is slow to let go of one
                # whose path died.
                if "busy" not in str(error) or attempt == 2:
                    raise
                time.sleep(1)
        raise AssertionError

    def _sees(self, one: str, other: str) -> None:
        def seen() -> bool:
            peer = self.nodes[one].peer(other)
            return peer is not None and bool(peer["online"])

        self.world.wait(seen, 20, f"{one} sees {other} online")


@contextmanager
def echo_server(part: Part) -> Iterator[None]:
    """Echo UDP datagrams on a host while it lasts."""
    sock = part.socket(socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", ECHO_PORT))
    sock.settimeout(0.1)
    ended = threading.Event()

    def echo() -> None:
        while not ended.is_set():
            try:
                data, source = sock.recvfrom(2048)
                sock.sendto(data, source)
            except OSError:
                continue

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        sock.close()


@contextmanager
def iperf_server(part: Part) -> Iterator[Program]:
    """iperf3's server on a host while it lasts."""
    program = part.spawn(["iperf3", "-s", "--forceflush", "-p", str(IPERF_PORT)], "iperf3")
    program.wait_output("Server listening", 5)
    try:
        yield program
    finally:
        program.stop()


def _first_echo(part: Part, address: str, deadline_s: float) -> None:
    """Send until an echo comes back. Raises TimeoutError."""
    end = time.monotonic() + deadline_s
    with part.socket(socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.01)
        while time.monotonic() < end:
            try:
                sock.sendto(b"first", (address, ECHO_PORT))
                sock.recvfrom(100)
            except OSError:
                time.sleep(0.005)
            else:
                return
    raise TimeoutError(f"no echo from {address} within {deadline_s:g} s")


def _ping_ms(part: Part, address: str, count: int = 200) -> float:
    """Mean round trip of `count` echoes, 10 ms apart, in ms."""
    said = part.run(["ping", "-q", "-c", str(count), "-i", "0.01", address], 30)
    return float(said.rpartition("min/avg/max/mdev = ")[2].split("/")[1])


def _running(node: Node) -> bool:
    try:
        return bool(node.status()["state"] == "running")
    except ProgramFailed:
        return False
