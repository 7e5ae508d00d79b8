"""What a policy says that has no effect on a server of one's own, so that nobody relies on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from warren.policy.document import SERVICES, Entry, Policy
from warren.policy.malformed import Place, readable

_KNOWN_OF_MACHINES = ("node:", "custom:")
_SHARED = "autogroup:shared"


class Idle(NamedTuple):
    """A part of a policy without effect: where, and why."""

    place: Place | None
    reason: str

    def sentence(self) -> str:
        """Return one line for a person."""
        place = f"line {self.place.line}, column {self.place.column}: " if self.place else ""
        return f"{place}{readable(self.reason)}"


def idle_parts(policy: Policy) -> list[Idle]:
    """Return what has no effect, in the order of the file."""
    return sorted(_parts(policy), key=lambda part: part.place or Place(0, 0))


def _parts(policy: Policy) -> Iterator[Idle]:
    if ("attrConfig", "", "") in policy.words_at:
        place = policy.words_at["attrConfig", "", ""]
        yield Idle(place, "attrConfig has no effect: attributes are set by the API alone")
    for name in policy.service_approvers:
        where = policy.words_at.get((SERVICES, name, ""))
        yield Idle(where, f"{name} has no effect: this server has no services with addresses")
    for entry in policy.grants or ():
        for word in entry.words("dst") if entry.words("via") else ():
            if word == "*":
                reason = "* means nothing with via: name a network, or autogroup:internet"
                yield Idle(entry.words_at.get(("dst", word)), reason)
    for section in (policy.acls, policy.grants, policy.ssh, policy.node_attrs):
        for entry in section or ():
            yield from _words(entry)
    for name, conditions in policy.postures.items():
        for condition in conditions:
            if not condition.key.startswith(_KNOWN_OF_MACHINES):
                reason = f"{name} asks for {condition.key}, which this server never learns"
                yield Idle(policy.words_at.get(("postures", name, "")), reason)


def _words(entry: Entry) -> Iterator[Idle]:
    for (_, word), place in entry.words_at.items():
        if word.startswith("svc:"):
            yield Idle(place, f"{word} means nobody: this server has no services with addresses")
        elif word == _SHARED:
            yield Idle(place, f"{word} means nobody: machines are not shared between networks")
