"""`python -m bench`: measure, print a table, and keep the figures as JSON."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import checks, crowd, picture, tunnels
from bench import report as reports
from bench.figure import Figure
from bench.mesh import PLAN, MeshBench
from warren.lab import sandbox
from warren.lab.world import World


def main() -> int:
    """Run every measurement; exit code 1 where the machine cannot build a lab."""
    words = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    words.add_argument("--runs", type=int, default=5, help="samples of each figure")
    words.add_argument("--seconds", type=float, default=4.0, help="length of one TCP stream")
    words.add_argument(
        "--short", action="store_true", help="one short run of the tunnels: whether it works"
    )
    reports.add_arguments(words)
    chosen = words.parse_args()
    console = Console(stderr=chosen.json)
    try:
        sandbox.enter()
        if not sandbox.tun_available():
            raise sandbox.LabUnavailable("/dev/net/tun cannot be opened; the bench needs root")
    except sandbox.LabUnavailable as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    report = reports.begin()
    runs, seconds = (1, 1.0) if chosen.short else (chosen.runs, chosen.seconds)
    figures: list[Figure] = []
    with console.status("building the lab") as status:
        if not chosen.short:
            with World(PLAN) as world:
                bench = MeshBench(world, runs, seconds, status.update)
                report["offloads"] = bench.offloads()
                figures += bench.measure()
            with World(crowd.PLAN) as world:
                figures.append(crowd.measure(world, status.update))
        with World(tunnels.PLAN) as world:
            beside = tunnels.TunnelBench(world, runs, seconds, status.update, short=chosen.short)
            report["offloads"] = list(beside.nodes["a"].status()["offloads"])
            figures += beside.measure()
            try:
                report["checks"] = beside.prove()
            except checks.CheckMissing as error:
                print(f"bench: {error}; its figures are worth nothing", file=sys.stderr)
                return 1
    reports.finish(report, figures)
    path = reports.keep(report, chosen, "mesh", console, lambda: show(console, report, figures))
    if path is not None:
        path.with_suffix(".svg").write_text(picture.draw(figures, report["when"][:10]))
        console.print(f"drawn in {path.with_suffix('.svg').name}")
    return 0


def show(console: Console, report: dict[str, Any], figures: list[Figure]) -> None:
    """Print the machine and the table of figures."""
    machine = report["machine"]
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores shared by both ends, the server and the "
        f"load; {machine['memory_mb']} MB; Linux {machine['kernel']}; "
        f"load {machine['load_1min']} before, {machine['load_1min_after']} after; "
        f"offloads: {', '.join(report['offloads']) or 'none'}"
    )
    if proofs := report.get("checks"):
        tried = ", ".join(proof["what"] for proof in proofs)
        console.print(f"tried on the measured nodes, and on: {tried}")
    table = Table(show_edge=False, pad_edge=False)
    for column in ("figure", "median", "lowest … highest", "samples", "goal"):
        table.add_column(column)
    for figure in figures:
        table.add_row(*figure.row())
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
