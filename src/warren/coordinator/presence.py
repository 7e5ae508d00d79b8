"""Who is here: online and last seen, ephemeral nodes that go, keys whose time comes."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import structlog

from warren.coordinator import members, ssh_checks
from warren.coordinator.change import Change, Facet
from warren.coordinator.delta import Delta
from warren.coordinator.records import NodeRecord
from warren.coordinator.registry import Registry
from warren.coordinator.session import Maps
from warren.coordinator.settings import Settings
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import StoreProblem
from warren.edge.clock import Clock

_log = structlog.get_logger("presence")

# A node that comes back within this time was never away: networks change under laptops.
OFFLINE_GRACE_S = 8.0
_LONGEST_SLEEP_S = 30.0
_SHORTEST_SLEEP_S = 0.2
_SLEEP_A_NODE_S = 0.0001


class Presence:
    """Tells the registry who came and went, and what time does to nodes."""

    def __init__(self, registry: Registry, maps: Maps, settings: Settings, clock: Clock) -> None:
        self._registry = registry
        self._maps = maps
        self._settings = settings
        self._clock = clock
        self._wake = asyncio.Event()
        # When each absent node is to be told offline; monotonic seconds.
        self._leaving: dict[int, float] = {}
        self._checked = self._started = clock.wall()
        registry.listen(lambda _: self._wake.set())

    def arrived(self, node_id: int) -> None:
        """A node's long poll began; whoever says so reports it as online."""
        self._leaving.pop(node_id, None)

    def left(self, node_id: int) -> None:
        """A node's only long poll ended; it is told offline after a grace."""
        self._leaving[node_id] = self._clock.now() + OFFLINE_GRACE_S
        self._wake.set()

    async def run(self) -> None:
        """Do what time brings, for ever."""
        while True:
            self._wake.clear()
            await self._tell_absent()
            try:
                await self._expire()
                await self._remove_ephemeral()
                await self._expire_attributes()
                await self._forget_ssh_passes()
            except StoreProblem as problem:
                _log.warning("nodes were not removed", problem=str(problem))
            try:
                async with asyncio.timeout(self._sleep_s()):
                    await self._wake.wait()
            except TimeoutError:
                continue
            # Changes come in bursts, and none of this is urgent; a look goes through all nodes.
            nodes = len(self._registry.snapshot.nodes)
            await asyncio.sleep(max(_SHORTEST_SLEEP_S, _SLEEP_A_NODE_S * nodes))

    async def _tell_absent(self) -> None:
        now = self._clock.now()
        due = [node for node, when in self._leaving.items() if when <= now]
        for node_id in due:
            del self._leaving[node_id]
        absent = [node_id for node_id in due if not self._maps.connected(node_id)]
        await asyncio.gather(*(self._tell_offline(node_id) for node_id in absent))

    async def _tell_offline(self, node_id: int) -> None:
        wall = self._clock.wall()

        def decide(snapshot: Snapshot) -> Delta | None:
            node = snapshot.nodes.get(node_id)
            if node is None:
                return None
            return members.observed(snapshot, node, wall, {"online": False})

        await self._registry.observe(decide)

    async def _expire(self) -> None:
        """Tell of the keys whose time came since the last look."""
        since, self._checked = self._checked, self._clock.wall()
        expired = {
            node.id: Facet.MEMBERSHIP
            for node in self._registry.snapshot.nodes.values()
            if node.key_expiry is not None and since < node.key_expiry <= self._checked
        }
        if expired:
            delta = Delta(change=Change(expired, why=frozenset({"key expired"})))
            await self._registry.observe(lambda _: delta)

    async def _remove_ephemeral(self) -> None:
        wall = self._clock.wall()

        def decide(snapshot: Snapshot) -> tuple[Delta | None, None]:
            gone = [
                node.id
                for node in snapshot.nodes.values()
                if (when := self._goes_at(node)) is not None and when <= wall
            ]
            if not gone:
                return None, None
            change = Change(dict.fromkeys(gone, Facet.MEMBERSHIP), why=frozenset({"ephemeral"}))
            return Delta(removed_nodes=tuple(gone), change=change), None

        await self._registry.commit(decide)

    async def _expire_attributes(self) -> None:
        wall = self._clock.wall()

        def decide(snapshot: Snapshot) -> tuple[Delta | None, None]:
            pairs = [(node, members.without_expired(node, wall)) for node in self._dated(snapshot)]
            changed = {new.id: new for old, new in pairs if new is not old}
            if not changed:
                return None, None
            why = frozenset({"attribute expired"})
            change = Change(dict.fromkeys(changed, Facet.OWNER), why=why)
            return Delta(nodes=tuple(changed.values()), change=change), None

        await self._registry.commit(decide)

    async def _forget_ssh_passes(self) -> None:
        wall = self._clock.wall()

        def decide(snapshot: Snapshot) -> tuple[Delta | None, None]:
            gone = ssh_checks.outdated(snapshot, wall)
            return (Delta(removed_ssh_passes=tuple(gone)) if gone else None), None

        await self._registry.commit(decide)

    def _dated(self, snapshot: Snapshot) -> list[NodeRecord]:
        """Return the nodes that have attributes which expire."""
        return [node for node in snapshot.nodes.values() if node.attribute_expiries]

    def _goes_at(self, node: NodeRecord) -> datetime | None:
        """When an absent ephemeral node is removed; None for every other node."""
        if not node.ephemeral or node.online:
            return None
        # After a start everyone gets the time to come back.
        seen = max(node.last_seen or node.created, self._started)
        return seen + self._settings.ephemeral_after

    def _sleep_s(self) -> float:
        wall, now = self._clock.wall(), self._clock.now()
        longest = wall + timedelta(seconds=_LONGEST_SLEEP_S)
        times = [longest]
        for node in self._registry.snapshot.nodes.values():
            # Seen from the last look, not from now: a time that came just after it counts.
            if node.key_expiry is not None and self._checked < node.key_expiry < longest:
                times.append(node.key_expiry)
            times += node.attribute_expiries.values()
            goes = self._goes_at(node)
            if goes is not None:
                times.append(goes)
        sleep_s = (min(times) - wall).total_seconds()
        if self._leaving:
            sleep_s = min(sleep_s, min(self._leaving.values()) - now)
        return max(_SHORTEST_SLEEP_S, sleep_s)
