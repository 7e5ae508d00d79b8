"""What every program tells in Prometheus' form: itself, its relay, and its certificate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)

from warren import __version__

_DROPPED, _OTHERS = "dropped_", ("turn_", "stun_")


def of_program(certificate_until: datetime | None) -> Iterable[Metric]:
    """Return version and end of the certificate; None: it shows none."""
    yield InfoMetricFamily("warren_build", "The program", {"version": __version__})
    if certificate_until is not None:
        yield GaugeMetricFamily(
            "warren_certificate_expiry_timestamp_seconds",
            "When the certificate that is shown ends",
            certificate_until.timestamp(),
        )


def of_relay(counters: Mapping[str, int], clients: int) -> Iterable[Metric]:
    """Return what relay, STUN and TURN count, by the names of their counters."""
    yield GaugeMetricFamily("warren_relay_clients", "Clients of the relay", clients)
    dropped = CounterMetricFamily(
        "warren_relay_dropped", "What the relay let go, by what it was", labels=["what"]
    )
    for name, count in sorted(counters.items()):
        if name.startswith(_DROPPED):
            dropped.add_metric([name.removeprefix(_DROPPED)], count)
        elif name == "turn_allocations":
            yield GaugeMetricFamily("warren_turn_allocations", "Allocations of TURN", count)
        else:
            full = name if name.startswith(_OTHERS) else f"relay_{name}"
            yield CounterMetricFamily(f"warren_{full}", full.replace("_", " "), count)
    yield dropped
