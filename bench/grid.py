"""`python -m bench.grid`: the grids of Warren, of a stock client and of both, and their pages.

Asks `warren lab grid` for each, connects every two easy kinds some dozen times more, keeps what
was found as JSON, and writes docs/grid.md's and the README's tables from that (`bench.grid_pages`).
With --from, only the pages are written anew.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import grid_pages, punching_lab
from bench import report as reports
from bench.punching import EASY_KINDS
from warren.lab import sandbox
from warren.lab.grid import Stock
from warren.lab.program import ProgramFailed

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"docs/grid.md": grid_pages.whole, "README.md": grid_pages.short}
_KEPT = ("a", "b", "outcome", "how", "seconds", "first_seconds", "expected", "cause", "told_by")


class GridFailed(RuntimeError):
    """A grid could not be made; the message says why."""


def measure(stock: Stock, words: list[str]) -> dict[str, Any]:
    """Make one grid; what is kept of it. Raises GridFailed."""
    argv = [sys.executable, "-m", "warren", "lab", "grid", "--json", "--stock", stock.value, *words]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise GridFailed(f"warren lab grid ended with {done.returncode}")
    return kept(json.loads(done.stdout))


def kept(report: dict[str, Any]) -> dict[str, Any]:
    """Return a grid's report without what is of that run alone, and one sentence a cause."""
    said: dict[str, str] = {}
    for pair in report["pairs"]:
        if pair["outcome"] != "direct" and pair["why"]:
            said.setdefault(pair["cause"], pair["why"][0])
    return {
        **{name: value for name, value in report.items() if name != "pairs"},
        "said": said,
        "surprises": {
            f"{pair['a']}:{pair['b']}": pair["surprise"]
            for pair in report["pairs"]
            if pair["surprise"]
        },
        "pairs": [{name: pair[name] for name in _KEPT} for pair in report["pairs"]],
    }


def text_of(report: dict[str, Any]) -> str:
    """Return a report as JSON with a line for each pair."""
    grids = report["grids"]
    lines = {name: [json.dumps(pair) for pair in grid["pairs"]] for name, grid in grids.items()}
    bare = {name: {**grid, "pairs": f"PAIRS {name}"} for name, grid in grids.items()}
    text = json.dumps({**report, "grids": bare}, indent=1)
    for name, pairs in lines.items():
        text = text.replace(f'"PAIRS {name}"', "[\n   " + ",\n   ".join(pairs) + "\n   ]")
    return text + "\n"


def write_pages(report: dict[str, Any], root: Path) -> None:
    """Put what was measured into the pages. Raises GridFailed where one has no place for it."""
    for name, render in PAGES.items():
        page = root / name
        text = page.read_text()
        try:
            page.write_text(grid_pages.put(text, render(report)))
        except ValueError as error:
            raise GridFailed(f"{page}: {error}") from error


def newest(directory: Path) -> Path:
    """Return the newest report that is kept. Raises GridFailed."""
    found = sorted(directory.glob("grid-*.json"))
    if not found:
        raise GridFailed(f"there is no grid-….json in {directory}")
    return found[-1]


def read(path: Path) -> dict[str, Any]:
    """Return a report that was kept. Raises GridFailed where it is none, OSError."""
    try:
        report = json.loads(path.read_text())
    except ValueError as error:
        raise GridFailed(f"{path} is not JSON: {error}") from error
    if not isinstance(report, dict) or "grids" not in report:
        raise GridFailed(f"{path} is no report of grids")
    return report


def main() -> int:
    """Measure all grids, keep them, and write the pages."""
    words = argparse.ArgumentParser(prog="python -m bench.grid", description=__doc__)
    words.add_argument(
        "--from", dest="source", type=Path, help="a kept report, from which to write the pages"
    )
    words.add_argument("--at-once", type=int, help="as of warren lab grid")
    words.add_argument(
        "--easy-runs", type=int, default=20, help="runs of each two easy kinds; 0: none"
    )
    words.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    chosen = words.parse_args()
    console = Console()
    try:
        if chosen.source is not None:
            report = read(chosen.source)
        else:
            more = ["--at-once", str(chosen.at_once)] if chosen.at_once else []
            report = reports.begin()
            report["grids"] = {stock.value: measure(stock, more) for stock in Stock}
            if chosen.easy_runs:
                sandbox.enter()
                report["easy"] = punching_lab.easy_runs(chosen.easy_runs, EASY_KINDS)
            path = chosen.out / f"grid-{report['when'][:10]}.json"
            path.write_text(text_of(report))
            console.print(f"kept in {path}")
        write_pages(report, ROOT)
    except (GridFailed, sandbox.LabUnavailable, ProgramFailed, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    for name in PAGES:
        console.print(f"written: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
