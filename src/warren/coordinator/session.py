"""Long polls: each node hangs on one, and hears of changes as deltas.

A session holds what it sent last and at most one pending, merged `Change`. A node that reads
slowly therefore costs no more than one that reads at once; it only hears less often.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime
from typing import Protocol

import structlog
from msgspec import structs

from warren.control.mapstream import KEEP_ALIVE, PLAIN_KEEP_ALIVE, encode_map_frame
from warren.coordinator.change import NO_CHANGE, Change
from warren.coordinator.default_policy import CompiledPolicy
from warren.coordinator.mapper import Mapper
from warren.coordinator.registry import Registry
from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.keys import NodePublic
from warren.netmap.codec import encode_json
from warren.netmap.diff import diff
from warren.netmap.messages import Debug, MapResponse, PingRequest
from warren.netmap.node import Node
from warren.netmap.view import EMPTY, View

_log = structlog.get_logger("session")

# More questions than this at once are not put to one node.
MAX_QUESTIONS = 16
# Changes of this long are told in one message: one join is several changes.
MERGE_WINDOW_S = 0.05
# Below the 60 s that intermediaries cut at, and spread, so that they don't all come at once.
KEEP_ALIVE_S = 50.0
KEEP_ALIVE_JITTER_S = 9.0


class Sink(Protocol):
    """Where a session's frames go."""

    async def send(self, data: bytes) -> None:
        """Send bytes; return once most of what was sent before is on its way.

        Raises ConnectionError when the other side is gone or takes nothing for too long.
        """
        ...


class Meter(Protocol):
    """Counts what the sessions do."""

    def message_sent(self, kind: str, size: int) -> None:
        """A message of so many bytes left: `map`, `question` or `keepalive`."""
        ...

    def policy_followed(self, seconds: float) -> None:
        """The compiled policy was brought up to a change."""
        ...


class _Uncounted:
    def message_sent(self, kind: str, size: int) -> None:
        pass

    def policy_followed(self, seconds: float) -> None:
        pass


class Session:
    """One long poll of one node. compressed: whether it asked for zstd."""

    def __init__(self, node_id: int, maps: Maps, compressed: bool = True) -> None:
        self._node_id = node_id
        self._compressed = compressed
        self._maps = maps
        self._pending = NO_CHANGE
        self._wake = asyncio.Event()
        self._over = False
        self._view: View = EMPTY
        self._questions: deque[PingRequest] = deque()

    def ask(self, request: PingRequest) -> bool:
        """Put a question to the node soon; False: too many wait."""
        if self._over or len(self._questions) >= MAX_QUESTIONS:
            return False
        self._questions.append(request)
        self._wake.set()
        return True

    def poke(self, change: Change) -> None:
        """Remember a change, merged with what is pending already."""
        self._pending = self._pending.merge(change)
        self._wake.set()

    def end(self) -> None:
        """Let the poll end: a newer one has taken its place, or the server stops."""
        self._over = True
        self._wake.set()

    async def run(self, sink: Sink) -> None:
        """Serve the poll until the node is gone, replaced or removed. Raises ConnectionError."""
        await self._tell(sink, self._maps.whole(self._node_id))
        while not self._over:
            change = await self._next_change()
            while self._questions:
                # A keep-alive: a node takes the question from it and reads no map.
                asked = MapResponse(keep_alive=True, ping_request=self._questions.popleft())
                await self._send(sink, "question", frame(asked, self._compressed))
            if change is None:
                alive = KEEP_ALIVE if self._compressed else PLAIN_KEEP_ALIVE
                await self._send(sink, "keepalive", alive)
                continue
            if self._over:
                return
            view = self._maps.advance(self._view, self._node_id, change)
            await self._tell(sink, view)

    async def _next_change(self) -> Change | None:
        """Wait for a change, or for the time of a keep-alive (None)."""
        try:
            async with asyncio.timeout(self._maps.keep_alive_s()):
                await self._wake.wait()
        except TimeoutError:
            return None
        if not self._over:
            await asyncio.sleep(MERGE_WINDOW_S)
        self._wake.clear()
        change, self._pending = self._pending, NO_CHANGE
        return change

    async def _tell(self, sink: Sink, view: View | None) -> None:
        if view is None:
            await self._send(sink, "map", frame(self._maps.farewell(self._view), self._compressed))
            self._over = True
            return
        response = diff(self._view, view)
        if response is not None:
            self._view = view
            await self._send(sink, "map", frame(self._maps.completed(response), self._compressed))

    async def _send(self, sink: Sink, kind: str, data: bytes) -> None:
        await sink.send(data)
        self._maps.meter.message_sent(kind, len(data))


class Maps:
    """All sessions, and what they are made from."""

    def __init__(
        self,
        registry: Registry,
        mapper: Mapper,
        policy: CompiledPolicy,
        clock: Clock,
        entropy: Entropy,
        meter: Meter | None = None,
    ) -> None:
        self.meter: Meter = meter or _Uncounted()
        self._registry = registry
        self._mapper = mapper
        self._policy = policy
        self._clock = clock
        self._entropy = entropy
        self._sessions: dict[int, Session] = {}
        registry.listen(self._changed)

    def open(self, node_id: int, compressed: bool = True) -> Session:
        """Begin a node's long poll; an older one of the same node ends."""
        older = self._sessions.get(node_id)
        if older is not None:
            older.end()
        session = Session(node_id, self, compressed)
        self._sessions[node_id] = session
        return session

    def close(self, node_id: int, session: Session) -> bool:
        """Forget a session; return whether the node has no other now."""
        if self._sessions.get(node_id) is not session:
            return False
        del self._sessions[node_id]
        return True

    def end_all(self) -> None:
        """Let every poll end."""
        for session in self._sessions.values():
            session.end()

    def __len__(self) -> int:
        """How many nodes hang on a long poll."""
        return len(self._sessions)

    def connected(self, node_id: int) -> bool:
        """Whether a node hangs on a long poll."""
        return node_id in self._sessions

    def whole(self, node_id: int) -> View | None:
        """Return a node's whole view, or None if there is no such node any more."""
        snapshot = self._registry.snapshot
        node = snapshot.nodes.get(node_id)
        if node is None:
            return None
        return self._mapper.view(node, snapshot, self._policy, self._clock.wall())

    def advance(self, view: View, node_id: int, change: Change) -> View | None:
        """Return a node's view after a change, with work in proportion to it."""
        if change.everything or node_id in change.nodes:
            return self.whole(node_id)
        snapshot = self._registry.snapshot
        node = snapshot.nodes.get(node_id)
        if node is None:
            return None
        wall = self._clock.wall()
        return self._mapper.advance(view, node, snapshot, self._policy, change.nodes, wall)

    def ask(self, node_id: int, request: PingRequest) -> bool:
        """Put a question to a node; False: it hangs on no long poll, or too many wait."""
        session = self._sessions.get(node_id)
        return session is not None and session.ask(request)

    def one_shot(self, node_id: int) -> MapResponse:
        """Return a node's whole map as one message."""
        view = self.whole(node_id)
        response = None if view is None else diff(EMPTY, view)
        return self.farewell(EMPTY) if response is None else self.completed(response)

    async def keep_alive(self, sink: Sink) -> None:
        """Keep a poll open that has nothing more to hear. Raises ConnectionError."""
        while True:
            await asyncio.sleep(self.keep_alive_s())
            await sink.send(KEEP_ALIVE)

    def completed(self, response: MapResponse) -> MapResponse:
        """Add what every message, or every first one, says beside the map itself."""
        fields: dict[str, object] = {"control_time": self._clock.wall()}
        if response.node is not None:
            # Private networks send no logs to the vendor of a stock client.
            fields["debug"] = Debug(disable_log_tail=True)
        return structs.replace(response, **fields)

    def farewell(self, view: View) -> MapResponse:
        """Return what a removed node hears: its key is over, so its user must log in again."""
        assert view.node is not None or view is EMPTY
        return ghost(view.node or Node(id=1), self._clock.wall())

    def keep_alive_s(self) -> float:
        """Return how long to be silent this time."""
        return KEEP_ALIVE_S + KEEP_ALIVE_JITTER_S * self._entropy(1)[0] / 255

    def _changed(self, change: Change) -> None:
        snapshot = self._registry.snapshot
        nodes = snapshot.nodes
        began = self._clock.now()
        change = self._policy.follow(snapshot, change, self._clock.wall())
        self.meter.policy_followed(self._clock.now() - began)
        self._mapper.forget(node_id for node_id in change.nodes if node_id not in nodes)
        for session in self._sessions.values():
            session.poke(change)


def ghost(node: Node, wall: datetime) -> MapResponse:
    """Return the map of a node that is not known here: its own entry, expired.

    A stock client that reads an error would try for ever; this one asks its user to log in.
    """
    gone = structs.replace(node, key_expiry=wall, expired=True, machine_authorized=True)
    return MapResponse(node=gone, control_time=wall, debug=Debug(disable_log_tail=True))


def ghost_of(key: NodePublic, domain: str, wall: datetime) -> MapResponse:
    """Return the same for a node key that nobody here has."""
    return ghost(Node(id=1, stable_id="gone", name=f"gone.{domain}.", key=key), wall)


def frame(response: MapResponse, compressed: bool = True) -> bytes:
    """Return a response as a frame of the map stream."""
    return encode_map_frame(encode_json(response), compressed=compressed)
