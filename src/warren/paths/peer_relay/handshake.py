"""One bind handshake of a client at a relay, and the first pings through it (PROTOCOL §5.12)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from warren.disco.messages import (
    BindUDPRelayEndpoint,
    BindUDPRelayEndpointAnswer,
    BindUDPRelayEndpointChallenge,
    Message,
    Ping,
    TxId,
    UDPRelayEndpoint,
)
from warren.keys import DiscoPublic, NodePublic
from warren.netmap.endpoint import Endpoint
from warren.paths.peer_relay import limits

_TX_ID_BYTES = 12


class Through(NamedTuple):
    """A message to seal for `receiver` and send in the relay's header.

    control: it is for the relay itself, and has the control bit.
    """

    to: Endpoint
    vni: int
    receiver: DiscoPublic
    control: bool
    message: Message


@dataclass(slots=True)
class Handshake:
    """Binds at every address of a relay, answers the first challenge, pings until a pong comes.

    addresses: those of `endpoint` that can be tried. `answered_at`: the address whose challenge
    was answered; the relay knows one address of ours, so all others are let go.
    """

    endpoint: UDPRelayEndpoint
    addresses: tuple[Endpoint, ...]
    peer: DiscoPublic
    own_key: NodePublic
    generation: int
    entropy: Callable[[int], bytes]
    began: float
    answered_at: Endpoint | None = None
    _challenge: bytes = b""
    _step: int = 0
    _next: float = 0.0
    _phase_began: float = 0.0
    _pinged: dict[TxId, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._next = self._phase_began = self.began

    @property
    def ends(self) -> float:
        """When it has failed."""
        return self.began + min(limits.HANDSHAKE_S, self.endpoint.bind_lifetime_ns / 1e9)

    def due(self) -> float:
        """When `continue_at` has something to do."""
        return min(self._next, self.ends)

    def continue_at(self, now: float) -> list[Through]:
        """Repeat what may have been lost; empty while it is not yet time."""
        if now < self._next:
            return []
        if self.answered_at is None:
            said = [self._through(at, True, self._bind()) for at in self.addresses]
            offsets = limits.BIND_OFFSETS_S
        else:
            # The answer may be lost as well; the relay drops a second one without harm.
            said = [self._answer(self.answered_at), *self._ping(self.answered_at, now)]
            offsets = limits.PING_OFFSETS_S
        self._step += 1
        more = self._step < len(offsets)
        self._next = self._phase_began + offsets[self._step] if more else self.ends
        return said

    def challenged(
        self, message: BindUDPRelayEndpointChallenge, src: Endpoint, now: float
    ) -> list[Through] | None:
        """Take a challenge. None: it is not for this handshake, or another was answered."""
        bind = self._bind()
        if message[:3] != bind[:3] or src not in self.addresses:
            return None
        if self.answered_at is not None:
            return None
        self.answered_at, self._challenge = src, message.challenge
        self._phase_began, self._step, self._next = now, 0, now
        return self.continue_at(now)

    def pinged(self, src: Endpoint, now: float) -> list[Through]:
        """Take a ping of the peer: it is bound too, so a ping of ours gets through now."""
        return self._ping(src, now) if src == self.answered_at else []

    def ponged(self, tx_id: TxId, src: Endpoint, now: float) -> float | None:
        """Take a pong; the round trip in seconds, or None if it answers no ping of ours."""
        at = self._pinged.get(tx_id)
        return None if at is None or src != self.answered_at else max(0.0, now - at)

    def _bind(self) -> BindUDPRelayEndpoint:
        return BindUDPRelayEndpoint(self.endpoint.vni, self.generation, self.peer)

    def _answer(self, to: Endpoint) -> Through:
        answer = BindUDPRelayEndpointAnswer(
            self.endpoint.vni, self.generation, self.peer, self._challenge
        )
        return self._through(to, True, answer)

    def _ping(self, to: Endpoint, now: float) -> list[Through]:
        if len(self._pinged) >= limits.PINGS_MAX:
            return []
        tx_id = TxId(self.entropy(_TX_ID_BYTES))
        self._pinged[tx_id] = now
        return [self._through(to, False, Ping(tx_id, self.own_key))]

    def _through(self, to: Endpoint, control: bool, message: Message) -> Through:
        receiver = self.endpoint.server if control else self.peer
        return Through(to, self.endpoint.vni, receiver, control, message)
