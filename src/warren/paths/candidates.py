"""The addresses at which a peer may be reached, and what became of each try."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from warren.netmap.endpoint import Endpoint

CANDIDATES_MAX = 192
_SMOOTHING = 0.25


class Source(Enum):
    """How an address became known."""

    MAP = "map"
    CALL = "call"
    PING = "ping"
    PONG = "pong"


@dataclass(slots=True)
class Candidate:
    """One address, and its history. Times are monotonic seconds."""

    endpoint: Endpoint
    added_at: float
    sources: set[Source] = field(default_factory=set)
    pings: int = 0
    pongs: int = 0
    pinged_at: float | None = None
    ponged_at: float | None = None
    latency_s: float | None = None
    """Smoothed round trip."""
    seen_as: Endpoint | None = None
    """Our own address as the peer saw it on this path."""
    left_at: float | None = None
    """When a better path replaced it as the best one."""

    def begin_anew(self) -> None:
        """Forget what was seen from another network."""
        self.pings = self.pongs = 0
        self.pinged_at = self.ponged_at = self.latency_s = self.seen_as = self.left_at = None

    def record_pong(self, rtt_s: float, seen_as: Endpoint, now: float) -> None:
        """Note that a ping was answered."""
        self.pongs += 1
        self.ponged_at = now
        self.seen_as = seen_as
        if self.latency_s is None:
            self.latency_s = rtt_s
        else:
            self.latency_s += _SMOOTHING * (rtt_s - self.latency_s)

    def is_hearsay(self) -> bool:
        """Whether a ping came from there, and nothing else speaks for it."""
        return not self.pongs and self.sources == {Source.PING}

    def last_heard(self) -> float:
        """Return when it was last of use, or when it became known."""
        return self.ponged_at if self.ponged_at is not None else self.added_at


class CandidateTable:
    """At most `CANDIDATES_MAX` candidates; the one unheard of for longest makes room.

    What only a ping's source address told, and never answered, goes before all others: anybody
    on the way can replay a ping from many addresses.
    """

    def __init__(self) -> None:
        self._by_endpoint: dict[Endpoint, Candidate] = {}

    def __iter__(self) -> Iterator[Candidate]:
        return iter(list(self._by_endpoint.values()))

    def __len__(self) -> int:
        return len(self._by_endpoint)

    def get(self, endpoint: Endpoint) -> Candidate | None:
        """Return the candidate at an address."""
        return self._by_endpoint.get(endpoint)

    def add(self, endpoint: Endpoint, source: Source, now: float) -> Candidate | None:
        """Add an address, or another source of a known one. None: it can't be a peer's."""
        known = self._by_endpoint.get(endpoint)
        if known is not None:
            known.sources.add(source)
            return known
        if not is_usable(endpoint):
            return None
        if len(self._by_endpoint) >= CANDIDATES_MAX:
            oldest = min(
                self._by_endpoint.values(),
                key=lambda known: (not known.is_hearsay(), known.last_heard()),
            )
            del self._by_endpoint[oldest.endpoint]
        candidate = Candidate(endpoint, now, {source})
        self._by_endpoint[endpoint] = candidate
        return candidate

    def replace(self, endpoints: Iterable[Endpoint], source: Source, now: float) -> list[Candidate]:
        """Make `endpoints` all that this source says.

        Addresses that only this source knew, and that never answered, are forgotten. Returns
        the candidates at `endpoints`.
        """
        said = list(dict.fromkeys(endpoints))[: CANDIDATES_MAX // 2]
        keep = set(said)
        for candidate in self:
            if source in candidate.sources and candidate.endpoint not in keep:
                candidate.sources.discard(source)
                if not candidate.sources and not candidate.pongs:
                    del self._by_endpoint[candidate.endpoint]
        added = (self.add(endpoint, source, now) for endpoint in said)
        return [candidate for candidate in added if candidate is not None]


def is_usable(endpoint: Endpoint) -> bool:
    """Whether a ping can be sent there: not unspecified, multicast, broadcast or link-local v6."""
    ip = endpoint.ip
    if endpoint.port == 0 or ip.is_unspecified or ip.is_multicast:
        return False
    if ip.version == 6:
        return not ip.is_link_local
    return ip.packed != b"\xff\xff\xff\xff" and ip.packed[0] != 0
