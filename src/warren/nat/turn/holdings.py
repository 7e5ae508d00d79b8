"""What a TURN client has at its server beside the allocation: permissions and channels.

A permission is for all ports of an address, a channel for one of a peer (RFC 8656 §9, §12). The
table knows which were asked for and which were granted, and when each is to be asked for anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from warren.nat.turn.events import IPAddress
from warren.nat.turn.numbers import FIRST_CHANNEL, LAST_CHANNEL
from warren.netmap.endpoint import Endpoint

MAX_PEERS = 512
RENEW_PEER_S = 240.0
"""Permissions last 300 s and can't be asked for longer."""

Holder = IPAddress | Endpoint
"""Whom something is for: the address of a permission, or the peer of a channel."""


@dataclass
class _Grant:
    """Whether the server has granted it, and when to renew it; None while it is asked for."""

    granted: bool = False
    renew_at: float | None = None


class Holdings:
    """The table of one allocation. It is emptied with the allocation (`clear`)."""

    def __init__(self) -> None:
        self._grants: dict[Holder, _Grant] = {}
        self._numbers: dict[Endpoint, int] = {}
        self._peers: dict[int, Endpoint] = {}

    def has(self, holder: Holder) -> bool:
        """Whether it was asked for and not forgotten."""
        return holder in self._grants

    def has_room_for(self, holder: Holder) -> bool:
        """Whether it is here, or may be added."""
        return holder in self._grants or len(self._grants) < MAX_PEERS

    def is_granted(self, holder: Holder) -> bool:
        """Whether the server has granted it."""
        grant = self._grants.get(holder)
        return grant is not None and grant.granted

    def lets_in(self, ip: IPAddress) -> bool:
        """Whether something here, granted or not yet, lets datagrams from an address in."""
        return ip in self._grants or any(
            isinstance(holder, Endpoint) and holder.ip == ip for holder in self._grants
        )

    def number_of(self, peer: Endpoint) -> int:
        """Return the number of a channel that was added."""
        return self._numbers[peer]

    def peer_of(self, channel: int) -> Endpoint | None:
        """Return the peer of a channel that was granted, also if it was forgotten since."""
        return self._peers.get(channel)

    def add_permission(self, ip: IPAddress) -> None:
        """Add what is not here yet."""
        self._grants[ip] = _Grant()

    def add_channel(self, peer: Endpoint) -> bool:
        """Add what is not here yet; False when the numbers are used up.

        A number is not used for another peer while the allocation lives (RFC 8656 §12).
        """
        number = self._numbers.get(peer, FIRST_CHANNEL + len(self._numbers))
        if number > LAST_CHANNEL:
            return False
        self._numbers[peer] = number
        self._grants[peer] = _Grant()
        return True

    def asked(self, holder: Holder) -> None:
        """Note that it is being asked for: no second request before the answer."""
        self._grants[holder].renew_at = None

    def grant(self, holder: Holder, now: float) -> bool:
        """Note the server's yes; whether it is the first one for what is still wanted."""
        grant = self._grants.get(holder)
        if grant is None:
            return False  # forgotten meanwhile
        if isinstance(holder, Endpoint):
            self._peers[self._numbers[holder]] = holder
        grant.renew_at = now + RENEW_PEER_S
        first, grant.granted = not grant.granted, True
        return first

    def forget(self, holder: Holder) -> None:
        """Let it run out: what still comes by it is known."""
        self._grants.pop(holder, None)

    def refuse(self, holder: Holder) -> None:
        """Note the server's no."""
        self._grants.pop(holder, None)
        if isinstance(holder, Endpoint):
            self._peers.pop(self._numbers[holder], None)

    def due(self, now: float) -> list[Holder]:
        """Return what is to be asked for anew."""
        return [
            holder
            for holder, grant in self._grants.items()
            if grant.renew_at is not None and grant.renew_at <= now
        ]

    def next_renewal(self) -> float | None:
        """Return when `due` will have something next."""
        times = (grant.renew_at for grant in self._grants.values())
        return min((time for time in times if time is not None), default=None)

    def clear(self) -> None:
        """Forget everything: there is no allocation any more."""
        for table in (self._grants, self._numbers, self._peers):
            table.clear()
