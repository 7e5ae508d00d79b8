"""`warren lab`: networks of namespaces with every kind of NAT."""

from __future__ import annotations

import signal
import time
from dataclasses import asdict
from types import FrameType
from typing import Annotated

import typer

from warren.cli import show
from warren.lab import runs, sandbox
from warren.lab.grid import TIMEOUT_S
from warren.lab.kinds import KINDS

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Build networks of namespaces with every kind of NAT.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog="Example: sudo warren lab clean")
def clean(json: Json = False) -> None:
    """Remove what lab runs left behind that ended without cleaning up."""
    missing = sandbox.missing_packages()
    if missing:
        raise sandbox.LabUnavailable(f"Missing programs; apt install {' '.join(missing)}.")
    removed = runs.clean()
    if json:
        show.json({"removed": removed})
    else:
        print(f"Removed {len(removed)} dead runs." if removed else "There was nothing to remove.")


@app.command(epilog="Example: warren lab kinds --json")
def kinds(json: Json = False) -> None:
    """List the kinds of routers that the lab can build."""
    if json:
        show.json([asdict(kind) for kind in KINDS.values()])
        return
    rows = [["kind", "known as", "mapping", "filtering"]]
    rows += [
        [kind.name, kind.everyday, kind.mapping or "-", kind.filtering or "-"]
        for kind in KINDS.values()
    ]
    show.table(rows)


@app.command(epilog="Example: warren lab grid --kinds port-restricted,symmetric,udp-blocked")
def grid(
    kinds: Annotated[
        str, typer.Option(help="Kinds of places with commas between them; without it, all.")
    ] = "",
    timeout: Annotated[
        float, typer.Option(min=1, max=120, help="Seconds to wait for a direct path.")
    ] = TIMEOUT_S,
    json: Json = False,
) -> None:
    """Try every pair of kinds: direct, how, after how long; or relayed, and why.

    All in namespaces of this machine, with the real programs. As an ordinary user it works in a
    user namespace.
    """
    from warren.cli import lab_grid
    from warren.lab.grid import Grid
    from warren.lab.places import PLACES, choose

    chosen = (
        choose(word.strip() for word in kinds.split(",") if word.strip())
        if kinds
        else [place for place in PLACES.values() if place.name != "firewall"]
    )
    _clean_up_on_signals()
    began = time.monotonic()
    console = lab_grid.console()
    live = console.is_terminal and not json
    with Grid(
        chosen, timeout, tell=lambda text: show.note(f"{time.monotonic() - began:5.0f} s  {text}")
    ) as made:
        for cells in made.run():
            if live:
                direct = sum(cell.outcome == "direct" for cell in cells)
                show.note(f"         {direct} of {len(cells)} direct")
    seconds = time.monotonic() - began
    if json:
        show.json(
            {
                "seconds": round(seconds, 1),
                "kinds": [place.name for place in made.places],
                "failed": made.failed,
                "pairs": [asdict(cell) for cell in made.cells.values()],
            }
        )
        return
    console.print(lab_grid.table(made))
    console.print(lab_grid.legend())
    lab_grid.causes(made, console)
    console.print(f"\n{len(made.cells)} pairs in {seconds:.0f} s.")


def _clean_up_on_signals() -> None:
    """End by unwinding, so that what was built goes; the unwinding is not interrupted again."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        signal.signal(number, interrupt)
