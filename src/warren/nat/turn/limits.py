"""What keeps a TURN server small and quiet: rates and quotas, all of bounded size."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address

from warren.nat.turn.events import IPAddress

MAX_SOURCES = 4096


@dataclass
class Bucket:
    """Fills by `rate` a second up to `burst`."""

    rate: float
    burst: float
    level: float
    at: float

    def take(self, amount: float, now: float) -> bool:
        """Take an amount if it is there."""
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < amount:
            return False
        self.level -= amount
        return True


class AnswerRate:
    """How many answers may go to sources that have not shown that they are who they say.

    A source address of a datagram may be forged, and a challenge is longer than what asks for it.
    With a rate for each source and one for all, the server is no use for a flood.
    """

    def __init__(
        self,
        now: float,
        per_source: float = 5.0,
        burst: float = 30.0,
        in_all: float = 1000.0,
    ) -> None:
        self._per_source, self._burst = per_source, burst
        self._all = Bucket(in_all, in_all, in_all, now)
        # Those used least lately are forgotten first; a forgotten one starts with a full bucket,
        # which the rate for all makes up for.
        self._sources: OrderedDict[int, Bucket] = OrderedDict()

    def may_answer(self, source: IPAddress, now: float) -> bool:
        """Count an answer to a source; False: stay silent."""
        key = _block(source)
        bucket = self._sources.get(key)
        if bucket is None:
            bucket = self._sources[key] = Bucket(self._per_source, self._burst, self._burst, now)
            if len(self._sources) > MAX_SOURCES:
                self._sources.popitem(last=False)
        self._sources.move_to_end(key)
        return bucket.take(1, now) and self._all.take(1, now)

    def __len__(self) -> int:
        """How many sources are remembered."""
        return len(self._sources)


def _block(ip: IPAddress) -> int:
    """Return what counts as one source: an IPv4 address, or an IPv6 network of 64 bits."""
    return -(int(ip) >> 64) - 1 if isinstance(ip, IPv6Address) else int(ip)
