"""What changed, small enough to merge: a slow client has one pending `Change`, never a queue."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warren.coordinator.compiled import Compiled


class Facet(Flag):
    """The sides of a node that others may care about."""

    MEMBERSHIP = auto()
    """It joined, left, was approved, expired or came back."""
    KEYS = auto()
    """Node key or disco key."""
    PATHS = auto()
    """Endpoints and home relay."""
    HOST = auto()
    """Host info and client version."""
    NAME = auto()
    OWNER = auto()
    """User or tags: what a policy reads."""
    PRESENCE = auto()
    """Online or last seen."""


@dataclass(frozen=True)
class Change:
    """Which nodes, which facets of each, and why (for the log)."""

    nodes: Mapping[int, Facet] = field(default_factory=dict)
    everything: bool = False
    """Settings that reach every node changed: relays, names, policy."""
    why: frozenset[str] = frozenset()
    compiled: Compiled | None = field(default=None, compare=False, repr=False)
    """A new policy, compiled for the network as it was a moment ago."""

    @classmethod
    def of(cls, node_id: int, facets: Facet, why: str) -> Change:
        """Make the change of one node."""
        return cls({node_id: facets}, why=frozenset({why}))

    def merge(self, other: Change) -> Change:
        """Return both changes as one; the order does not matter."""
        nodes = dict(self.nodes)
        for node_id, facets in other.nodes.items():
            nodes[node_id] = nodes.get(node_id, Facet(0)) | facets
        compiled = self.compiled or other.compiled
        return Change(nodes, self.everything or other.everything, self.why | other.why, compiled)

    def __bool__(self) -> bool:
        return self.everything or bool(self.nodes)


NO_CHANGE = Change()


@dataclass(frozen=True)
class Spread:
    """Whom a change reaches, so that nobody else need be woken."""

    change: Change
    """The change, with all machines whose place in others' maps it moves."""
    moved: Collection[int]
    """Those of its machines of which the policy has become another: their maps are made anew."""
    viewers: Mapping[int, Collection[int] | None]
    """Of each of its machines, who was or is told of it, perhaps itself too; None: everyone."""
    others: Collection[int] | None = ()
    """Machines whose own rules may have become others beside; None: all, and soon."""

    @classmethod
    def wide(cls, change: Change) -> Spread:
        """Return a change that may reach everyone, in every way."""
        return cls(change, change.nodes, dict.fromkeys(change.nodes))
