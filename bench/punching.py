"""`python -m bench.punching`: how many probes birthday punching needs, beside what theory says.

The curve needs only the ports that a NAT gave and the order in which they are guessed, so its
many runs leave the rest of the network out: the NAT gives 256 distinct random ports of 1024 to
65535, and `warren.paths.punching.ports` guesses, from six samples, as the node does. Fewer runs
of the whole simulator (both nodes' machines, NATs, relay, latency) stand beside it, and give the
times for NATs of each kind, towards Warren and towards a model of the stock client. In the lab
(`bench.punching_lab`) the same goes through the kernel's NATs, with the real stock client too.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import punching_lab
from bench import report as reports
from warren.lab import sandbox
from warren.lab.sim import SimNode, SimTailnet, SimWorld, StockNode
from warren.netmap.endpoint import Endpoint
from warren.paths.punching.easy import PROBES_MAX
from warren.paths.punching.hard import SOCKETS
from warren.paths.punching.ports import (
    FIRST_PORT,
    LAST_PORT,
    PORTS,
    Sample,
    guesses,
    infer,
    plan_for,
)

COUNTS = (64, 128, 174, 256, 512, 1024)
HARD_KINDS = ("symmetric", "symmetric-sequential", "carrier-block")
EASY_KINDS = ("public", "full-cone", "address-restricted", "port-restricted")
EASY_KIND = EASY_KINDS[-1]
STOCK_PAIRS = (
    ("symmetric", EASY_KIND),
    (EASY_KIND, "carrier-block-512"),
    (EASY_KIND, "carrier-block"),
)
"""Which NAT a Warren node is behind, and which one a stock client."""
_SERVER = Endpoint.parse("192.0.2.1:3478")
_SAMPLES = 6


def theory(probes: int) -> float:
    """Return the odds of a hit, each probe drawn anew."""
    return 1 - (1 - SOCKETS / PORTS) ** probes


def theory_distinct(probes: int) -> float:
    """Return the odds of a hit where no port is probed twice, as the node does it."""
    missed = math.prod((PORTS - SOCKETS - k) / (PORTS - k) for k in range(probes))
    return 1 - missed


def probes_needed(rng: random.Random) -> int | None:
    """Punch once; return which probe hit, or None if `PROBES_MAX` were not enough."""
    ports = rng.sample(range(FIRST_PORT, LAST_PORT + 1), SOCKETS + _SAMPLES)
    outside = Endpoint.parse("198.51.100.1:0").ip
    samples = [
        Sample(_SERVER, Endpoint(outside, port), float(at))
        for at, port in enumerate(ports[SOCKETS:])
    ]
    opened = set(ports[:SOCKETS])
    plan = plan_for(infer(samples), SOCKETS)
    for count, port in enumerate(islice(guesses(plan, rng.randbytes), PROBES_MAX), start=1):
        if port in opened:
            return count
    return None


def share(needed: list[int | None], probes: int) -> float:
    """Return which share of the runs was connected after so many probes."""
    return sum(count is not None and count <= probes for count in needed) / len(needed)


def whole_run(seed: int, hard: str, stock: bool) -> tuple[float | None, int | None]:
    """Run the whole simulator once: seconds until both sides are direct, and probes spent."""
    world = SimWorld(seed)
    tailnet = SimTailnet(world)
    a = tailnet.node("a", hard)
    b: SimNode | StockNode
    b = tailnet.stock("b", EASY_KIND) if stock else tailnet.node("b", EASY_KIND)
    tailnet.settle()
    began = world.now
    a.talk_to(b)
    b.talk_to(a)
    if not world.run(20.0, lambda: a.direct(b) is not None and b.direct(a) is not None):
        return None, None
    tried = a.paths[b.key].attempts if isinstance(b, StockNode) else b.paths[a.key].attempts
    return world.now - began, sum(attempt.probes for attempt in tried)


def lab_measure(runs: int, pair_runs: int, stock_runs: int) -> dict[str, Any]:
    """Punch in the lab: the curve's pair, every hard kind with every easy one, stock clients."""
    found = punching_lab.curve_runs(runs, "symmetric", EASY_KIND) if runs else {}
    if pair_runs:
        found["pairs"] = punching_lab.pair_runs(pair_runs, HARD_KINDS, EASY_KINDS)
    if stock_runs:
        found["stock"] = [
            punching_lab.stock_runs(stock_runs, own, peer, regions)
            for own, peer in STOCK_PAIRS
            for regions in (1, 2)
        ]
    return found


def measure(runs: int, whole_runs: int, seed: int) -> dict[str, Any]:
    """Return the curve and the times, as JSON values."""
    rng = random.Random(seed)
    needed = [probes_needed(rng) for _ in range(runs)]
    hits = [count for count in needed if count is not None]
    times: list[dict[str, Any]] = []
    spent: list[int | None] = []
    for stock in (False, True):
        for hard in HARD_KINDS:
            done = [whole_run(seed + number, hard, stock) for number in range(whole_runs)]
            if hard == "symmetric" and not stock:
                spent = [probes for _, probes in done]
            times.append(
                {
                    "hard": hard,
                    "easy": EASY_KIND,
                    "easy_side": "stock client (model)" if stock else "Warren",
                    **punching_lab.judge([took for took, _ in done]),
                }
            )
    return {
        "name": "punching",
        "sockets": SOCKETS,
        "port_range": [FIRST_PORT, LAST_PORT],
        "ports": PORTS,
        "runs": runs,
        "whole_runs": whole_runs,
        "seed": seed,
        "median_probes": statistics.median(hits),
        "curve": [
            {
                "probes": count,
                "connected": share(needed, count),
                "error_95": 1.96 * math.sqrt(theory(count) * (1 - theory(count)) / runs),
                "connected_whole": share(spent, count),
                "theory": theory(count),
                "theory_distinct": theory_distinct(count),
            }
            for count in COUNTS
        ],
        "times": times,
    }


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the curve and the times."""
    first, last = found["port_range"]
    console.print(
        f"Birthday punching: {found['sockets']} ports open among {found['ports']:,} "
        f"({first} to {last}), {found['runs']:,} simulated runs; "
        f"half are connected after {found['median_probes']:.0f} probes. "
        f"Theory: 1-(1-{SOCKETS}/{PORTS})ⁿ; distinct: no port is drawn twice."
    )
    curve = Table(show_edge=False, pad_edge=False)
    for column in (
        "probes",
        "connected",
        "±",
        f"whole ({found['whole_runs']} runs)",
        "theory",
        "distinct",
    ):
        curve.add_column(column, justify="right")
    for row in found["curve"]:
        curve.add_row(
            str(row["probes"]),
            *(f"{100 * row[name]:.1f} %" for name in ("connected", "error_95", "connected_whole")),
            *(f"{100 * row[name]:.1f} %" for name in ("theory", "theory_distinct")),
        )
    console.print(curve)
    _show_lab(console, found["lab"])
    console.print(f"Simulated, until both sides are direct, towards a {EASY_KIND} NAT:")
    rows = [(row["hard"], row["easy_side"], row) for row in found["times"]]
    console.print(_times(("hard side", "easy side"), rows))


def _times(words: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> Table:
    """Lay out rows of some words and what the runs came to."""
    table = Table(show_edge=False, pad_edge=False)
    for column in (*words, "runs", "in 10 s", "median", "slowest"):
        table.add_column(column, overflow="fold")
    for *said, row in rows:
        known = row["median_s"] is not None
        table.add_row(
            *said,
            str(row["runs"]),
            f"{100 * row['connected_10_s']:.1f} %",
            f"{row['median_s']:.2f} s" if known else "-",
            f"{row['slowest_s']:.1f} s" if known else "-",
        )
    return table


def _show_lab(console: Console, lab: dict[str, Any] | None) -> None:
    if lab is None:
        return
    if "probes" in lab:
        shares = ", ".join(f"{100 * share(lab['probes'], n):.0f} % after {n}" for n in COUNTS)
        console.print(
            f"In the lab ({lab['runs']} runs, real engine, kernel NATs; probes are known of "
            f"{lab['runs_counted']}): {shares} probes; "
            f"{100 * lab['connected']:.0f} % direct, median {lab['median_s'] or 0:.1f} s, "
            f"slowest {lab['slowest_s'] or 0:.1f} s."
        )
    rows = [(row["hard"], row["easy"], "Warren", row) for row in lab.get("pairs", ())]
    rows += [
        (row["warren"], row["stock"], f"stock, regions: {row['regions']}", row)
        for row in lab.get("stock", ())
    ]
    if rows:
        console.print("In the lab, until a ping is answered directly:")
        console.print(_times(("from", "to", "which is"), rows))


def main() -> int:
    """Measure, print, and keep the figures."""
    words = argparse.ArgumentParser(prog="python -m bench.punching", description=__doc__)
    words.add_argument("--runs", type=int, default=20_000, help="runs of the curve")
    words.add_argument("--whole-runs", type=int, default=200, help="runs of the whole simulator")
    words.add_argument("--lab-runs", type=int, default=60, help="runs in namespaces; 0: none")
    words.add_argument(
        "--pair-runs", type=int, default=10, help="runs in namespaces of each hard and easy kind"
    )
    words.add_argument(
        "--stock-runs", type=int, default=10, help="runs in namespaces with a stock client"
    )
    words.add_argument("--seed", type=int, default=1)
    reports.add_arguments(words)
    chosen = words.parse_args()
    if chosen.runs < 1 or chosen.whole_runs < 1:
        print("bench: the number of runs is at least 1", file=sys.stderr)
        return 1
    lab = None
    if chosen.lab_runs or chosen.pair_runs or chosen.stock_runs:
        try:
            sandbox.enter()
            if not sandbox.tun_available():
                raise sandbox.LabUnavailable("/dev/net/tun cannot be opened; it needs root")
        except sandbox.LabUnavailable as error:
            print(f"bench: no runs in the lab: {error}", file=sys.stderr)
        else:
            lab = lab_measure(chosen.lab_runs, chosen.pair_runs, chosen.stock_runs)
    found = reports.begin()
    found |= measure(chosen.runs, chosen.whole_runs, chosen.seed) | {"lab": lab}
    console = Console()
    reports.keep(found, chosen, "punching", console, lambda: show(console, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
