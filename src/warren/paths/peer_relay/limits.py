"""Numbers of the peer relays, those of the stock programs where they show on the wire."""

from __future__ import annotations

VNI_MAX = (1 << 24) - 1
GENERATION_MAX = (1 << 32) - 1

BIND_S = 30.0
"""A session that not both clients have bound ends after this."""
STEADY_S = 300.0
"""A bound session ends when one side was silent for this long."""
SECRET_S = 120.0
"""The server's secret is renewed this often; the one before stays good as long again."""
SESSIONS_MAX = 1024
SESSIONS_PER_CLIENT_MAX = 128
ADDRESSES_MAX = 32
"""Addresses of one relay that are told, and that are tried."""

RELAYS_MAX = 8
"""Relays that a client asks at once for one peer."""
HANDSHAKES_MAX = 8
DISCOVER_AFTER_S = 0.5
"""How long the direct paths have before relays are asked."""
DISCOVER_EVERY_S = 30.0
ALLOCATE_RETRY_S = 3.0
ALLOCATE_FOR_S = 10.0
HANDSHAKE_S = 30.0
BIND_OFFSETS_S = (0.0, 1.0, 3.0, 7.0, 15.0)
PINGS_MAX = 10
"""Pings of one handshake, so that two sides that answer each other's come to an end."""
PING_OFFSETS_S = (0.0, 0.5, 1.5, 3.5, 7.5)
CALLS_BURST = 4.0
CALLS_PER_S = 0.5
ANSWERS_BURST = 20.0
ANSWERS_PER_S = 10.0
"""Pongs through a relay to one peer, so that a flood of pings is not doubled."""


class Bucket:
    """A token bucket: `burst` at once, `per_s` in the long run."""

    __slots__ = ("_at", "_burst", "_left", "_per_s")

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst = self._left = burst
        self._per_s = per_s
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Take one token, if there is one."""
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
