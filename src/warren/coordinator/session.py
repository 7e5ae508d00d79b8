"""Long polls: each node hangs on one, and hears of changes as deltas.

A session holds what it sent last, and of which machines it has not told yet. A node that reads
slowly therefore costs no more than one that reads at once; it only hears less often. Sessions
tell in rounds, and those who have the same to tell send the same bytes. A round tells through each
session itself; the session's own task is woken only for what has to wait for a slow reader.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Hashable, Iterable
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog
from msgspec import structs

from warren.control.mapstream import (
    KEEP_ALIVE,
    MAX_REST_BYTES,
    PLAIN_KEEP_ALIVE,
    MapFrameWriter,
    encode_map_frame,
)
from warren.coordinator.change import Change
from warren.coordinator.compiled_policy import CompiledPolicy
from warren.coordinator.mapper import Mapper
from warren.coordinator.registry import Registry
from warren.coordinator.rounds import Rounds
from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.keys import NodePublic
from warren.netmap.codec import encode_json
from warren.netmap.diff import diff
from warren.netmap.filterrule import FilterRule
from warren.netmap.messages import Debug, MapResponse, PingRequest
from warren.netmap.node import Node
from warren.netmap.view import EMPTY, View

_log = structlog.get_logger("session")

# Sources of a rule that are worth keeping as JSON.
_LONG = 16
# They are what a message begins with, if no more bytes than this are before them.
_NEAR = 100
# More questions than this at once are not put to one node.
MAX_QUESTIONS = 16
# Below the 60 s that intermediaries cut at, and spread, so that they don't all come at once.
KEEP_ALIVE_S = 50.0
KEEP_ALIVE_JITTER_S = 9.0


class Sink(Protocol):
    """Where a session's frames go."""

    def write(self, data: bytes) -> None:
        """Send bytes, without waiting; nothing happens once the other side is gone."""
        ...

    def roomy(self) -> bool:
        """Whether most of what was written is on its way; else `drain` comes before more."""
        ...

    async def drain(self) -> None:
        """Wait until there is room.

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
        self._changed: set[int] = set()
        self._renew = False
        self._wake = asyncio.Event()
        self._over = False
        self._view: View = EMPTY
        self._questions: deque[PingRequest] = deque()
        # While the task has nothing to do, so that others may tell in its place.
        self._resting: Sink | None = None
        self._fault: Exception | None = None
        # Seconds of the loop's clock; a timer that looks at it costs less than one a message.
        self._sent_at = 0.0
        self._silent = False
        self._alarm: asyncio.TimerHandle | None = None

    def ask(self, request: PingRequest) -> bool:
        """Put a question to the node soon; False: too many wait."""
        if self._over or len(self._questions) >= MAX_QUESTIONS:
            return False
        self._questions.append(request)
        self._wake.set()
        return True

    def note(self, peer_id: int) -> None:
        """Remember that a peer, or the node itself, changed in what others may be told of it."""
        self._changed.add(peer_id)
        self._maps.wake_soon(self)

    def look(self, soon: bool = False) -> None:
        """Remember that the node's own rules may be others."""
        self._maps.wake_soon(self, soon)

    def renew(self) -> None:
        """Remember that the whole map may be another."""
        self._renew = True
        self._maps.wake_soon(self, soon=True)

    def wake(self) -> None:
        """Tell the node now what changed; where it reads slowly, as soon as it takes more."""
        sink = self._resting
        if sink is None or not sink.roomy():
            self._wake.set()
            return
        try:
            self._tell_waiting(sink)
        except Exception as fault:
            # The request's fault, not the round's: its own task fails with it.
            self._fault = fault
            self._wake.set()

    def end(self) -> None:
        """Let the poll end: a newer one has taken its place, or the server stops."""
        self._over = True
        self._wake.set()

    async def run(self, sink: Sink) -> None:
        """Serve the poll until the node is gone, replaced or removed. Raises ConnectionError."""
        try:
            self._rest(self._maps.keep_alive_s())
            await self._serve(sink)
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = None

    async def _serve(self, sink: Sink) -> None:
        # What came before is in the whole map.
        self._changed.clear()
        self._tell_all(sink)
        while not self._over:
            await sink.drain()
            self._resting = sink
            try:
                await self._wake.wait()
            finally:
                self._resting = None
            self._wake.clear()
            if self._fault is not None:
                fault, self._fault = self._fault, None
                raise fault
            if not self._over:
                await sink.drain()
            self._tell_waiting(sink)

    def _tell_waiting(self, sink: Sink) -> None:
        """Write all that waits; wake the task if it has to wait for room, or is to end."""
        while self._questions:
            # A keep-alive: a node takes the question from it and reads no map.
            asked = MapResponse(keep_alive=True, ping_request=self._questions.popleft())
            self._send(sink, "question", frame(asked, self._compressed))
        if self._silent:
            self._silent = False
            alive = KEEP_ALIVE if self._compressed else PLAIN_KEEP_ALIVE
            self._send(sink, "keepalive", alive)
        if not self._over:
            changed, self._changed = self._changed, set()
            if self._renew:
                self._renew = False
                self._tell_all(sink)
            else:
                self._tell_of(sink, changed)
        if self._over or not sink.roomy():
            self._wake.set()

    def _rest(self, rest_s: float) -> None:
        """Let a keep-alive be sent once nothing was sent for this long."""
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(rest_s, self._look, rest_s)

    def _look(self, rest_s: float) -> None:
        loop = asyncio.get_running_loop()
        due = self._sent_at + rest_s
        if due > loop.time():
            self._alarm = loop.call_at(due, self._look, rest_s)
            return
        self._silent = True
        self._wake.set()
        self._rest(self._maps.keep_alive_s())

    def _tell_all(self, sink: Sink) -> None:
        """Tell what the whole map has become."""
        view = self._maps.whole(self._node_id, self._view)
        if view is None or view.peers is not self._view.peers:
            self._tell(sink, view, None)
        else:
            self._tell(sink, view, ())

    def _tell_of(self, sink: Sink, changed: set[int]) -> None:
        view = self._maps.advance(self._view, self._node_id, changed)
        self._tell(sink, view, changed)

    def _tell(self, sink: Sink, view: View | None, changed: Collection[int] | None) -> None:
        """Send what leads to a view. changed: the peers that may be others; None: all."""
        if view is None:
            self._send(sink, "map", frame(self._maps.farewell(self._view), self._compressed))
            self._over = True
            return
        before, self._view = self._view, view
        if changed is None:
            told = self._maps.told(before, view, self._compressed)
        else:
            told = self._maps.told_alike(before, view, changed, self._compressed)
        if told is not None:
            self._send(sink, "map", told)

    def _send(self, sink: Sink, kind: str, data: bytes) -> None:
        self._sent_at = asyncio.get_running_loop().time()
        sink.write(data)
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
        self._writer = MapFrameWriter()
        # Messages of this round by what they say, with the entries that the keys stand for.
        self._written: dict[_Key, tuple[bytes | None, View, View]] = {}
        self._sources: dict[int, tuple[list[str], msgspec.Raw]] = {}
        # Beginnings of messages, compressed, by their sources and what is before those.
        self._begun: dict[tuple[int, bytes], bytes | None] = {}
        self._rounds = Rounds(self._forget_written)
        registry.listen(self._changed)
        registry.prepare(
            lambda snapshot, change: policy.preparation(snapshot, change, clock.wall())
        )

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

    def whole(self, node_id: int, before: View = EMPTY) -> View | None:
        """Return a node's whole view, or None if there is no such node any more."""
        snapshot = self._registry.snapshot
        node = snapshot.nodes.get(node_id)
        if node is None:
            return None
        return self._mapper.view(node, snapshot, self._policy, self._clock.wall(), before)

    def advance(self, view: View, node_id: int, changed: Collection[int]) -> View | None:
        """Return a node's view after `changed` changed, with work in proportion to them."""
        snapshot = self._registry.snapshot
        node = snapshot.nodes.get(node_id)
        if node is None:
            return None
        wall = self._clock.wall()
        return self._mapper.advance(view, node, snapshot, self._policy, changed, wall)

    def told(
        self, before: View, view: View, compressed: bool, changed: Collection[int] | None = None
    ) -> bytes | None:
        """Return the message that leads from one view to the next; None: they say the same.

        changed: the peers that may be others; None: all.
        """
        response = diff(before, view, changed)
        if response is None:
            return None
        whole: dict[str, Any] = {
            name: [self._mapper.raw(peer) for peer in peers]
            for name in ("peers", "peers_changed")
            if (peers := getattr(response, name))
        }
        if response.packet_filters:
            whole["packet_filters"] = {
                name: rules and [self._raw_sources(rule) for rule in rules]
                for name, rules in response.packet_filters.items()
            }
        written = encode_json(self.completed(response, **whole))
        sources = _first_sources(whole.get("packet_filters"))
        if compressed and sources is not None:
            return self._framed(written, sources)
        return self._writer.write(written, compressed=compressed)

    def _framed(self, written: bytes, sources: msgspec.Raw) -> bytes:
        """Compress a message; once for many what they begin with, if the rest of each is small."""
        # Looking for all of them would first prepare to find so much.
        wanted = bytes(memoryview(sources))
        at = written.find(wanted[:_NEAR], 0, 2 * _NEAR)
        rest = written[at + len(sources) :]
        if at < 0 or len(rest) > MAX_REST_BYTES or not written.startswith(wanted, at):
            return self._writer.write(written)
        key = (id(sources), written[:at])
        if key not in self._begun:
            # Perhaps nobody else has these.
            self._begun[key] = None
            return self._writer.write(written)
        begun = self._begun[key]
        if begun is None:
            begun = self._begun[key] = self._writer.begin(written[: at + len(sources)])
        return self._writer.finish(begun, rest)

    def _raw_sources(self, rule: FilterRule) -> FilterRule:
        """Return a rule whose sources are JSON; long ones are many filters', and written once."""
        sources = rule.src_ips
        if len(sources) < _LONG:
            return rule
        known = self._sources.get(id(sources))
        if known is None:
            # The list is kept, so that its identity means no other meanwhile.
            known = self._sources[id(sources)] = sources, msgspec.Raw(encode_json(sources))
        raw: Any = known[1]
        return structs.replace(rule, src_ips=raw)

    def told_alike(
        self, before: View, view: View, changed: Collection[int], compressed: bool
    ) -> bytes | None:
        """Do the same where only the peers `changed` may be others.

        Equal messages of a round are made once.
        """
        key = _what_changed(before, view, changed, compressed)
        if key is None:
            return self.told(before, view, compressed, changed)
        if not (key.entries or key.rules):
            return None
        known = self._written.get(key)
        if known is None:
            told = self.told(before, view, compressed, changed)
            # The views keep the entries, so that their identities mean no others meanwhile.
            known = self._written[key] = (told, before, view)
        return known[0]

    def _forget_written(self) -> None:
        self._written.clear()
        self._begun.clear()
        self._sources.clear()

    def wake_soon(self, session: Session, soon: bool = False) -> None:
        """Let a session tell its node in the next round."""
        self._rounds.join(session, soon)

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
            await sink.drain()
            await asyncio.sleep(self.keep_alive_s())
            sink.write(KEEP_ALIVE)

    def completed(self, response: MapResponse, **fields: Any) -> MapResponse:
        """Add `fields`, and what every message, or every first one, says beside the map itself."""
        fields["control_time"] = self._clock.wall()
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
        began = self._clock.now()
        spread = self._policy.follow(snapshot, change, self._clock.wall())
        self.meter.policy_followed(self._clock.now() - began)
        gone = [number for number in spread.change.nodes if number not in snapshot.nodes]
        self._mapper.forget(gone)
        if spread.change.everything:
            for session in self._sessions.values():
                session.renew()
            return
        for number in spread.change.nodes:
            own = self._sessions.get(number)
            if own is not None:
                own.note(number)
                if number in spread.moved or number in gone:
                    own.renew()
            for session in self._of(spread.viewers[number]):
                session.note(number)
        for session in self._of(spread.others):
            session.look(soon=spread.others is None)

    def _of(self, numbers: Collection[int] | None) -> Iterable[Session]:
        """Return the sessions of some machines; None: of all."""
        if numbers is None:
            return self._sessions.values()
        return [self._sessions[number] for number in numbers if number in self._sessions]


def _first_sources(filters: dict[str, list[Any]] | None) -> msgspec.Raw | None:
    """Return the sources of the first rule of a message, if they are kept as JSON."""
    for rules in (filters or {}).values():
        sources = rules[0].src_ips if rules else None
        return sources if isinstance(sources, msgspec.Raw) else None
    return None


class _Key(NamedTuple):
    """What a message says that is not of one node alone: entries, rules, new users.

    Of each, the identities before and after.
    """

    compressed: bool
    entries: tuple[tuple[int, int], ...]
    rules: tuple[Hashable, ...]
    users: tuple[int, ...]


def _what_changed(
    before: View, view: View, changed: Collection[int], compressed: bool
) -> _Key | None:
    """Return what stands for a message; None if it tells of more than peers and rules.

    changed: the peers that may be others.
    """
    if not (
        view.node is before.node and view.derp_map is before.derp_map and view.dns is before.dns
    ):
        return None
    pairs = [(before.peers.get(peer), view.peers.get(peer)) for peer in sorted(changed)]
    users: tuple[int, ...] = ()
    if view.profiles is not before.profiles:
        users = tuple(user for user in view.profiles if user not in before.profiles)
    entries = tuple((id(old), id(new)) for old, new in pairs if old is not new)
    rules: tuple[Hashable, ...] = ()
    if view.packet_filters is not before.packet_filters or (
        view.ssh_policy is not before.ssh_policy
    ):
        rules = _rules_of(before), _rules_of(view)
    return _Key(compressed, entries, rules, users)


def _rules_of(view: View) -> Hashable:
    # Not of the mapping, which each node has its own of.
    filters = tuple((name, id(rules)) for name, rules in view.packet_filters.items())
    return filters, id(view.ssh_policy)


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
