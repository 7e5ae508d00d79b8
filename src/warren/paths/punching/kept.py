"""The path through the one socket that punching left open: kept alive, leased, given up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from warren.disco.messages import Message, Ping, Pong, TxId
from warren.keys import NodePublic
from warren.paths import timing
from warren.paths.machine import Ponged
from warren.paths.punching.hard import Punched
from warren.paths.punching.sockets import (
    Aside,
    AsideLease,
    AsideTransmit,
    CloseSockets,
    SocketCommand,
)

IDLE_PING_S = 20.0
"""An idle path is pinged this often, so that NATs (30 s and longer, RFC 4787 §4.3) keep it."""
IDLE_MAX_S = 120.0
"""A path that nobody uses is closed after this."""
_DEAD_TRIES = 6
_TX_ID_BYTES = 12
_FLIGHTS_MAX = 64


class KeptPath:
    """A punched path from its first pong on. `alive` is False once the socket is closed."""

    def __init__(
        self,
        punched: Punched,
        own_key: NodePublic,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        self.at = Aside(punched.group, punched.kept, punched.endpoint)
        self.mapped = punched.mapped
        self.latency_s = punched.rtt_s
        self.alive = True
        self._own_key = own_key
        self._entropy = entropy
        self._flights: dict[TxId, float] = {}
        self._out: deque[AsideTransmit | SocketCommand] = deque()
        self._events: deque[AsideLease | Ponged] = deque()
        self._asked: set[TxId] = set()
        self._active_until = now + timing.ACTIVE_S
        self._used_at = now
        self._trusted_until = 0.0
        self._unanswered = 0
        self._due = now
        self._trust(now)

    def is_trusted(self, now: float) -> bool:
        """Whether its last pong still counts."""
        return self.alive and now < self._trusted_until

    def lease(self, now: float) -> AsideLease | None:
        """Return a lease for as long as the last pong counts, or None if it does not."""
        left_ms = int((self._trusted_until - now) * 1000) if self.alive else 0
        return AsideLease(self.at, left_ms) if left_ms > 0 else None

    def note_active(self, now: float) -> None:
        """Traffic is being sent to the peer."""
        if now >= self._active_until or not self.is_trusted(now):
            self._due = min(self._due, now)
        self._active_until = now + timing.ACTIVE_S
        self._used_at = now

    def ping(self, now: float) -> TxId:
        """Ping for a person: the pong becomes an event too."""
        self.note_active(now)
        tx_id = self._ping(now)
        self._asked.add(tx_id)
        return tx_id

    def receive(self, message: Message, via: Aside, now: float) -> None:
        """Take a message that came to the kept socket."""
        if not self.alive or (via.group, via.index) != (self.at.group, self.at.index):
            return
        if isinstance(message, Ping):
            self._used_at = now
            self._out.append(AsideTransmit(via, Pong(message.tx_id, via.endpoint)))
            if via.endpoint != self.at.endpoint and not self.is_trusted(now):
                # The peer's NAT gave it another port: that one must answer for itself.
                self.at = via
                self._ping(now)
        elif isinstance(message, Pong):
            sent_at = self._flights.pop(message.tx_id, None)
            if sent_at is not None and via.endpoint == self.at.endpoint:
                self.latency_s += 0.25 * (max(0.0, now - sent_at) - self.latency_s)
                self.mapped = message.source
                if message.tx_id in self._asked:
                    self._events.append(
                        Ponged(message.tx_id, via.endpoint, max(0.0, now - sent_at))
                    )
                self._trust(now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        if not self.alive or now < self._due:
            return
        if self._unanswered >= _DEAD_TRIES or now - self._used_at >= IDLE_MAX_S:
            self.close()
            return
        self._ping(now)
        self._unanswered += 1
        if self._unanswered > 1:
            self._due = now + timing.SUSPECT_EVERY_S
        else:
            self._due = now + max(timing.SUSPECT_AFTER_S, 3 * self.latency_s)
        if self._unanswered > timing.SUSPECT_TRIES and self.is_trusted(now):
            self._trusted_until = now
            self._events.append(AsideLease(self.at, 0))

    def poll_transmit(self) -> AsideTransmit | SocketCommand | None:
        """Return the next thing to send or do, in order."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> AsideLease | Ponged | None:
        """Return the next answer to a person's ping, or lease; one of 0 ms ends it."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> tuple[float, str] | None:
        """Tell when `handle_timeout` is due, and why."""
        return (self._due, "a ping on a punched path") if self.alive else None

    def close(self) -> None:
        """Close the socket; the path is gone."""
        if self.alive:
            self.alive = False
            self._trusted_until = 0.0
            self._events.append(AsideLease(self.at, 0))
            self._out.append(CloseSockets(self.at.group))

    def _trust(self, now: float) -> None:
        self._trusted_until = now + timing.TRUST_S
        self._unanswered = 0
        self._flights.clear()
        self._asked.clear()
        self._due = now + (timing.HEARTBEAT_S if now < self._active_until else IDLE_PING_S)
        self._events.append(AsideLease(self.at, int(timing.TRUST_S * 1000)))

    def _ping(self, now: float) -> TxId:
        if len(self._flights) >= _FLIGHTS_MAX:
            self._flights.clear()
            self._asked.clear()
        tx_id = TxId(self._entropy(_TX_ID_BYTES))
        self._flights[tx_id] = now
        self._out.append(AsideTransmit(self.at, Ping(tx_id, self._own_key)))
        return tx_id
