"""Requests of a client that wait for their answer (RFC 8489 §6.2.1, §6.2.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from warren.nat.stun import TX_ID_BYTES, TxId
from warren.nat.turn.challenge import Session
from warren.nat.turn.message import encode_message
from warren.nat.turn.numbers import Class, Method

RTO_S = 0.5
TRIES = 7
ALLOCATE_TRIES, CHECK_TRIES = 5, 4
"""Fewer where the owner has another server or another way: 15.5 and 7.5 s in all."""
LAST_WAIT = 16
"""Times RTO_S: how long the last try of a datagram is waited for, at the most."""
RELIABLE_WAIT_S = 39.5
MAX_CHALLENGES = 3

_NO_ID = TxId(b"")

Build = Callable[[TxId], list[tuple[int, bytes]]]
"""A request's own attributes; some are masked with its transaction id."""


@dataclass
class Request:
    """One request and its way through challenges."""

    method: Method
    build: Build
    purpose: object
    session: Session | None
    """What it was signed with; an answer must be signed likewise."""
    tries: int = TRIES
    tx_id: TxId = _NO_ID
    data: bytes = b""
    sent: int = 0
    due: float = 0.0
    challenges: int = 0


@dataclass
class Requests:
    """All open requests: sends, sends again, gives up."""

    entropy: Callable[[int], bytes]
    reliable: bool
    transmit: Callable[[bytes], None]
    open: dict[TxId, Request] = field(default_factory=dict)

    def start(self, request: Request, session: Session | None, now: float) -> None:
        """Send a request, signed if there is a session; also again after a challenge."""
        request.session = session
        request.tx_id = TxId(self.entropy(TX_ID_BYTES))
        request.sent = 0
        attributes = request.build(request.tx_id)
        if session is None:
            request.data = encode_message(request.method, Class.REQUEST, request.tx_id, attributes)
        else:
            request.data = encode_message(
                request.method,
                Class.REQUEST,
                request.tx_id,
                attributes + session.attributes(),
                session.key,
                session.integrity,
            )
        self.open[request.tx_id] = request
        self._send(request, now)

    def handle_timeout(self, now: float) -> list[Request]:
        """Send again what is due; return the requests that nobody will answer."""
        given_up = []
        for request in [request for request in self.open.values() if request.due <= now]:
            if self.reliable or request.sent >= request.tries:
                given_up.append(self.open.pop(request.tx_id))
            else:
                self._send(request, now)
        return given_up

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` has something to do."""
        return min((request.due for request in self.open.values()), default=None)

    def _send(self, request: Request, now: float) -> None:
        request.sent += 1
        if self.reliable:
            wait_s = min(RELIABLE_WAIT_S, RTO_S * (2**request.tries - 1))
        elif request.sent == request.tries:
            wait_s = RTO_S * min(LAST_WAIT, 2 ** (request.sent - 1))
        else:
            wait_s = RTO_S * 2 ** (request.sent - 1)
        request.due = now + wait_s
        self.transmit(request.data)
