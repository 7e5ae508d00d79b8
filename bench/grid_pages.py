"""What docs/grid.md and the README show of measured grids: from values to Markdown, pure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from warren.lab.cell import LATE_S
from warren.lab.places import PLACES

BEGIN, END = "<!-- measured: make grid -->", "<!-- /measured -->"

_MARKS = {"LAN": "L", "guessed port": "?", "IPv6": "v6"}
_WORDS = {
    "no-udp": "UDP is dead at one side",
    "no-common-family": "one side has IPv6 alone and the other IPv4 alone",
    "hard-hard": "both NATs are symmetric, and no router maps a port",
    "hard": "the port of a symmetric NAT would have to be guessed",
    "same-nat": "two homes behind one carrier's NAT that does not connect its own customers",
}
_ONE_SIDED = {"peer-no-udp": "no-udp"}

Pair = dict[str, Any]
Grid = dict[str, Any]


def put(text: str, measured: str) -> str:
    """Replace what stands between the marks. Raises ValueError where they are missing."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"needs {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    lines = "\n".join(map(_wrapped, measured.split("\n")))
    return f"{before}{BEGIN}\n\n{lines}\n\n{END}{rest.split(END)[1]}"


def _wrapped(line: str) -> str:
    """Fold prose, but no row of a table."""
    indent = "  " if line.startswith("- ") else ""
    return (
        line
        if line.startswith("|")
        else textwrap.fill(
            line, 100, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
        )
    )


def whole(report: dict[str, Any]) -> str:
    """Return every grid with its seconds, and why pairs are relayed."""
    grids = report["grids"]
    none, one, both = grids["none"], grids["one"], grids["both"]
    version = both["stock_version"]
    machine = report["machine"]
    kinds = "; ".join(f"*{PLACES[k].short}* {PLACES[k].text}" for k in none["kinds"])
    parts = [
        f"Measured on {report['when'][:10]}, on {machine['cores']} cores with other work beside "
        f"it, each pair once. {kinds}.",
        f"### Warren with Warren\n{_sum(none)}",
        _square(none),
        f"### The stock client {version} with itself\n{_sum(both)}",
        _square(both),
        f"### Warren (rows) with the stock client {version} (columns)\n{_sum(one)}",
        _oblong(one),
        "### Why the others are relayed",
        _reasons(none, one, both),
        _surprises(none, one, both),
    ]
    if "easy" in report:
        parts += ["### Two easy kinds, by the dozen", _easy(report["easy"])]
    return "\n\n".join(parts)


def short(report: dict[str, Any]) -> str:
    """Return Warren's and the stock client's grid in one, with kinds that do the same together."""
    ours, theirs = report["grids"]["none"], report["grids"]["both"]
    groups = alike(ours["kinds"], ours, theirs)
    names = [", ".join(PLACES[kind].short for kind in group) for group in groups]
    rows = [["", *names]]
    for number, group in enumerate(groups):
        row = [f"**{', '.join(group)}**"]
        for other_number, other in enumerate(groups):
            row.append(_both(group, other, ours, theirs) if other_number >= number else "")
        rows.append(row)
    count = len(ours["pairs"])
    return (
        f"Warren with Warren / the stock client {theirs['stock_version']} with itself, in one lab. "
        f"Of the {count} pairs of {len(ours['kinds'])} kinds of places, {_direct(ours)} / "
        f"{_direct(theirs)} are direct; kinds that do the same stand together.\n\n{_table(rows)}"
    )


def alike(kinds: Iterable[str], *grids: Grid) -> list[list[str]]:
    """Sort kinds into groups whose members do the same with every kind, themselves included."""
    known = [_outcomes(grid) for grid in grids]
    order = list(kinds)

    def same(one: str, other: str) -> bool:
        def of(a: str, b: str) -> list[str]:
            return [outcomes[a, b] for outcomes in known]

        rest = (kind for kind in order if kind not in (one, other))
        return of(one, one) == of(other, other) == of(one, other) and all(
            of(one, kind) == of(other, kind) for kind in rest
        )

    groups: list[list[str]] = []
    for kind in order:
        home = next((group for group in groups if all(same(kind, each) for each in group)), None)
        if home is None:
            groups.append([kind])
        else:
            home.append(kind)
    return groups


def _outcomes(grid: Grid) -> dict[tuple[str, str], str]:
    return {
        ends: pair["outcome"]
        for pair in grid["pairs"]
        for ends in ((pair["a"], pair["b"]), (pair["b"], pair["a"]))
    }


def _both(group: list[str], other: list[str], ours: Grid, theirs: Grid) -> str:
    said = [_word(grid, group[0], other[0]) for grid in (ours, theirs)]
    text = " / ".join(said)
    return f"**{text}**" if said[0] != said[1] else text


def _word(grid: Grid, one: str, other: str) -> str:
    words = {"direct": "direct", "relayed": "relay", "unreachable": "none"}
    return words[_outcomes(grid)[one, other]]


def _direct(grid: Grid) -> int:
    return sum(pair["outcome"] == "direct" for pair in grid["pairs"])


def _sum(grid: Grid) -> str:
    pairs = grid["pairs"]
    first = [pair["first_seconds"] for pair in pairs if pair["first_seconds"] is not None]
    seconds = [pair["seconds"] for pair in pairs if pair["outcome"] == "direct"]
    return (
        f"{_direct(grid)} of {len(pairs)} pairs are direct, at the median after "
        f"{median(seconds):.1f} s and at the most after {max(seconds):.1f} s; first answers came "
        f"after {1000 * max(first):.0f} ms at the most. The run took {grid['seconds']:.0f} s."
    )


def _square(grid: Grid) -> str:
    found = {ends: pair for pair in grid["pairs"] for ends in _either_way(pair)}
    kinds = grid["kinds"]

    def cell(row: int, column: int) -> str:
        return _cell(found.get((kinds[row], kinds[column]))) if column >= row else ""

    return _cells(kinds, cell)


def _either_way(pair: Pair) -> tuple[tuple[str, str], tuple[str, str]]:
    return (pair["a"], pair["b"]), (pair["b"], pair["a"])


def _oblong(grid: Grid) -> str:
    found = {(pair["a"], pair["b"]): pair for pair in grid["pairs"]}
    kinds = grid["kinds"]
    return _cells(kinds, lambda row, column: _cell(found.get((kinds[row], kinds[column]))))


def _cells(kinds: list[str], cell: Callable[[int, int], str]) -> str:
    rows = [["", *(PLACES[kind].short for kind in kinds)]]
    rows += [
        [f"{kind} ({PLACES[kind].short})", *(cell(row, column) for column in range(len(kinds)))]
        for row, kind in enumerate(kinds)
    ]
    return _table(rows)


def _cell(pair: Pair | None) -> str:
    if pair is None:
        return "·"
    if pair["outcome"] == "direct":
        return f"{pair['seconds']:.1f}{_MARKS.get(pair['how'], '')}"
    return "relay" if pair["outcome"] == "relayed" else "none"


def _reasons(none: Grid, one: Grid, both: Grid) -> str:
    """Return how many pairs of each grid are relayed by which cause."""
    causes: dict[str, list[int]] = {cause: [0, 0, 0] for cause in _WORDS}
    for number, grid in enumerate((none, one, both)):
        for pair in grid["pairs"]:
            if pair["outcome"] != "direct":
                cause = _ONE_SIDED.get(pair["cause"], pair["cause"])
                causes.setdefault(cause, [0, 0, 0])[number] += 1
    rows = [["cause", "", "Warren", "with stock", "stock"]]
    rows += [
        [cause, _WORDS.get(cause, ""), *map(str, counts)]
        for cause, counts in causes.items()
        if any(counts)
    ]
    said = [f"*{cause}*: {text}" for cause, text in none["said"].items()]
    return (
        f"{_table(rows)}\n\nWith a Warren node in a pair the cause is what it says itself "
        "(`warren why`), and it agrees with what the lab knows of the two places unless it is "
        "listed below; between two stock clients it is the lab's. "
        "In the nodes' own words, of one pair each:\n\n" + "\n".join(f"- {text}" for text in said)
    )


def _surprises(none: Grid, one: Grid, both: Grid) -> str:
    names = {"Warren": none, "Warren with stock": one, "stock": both}
    found = [
        f"- {name}, {pair}: {said}"
        for name, grid in names.items()
        for pair, said in grid["surprises"].items()
    ]
    asked = f"Relayed where a direct path can be, told otherwise, or later than {LATE_S:.0f} s: "
    return asked + ("\n\n" + "\n".join(found) if found else "none.")


def _easy(rows: list[dict[str, Any]]) -> str:
    """Return each pair's median, its slowest run, and the share that was direct."""
    kinds = list(dict.fromkeys(row["a"] for row in rows))
    found = {(row["a"], row["b"]): row for row in rows}

    def cell(one: str, other: str) -> str:
        row = found.get((one, other))
        if row is None:
            return ""
        if row["median_s"] is None:
            return "none"
        share = "" if row["connected"] == 1 else f", {100 * row['connected']:.0f} %"
        return f"{row['median_s']:.2f} ({row['slowest_s']:.1f}{share})"

    table = [["", *kinds]] + [[one, *(cell(one, other) for other in kinds)] for one in kinds]
    whole = all(row["connected"] == 1 for row in rows)
    return (
        f"Warren with Warren, {rows[0]['runs']} runs of each pair with fresh nodes and ports, one "
        "pair at a time: seconds until a ping is answered directly at the median, and in the "
        f"slowest run{', all of them direct' if whole else ', and the share that was direct'}.\n\n"
        f"{_table(table)}"
    )


def _table(rows: list[list[str]]) -> str:
    head, *rest = rows
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
