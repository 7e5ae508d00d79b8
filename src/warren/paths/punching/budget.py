"""How much punching a node does at once: towards one address, and in sockets.

One of each for a node, shared by all its peers: two peers behind one carrier's address must not
make us send it twice as much.
"""

from __future__ import annotations

from collections import deque
from ipaddress import IPv4Address, IPv6Address

PROBES_PER_S = 100
SOCKETS_MAX = 512
"""Sockets open for punching at one time, over all peers."""
_ADDRESSES_MAX = 1024

Address = IPv4Address | IPv6Address


class ProbeBudget:
    """At most `per_s` probes to one address in any second, counted exactly."""

    def __init__(self, per_s: int = PROBES_PER_S) -> None:
        self.per_s = per_s
        self._sent: dict[Address, deque[tuple[float, int]]] = {}

    def take(self, address: Address, count: int, now: float) -> bool:
        """Spend `count` probes now, or none and return False."""
        if self._full(address, now):
            return False
        sent = self._recent(address, now)
        if sum(n for _, n in sent) + count > self.per_s:
            return False
        sent.append((now, count))
        return True

    def note(self, address: Address, now: float) -> None:
        """Count a ping that was sent for other reasons; probes have that much less room."""
        if not self._full(address, now):
            self._recent(address, now).append((now, 1))

    def next_free(self, address: Address, count: int, now: float) -> float:
        """Return when `count` probes can be spent, if nobody else spends any."""
        if self._full(address, now):
            return now + 1.0
        sent = self._recent(address, now)
        room = self.per_s - sum(n for _, n in sent)
        if room >= count:
            return now
        for at, n in sent:
            room += n
            if room >= count:
                return at + 1.0
        return now + 1.0

    def _recent(self, address: Address, now: float) -> deque[tuple[float, int]]:
        sent = self._sent.setdefault(address, deque())
        # Compared as `next_free` computes it, or rounding would make a free moment not free.
        while sent and sent[0][0] + 1.0 <= now:
            sent.popleft()
        return sent

    def _full(self, address: Address, now: float) -> bool:
        """Whether too many other addresses were sent something in this second."""
        if address in self._sent or len(self._sent) < _ADDRESSES_MAX:
            return False
        for other, sent in list(self._sent.items()):
            if not sent or sent[-1][0] + 1.0 <= now:
                del self._sent[other]
        return len(self._sent) >= _ADDRESSES_MAX


class SocketBudget:
    """How many punching sockets a node has open, and the numbers of their groups."""

    def __init__(self, limit: int = SOCKETS_MAX) -> None:
        self.limit = limit
        self._open: dict[int, int] = {}
        self._last_group = 0

    @property
    def open(self) -> int:
        """How many sockets are open now."""
        return sum(self._open.values())

    def open_group(self, count: int) -> int:
        """Account for `count` sockets and return their group's number, or 0: too many."""
        if count <= 0 or self.open + count > self.limit:
            return 0
        self._last_group += 1
        self._open[self._last_group] = count
        return self._last_group

    def note_open(self, group: int, count: int) -> None:
        """Account for a group whose sockets were exchanged for fresh ones."""
        self._open[group] = count

    def keep_one(self, group: int) -> None:
        """Account for a group that shrank to the one socket that found a path."""
        if group in self._open:
            self._open[group] = 1

    def close(self, group: int) -> None:
        """Account for a closed group."""
        self._open.pop(group, None)
