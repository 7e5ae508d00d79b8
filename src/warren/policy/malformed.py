"""What is wrong with a policy, and where."""

from __future__ import annotations

from typing import NamedTuple


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
        """Return one line for a person: place, message, and the nearest right spelling."""
        place = f"line {self.place.line}, column {self.place.column}: " if self.place else ""
        hint = f" (did you mean {self.hint}?)" if self.hint else ""
        return f"{place}{self.message}{hint}"
