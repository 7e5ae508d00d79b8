"""What the pages say of the grid is what was measured; how kinds and causes come together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench import grid as bench_grid
from bench import grid_pages

ROOT = Path(bench_grid.ROOT)


def pair(a: str, b: str, outcome: str, cause: str = "") -> dict[str, Any]:
    return {
        "a": a,
        "b": b,
        "outcome": outcome,
        "how": "",
        "seconds": 0.25 if outcome == "direct" else None,
        "first_seconds": 0.01,
        "expected": cause,
        "cause": cause,
        "told_by": "warren why" if cause else "",
        "why": [f"because of {cause}"] if cause else [],
        "surprise": "",
        "advice": [],
    }


def small(*pairs: dict[str, Any]) -> dict[str, Any]:
    kinds = ["public", "full-cone", "udp-blocked"]
    given = {(each["a"], each["b"]): each for each in pairs}
    every = [
        given.get((a, b))
        or (
            pair(a, b, "relayed", "peer-no-udp" if a != b else "no-udp")
            if b == "udp-blocked"
            else pair(a, b, "direct")
        )
        for number, a in enumerate(kinds)
        for b in kinds[number:]
    ]
    return {"seconds": 9.0, "kinds": kinds, "stock": "none", "stock_version": "1.2", "pairs": every}


def report(**grids: dict[str, Any]) -> dict[str, Any]:
    kept = {name: bench_grid.kept(grids.get(name, small())) for name in ("none", "one", "both")}
    return {"when": "2026-11-25T00:00:00", "machine": {"cores": 2}, "grids": kept}


@pytest.mark.parametrize("page", bench_grid.PAGES)
def test_a_page_says_what_was_measured_last(page: str) -> None:
    """Whoever edits a table by hand, or keeps a report without writing the pages, hears of it."""
    newest = bench_grid.read(bench_grid.newest(ROOT / "docs/benchmarks"))
    text = (ROOT / page).read_text()
    assert grid_pages.put(text, bench_grid.PAGES[page](newest)) == text


def test_kinds_that_do_the_same_stand_together() -> None:
    assert grid_pages.alike(small()["kinds"], small()) == [
        ["public", "full-cone"],
        ["udp-blocked"],
    ]
    odd = small(pair("public", "full-cone", "relayed", "silence"))
    assert grid_pages.alike(odd["kinds"], small(), odd) == [
        ["public"],
        ["full-cone"],
        ["udp-blocked"],
    ]


def test_what_only_one_of_both_reaches_is_bold() -> None:
    lame = small(pair("full-cone", "full-cone", "relayed", "silence"))
    text = grid_pages.short(report(both=lame))
    assert "| **direct / relay** |" in text
    assert "3 / 2 are direct" in text
    assert text.count(" direct / direct |") == 2


def test_causes_are_counted_and_surprises_named() -> None:
    odd = small(
        {**pair("public", "full-cone", "relayed", "silence"), "surprise": "relayed, though"}
    )
    text = grid_pages.whole(report(none=odd))
    assert "| no-udp | UDP is dead at one side | 3 | 3 | 3 |" in text
    assert "| silence |  | 1 | 0 | 0 |" in text
    assert "- Warren, public:full-cone: relayed, though" in text
    assert "| public (pub) | 0.2 | relay | relay |" in text


def test_a_report_is_kept_with_a_line_for_each_pair() -> None:
    made = report()
    text = bench_grid.text_of(made)
    assert json.loads(text) == made
    assert text.count('{"a": ') == 18


@pytest.mark.parametrize("text", ["", grid_pages.BEGIN, 2 * (grid_pages.BEGIN + grid_pages.END)])
def test_a_page_without_its_place_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="once each"):
        grid_pages.put(text, "")
    for page in bench_grid.PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text(text)
    with pytest.raises(bench_grid.GridFailed, match=r"grid\.md: needs"):
        bench_grid.write_pages(report(), tmp_path)
    with pytest.raises(bench_grid.GridFailed, match="no grid"):
        bench_grid.newest(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "not JSON"), ("\xff", "not JSON"), ("[]", "no report"), ("{}", "no rep")],
)
def test_what_is_no_report_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(bench_grid.GridFailed, match=words):
        bench_grid.read(path)
