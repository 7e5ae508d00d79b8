"""What is wrong with a policy, and where."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

_SHOWN = 300
"""Characters of a message; what else it quotes of the file is left out."""


_LIKELY = 50
"""Characters of a word that someone may have misspelt; comparing costs their square."""


# What to do, by what a message says, where no right spelling is near.
_NEXT = (
    ("tag not found", "tags are named in tagOwners"),
    (" not found", "name it in its section first"),
    (
        "invalid address",
        "write *, a user, group:…, tag:…, a name of hosts, an address or a network",
    ),
    ("must contain a colon", "write TARGET:PORTS, such as tag:web:443 or *:*"),
    ("invalid port list", "write ports after the colon: *, 443, 80-90"),
    ("too many dashes", "ports are *, 443, 80-90 or a list of them"),
    ("integer", "ports are *, 443, 80-90 or a list of them"),
    ("first port must be >= last", "write the lower port first"),
    ("action must be specified", 'write "action": "accept" or "check"'),
    ('action="', 'the only action of acls is "accept"'),
    ("users must be specified", "name who one may log in as, such as autogroup:nonroot"),
    ("ip and app can not", 'write what it allows, such as "ip": ["*"]'),
    ("test(s) failed", "see which with `warren policy test FILE`"),
)


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
        """Return one line for a person: place, message, the nearest right spelling or what to do.

        What a file says is in it, so it is cut, and what a terminal would obey is spelt out.
        """
        place = f"line {self.place.line}, column {self.place.column}: " if self.place else ""
        return f"{place}{readable(self.message)}{self._advice()}"

    def _advice(self) -> str:
        if self.hint:
            return f" (did you mean {readable(self.hint)}?)"
        return next((f"; {advice}" for said, advice in _NEXT if said in self.message), "")


def readable(text: str) -> str:
    """Return a text short enough for a line, and only of characters that can be seen."""
    if len(text) > _SHOWN:
        text = f"{text[: _SHOWN * 2 // 3]} … {text[-_SHOWN // 3 :]}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Return the right spelling that a wrong one is nearest to, in quotes; None: none is near.

    What `group:` or `tag:` has in common makes no two names alike.
    """
    if len(word) > _LIKELY:
        return None
    kind, colon, name = word.partition(":")
    own = [one for one in known if len(one) <= _LIKELY]
    alike = [one.removeprefix(kind + ":") for one in own if colon and one.startswith(kind + ":")]
    if near := get_close_matches(name, alike, 1, 0.6) if alike else []:
        return f'"{kind}:{near[0]}"'
    others = [one for one in own if not (colon and one.startswith(kind + ":"))]
    near = get_close_matches(word, others, 1, likeness)
    return f'"{near[0]}"' if near else None
