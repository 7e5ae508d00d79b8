"""`python -m bench.relay`: how much a relay forwards, and what it does when asked for more.

The same load goes to Warren's server and, where WARREN_BENCH_DERPER is the path of a stock
`derper`, to that, in alternation. Relay and load have cores of their own where there are two.
Saturation is the most that came through at any rate of a sweep; then that much and twice that are
offered in turns. Other work on the machine makes rates smaller; packets a second of the relay's own
processor time are less moved by it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import report as reports
from bench.figure import Figure
from bench.machine import resident_mb
from warren.edge.tls import make_self_signed
from warren.lab.ports import free_port

ROOT = Path(__file__).parents[1]
LOAD = ROOT / "rust/target/release/examples/relay_load"
STOCK_VARIABLE = "WARREN_BENCH_DERPER"
CLIENTS = (2, 20, 100, 1000)
RATES = (25_000, 50_000, 75_000, 100_000, 200_000, 400_000, 600_000, 0)
"""Packets a second that are offered; 0: as many as the load can make."""
MODEST = RATES[0]
"""A rate that every relay carries, at which processor time is compared."""
TURNS = 3
PACKET_BYTES = 1280
_CLOCK_HZ = os.sysconf("SC_CLK_TCK")
_START_S = 30.0
_HOST = "127.0.0.1"


class BenchFailed(Exception):
    """A part of the bench does not work. The text is a sentence."""


@dataclass
class Level:
    """What a relay did at one rate. Rates in packets a second; lost: a share of what was sent."""

    offered: float
    delivered: float
    lost: float
    least_share: float
    """What the worst-served client got, in shares of the mean."""
    cpu_s: float
    carried: float
    """All packets that came through while `cpu_s` were used."""


@dataclass
class Sweep:
    """A relay at rising rates; then at its saturation and at twice that, in turns."""

    levels: list[Level]
    turns: list[Level]
    memory_mb: float

    @property
    def peak(self) -> Level:
        """Where the most came through."""
        return max(self.levels, key=lambda level: level.delivered)

    @property
    def twice(self) -> list[Level]:
        """The turns at twice saturation."""
        return self.turns[1::2]

    @property
    def kept(self) -> float:
        """What came through at twice saturation, beside what did at saturation."""
        once = sum(level.delivered for level in self.turns[0::2])
        return sum(level.delivered for level in self.twice) / max(once, 1)


class Relays:
    """Starts relays on loopback, each on its own half of the cores."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        cores = sorted(os.sched_getaffinity(0))
        half = len(cores) // 2
        self.relay_cores, self.load_cores = (cores[:half], cores[half:]) if half else (cores, cores)

    @contextmanager
    def warren(self) -> Iterator[tuple[int, int]]:
        """A whole `warren server`; yields its process and TLS port."""
        port = free_port()
        with tempfile.TemporaryDirectory(dir=self.scratch) as state:
            argv = [sys.executable, "-m", "warren", "server", "--state", state]
            argv += ["--listen", f"{_HOST}:{port}", "--url", f"https://{_HOST}:{port}"]
            with self._running([*argv, "--stun", "off", "--no-verify-clients"], port) as pid:
                yield pid, port

    @contextmanager
    def stock(self, program: str) -> Iterator[tuple[int, int]]:
        """The stock relay with a certificate of ours; likewise."""
        port = free_port()
        chain, key = make_self_signed(_HOST, datetime.now(UTC))
        (self.scratch / f"{_HOST}.crt").write_bytes(chain)
        (self.scratch / f"{_HOST}.key").write_bytes(key)
        argv = [program, "-a", f"{_HOST}:{port}", "-hostname", _HOST, "-http-port", "-1"]
        argv += ["-certmode", "manual", "-certdir", str(self.scratch), "-stun=false"]
        with self._running([*argv, "-c", str(self.scratch / "derper.json")], port) as pid:
            yield pid, port

    @contextmanager
    def _running(self, argv: Sequence[str], port: int) -> Iterator[int]:
        log = self.scratch / "relay.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                argv,
                stdout=out,
                stderr=out,
                preexec_fn=lambda: os.sched_setaffinity(0, self.relay_cores),
            )
        try:
            end = time.monotonic() + _START_S
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > end:
                    said = log.read_text(errors="replace").strip().splitlines()[-1:]
                    raise BenchFailed(f"{argv[0]} did not start: {' '.join(said)}")
                time.sleep(0.05)
            yield process.pid
        finally:
            process.terminate()
            process.wait(20)

    def load(
        self, pid: int, port: int, clients: int, rates: Sequence[float], seconds: float
    ) -> list[Level]:
        """Offer each of `rates` for a while."""
        argv = [str(LOAD), "--relay", f"{_HOST}:{port}", "--clients", str(clients)]
        argv += ["--packet", str(PACKET_BYTES), "--seconds", str(seconds)]
        argv += ["--rates", ",".join(f"{rate:.0f}" for rate in rates)]
        levels = []
        with subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, self.load_cores),
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            before = _cpu_s(pid)
            for line in process.stdout:
                told, now = json.loads(line), _cpu_s(pid)
                levels.append(
                    Level(
                        told["offered_pps"],
                        told["delivered_pps"],
                        told["lost"],
                        told["least_share"],
                        now - before,
                        max(told["arrived"], 1),
                    )
                )
                before = now
            if len(levels) != len(rates):
                raise BenchFailed(process.stderr.read().strip() or "the load ended early")
        return levels

    def sweep(self, pid: int, port: int, clients: int, seconds: float) -> Sweep:
        """Find saturation and ask for twice as much."""
        levels = self.load(pid, port, clients, RATES, seconds)
        memory = resident_mb(pid)
        peak = max(level.delivered for level in levels)
        turns = self.load(pid, port, clients, [peak, 2 * peak] * TURNS, seconds)
        return Sweep(levels, turns, memory)


class RelayBench:
    """Warren's relay and, if it is there, the stock one, in turns."""

    def __init__(self, relays: Relays, stock: str | None, runs: int, seconds: float) -> None:
        self.relays = relays
        self.kinds = {"warren": relays.warren}
        if stock is not None:
            self.kinds["stock"] = lambda: relays.stock(stock)
        self.runs = runs
        self.seconds = seconds

    def measure(self, clients: Sequence[int], say: Any) -> dict[int, dict[str, list[Sweep]]]:
        """Clients → relay → a sweep of each run. Each sweep has a fresh relay."""
        found: dict[int, dict[str, list[Sweep]]] = {
            count: {kind: [] for kind in self.kinds} for count in clients
        }
        for run, count, kind in itertools.product(range(self.runs), clients, self.kinds):
            say(f"run {run + 1} of {self.runs}: {count} clients, {kind}")
            with self.kinds[kind]() as (pid, port):
                found[count][kind].append(self.relays.sweep(pid, port, count, self.seconds))
        return found


def figures(found: dict[int, dict[str, list[Sweep]]]) -> list[Figure]:
    """What the sweeps say; names are `<relay>_<clients>_<quantity>`."""
    made, at_modest = [], f"at {MODEST // 1000} kpps"
    for count, kinds in found.items():
        for kind, sweeps in kinds.items():
            goal = "above 0.9" if kind == "warren" else ""
            for name, what, unit, samples, wanted in (
                ("peak", "saturation", "kpps", [s.peak.delivered / 1e3 for s in sweeps], ""),
                ("speed", "saturation", "kpp/CPU s", [_speed(s.peak) for s in sweeps], ""),
                ("kept", "at twice saturation", "of that", [s.kept for s in sweeps], goal),
                ("lost", "lost at twice", "%", [100 * _mean_lost(s) for s in sweeps], ""),
                ("least", "worst client", "of mean", [_least(s) for s in sweeps], ""),
                ("modest", at_modest, "kpp/CPU s", [_speed(s.levels[0]) for s in sweeps], ""),
                ("memory", "resident", "MB", [s.memory_mb for s in sweeps], ""),
            ):  # fmt: skip
                made.append(Figure(f"{kind}_{count}_{name}", what, unit, wanted, samples))
        if "stock" in kinds:
            pairs = list(zip(kinds["warren"], kinds["stock"], strict=True))
            for name, what, ratios in (
                ("peak", "saturation", [a.peak.delivered / b.peak.delivered for a, b in pairs]),
                ("speed", "of processor time", [_speed(a.peak) / _speed(b.peak) for a, b in pairs]),
            ):
                figure = Figure(f"ratio_{count}_{name}", what, "times", "2 at least", ratios)
                made.append(figure)
    return made


def _speed(level: Level) -> float:
    """Thousands of packets for a second of the relay's processor time."""
    return level.carried / max(level.cpu_s, 1 / _CLOCK_HZ) / 1e3


def _mean_lost(sweep: Sweep) -> float:
    return statistics.mean(level.lost for level in sweep.twice)


def _least(sweep: Sweep) -> float:
    return min(level.least_share for level in sweep.twice)


def main() -> int:
    """Measure, print a table and keep the figures; exit code 1 where a part is missing."""
    words = argparse.ArgumentParser(prog="python -m bench.relay", description=__doc__)
    words.add_argument("--runs", type=int, default=5, help="sweeps of each relay")
    words.add_argument("--seconds", type=float, default=0.6, help="time at each rate")
    words.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    reports.add_arguments(words)
    chosen = words.parse_args()
    console = Console(stderr=chosen.json)
    report = reports.begin(packet_bytes=PACKET_BYTES)
    stock = os.environ.get(STOCK_VARIABLE)
    try:
        with (
            tempfile.TemporaryDirectory() as scratch,
            console.status("building the load") as status,
        ):
            _build_load()
            bench = RelayBench(Relays(Path(scratch)), stock, chosen.runs, chosen.seconds)
            found = bench.measure(chosen.clients, status.update)
    except (BenchFailed, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    made = figures(found)
    reports.finish(report, made)
    report["sweeps"] = {
        f"{kind}_{count}": _curve(sweeps)
        for count, kinds in found.items()
        for kind, sweeps in kinds.items()
    }

    def shown() -> None:
        show(console, report, made)
        if stock is None:
            console.print(f"the stock relay was not measured: {STOCK_VARIABLE} names no `derper`")

    reports.keep(report, chosen, "relay", console, shown)
    return 0


def show(console: Console, report: dict[str, Any], made: list[Figure]) -> None:
    """Print the machine and the table."""
    machine = report["machine"]
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, half of them the relay's and half the "
        f"load's; Linux {machine['kernel']}; load {machine['load_1min']} before, "
        f"{machine['load_1min_after']} after; packets of {PACKET_BYTES} bytes, TLS"
    )
    by_name = {figure.name: figure for figure in made}
    rows = dict.fromkeys(figure.name.rpartition("_")[0] for figure in made)
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("relay, clients")
    names = ["peak", "speed", "kept", "lost", "least", "modest", "memory"]
    for name in names:
        first = next(figure for figure in made if figure.name.endswith(f"_{name}"))
        table.add_column(f"{first.what}, {first.unit}")
    for row in rows:
        cells = [by_name.get(f"{row}_{name}") for name in names]
        table.add_row(row.replace("_", ", "), *(_cell(figure) for figure in cells))
    console.print(table)
    console.print(
        "medians over lowest … highest; `ratio`: Warren's beside the stock relay's, in pairs"
    )


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    _, median, spread, *_ = figure.row()
    return f"{median.split()[0]}\n{spread}"


def _curve(sweeps: list[Sweep]) -> list[dict[str, float]]:
    """Medians at each rate: what was offered, what came, what was lost."""
    curve = []
    for levels in zip(*(sweep.levels for sweep in sweeps), strict=True):
        offered = statistics.median(level.offered for level in levels)
        delivered = statistics.median(level.delivered for level in levels)
        lost = statistics.median(level.lost for level in levels)
        curve.append({"offered_pps": offered, "delivered_pps": delivered, "lost": lost})
    return curve


def _build_load() -> None:
    argv = ["cargo", "build", "--release", "--quiet", "-p", "warren-io", "--example", "relay_load"]
    built = subprocess.run(argv, cwd=ROOT / "rust", capture_output=True, text=True, check=False)
    if built.returncode:
        raise BenchFailed(f"the load could not be built: {built.stderr.strip()[-500:]}")


def _answers(port: int) -> bool:
    try:
        socket.create_connection((_HOST, port), 1).close()
    except OSError:
        return False
    return True


def _cpu_s(pid: int) -> float:
    """Processor time that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_HZ


if __name__ == "__main__":
    sys.exit(main())
