"""What a measuring found, and which relay region becomes home by it (PROTOCOL §5.9)."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

from warren.netmap.endpoint import Endpoint
from warren.netmap.node import NetInfo

HISTORY_S = 305.0
"""How long a measured latency counts."""

_MAX_REPORTS = 64
# A home is left only for one that is better by both measures.
_MIN_GAIN_S = 0.010
_MAX_RATIO = 2 / 3
# A home that no probe reached is kept if its relay spoke this recently …
_HEARD_S = 8.0
# … or, when nothing at all answers, two keep-alive periods ago.
_HEARD_WITHOUT_DATA_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """One measuring. Times are seconds; `started` and `finished` are monotonic.

    `latency_v4` and `latency_v6` map a region to its fastest answer by STUN, `latency_relay` to
    a round trip by other means (HTTPS) where UDP does not work.
    """

    started: float
    finished: float
    latency_v4: Mapping[int, float] = field(default_factory=dict)
    latency_v6: Mapping[int, float] = field(default_factory=dict)
    latency_relay: Mapping[int, float] = field(default_factory=dict)
    mapped_v4: tuple[Endpoint, ...] = ()
    """Our IPv4 address as servers saw it; more than one means a NAT that maps by destination."""
    mapped_v6: tuple[Endpoint, ...] = ()
    mapping_varies: bool | None = None
    """None: fewer than two servers answered over IPv4, so nobody can say."""
    liars: Mapping[Endpoint, Endpoint] = field(default_factory=dict)
    """Servers that the majority contradicts, and the address that they said we have."""

    @property
    def udp(self) -> bool:
        """Whether UDP reaches any server and comes back."""
        return bool(self.latency_v4 or self.latency_v6)

    @property
    def global_v4(self) -> Endpoint | None:
        """Our first seen public IPv4 endpoint."""
        return self.mapped_v4[0] if self.mapped_v4 else None

    @property
    def global_v6(self) -> Endpoint | None:
        """Our first seen public IPv6 endpoint."""
        return self.mapped_v6[0] if self.mapped_v6 else None

    @property
    def latency(self) -> dict[int, float]:
        """The fastest answer of each region, by whatever means."""
        fastest: dict[int, float] = {}
        for found in (self.latency_v4, self.latency_v6, self.latency_relay):
            for region, seconds in found.items():
                fastest[region] = min(seconds, fastest.get(region, seconds))
        return fastest

    def with_relay_latency(self, latency: Mapping[int, float]) -> Report:
        """Add round trips that were measured over HTTPS, for use where UDP is blocked."""
        return replace(self, latency_relay={**self.latency_relay, **latency})

    def only(self, regions: Container[int]) -> Report:
        """Return the same without the latencies of other regions."""

        def kept(latency: Mapping[int, float]) -> dict[int, float]:
            return {region: s for region, s in latency.items() if region in regions}

        return replace(
            self,
            latency_v4=kept(self.latency_v4),
            latency_v6=kept(self.latency_v6),
            latency_relay=kept(self.latency_relay),
        )


class History:
    """The reports of the last five minutes, as far as latency goes."""

    def __init__(self) -> None:
        self._reports: deque[tuple[float, dict[int, float]]] = deque(maxlen=_MAX_REPORTS)

    def add(self, report: Report) -> None:
        """Keep a report; forget those that are too old beside it."""
        self._reports.append((report.finished, report.latency))
        while report.finished - self._reports[0][0] > HISTORY_S:
            self._reports.popleft()

    def fastest(self, now: float) -> dict[int, float]:
        """Return the lowest latency of each region that still counts."""
        fastest: dict[int, float] = {}
        for finished, latency in self._reports:
            if now - finished <= HISTORY_S:
                for region, seconds in latency.items():
                    fastest[region] = min(seconds, fastest.get(region, seconds))
        return fastest


def preferred_region(
    report: Report,
    history: History,
    home: int = 0,
    home_heard_at: float | None = None,
    scores: Mapping[int, float] | None = None,
) -> int:
    """Choose the home region; 0 if there is no ground for any.

    `history` holds `report` already. `home` is the present one (0: none) and `home_heard_at`
    the monotonic time of the last frame from its relay. `scores` are the factors on latency
    that the DERP map gives.
    """
    now = report.finished
    heard_s = None if home_heard_at is None else now - home_heard_at
    current = report.latency
    if not current:
        kept = home and heard_s is not None and heard_s <= _HEARD_WITHOUT_DATA_S
        return home if kept else 0

    factor = scores or {}
    fastest = history.fastest(now)
    scored = {region: fastest.get(region, current[region]) for region in current}
    scored = {region: value * factor.get(region, 1.0) for region, value in scored.items()}
    best = min(scored, key=lambda region: (scored[region], region))
    if not home or best == home:
        return best
    if home not in scored:
        # Heard by its frames only: nothing to compare with, so it stays.
        heard = heard_s is not None and (heard_s <= _HEARD_S or now - heard_s >= report.started)
        return home if heard else best
    gain_s = scored[home] - scored[best]
    if gain_s < _MIN_GAIN_S or scored[best] > scored[home] * _MAX_RATIO:
        return home
    return best


def fallback_region(regions: Sequence[int], seed: bytes) -> int:
    """Choose a home when nothing could be measured: spread by `seed`, the same every time."""
    if not regions:
        return 0
    number = int.from_bytes(hashlib.blake2s(seed, digest_size=8).digest(), "big")
    return sorted(regions)[number % len(regions)]


def net_info(report: Report, preferred: int, os_has_ipv6: bool | None = None) -> NetInfo:
    """Return what is told to the coordinator; port mapping and link type are others' to add."""
    latency = {f"{region}-v4": seconds for region, seconds in report.latency_v4.items()}
    latency |= {f"{region}-v6": seconds for region, seconds in report.latency_v6.items()}
    for region, seconds in report.latency_relay.items():
        if region not in report.latency_v4 and region not in report.latency_v6:
            latency[f"{region}-v4"] = seconds
    return NetInfo(
        mapping_varies_by_dest_ip=report.mapping_varies,
        working_ipv6=bool(report.latency_v6),
        os_has_ipv6=os_has_ipv6,
        working_udp=report.udp,
        preferred_derp=preferred,
        derp_latency=dict(sorted(latency.items())),
    )
