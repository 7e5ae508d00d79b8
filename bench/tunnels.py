"""Warren beside what else is on the machine, between the same two hosts, in turns.

Every tunnel is up all the time and idle while another is measured. Warren's nodes have a TUN
device each; a third one runs in userspace. The rest: wireguard-go, nebula and openvpn, each if
it is installed, with ChaCha20-Poly1305 where there is a choice, and the stock client, on two
hosts like these.
"""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import checks, peers
from bench.figure import Figure
from bench.machine import resident_mb
from bench.mesh import IPERF_PORT, iperf_server
from warren.lab import web
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan
from warren.lab.world import Part, World

PLAN = Plan(
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("a", address="198.51.100.20"),
        Host("b", address="203.0.113.20"),
        Host("c", address="203.0.113.30"),
        Host("d", address="198.51.100.40"),
        Host("e", address="203.0.113.40"),
    )
)
STREAMS = (1, 4, 16)
UDP_SIZES = (64, 512, 1280)
_UDP_HEADERS = 28
_TICKS = os.sysconf("SC_CLK_TCK")
_PONG = re.compile(r"time=([\d.]+) ms")


@dataclass
class Tunnel:
    """A way from one host to an address. pids: the programs that carry it; none for plain veth."""

    name: str
    host: Part
    address: str
    pids: tuple[int, ...] = ()

    def cpu_s(self) -> float:
        """CPU time that its programs have used, user and system, in seconds."""
        total = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / _TICKS


class TunnelBench:
    """Every tunnel between a and b. Build it in a world of PLAN."""

    def __init__(
        self,
        world: World,
        runs: int,
        seconds: float,
        say: Callable[[str], None],
        *,
        short: bool = False,
    ) -> None:
        """short: one kind of stream and of datagram, and one other VPN at most."""
        self.short = short
        self.a, self.b, self.e = world["a"], world["b"], world["e"]
        self.runs = runs
        self.seconds = seconds
        self.say = say
        server = Server(world["server"], world.scratch / "server")
        server.start()
        server.create_user("bench")
        checks.set_policy(server, world.scratch / "policy.json")
        key = server.create_key("bench", "--reusable")
        self.nodes: dict[str, Node] = {}
        for name in ("a", "b", "c"):
            node = Node(world[name], name, world.scratch / name, tun=name != "c")
            node.start()
            node.wait_daemon()
            node.up(server.url, key)
            self.nodes[name] = node
        self.nodes["a"].ping_until_direct("b", 40)
        self.nodes["c"].ping_until_direct("b", 40)
        pids = tuple(self.nodes[name].program.pid for name in ("a", "b"))
        self.tunnels = [
            Tunnel("plain veth", self.a, str(self.b.address)),
            Tunnel("Warren", self.a, self.nodes["b"].address, pids),
        ]
        for peer in peers.installed()[: 1 if short else None]:
            say(f"starting {peer.name}")
            near, far = (world["d"], world["e"]) if peer.own_hosts else (self.a, self.b)
            address, programs = peer.join(peers.Ends(world, near, far, server.url, key))
            self.tunnels.append(Tunnel(peer.name, near, address, tuple(p.pid for p in programs)))

    def measure(self) -> list[Figure]:
        """All figures, one group after the other."""
        figures = self.resident()
        with iperf_server(self.b), iperf_server(self.e):
            for streams in STREAMS[: 1 if self.short else None]:
                figures += self.tcp(streams)
            for size in UDP_SIZES[-1 if self.short else 0 :]:
                figures += self.udp(size)
            figures += self.round_trips()
        return figures + self.userspace()

    def prove(self) -> list[dict[str, Any]]:
        """What was on while Warren was measured. Raises CheckMissing."""
        self.say("what the measured nodes check")
        return checks.prove(checks.Pair(self.nodes["a"], self.nodes["b"]))

    def resident(self) -> list[Figure]:
        """Resident memory of each program, before it carried anything."""
        return [
            Figure(
                f"rss_{_slug(tunnel.name)}",
                f"{tunnel.name}: resident",
                "MB",
                "60 at most" if tunnel.name == "Warren" else "",
                [resident_mb(pid) for pid in tunnel.pids],
            )
            for tunnel in self.tunnels
            if tunnel.pids
        ]

    def tcp(self, streams: int) -> list[Figure]:
        """Throughput of so many TCP streams, and what it costs."""
        what = f"{streams} TCP stream{'s' if streams > 1 else ''}"
        speed = {t.name: self._figure(t, f"tcp{streams}", what, "Gbit/s") for t in self.tunnels}
        share = {
            t.name: self._figure(t, f"share{streams}", f"{what}, share of plain veth", "")
            for t in self.tunnels[1:]
        }
        cost = {
            t.name: self._figure(t, f"cpu{streams}", f"{what}, CPU", "s/GB")
            for t in self.tunnels[1:]
        }
        for turn in range(self.runs):
            self.say(f"{what}, run {turn + 1}")
            plain = 0.0
            for tunnel in self.tunnels:
                before = tunnel.cpu_s()
                end = self._iperf(tunnel, "-P", str(streams))["end"]["sum_received"]
                rate, gigabytes = end["bits_per_second"] / 1e9, end["bytes"] / 1e9
                speed[tunnel.name].samples.append(rate)
                if not tunnel.pids:
                    plain = rate
                    continue
                share[tunnel.name].samples.append(rate / plain)
                if gigabytes:
                    cost[tunnel.name].samples.append((tunnel.cpu_s() - before) / gigabytes)
        if streams == 1:
            share["Warren"].goal = "0.36 at least"
        return [*speed.values(), *share.values(), *cost.values()]

    def udp(self, size: int) -> list[Figure]:
        """Datagrams a second that arrive, of IP packets of `size` bytes, sent as fast as can be."""
        what = f"UDP, {size}-byte packets"
        figures = {t.name: self._figure(t, f"udp{size}", what, "1,000/s") for t in self.tunnels}
        for turn in range(self.runs):
            self.say(f"{what}, run {turn + 1}")
            for tunnel in self.tunnels:
                report = self._iperf(tunnel, "-u", "-b", "0", "-l", str(size - _UDP_HEADERS))
                total = report["end"]["sum"]
                arrived = total["packets"] - total["lost_packets"]
                figures[tunnel.name].samples.append(arrived / total["seconds"] / 1000)
        return list(figures.values())

    def round_trips(self) -> list[Figure]:
        """Round trips of ICMP echoes, idle and beside one TCP stream: median and 99th percentile.

        A sample is the percentile of one turn's echoes, 5 ms apart.
        """
        found: list[Figure] = []
        for load in (False, True):
            what = "round trip under load" if load else "idle round trip"
            tag = "load" if load else "idle"
            figures = {
                (tunnel.name, rank): self._figure(tunnel, f"rtt_{tag}_p{rank}", f"{what}, p{rank}")
                for tunnel in self.tunnels
                for rank in (50, 99)
            }
            for turn in range(self.runs):
                self.say(f"{what}, run {turn + 1}")
                for tunnel in self.tunnels:
                    with self._load(tunnel) if load else _nothing():
                        times = self._echoes(tunnel)
                    for rank, at in ((50, 49), (99, 98)):
                        sample = statistics.quantiles(times, n=100, method="inclusive")[at]
                        figures[tunnel.name, rank].samples.append(sample)
            found += figures.values()
        return found

    def userspace(self) -> list[Figure]:
        """One TCP stream to b: from a through TUN, and from c through its SOCKS5 proxy."""
        tun = Figure("bulk_tun", "Warren: bulk TCP, TUN to TUN", "Gbit/s")
        socks = Figure("bulk_socks", "Warren: bulk TCP, SOCKS5 and userspace to TUN", "Gbit/s")
        share = Figure("bulk_share", "Warren: userspace, share of TUN", "", "0.5 at least")
        to = self.nodes["b"].address
        for turn in range(self.runs):
            self.say(f"userspace mode, run {turn + 1}")
            one = self._bulk(self.nodes["a"].route(), to)
            other = self._bulk(self.nodes["c"].route(), to)
            tun.samples.append(one)
            socks.samples.append(other)
            share.samples.append(other / one)
        return [tun, socks, share]

    def _figure(self, tunnel: Tunnel, name: str, what: str, unit: str = "ms") -> Figure:
        return Figure(f"{name}_{_slug(tunnel.name)}", f"{tunnel.name}: {what}", unit)

    def _iperf(self, tunnel: Tunnel, *more: str) -> dict[str, dict[str, dict[str, float]]]:
        argv = ["iperf3", "--json", "-c", tunnel.address, "-p", str(IPERF_PORT)]
        argv += ["-t", f"{max(1.0, self.seconds):g}", *more]
        report: dict[str, dict[str, dict[str, float]]] = json.loads(
            tunnel.host.run(argv, self.seconds + 40)
        )
        return report

    @contextmanager
    def _load(self, tunnel: Tunnel) -> Iterator[None]:
        argv = ["iperf3", "-c", tunnel.address, "-p", str(IPERF_PORT), "-t", "60"]
        program = tunnel.host.spawn(argv, "load")
        time.sleep(0.3)
        try:
            yield
        finally:
            program.stop()

    def _echoes(self, tunnel: Tunnel) -> list[float]:
        count = int(max(20, self.seconds * 200))
        said = tunnel.host.run(["ping", "-n", "-c", str(count), "-i", "0.005", tunnel.address], 60)
        return [float(text) for text in _PONG.findall(said)]

    def _bulk(self, route: web.Route, to: str) -> float:
        """Gbit/s of one stream of zeros for as long as a run takes, as the receiver counts."""
        with self.b.socket(socket.SOCK_STREAM) as listener:
            listener.bind((to, 0))
            listener.listen(1)
            came: list[float] = []
            thread = threading.Thread(target=lambda: came.append(_receive(listener)))
            thread.start()
            with route.connect(to, listener.getsockname()[1], 20.0) as sender:
                end, block = time.monotonic() + self.seconds, bytes(1 << 20)
                while time.monotonic() < end:
                    sender.sendall(block)
            thread.join(30)
            return came[0]


def _receive(listener: socket.socket) -> float:
    listener.settimeout(20)
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(20)
        room = bytearray(1 << 18)
        began, total = time.monotonic(), 0
        while count := connection.recv_into(room):
            total += count
        return total * 8 / (time.monotonic() - began) / 1e9


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _slug(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_")
