"""The grid in a terminal: whole also where it is narrow."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from warren.cli import lab_grid
from warren.lab.cell import Cell
from warren.lab.grid import Grid, Stock
from warren.lab.pairs import every_pair
from warren.lab.places import choose


def printed(grid: Grid, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for table in lab_grid.tables(grid, width):
        console.print(table)
    lab_grid.causes(grid, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 100, 160])
def test_nothing_is_cut_off(width: int) -> None:
    places = choose(None)
    grid = Grid(every_pair(places))
    for one, other in every_pair(places):
        grid.cells[one.name, other.name] = Cell(one.name, other.name, "direct", "IPv6", 12.3)
    text = printed(grid, width)
    assert "…" not in text
    assert text.count("12.3v6") == 15 * 16 // 2
    heads = " ".join(line for line in text.splitlines() if "┃" in line)
    assert [word for word in heads.split() if word != "┃"] == [place.short for place in places]
    assert "direct only after 12 s" in text


def test_a_pair_that_was_not_tried_is_a_dot_and_one_that_cannot_be_explained_says_so(
    stock_client: None,
) -> None:
    pairs = every_pair(choose(["public", "symmetric"]), ordered=True)
    grid = Grid(pairs, stock=Stock.ONE)
    grid.cells["public", "symmetric"] = Cell("public", "symmetric", why=["no answer"])
    text = printed(grid, 80)
    assert "none" in text and "·" in text and "Warren ↓  stock →" in text
    assert "unreachable, unexplained: pub-sym" in text and "no answer at all" in text
