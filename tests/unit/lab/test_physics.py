"""What two kinds of places allow, held against what stock clients were measured to do."""

from __future__ import annotations

import pytest

from warren.lab.cell import Cell
from warren.lab.physics import Side, cause, sentence
from warren.lab.places import PLACES, machine

EASY = ("public", "full-cone", "address-restricted", "port-restricted")
HARD = ("symmetric", "symmetric-sequential", "carrier-block")


def sides(one: str, other: str, guesses: bool) -> tuple[Side, Side]:
    a, b = PLACES[one], PLACES[other]
    return Side(machine("a", a), a, guesses), Side(machine("b", b), b, guesses)


def measured_of_stock_clients() -> dict[tuple[str, str], str]:
    """The protocol notes' grid, measured in another lab with another release of the client."""
    found = {(a, b): "" for a in EASY for b in EASY}
    found |= {("symmetric", b): "hard" if b == "port-restricted" else "" for b in EASY}
    found |= {("symmetric", b): "hard-hard" for b in HARD}
    found |= {("udp-blocked", b): "no-udp" for b in (*EASY, *HARD)}
    return found


@pytest.mark.parametrize(("pair", "expected"), measured_of_stock_clients().items())
def test_a_stock_client_does_what_was_measured(pair: tuple[str, str], expected: str) -> None:
    a, b = sides(*pair, guesses=False)
    assert cause(a, b) == expected
    back = {"no-udp": "peer-no-udp"}.get(expected, expected) if pair[0] != pair[1] else expected
    assert cause(b, a) == back


@pytest.mark.parametrize(
    ("one", "other", "expected", "words"),
    [
        ("symmetric", "port-restricted", "", "allows a direct path"),
        ("double-nat", "carrier-block", "", "allows"),
        ("symmetric", "carrier-block", "hard-hard", "not possible without a mapping"),
        ("symmetric-ipv6", "symmetric-ipv6", "", "allows"),
        ("symmetric-ipv6", "ipv6-only", "", "allows"),
        ("symmetric-ipv6", "symmetric", "hard-hard", "not possible"),
        ("public", "ipv6-only", "no-common-family", "b-ipv6-only has IPv6 alone and a-public IPv4"),
        ("http-proxy", "ipv6-only", "no-udp", "a-http-proxy lets no UDP out"),
        ("ipv6-only", "http-proxy", "peer-no-udp", "b-http-proxy lets no UDP out"),
        ("cgnat", "cgnat", "same-nat", "no hairpin"),
        ("cgnat", "cgnat-hairpin", "", "allows"),
        ("cgnat-hairpin", "cgnat-hairpin", "", "allows"),
        ("one-lan", "one-lan", "", "allows"),
    ],
)
def test_of_two_that_guess_ports(one: str, other: str, expected: str, words: str) -> None:
    a, b = sides(one, other, guesses=True)
    assert cause(a, b) == expected
    assert words in sentence(a, b)


def test_whose_port_is_guessed_is_said() -> None:
    stock, warren = PLACES["symmetric"], PLACES["port-restricted"]
    said = sentence(Side("w", warren, guesses=True), Side("s", stock, guesses=False))
    assert "The NAT of s is symmetric and that of w lets in only" in said
    assert cause(Side("w", stock, guesses=True), Side("s", warren, guesses=False)) == ""


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (Cell("a", "b", "direct", seconds=1.0), ""),
        (Cell("a", "b", "direct", seconds=1.0, expected="hard"), ""),
        (Cell("a", "b", "direct", seconds=11.0), "only after 11 s"),
        (Cell("a", "b", "direct", seconds=1.0, expected="hard-hard"), "forbid it (hard-hard)"),
        (Cell("a", "b", "relayed"), "though the kinds allow"),
        (Cell("a", "b", "relayed", expected="hard", cause="hard", told_by="kinds"), ""),
        (Cell("a", "b", "relayed", expected="hard", cause="hard", told_by="warren why"), ""),
        (Cell("a", "b", "relayed", expected="no-udp", cause="idle", told_by="warren why"), "idle"),
        (Cell("a", "b", "relayed", expected="no-udp"), ""),
        (Cell("a", "b"), "no answer at all"),
    ],
)
def test_what_is_a_surprise(cell: Cell, words: str) -> None:
    assert words in cell.surprise()
    assert bool(cell.surprise()) == bool(words)
