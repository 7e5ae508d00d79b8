"""A port for those who watch over a relay: metrics, and whether it lives and is ready.

As the server's, it asks for no credential and tells no names; where it listens decides who may ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from warren.edge.http import Answer, Answerer, Head
from warren.edge.metrics import of_program, of_relay

_JSON = "application/json"


class Watched(NamedTuple):
    """What is read when somebody asks.

    counters: of relay and STUN, by name. admission: answers of the coordinator, by what they
    were; empty: it is not asked. problem: why the coordinator does not answer. ready: whether
    anybody new can be let in.
    """

    counters: Callable[[], Mapping[str, int]]
    clients: Callable[[], int]
    certificate_until: Callable[[], datetime | None]
    admission: Callable[[], Mapping[str, int]]
    problem: Callable[[], str]
    ready: Callable[[], bool]


def watch_answers(watched: Watched) -> Mapping[str, Answerer]:
    """Return what the port answers, by path."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    registry.register(_Present(watched))

    def metrics(head: Head) -> Answer:
        encode, kind = choose_encoder(head.header("accept"))
        return Answer(200, encode(registry), kind)

    def ready(head: Head) -> Answer:
        told = {"status": "ready" if watched.ready() else "not ready"}
        if problem := watched.problem():
            told["reason"] = problem
        return Answer(200 if watched.ready() else 503, msgspec.json.encode(told), _JSON)

    return {
        "/": lambda head: Answer(200, b"/metrics\n/healthz\n/readyz\n"),
        "/metrics": metrics,
        "/healthz": lambda head: Answer(200, b'{"status":"ok"}', _JSON),
        "/readyz": ready,
    }


class _Present(Collector):
    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def describe(self) -> Iterable[Metric]:
        """Say nothing beforehand: which counters the relay has, it says itself."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return all of it."""
        watched = self._watched
        yield from of_program(watched.certificate_until())
        yield from of_relay(watched.counters(), watched.clients())
        asked = CounterMetricFamily(
            "warren_relay_admissions", "Answers of the coordinator for clients", labels=["result"]
        )
        for result, count in sorted(watched.admission().items()):
            asked.add_metric([result], count)
        yield asked
