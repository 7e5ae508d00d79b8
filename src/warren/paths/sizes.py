"""How large a packet may be on the path to one peer: RFC 8899 (DPLPMTUD) with disco pings.

A path in use begins at the base size, which every path carries. Pings padded to larger sizes and
sent whole (Don't Fragment) are answered by any disco node, so a pong proves that a datagram of
that size arrives in this direction; only such a size is used. It is asked for again while traffic
flows. When it is not confirmed any more on a path that answers small pings, the size falls back to
the base at once (a black hole: no ICMP message is needed, or believed) and the search begins anew.
A larger size than the one found is looked for every ten minutes (PMTU_RAISE_TIMER).

Like the machines beside it, this one sends nothing and reads no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from warren.disco.messages import Message, Ping, Pong, TxId
from warren.keys import NodePublic
from warren.netmap.endpoint import Endpoint
from warren.paths.mtu import BASE_MTU_BYTES, WIRE_SIZES, inside_bytes, ip_and_udp_bytes
from warren.paths.punching.sockets import Aside

PING_BYTES = 124
"""UDP payload of a ping without padding (PROTOCOL §5.1)."""

SETTLE_S = 1.0
"""A new path is left alone for so long: a better one may come, and the peer's side of punching
counts every ping as a try."""
PROBES_MAX = 3
"""A size is given up after so many pings (MAX_PROBES)."""
PROBE_EVERY_S = 0.5
CONFIRM_EVERY_S = 0.6
"""Often enough that TCP has not backed off far when a size falls (RFC 6298 §5.5) …"""
CONFIRM_AFTER_S, CONFIRM_AGAIN_S = 0.3, 0.2
"""… for which the first and the further pongs are waited for so long."""
RAISE_AFTER_S = 600.0
FIRST_SIZES = frozenset({9001, 9000, 8896, 1500, 1440, 1400})
"""Tried first; what the first link does not carry never leaves the machine."""
_NEXT_SIZES = 4
"""Then so many at a time that are larger than the largest confirmed."""
_TX_ID_BYTES = 12
_FLIGHTS_MAX = 64


class Probe(NamedTuple):
    """A ping; a padded one is to be sent whole."""

    to: Endpoint | Aside
    message: Ping


class PathSize:
    """The search on the path of one peer. `entropy` gives that many random bytes."""

    def __init__(self, own_key: NodePublic, entropy: Callable[[int], bytes]) -> None:
        self._own_key = own_key
        self._entropy = entropy
        self._via: Endpoint | Aside | None = None
        self._known: Endpoint | Aside | None = None
        """The path that `_wire_bytes` is about; kept while the peer is idle."""
        self._wire_bytes = 0
        """Largest size confirmed; 0: the base."""
        self._confirmed_at = 0.0
        self._latency_s = 0.0
        self._busy = False
        self._tries = 0
        self._next_try: float | None = None
        self._next_confirm: float | None = None
        self._unanswered = 0
        self._small_passes = False
        """Whether a small ping was answered since large ones are not."""
        self._flights: dict[TxId, int] = {}
        """The size that each ping asked about; 0: whether anything passes."""
        self._out: list[Probe] = []
        self.fallbacks = 0
        """How often a size stopped being confirmed."""

    def mtu_of(self, via: Endpoint | Aside | None) -> int:
        """Return the largest packet inside the tunnel that a path is known to carry."""
        if not self._wire_bytes or via is None or via != self._known:
            return BASE_MTU_BYTES
        return inside_bytes(self._wire_bytes, _endpoint(via))

    def follow(
        self,
        via: Endpoint | Aside | None,
        now: float,
        *,
        latency_s: float = 0.0,
        busy: bool = False,
    ) -> None:
        """Take the path in use, or None while there is none or nobody uses it.

        busy: traffic flows now, so a size that stops working must be noticed soon.
        """
        woken = busy and not self._busy
        self._latency_s, self._busy = latency_s, busy
        if via == self._via:
            if woken and self._next_confirm is None and self._wire_bytes and via is not None:
                self._next_confirm = now
            return
        self._via = via
        self._stop()
        if via is None:
            return
        if via == self._known and self._wire_bytes and now - self._confirmed_at < RAISE_AFTER_S:
            # The same path as before a pause: good until it is refuted, and asked for at once.
            self._next_confirm = now
            self._next_try = self._confirmed_at + RAISE_AFTER_S
            return
        self._known, self._wire_bytes = via, 0
        self._next_try = now + SETTLE_S

    def forget(self) -> None:
        """The machine is in another network: nothing of before holds."""
        self._via = self._known = None
        self._wire_bytes = 0
        self._stop()

    def receive(self, message: Message, via: Endpoint | Aside, now: float) -> bool:
        """Take a pong to a padded ping; False: it is none of those."""
        asked = self._flights.pop(message.tx_id, None) if isinstance(message, Pong) else None
        if asked is None:
            return False
        if via == self._via and not asked:
            self._small_passes = True
        elif via == self._via and asked >= self._wire_bytes:
            if asked > self._wire_bytes and self._tries:
                self._tries = 1  # There may be more where this came from.
            self._wire_bytes, self._confirmed_at = asked, now
            self._unanswered = 0
            self._next_confirm = now + CONFIRM_EVERY_S if self._busy else None
            if asked == WIRE_SIZES[0]:
                self._end_search(now)
        return True

    def handle_timeout(self, now: float) -> None:
        """Send what is due; fall back if the size is not confirmed any more."""
        if self._via is None:
            return
        if self._next_confirm is not None and now >= self._next_confirm:
            self._confirm(now)
        if self._next_try is not None and now >= self._next_try:
            self._try(now)

    def poll_transmit(self) -> Probe | None:
        """Return the next padded ping."""
        return self._out.pop(0) if self._out else None

    def next_timeout(self) -> tuple[float, str] | None:
        """Tell when `handle_timeout` is due, and why."""
        due = []
        if self._next_confirm is not None:
            due.append((self._next_confirm, "the packet size is confirmed"))
        if self._next_try is not None:
            due.append((self._next_try, "a larger packet size is tried"))
        return min(due) if due and self._via is not None else None

    def _try(self, now: float) -> None:
        assert self._via is not None
        if self._tries >= PROBES_MAX:
            self._end_search(now)
            return
        self._tries += 1
        self._next_try = now + max(PROBE_EVERY_S, 3 * self._latency_s)
        to = _endpoint(self._via)
        known = self.mtu_of(self._via)
        larger = [size for size in WIRE_SIZES if inside_bytes(size, to) > known]
        # From the largest down: the first pong is then likely to be the one that counts.
        asked = [size for size in larger if size in FIRST_SIZES] if not self._wire_bytes else []
        for size in asked if self._tries == 1 and asked else larger[-_NEXT_SIZES:]:
            self._ping(size)

    def _end_search(self, now: float) -> None:
        self._tries = 0
        self._next_try = now + RAISE_AFTER_S

    def _confirm(self, now: float) -> None:
        if self._unanswered >= PROBES_MAX and self._small_passes:
            self.fallbacks += 1
            self._stop()
            self._wire_bytes = 0
            self._next_try = now
        elif not self._busy and not self._unanswered:
            self._next_confirm = None  # Nothing can be lost; traffic begins with a question.
        else:
            self._unanswered += 1
            pause_s = CONFIRM_AGAIN_S if self._unanswered <= PROBES_MAX else PROBE_EVERY_S
            if self._unanswered == 1:
                self._small_passes = False
                pause_s = max(CONFIRM_AFTER_S, 3 * self._latency_s)
            else:
                # Where nothing is answered it is not the size: the path is left before long.
                self._ping(0)
            self._next_confirm = now + pause_s
            self._ping(self._wire_bytes)

    def _ping(self, wire_bytes: int) -> None:
        assert self._via is not None
        if len(self._flights) >= _FLIGHTS_MAX:
            del self._flights[next(iter(self._flights))]
        tx_id = TxId(self._entropy(_TX_ID_BYTES))
        self._flights[tx_id] = wire_bytes
        unpadded = ip_and_udp_bytes(_endpoint(self._via)) + PING_BYTES
        padding = max(0, wire_bytes - unpadded)
        self._out.append(Probe(self._via, Ping(tx_id, self._own_key, padding)))

    def _stop(self) -> None:
        self._tries = self._unanswered = 0
        self._next_try = self._next_confirm = None
        self._flights.clear()
        self._out.clear()


def _endpoint(via: Endpoint | Aside) -> Endpoint:
    return via.endpoint if isinstance(via, Aside) else via
