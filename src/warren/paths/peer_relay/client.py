"""For one peer, a way through machines of the network that relay (PROTOCOL §5.12).

While traffic flows and no direct path is trusted, every relay that this node may use is asked
over DERP for a session. What it grants is told to the peer (CallMeMaybeVia), and both sides bind
at the relay and ping each other through it. A session that answers is a path: it beats DERP and
loses to any direct path, which the owner says by `set_direct`. A peer that may use no relay
itself learns of sessions by the other side's call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from warren.disco.messages import (
    AllocateUDPRelayEndpointRequest,
    AllocateUDPRelayEndpointResponse,
    BindUDPRelayEndpointChallenge,
    CallMeMaybeVia,
    Message,
    Ping,
    Pong,
    TxId,
    UDPRelayEndpoint,
)
from warren.keys import DiscoPublic, NodePublic
from warren.netmap.endpoint import Endpoint
from warren.paths import timing
from warren.paths.candidates import is_usable
from warren.paths.peer_relay import limits
from warren.paths.peer_relay.handshake import Handshake, Through
from warren.paths.scoring import advantage, worth_a_switch

_TX_ID_BYTES = 12
_FLIGHTS_MAX = 64
_SMOOTHING = 0.25


class RelayNode(NamedTuple):
    """A machine that relays. `region`: where it is reached over DERP."""

    key: NodePublic
    disco: DiscoPublic
    region: int


class ToRelay(NamedTuple):
    """A message to seal for the relay's node and send over DERP."""

    relay: RelayNode
    message: AllocateUDPRelayEndpointRequest


class ToPeer(NamedTuple):
    """A message to seal for the peer and send over DERP."""

    message: CallMeMaybeVia


class ViaLease(NamedTuple):
    """Let data take a session for `lease_ms`, unless there is a direct path; None: no longer."""

    endpoint: Endpoint | None
    vni: int
    lease_ms: int


@dataclass(slots=True)
class Session:
    """A session that answered. Times are monotonic seconds."""

    at: Endpoint
    offer: UDPRelayEndpoint
    latency_s: float
    ponged_at: float
    flights: dict[TxId, float] = field(default_factory=dict)
    asked: set[TxId] = field(default_factory=set)
    """Those of `flights` that a person sent: their pongs become events."""

    @property
    def vni(self) -> int:
        """The session's number at its relay."""
        return self.offer.vni

    @property
    def trusted_until(self) -> float:
        """Until when the latest pong counts."""
        return self.ponged_at + timing.TRUST_S

    @property
    def ends(self) -> float:
        """When the relay has forgotten it."""
        return self.ponged_at + min(limits.STEADY_S, self.offer.steady_state_lifetime_ns / 1e9)


class ViaPonged(NamedTuple):
    """A ping that `ping` sent was answered."""

    tx_id: TxId
    session: Session
    rtt_s: float


ViaEvent = ViaLease | ViaPonged


class _Allocation(NamedTuple):
    relay: RelayNode
    generation: int
    began: float
    repeat_at: float


class ViaPaths:
    """The machine for one peer. `entropy` gives that many random bytes."""

    def __init__(
        self,
        own_key: NodePublic,
        own_disco: DiscoPublic,
        peer_disco: DiscoPublic,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._own_key = own_key
        self._own_disco = own_disco
        self.peer = peer_disco
        self._entropy = entropy
        self._relays: tuple[RelayNode, ...] = ()
        self._generation = int.from_bytes(entropy(4), "big")
        self._direct = False
        self._active_until = 0.0
        self._busy_until = 0.0
        self._next_discovery: float | None = None
        self._allocations: dict[NodePublic, _Allocation] = {}
        self._handshakes: dict[DiscoPublic, Handshake] = {}
        self._sessions: dict[DiscoPublic, Session] = {}
        self._best: Session | None = None
        self._next_ping = 0.0
        self._unanswered = 0
        self._calls = limits.Bucket(limits.CALLS_BURST, limits.CALLS_PER_S)
        self._answers = limits.Bucket(limits.ANSWERS_BURST, limits.ANSWERS_PER_S)
        self._transmits: deque[ToRelay | ToPeer | Through] = deque()
        self._events: deque[ViaEvent] = deque()
        self.outcomes: dict[NodePublic, str] = {}
        """What became of each relay that was asked last, in words."""
        self.dropped: dict[str, int] = {}

    # What is known.

    def set_relays(self, relays: Iterable[RelayNode]) -> None:
        """Take the machines that this node may ask."""
        self._relays = tuple(relays)[: limits.RELAYS_MAX]
        keys = {relay.key for relay in self._relays}
        for table in (self._allocations, self.outcomes):
            for key in table.keys() - keys:
                del table[key]

    def set_direct(self, direct: bool, now: float) -> None:
        """Tell whether a direct path is trusted; then nothing is asked and nothing pinged."""
        if direct == self._direct:
            return
        self._direct = direct
        if direct:
            self._next_discovery = None
            self._allocations.clear()
            self._handshakes.clear()
        elif self.is_active(now):
            self._resume(now)

    def note_active(self, now: float) -> None:
        """Traffic is being sent to the peer."""
        was_active = self.is_active(now)
        self._active_until = now + timing.ACTIVE_S
        self._busy_until = now + timing.BUSY_S
        if not was_active and not self._direct:
            self._resume(now)

    def ping(self, now: float) -> TxId | None:
        """Ping for a person, through the session that carries data; None where none does."""
        session = self.path(now)
        if session is None or self._direct:
            return None
        tx_id = self._ping(session, now)
        session.asked.add(tx_id)
        return tx_id

    def network_changed(self, now: float) -> None:
        """This machine's addresses changed: relays know it by another one."""
        self._handshakes.clear()
        self._sessions.clear()
        self._lose_best()
        if self.is_active(now) and not self._direct:
            self._next_discovery = now

    # What happens.

    def receive_allocated(
        self, relay: NodePublic, message: AllocateUDPRelayEndpointResponse, now: float
    ) -> None:
        """Take a relay's answer, which came over DERP."""
        asked = self._allocations.get(relay)
        if asked is None or asked.generation != message.generation:
            self._drop("allocation not asked for")
            return
        if not self._is_ours(message.endpoint):
            self._drop("allocation for others")
            return
        del self._allocations[relay]
        self.outcomes[relay] = "it gave a session"
        self._transmits.append(ToPeer(CallMeMaybeVia(message.endpoint)))
        self._begin(message.endpoint, now)

    def receive_call(self, message: CallMeMaybeVia, now: float) -> None:
        """Take the peer's word of a session, which came over DERP."""
        if not self._calls.take(now):
            self._drop("call over the rate")
        elif not self._is_ours(message.endpoint):
            self._drop("call for others")
        else:
            self._begin(message.endpoint, now)

    def receive(
        self, message: Message, sender: DiscoPublic, src: Endpoint, vni: int, now: float
    ) -> None:
        """Take an opened message that came in a relay's header."""
        if isinstance(message, BindUDPRelayEndpointChallenge):
            handshake = self._handshakes.get(sender)
            if handshake is None or vni != message.vni:
                self._drop("challenge of no handshake")
            elif (said := handshake.challenged(message, src, now)) is None:
                self._drop("challenge not taken")
            else:
                self._transmits += said
        elif isinstance(message, Ping):
            self._receive_ping(message, src, vni, now)
        elif isinstance(message, Pong):
            self._receive_pong(message, src, vni, now)
        else:
            self._drop("message not for a relay")

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self._expire(now)
        for key, asked in list(self._allocations.items()):
            if now >= asked.repeat_at:
                self._allocations[key] = asked._replace(repeat_at=now + limits.ALLOCATE_RETRY_S)
                self._ask(asked)
        for handshake in self._handshakes.values():
            self._transmits += handshake.continue_at(now)
        if self._direct or not self.is_active(now):
            self._next_discovery = None
            return
        if self._next_discovery is not None and now >= self._next_discovery:
            self._discover(now)
        if self._best is not None and now >= self._next_ping:
            self._keep(self._best, now)

    def poll_transmit(self) -> ToRelay | ToPeer | Through | None:
        """Return the next message to send."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> ViaEvent | None:
        """Return the next lease, or the answer to a person's ping."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> tuple[float, str] | None:
        """Tell when `handle_timeout` is due, and why."""
        due = [(h.due(), "a handshake goes on") for h in self._handshakes.values()]
        for asked in self._allocations.values():
            at = min(asked.repeat_at, asked.began + limits.ALLOCATE_FOR_S)
            due.append((at, "a relay is asked again"))
        due += [(session.ends, "a session ends") for session in self._sessions.values()]
        if not self._direct and self._active_until:
            due.append((self._active_until, "the peer falls idle"))
            if self._next_discovery is not None:
                due.append((self._next_discovery, "relays are looked for"))
            if self._best is not None:
                due.append((self._next_ping, "a heartbeat"))
        return min(due) if due else None

    # What others ask.

    def is_active(self, now: float) -> bool:
        """Whether something was sent to the peer of late."""
        return now < self._active_until

    def is_idle(self) -> bool:
        """Whether this machine may be forgotten: it has nothing that it could not find again."""
        return not (self._allocations or self._handshakes or self._sessions or self._active_until)

    def awaits(self, server: DiscoPublic, vni: int) -> bool:
        """Whether a handshake with this server is under way, so that its box may be opened."""
        handshake = self._handshakes.get(server)
        return handshake is not None and handshake.endpoint.vni == vni

    def knows(self, src: Endpoint, vni: int) -> bool:
        """Whether the peer's messages may come by this address and number."""
        sessions = any((s.at, s.vni) == (src, vni) for s in self._sessions.values())
        return sessions or self._handshake_at(src, vni) is not None

    def path(self, now: float) -> Session | None:
        """Return the session that carries data while no direct path does."""
        best = self._best
        return best if best is not None and now < best.trusted_until else None

    # Looking for relays.

    def _resume(self, now: float) -> None:
        """A relay is needed again: the last one is asked at once, others a moment later."""
        self._next_ping = now
        self._unanswered = 0
        self._next_discovery = now + limits.DISCOVER_AFTER_S

    def _discover(self, now: float) -> None:
        self._next_discovery = now + (
            timing.UPGRADE_S if self.path(now) is not None else limits.DISCOVER_EVERY_S
        )
        pair = _pair(self._own_disco, self.peer)
        for relay in self._relays:
            if relay.disco in pair or relay.key in self._allocations:
                continue
            asked = _Allocation(relay, self._new_generation(), now, now + limits.ALLOCATE_RETRY_S)
            self._allocations[relay.key] = asked
            self.outcomes[relay.key] = "it did not answer"
            self._ask(asked)

    def _ask(self, asked: _Allocation) -> None:
        pair = _pair(self._own_disco, self.peer)
        request = AllocateUDPRelayEndpointRequest(pair, asked.generation)
        self._transmits.append(ToRelay(asked.relay, request))

    def _is_ours(self, offer: UDPRelayEndpoint) -> bool:
        """Whether an offer is for this node and this peer, and can be one at all."""
        pair = _pair(self._own_disco, self.peer)
        if tuple(sorted(offer.clients)) != pair or not 1 <= offer.vni <= limits.VNI_MAX:
            return False
        return offer.server not in pair and not offer.server.is_zero

    def _begin(self, offer: UDPRelayEndpoint, now: float) -> None:
        """Bind at an offered session, unless that is done or under way."""
        if self._direct:
            return
        under_way = self._handshakes.get(offer.server)
        if under_way is not None and under_way.endpoint.lamport_id >= offer.lamport_id:
            return
        session = self._sessions.get(offer.server)
        if session is not None:
            if session.offer.lamport_id > offer.lamport_id:
                return
            if session.vni == offer.vni and now < session.trusted_until:
                # To bind again could move the session to another address under its packets.
                return
        addresses = tuple(at for at in dict.fromkeys(offer.endpoints) if is_usable(at))
        full = len(self._handshakes) >= limits.HANDSHAKES_MAX and under_way is None
        if not addresses or full:
            self._drop("offer not taken")
            return
        self._handshakes[offer.server] = handshake = Handshake(
            offer,
            addresses[: limits.ADDRESSES_MAX],
            self.peer,
            self._own_key,
            self._new_generation(),
            self._entropy,
            now,
        )
        self._transmits += handshake.continue_at(now)

    def _new_generation(self) -> int:
        self._generation = self._generation % limits.GENERATION_MAX + 1
        return self._generation

    # A session that works.

    def _keep(self, best: Session, now: float) -> None:
        """Ping the session in use; leave it when pongs stay out."""
        if self._unanswered > timing.SUSPECT_TRIES:
            self._sessions.pop(best.offer.server, None)
            self._lose_best()
            others = [s for s in self._sessions.values() if now < s.trusted_until]
            if others:
                self._use(min(others, key=lambda s: s.latency_s), now)
            self._next_discovery = now
            self._discover(now)
            return
        self._ping(best, now)
        patience_s = max(timing.SUSPECT_AFTER_S, 3 * best.latency_s)
        self._next_ping = now + (timing.SUSPECT_EVERY_S if self._unanswered else patience_s)
        self._unanswered += 1

    def _ping(self, session: Session, now: float) -> TxId:
        tx_id = TxId(self._entropy(_TX_ID_BYTES))
        if len(session.flights) >= _FLIGHTS_MAX:
            oldest = next(iter(session.flights))
            del session.flights[oldest]
            session.asked.discard(oldest)
        session.flights[tx_id] = now
        ping = Ping(tx_id, self._own_key)
        self._transmits.append(Through(session.at, session.vni, self.peer, False, ping))
        return tx_id

    def _use(self, session: Session, now: float) -> None:
        self._best = session
        self._unanswered = 0
        busy = now < self._busy_until
        self._next_ping = now + (timing.BUSY_HEARTBEAT_S if busy else timing.HEARTBEAT_S)
        left_ms = int((session.trusted_until - now) * 1000)
        self._events.append(ViaLease(session.at, session.vni, left_ms))

    def _lose_best(self) -> None:
        if self._best is not None:
            self._events.append(ViaLease(None, 0, 0))
        self._best = None

    def _receive_ping(self, ping: Ping, src: Endpoint, vni: int, now: float) -> None:
        if not self.knows(src, vni):
            self._drop("ping through no session")
            return
        if not self._answers.take(now):
            self._drop("ping over the rate")
            return
        # The wire's answer names the relay's address: that is whence the ping came.
        self._transmits.append(Through(src, vni, self.peer, False, Pong(ping.tx_id, src)))
        handshake = self._handshake_at(src, vni)
        if handshake is not None:
            self._transmits += handshake.pinged(src, now)

    def _receive_pong(self, pong: Pong, src: Endpoint, vni: int, now: float) -> None:
        handshake = self._handshake_at(src, vni)
        rtt_s = handshake.ponged(pong.tx_id, src, now) if handshake else None
        if handshake is not None and rtt_s is not None:
            offer = handshake.endpoint
            del self._handshakes[offer.server]
            before = self._sessions.get(offer.server)
            session = self._sessions[offer.server] = Session(src, offer, rtt_s, now)
            if before is not None and before is self._best:
                # The relay knows one address of ours: the old session is this one now.
                self._best = session
            self._consider(session, now)
            return
        for session in self._sessions.values():
            if (session.at, session.vni) == (src, vni) and pong.tx_id in session.flights:
                rtt_s = max(0.0, now - session.flights.pop(pong.tx_id))
                session.latency_s += _SMOOTHING * (rtt_s - session.latency_s)
                session.ponged_at = now
                if pong.tx_id in session.asked:
                    session.asked.discard(pong.tx_id)
                    self._events.append(ViaPonged(pong.tx_id, session, rtt_s))
                self._consider(session, now)
                return
        self._drop("pong to no ping")

    def _consider(self, session: Session, now: float) -> None:
        best = self.path(now)
        if best is None or best is session:
            self._use(session, now)
            return
        points = advantage(session.at, session.latency_s, best.at, best.latency_s)
        if worth_a_switch(points):
            self._use(session, now)

    def _handshake_at(self, src: Endpoint, vni: int) -> Handshake | None:
        for handshake in self._handshakes.values():
            if handshake.answered_at == src and handshake.endpoint.vni == vni:
                return handshake
        return None

    def _expire(self, now: float) -> None:
        for key, asked in list(self._allocations.items()):
            if now >= asked.began + limits.ALLOCATE_FOR_S:
                del self._allocations[key]
        for server, handshake in list(self._handshakes.items()):
            if now >= handshake.ends:
                del self._handshakes[server]
        for server, session in list(self._sessions.items()):
            if now >= session.ends:
                del self._sessions[server]
                if session is self._best:
                    self._lose_best()
        if not self.is_active(now):
            self._active_until = 0.0

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def _pair(a: DiscoPublic, b: DiscoPublic) -> tuple[DiscoPublic, DiscoPublic]:
    return (a, b) if a < b else (b, a)
