"""Tables in a terminal, plain enough for a file."""

from __future__ import annotations

import sys


def table(columns: list[str], rows: list[list[str]], headless: bool = False) -> None:
    """Print rows of text under bold column names."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, show_header=not headless, header_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        # Names come from machines: as plain text, never as markup.
        drawn.add_row(*(Text(_plain(cell)) for cell in row))
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    if not sys.stdout.isatty():
        console.width = 400
    console.print(drawn)


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
