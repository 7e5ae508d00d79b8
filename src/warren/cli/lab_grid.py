"""How the grid looks: in a terminal while it is made, and afterwards."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from warren.lab.cell import Cell
from warren.lab.grid import UNEXPLAINED, Grid, Stock
from warren.lab.places import PLACES

_HOW = {
    "": "",
    "own address": "",
    "NAT's address": "",
    "LAN": "L",
    "guessed port": "?",
    "IPv6": "v6",
}
_PLAIN_COLUMNS = 160
_BETWEEN = 3
"""Characters between two columns: a space, a line, a space."""


def tables(grid: Grid, width: int) -> list[Table]:
    """The grid: seconds until direct, or why not; a dot where a pair was not tried.

    Rows are Warren's and columns the stock client's where each side has one; else a pair has no
    order, and stands above the diagonal. Columns that do not fit into `width` go below.
    """
    two_makes = grid.stock is Stock.ONE
    either = [p for p in PLACES.values() if p in grid.rows or p in grid.columns]
    rows, columns = (grid.rows, grid.columns) if two_makes else (either, either)
    corner = "Warren ↓  stock →" if two_makes else ""
    labels = [f"{place.name} ({place.short})" for place in rows]
    cells = [
        [
            _cell(grid.cells.get((one.name, other.name)))
            if two_makes
            else _cell(grid.cell(one.name, other.name))
            if column >= row
            else Text("")
            for column, other in enumerate(columns)
        ]
        for row, one in enumerate(rows)
    ]
    widths = [
        max(len(place.short), *(len(line[column]) for line in cells)) + _BETWEEN
        for column, place in enumerate(columns)
    ]
    room = width - max(map(len, [corner, *labels])) - 1
    made = []
    for chosen in _that_fit(widths, room):
        table = Table(pad_edge=False, show_edge=False, padding=(0, 1), header_style="bold")
        table.add_column(corner, no_wrap=True)
        for column in chosen:
            table.add_column(columns[column].short, justify="right", no_wrap=True)
        for label, line in zip(labels, cells, strict=True):
            if any(line[column] for column in chosen):
                table.add_row(label, *(line[column] for column in chosen))
        made.append(table)
    return made


def _that_fit(widths: Sequence[int], room: int) -> list[list[int]]:
    """Sort columns into tables of at most so many characters, at least one column in each."""
    found: list[list[int]] = []
    left = 0
    for column, width in enumerate(widths):
        if not found or width > left:
            found.append([])
            left = room
        found[-1].append(column)
        left -= width
    return found


def _cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("·", "dim")
    if cell.outcome == "direct":
        assert cell.seconds is not None
        return Text(f"{cell.seconds:.1f}{_HOW[cell.how]}", "green")
    return Text("relay", "yellow") if cell.outcome == "relayed" else Text("none", "red")


def legend(grid: Grid) -> Text:
    """What the marks mean."""
    who = {
        Stock.NONE: "",
        Stock.ONE: f"Rows: Warren; columns: the stock client {grid.stock_version}. ",
        Stock.BOTH: f"Both sides are the stock client {grid.stock_version}. ",
    }[grid.stock]
    return Text(
        f"{who}Seconds from the first packet to the direct path; L by the LAN, v6 by IPv6, ? to a "
        "port that no server saw.",
        "dim",
    )


def causes(grid: Grid, console: Console) -> None:
    """Print the pairs that are not direct by what keeps them so, and what is a surprise."""
    by_cause: dict[tuple[str, str], list[Cell]] = {}
    for cell in grid.cells.values():
        if cell.outcome != "direct":
            by_cause.setdefault((cell.outcome, cell.cause or UNEXPLAINED), []).append(cell)
    for (outcome, cause), cells in sorted(by_cause.items()):
        pairs = ", ".join(f"{PLACES[cell.a].short}-{PLACES[cell.b].short}" for cell in cells)
        console.print(Text(f"\n{outcome}, {cause}: {pairs}", "bold"))
        said = next((" ".join(cell.why) for cell in cells if cell.why), "")
        console.print(Text(textwrap.indent(said, "  ")))
    surprises = [(cell, said) for cell in grid.cells.values() if (said := cell.surprise())]
    if surprises:
        console.print(Text("\nNot what the kinds of these pairs let one expect:", "bold red"))
    for cell, said in surprises:
        console.print(Text(f"  {cell.a}:{cell.b}: {said}"))


def console() -> Console:
    """A console that does not fold the grid where nobody looks at a terminal."""
    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = _PLAIN_COLUMNS
    return made
