"""What is wrong with a policy, and where."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

_SHOWN = 300
"""Characters of a message; what else it quotes of the file is left out."""


_LIKELY = 50
"""Characters of a word that someone may have misspelt; comparing costs their square."""


class Place(NamedTuple):
    """A position in the text, both from 1."""

    line: int
    column: int


class MalformedPolicy(ValueError):
    """A policy that cannot be taken: the service's sentence, and its place where known."""

    def __init__(self, message: str, place: Place | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.hint = hint

    def sentence(self) -> str:
        """Return one line for a person: place, message, and the nearest right spelling.

        What a file says is in it, so it is cut, and what a terminal would obey is spelt out.
        """
        place = f"line {self.place.line}, column {self.place.column}: " if self.place else ""
        hint = f" (did you mean {readable(self.hint)}?)" if self.hint else ""
        return f"{place}{readable(self.message)}{hint}"


def readable(text: str) -> str:
    """Return a text short enough for a line, and only of characters that can be seen."""
    if len(text) > _SHOWN:
        text = f"{text[: _SHOWN * 2 // 3]} … {text[-_SHOWN // 3 :]}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Return the right spelling that a wrong one is nearest to, in quotes; None: none is near."""
    if len(word) > _LIKELY:
        return None
    near = get_close_matches(word, [one for one in known if len(one) <= _LIKELY], 1, likeness)
    return f'"{near[0]}"' if near else None
