"""Words of a person in an error: cut to a length, and with the nearest right one beside."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

SHOWN = 40
"""How many characters of somebody's text an error repeats."""


def shown(text: str) -> str:
    """Return a text as Python writes it, short enough to be repeated in a sentence."""
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")


def meant(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` with the nearest right spelling, or nothing."""
    near = get_close_matches(word[:SHOWN], list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def meant_or_known(word: str, known: Iterable[str]) -> str:
    """Like `meant`; where nothing is near, all that there is."""
    words = list(known)
    return meant(word, words) or f"; known: {', '.join(words)}"
