"""How often the API may be asked, and how often a wrong credential may be tried; pure."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import ip_address, ip_network
from typing import NamedTuple

MAX_KNOWN = 4096


def place_of(host: str) -> str:
    """Return whom to count for an address: of IPv6 the network, which one machine has whole."""
    try:
        ip = ip_address(host)
    except ValueError:
        return host
    return host if ip.version == 4 else str(ip_network((ip, 64), strict=False))


class _Bucket(NamedTuple):
    tokens: float
    at: float


class Throttle:
    """A token bucket for each name. The longest unseen is forgotten when there are too many.

    rate: of new tokens a second. burst: how many there are at first, and at the most.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._known: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_s(self, name: str, now: float) -> float:
        """Return how long `name` has to wait until there is a token; 0: there is one."""
        tokens = self._tokens(name, now)
        return 0.0 if tokens >= 1 else (1 - tokens) / self._rate

    def left(self, name: str, now: float) -> int:
        """Return how many tokens there are."""
        return max(0, int(self._tokens(name, now)))

    def take(self, name: str, now: float) -> None:
        """Use a token up, also one that is not there yet."""
        self._known[name] = _Bucket(self._tokens(name, now) - 1, now)
        self._known.move_to_end(name)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _tokens(self, name: str, now: float) -> float:
        bucket = self._known.get(name)
        if bucket is None:
            return self._burst
        return min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
