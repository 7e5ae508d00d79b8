"""What a server counts and measures, in Prometheus' form. Names of people and machines are not in
it: it says how much, not who.

What others hold anyway (the snapshot, the relay's counters) is read when somebody asks; `Meter`
takes what only happens once.
"""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from warren.coordinator.delta import Delta
from warren.coordinator.login.visits import LogIn
from warren.coordinator.records import NodeRecord
from warren.coordinator.snapshot import Snapshot
from warren.edge.clock import Clock
from warren.edge.metrics import of_program, of_relay

_STATES = ("online", "offline", "expired", "unapproved")
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class _Sent(Collector):
    """What left on long polls: counted by the loop alone, so without the lock of a `Counter`."""

    def __init__(self) -> None:
        self.messages = dict.fromkeys(("map", "question", "keepalive"), 0)
        self.size = 0

    def collect(self) -> Iterable[Metric]:
        """Return both counters."""
        sent = CounterMetricFamily(
            "warren_map_messages", "Messages sent on long polls", labels=["kind"]
        )
        for kind, count in self.messages.items():
            sent.add_metric([kind], count)
        yield sent
        yield CounterMetricFamily(
            "warren_map_bytes", "Bytes sent on long polls, compressed", self.size
        )


class Meter:
    """Counts what passes. registry: holds all metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        self._sent = _Sent()
        self.registry.register(self._sent)
        self._joined = Counter(
            "warren_registrations", "Machines that joined", registry=self.registry
        )
        self._log_ins = Counter(
            "warren_log_ins",
            "Log-ins of people in a browser, by what came of them",
            ["result"],
            registry=self.registry,
        )
        self._store_s = Histogram(
            "warren_store_write_seconds",
            "Writing a change to the database, the wait in line among it",
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._store_failures = Counter(
            "warren_store_failures", "Changes that the database refused", registry=self.registry
        )
        self._policy_s = Histogram(
            "warren_policy_follow_seconds",
            "Bringing the compiled policy up to a change",
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        for result in LogIn:
            self._log_ins.labels(result)

    def message_sent(self, kind: str, size: int) -> None:
        """A message of `size` bytes left on a long poll."""
        self._sent.messages[kind] += 1
        self._sent.size += size

    def log_in_tried(self, result: LogIn) -> None:
        """Somebody tried to log in in a browser."""
        self._log_ins.labels(result).inc()

    def policy_followed(self, seconds: float) -> None:
        """The compiled policy was brought up to a change."""
        self._policy_s.observe(seconds)

    def written(self, seconds: float, taken: bool) -> None:
        """The database was asked to take a change."""
        self._store_s.observe(seconds)
        if not taken:
            self._store_failures.inc()

    def changed(self, delta: Delta) -> None:
        """A change is in force."""
        if "joined" in delta.change.why:
            self._joined.inc(len(delta.nodes))


class Sources(NamedTuple):
    """Where the rest is read from. relay: the counters of relay, STUN and TURN, by name."""

    snapshot: Callable[[], Snapshot]
    sessions: Callable[[], int]
    relay: Callable[[], Mapping[str, int]]
    relay_clients: Callable[[], int]
    webhooks: Callable[[], Mapping[str, int]]
    certificate_until: Callable[[], datetime | None]
    policy_problems: Callable[[], int] = int


class Present(Collector):
    """Reads, when asked, what is so now."""

    def __init__(self, sources: Sources, clock: Clock) -> None:
        self._sources = sources
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Say nothing beforehand: which counters the relay has, it says itself."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return all of it."""
        sources, snapshot = self._sources, self._sources.snapshot()
        yield from of_program(sources.certificate_until())
        states = Counted(self._state(node) for node in snapshot.nodes.values())
        nodes = GaugeMetricFamily("warren_nodes", "Machines, by state", labels=["state"])
        for state in _STATES:
            nodes.add_metric([state], states[state])
        yield nodes
        for name, text, value in (
            ("users", "People", len(snapshot.users)),
            ("pending_registrations", "Machines that wait to join", self._waiting(snapshot)),
            ("sessions", "Machines on a long poll", sources.sessions()),
            ("policy_problems", "Parts of the policy not in force", sources.policy_problems()),
            ("webhooks", "Webhooks", len(snapshot.webhooks)),
            ("webhook_waiting_events", "Events not yet taken", len(snapshot.deliveries)),
        ):
            yield GaugeMetricFamily(f"warren_{name}", text, value)
        sent = sources.webhooks()
        events = CounterMetricFamily("warren_webhook_events", "Events", labels=["result"])
        for result in ("sent", "dropped"):
            events.add_metric([result], sent[result])
        yield events
        yield CounterMetricFamily(
            "warren_webhook_failures", "Requests to webhooks that failed", sent["failed"]
        )
        yield from of_relay(sources.relay(), sources.relay_clients())

    def _state(self, node: NodeRecord) -> str:
        if not node.authorized:
            return "unapproved"
        if node.expired(self._clock.wall()):
            return "expired"
        return "online" if node.online else "offline"

    def _waiting(self, snapshot: Snapshot) -> int:
        wall = self._clock.wall()
        return sum(not p.rejected and p.expiry > wall for p in snapshot.pending.values())
