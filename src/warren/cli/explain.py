"""How `warren why` looks in a terminal: sentences, then a table of what was tried."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from warren.node.schema import CandidateStatus, Explanation, SideStatus

_STYLES = {"used": "green", "works": "green", "lost": "yellow", "silent": "red"}
_NATS = {
    "unknown": "NAT unknown",
    "easy": "easy NAT or none",
    "likely-hard": "probably a symmetric NAT",
    "hard": "symmetric NAT",
}
_WIDTH_PLAIN = 400


def show_explanation(value: Explanation) -> None:
    """Print it. Names come from other machines: as plain text, never as markup."""
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    if not sys.stdout.isatty():
        console.width = _WIDTH_PLAIN
    console.print(Text(plain(value.summary), style="bold"))
    for text in value.reasons:
        console.print(Text(plain(text)))
    for text in value.punching:
        console.print(Text(plain(text)))
    for text in value.turn:
        console.print(Text(plain(text)))
    if value.advice:
        console.print(Text("\nWhat you could change:"))
        for text in value.advice:
            console.print(Text(f"  {plain(text)}"))
    console.print()
    console.print(Text(f"here: {side(value.own)}"))
    console.print(Text(f"{plain(value.peer)}: {side(value.theirs)}"))
    if value.candidates:
        console.print()
        console.print(_table(value))


def side(value: SideStatus) -> str:
    """Return one line on what a side's network is like."""
    if value == SideStatus():
        return "its network is not known"
    words = ["UDP unknown" if value.udp is None else "UDP works" if value.udp else "UDP blocked"]
    words.append(_NATS[value.nat])
    if value.ipv6:
        words.append("IPv6")
    if value.port_mapping:
        words.append("a port is mapped")
    spoken = {"UPnP": value.upnp, "NAT-PMP": value.natpmp, "PCP": value.pcp}
    words += [
        f"{name} {'on' if said else 'off'}" for name, said in spoken.items() if said is not None
    ]
    return ", ".join(words)


def _table(value: Explanation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "ADDRESS",
        "FROM",
        "RESULT",
        "PINGS",
        "PONGS",
        "LAST PONG",
        "LATENCY",
        "WHY NOT",
    ):
        table.add_column(column, overflow="fold")
    for each in value.candidates:
        style = _STYLES.get(each.result, "")
        cells = [Text(plain(cell)) for cell in _cells(each)]
        cells[2].stylize(style or "dim")
        table.add_row(*cells)
    return table


def _cells(each: CandidateStatus) -> list[str]:
    pong = "never" if each.last_pong_ago_s is None else f"{each.last_pong_ago_s:.0f} s ago"
    latency = "" if each.latency_ms is None else f"{each.latency_ms:.1f} ms"
    origin = ", ".join(each.sources) or "earlier"
    counts = [str(each.pings), str(each.pongs)]
    return [each.address, origin, each.result, *counts, pong, latency, each.why]


def plain(text: str) -> str:
    """Return the text without anything that would steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
