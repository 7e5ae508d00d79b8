"""One operation of the API: where it is, what it needs, and what does it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from starlette.datastructures import QueryParams

from warren.coordinator.audit import Actor
from warren.coordinator.auth.credentials import Principal
from warren.coordinator.auth.flow import Registration
from warren.coordinator.delta import Delta
from warren.coordinator.policy_edits import Questions
from warren.coordinator.records import NodeRecord
from warren.coordinator.refusal import NotFound, Refused
from warren.coordinator.registry import Registry
from warren.coordinator.roles import allows
from warren.coordinator.settings import Settings
from warren.coordinator.snapshot import Snapshot
from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.nat.turn.reach import Reach

_T = TypeVar("_T")


class NotPermitted(Exception):
    """The credential is good, but not for this. The text is one sentence."""


class NotOffered(Exception):
    """This server does not have what is asked for. The text is one sentence."""


class Changed(Refused):
    """Someone else was faster: what was read before is no longer so."""


class Answer(NamedTuple):
    """What is not plain JSON, or has headers of its own."""

    body: bytes
    media_type: str = "application/json"
    headers: Mapping[str, str] = {}
    status: int = 200


class Page(NamedTuple):
    """A part of a list, as JSON. after: what the next part is asked by; empty: it is the last."""

    value: object
    after: str = ""


@dataclass(frozen=True, kw_only=True)
class Context:
    """The parts that operations work on."""

    registry: Registry
    settings: Settings
    clock: Clock
    entropy: Entropy
    registration: Registration | None = None
    """Lets machines in that wait."""
    reach: Reach = field(default_factory=Reach)
    """Where webhooks may be."""
    trouble: Callable[[str], str] = lambda webhook: ""
    """Why a webhook was not reached the last time; empty: it was."""
    regions: Callable[[], Mapping[int, str]] = dict
    """Names of the relay regions."""
    questions: Questions = field(default_factory=Questions)
    """Looks at policies beside the event loop."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request, read and allowed. `body` is of the operation's `takes`, else bytes."""

    context: Context
    who: Principal
    by: Actor
    path: Mapping[str, str]
    query: QueryParams
    headers: Mapping[str, str]
    body: Any = None

    @property
    def snapshot(self) -> Snapshot:
        """The state now."""
        return self.context.registry.snapshot

    async def commit(self, decide: Callable[[Snapshot], tuple[Delta | None, _T]]) -> _T:
        """Put a decision in force, in the name of who asks."""
        return await self.context.registry.commit(decide, self.by)

    async def change_node(self, decide: Callable[[NodeRecord], Delta]) -> dict[str, Any]:
        """Decide on the machine that the path names; answer with an empty object."""

        def decided(snapshot: Snapshot) -> tuple[Delta, None]:
            return decide(node_of(snapshot, self.path["device"])), None

        await self.commit(decided)
        return {}

    def need(self, scope: str) -> None:
        """Go on only if who asks may do this too. Raises NotPermitted."""
        if not allows(self.who.scopes, scope):
            raise NotPermitted(f"this needs the scope {scope!r}")


Work = Callable[[Call], Awaitable[object]]


class Operation(NamedTuple):
    """An operation as the tables list it.

    path: below `/api/v2`, with `{names}`. scope: what it needs; empty: any credential. takes: the
    body's type, None for none, bytes for raw. gives: the answer's type, None for an empty object.
    """

    method: str
    path: str
    scope: str
    summary: str
    work: Work
    takes: Any = None
    gives: Any = None
    query: tuple[str, ...] = ()
    status: int = 200


PAGES = ("limit", "after")
MAX_LIMIT = 1000


def page(
    query: QueryParams, ordered: Iterable[_T], place: Callable[[_T], str]
) -> tuple[list[_T], str]:
    """Return the part of a list that `limit` and `after` ask for, and what the next is asked by.

    ordered: by `place`, which stays what it is while others come and go. All without a `limit`.
    Raises Refused.
    """
    after = query.get("after", "")
    found = [one for one in ordered if place(one) > after] if after else list(ordered)
    text = query.get("limit")
    if text is None:
        return found, ""
    limit = int(text[:9]) if text.isascii() and text.isdecimal() else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise Refused(f"limit is a number between 1 and {MAX_LIMIT}")
    return found[:limit], place(found[limit - 1]) if len(found) > limit else ""


def numbered(number: int) -> str:
    """Return the place of what is ordered by number."""
    return f"{number:020d}"


def node_of(snapshot: Snapshot, wanted: str) -> NodeRecord:
    """Return the machine with this stable id or number. Raises NotFound."""
    if wanted.isascii() and wanted.isdecimal():
        node = snapshot.nodes.get(int(wanted[:18]))
        if node is not None:
            return node
    for node in snapshot.nodes.values():
        if node.stable_id == wanted:
            return node
    raise NotFound(f"there is no device {wanted[:80]!r}")
