"""A run's report: when, where, what was found; printed as JSON, or shown and kept as a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.figure import Figure
from bench.machine import describe
from warren import __version__


def add_arguments(words: argparse.ArgumentParser) -> None:
    """Let a person say where a report goes."""
    words.add_argument("--json", action="store_true", help="print JSON and keep no file")
    words.add_argument("--out", type=Path, default=Path("docs/benchmarks"))


def begin(**facts: Any) -> dict[str, Any]:
    """Return a report of now, this version and this machine."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "machine": describe(),
        **facts,
    }


def finish(report: dict[str, Any], figures: Iterable[Figure]) -> None:
    """Put the figures in, and how busy the machine was at the end."""
    report["machine"]["load_1min_after"] = describe()["load_1min"]
    report["figures"] = [figure.data() for figure in figures]


def keep(
    report: dict[str, Any],
    chosen: argparse.Namespace,
    kind: str,
    console: Console,
    show: Callable[[], None],
) -> Path | None:
    """Print the report as JSON if `chosen` says so; else show it and keep it; return where."""
    text = json.dumps(report, indent=2) + "\n"
    if chosen.json:
        sys.stdout.write(text)
        return None
    show()
    chosen.out.mkdir(parents=True, exist_ok=True)
    path: Path = chosen.out / f"{kind}-{report['when'][:10]}.json"
    path.write_text(text)
    console.print(f"kept in {path}")
    return path
