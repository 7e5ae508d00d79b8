"""One peer's paths with punching added: the machine of ordinary paths, and attempts beside it.

It has the verbs of `PeerPaths` and passes them on. When no path is trusted for a while, somebody
wants one, and one side's ports vary, an attempt begins; after a failure the next waits minutes.
A path through a kept socket is leased only while the ordinary machine has none. Beside both, the
size of packets that the path in use carries is searched for, and leases say what was found.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from warren.disco.messages import (
    CallMeMaybe,
    Message,
    Ping,
    Pong,
    PunchEnd,
    PunchInvite,
    TxId,
)
from warren.disco.punching import PunchReason
from warren.keys import NodePublic
from warren.nat.rejected import Rejected
from warren.nat.stun import TxId as StunTxId
from warren.netmap.endpoint import Endpoint
from warren.paths.machine import Lease, PathEvent, PeerPaths, Ponged, Relay, Transmit, Via
from warren.paths.mtu import BASE_MTU_BYTES
from warren.paths.punching.attempt import Attempt, Outcome
from warren.paths.punching.budget import Address
from warren.paths.punching.easy import EasySide
from warren.paths.punching.hard import SOCKETS, HardSide
from warren.paths.punching.kept import KeptPath
from warren.paths.punching.ports import (
    Allocation,
    GuessPlan,
    Span,
    infer,
    scan_plan_for,
)
from warren.paths.punching.roles import OwnSide, PeerSide, Role, choose
from warren.paths.punching.shown import ShownPorts, targets
from warren.paths.punching.sockets import (
    Aside,
    AsideLease,
    AsideTransmit,
    CloseSockets,
    KeepSocket,
    OpenSockets,
    OverRelay,
    SocketCommand,
)
from warren.paths.sizes import PathSize

START_AFTER_S = 0.5
"""An ordinary search has this long; most paths need two round trips."""
SCAN_AFTER_S = 3.0
"""It has this long where only its silence says that the peer's ports vary."""
WISH_S = 15.0
"""A call from the peer says for this long that it wants a path."""
BACKOFF_S, BACKOFF_MAX_S = 120.0, 1800.0
NO_ROOM_S = 1.0
LAG_S = 7.0
"""A peer that still trusts a path which is gone finds out in this time (its trust's length)."""
_PASSING = (PunchReason.BUSY, PunchReason.ADDRESS_NOT_YOURS)
SETTLE_S = 2.0
"""After a success, a path that is lost at once is not punched anew before this."""
ATTEMPTS_KEPT = 8

AnyTransmit = Transmit | AsideTransmit | SocketCommand
AnyPathEvent = PathEvent | AsideLease


class PunchingPaths:
    """The path machine of one peer. `own` is shared by all peers of the node."""

    def __init__(self, own_key: NodePublic, own: OwnSide) -> None:
        self.paths = PeerPaths(own_key, own.entropy)
        self.attempts: list[Attempt] = []
        """The last ones, oldest first, one of them perhaps under way."""
        self.why = "nobody has asked for a path yet"
        """Why no attempt is under way, in half a sentence."""
        self.kept: KeptPath | None = None
        self.size = PathSize(own_key, own.entropy)
        self._own_key = own_key
        self._own = own
        self._peer = PeerSide()
        self._peer_ports = ShownPorts()
        self._map_endpoints: tuple[Endpoint, ...] = ()
        self._called_endpoints: tuple[Endpoint, ...] = ()
        self._own_endpoints: tuple[Endpoint, ...] = ()
        self._hard: HardSide | None = None
        self._easy: EasySide | None = None
        self._failures = 0
        self._not_before = 0.0
        self._wished_until = 0.0
        self._heard_at: float | None = None
        """When the peer last said something over a relay."""
        self._missed_at: Address | None = None
        self._missed_until = 0.0
        self._without_since: float | None = None
        self._leased_aside = False
        self._leased_mtu = BASE_MTU_BYTES
        # Lists, as in `PeerPaths`: most of many peers never punch.
        self._out: list[AnyTransmit] = []
        self._events: list[AnyPathEvent] = []
        self._now = 0.0

    def _remember(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)
        del self.attempts[:-ATTEMPTS_KEPT]

    @property
    def off_at(self) -> Literal["", "here", "there"]:
        """Which side's policy turns punching off, as far as it is known here."""
        if not self._own.enabled:
            return "here"
        refusal = self.attempts[-1].refusal if self.attempts else 0
        return "there" if refusal == PunchReason.SWITCHED_OFF else ""

    def pause_s(self, now: float) -> float:
        """Return for how long no attempt begins."""
        return max(0.0, self._not_before - now)

    @property
    def peer_moved_to(self) -> Endpoint | None:
        """Where the peer's NAT showed it under another port than its own, if it told such."""
        return self._peer_ports.moved_to

    # What is known of both sides.

    def set_peer(
        self, endpoints: Iterable[Endpoint], home_region: int, peer: PeerSide, now: float
    ) -> None:
        """Take what the map says of the peer."""
        self._map_endpoints = tuple(endpoints)
        self._peer = peer
        self._peer_ports.note(self._map_endpoints, now)
        self.paths.set_peer(self._map_endpoints, home_region, now)
        self._turn(now)

    def set_own_endpoints(self, endpoints: Iterable[Endpoint], now: float) -> None:
        """Take own endpoints that were measured just now."""
        self._own_endpoints = tuple(endpoints)
        self._tell_own_endpoints(now)
        self._turn(now)

    def network_changed(self, now: float) -> None:
        """This machine's addresses changed: every socket is worthless, and hope is new."""
        self._stop_attempts(Outcome.STOPPED, now)
        self._drop_kept()
        self._failures, self._not_before = 0, 0.0
        self._without_since = None
        self.paths.network_changed(now)
        self.size.forget()
        self._turn(now)

    def close(self, now: float) -> None:
        """The peer is gone from the map: close every socket; `poll_transmit` says which."""
        self._stop_attempts(Outcome.STOPPED, now)
        self._drop_kept()

    # What happens.

    def note_active(self, now: float) -> None:
        """Traffic is being sent to the peer."""
        self.paths.note_active(now)
        if self.kept is not None and not self.paths.is_trusted(now):
            self.kept.note_active(now)
        self._turn(now)

    def ping(self, now: float) -> list[TxId]:
        """Ping for a person; see `PeerPaths.ping`. A punched path is pinged as a trusted one."""
        if self.kept is not None and self.kept.is_trusted(now) and not self.paths.is_trusted(now):
            self.paths.note_active(now)
            sent = [self.kept.ping(now)]
        else:
            sent = self.paths.ping(now)
        self._turn(now)
        return sent

    def receive(self, message: Message, via: Via | Aside, now: float) -> None:
        """Take an opened disco message of this peer."""
        self._now = now
        if isinstance(via, Relay):
            self._heard_at = now
        elif self.size.receive(message, via, now):
            self._turn(now)
            return
        if isinstance(via, Aside):
            self._receive_aside(message, via, now)
        elif isinstance(message, PunchInvite | PunchEnd):
            if not isinstance(via, Relay):
                self._drop("punching message not over a relay")
            elif isinstance(message, PunchInvite):
                self._receive_invite(message, now)
            elif self._hard is not None:
                self._hard.receive_end(message, now)
        elif (
            isinstance(message, Pong) and self._easy is not None and self._easy.owns(message.tx_id)
        ):
            if isinstance(via, Endpoint):
                self._easy.receive(message, via, now)
        else:
            if isinstance(message, CallMeMaybe) and isinstance(via, Relay):
                self._wished_until = now + WISH_S
                self._called_endpoints = message.endpoints
                self._peer_ports.note(message.endpoints, now)
            if isinstance(message, Ping) and isinstance(via, Endpoint) and self._easy is not None:
                self._easy.hint(via, now)
            self.paths.receive(message, via, now)
        self._turn(now)

    def receive_stun(self, tx_id: StunTxId, mapped: Endpoint, now: float) -> Rejected | None:
        """Take a STUN answer that came to a socket of a group of this peer; why not, if not."""
        rejected: Rejected | None = Rejected.NOT_ASKED
        if self._hard is not None:
            rejected = self._hard.receive_stun(tx_id, mapped, now)
        self._turn(now)
        return rejected

    def owns_group(self, group: int) -> bool:
        """Whether a group of sockets is this peer's."""
        return (self._hard is not None and self._hard.group == group) or (
            self.kept is not None and self.kept.at.group == group
        )

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self.paths.handle_timeout(now)
        for part in (self._hard, self._easy, self.kept, self.size):
            if part is not None:
                part.handle_timeout(now)
        self._turn(now)

    def poll_transmit(self) -> AnyTransmit | None:
        """Return the next message to send or thing to do with sockets, in order."""
        while True:
            if self._out:
                return self._out.pop(0)
            transmit = self.paths.poll_transmit()
            if transmit is None or self._may_pass(transmit):
                return transmit

    def poll_event(self) -> AnyPathEvent | None:
        """Return the next thing that the owner should do or know."""
        event = self._next_event()
        if isinstance(event, Lease):
            return event._replace(mtu_bytes=self.size.mtu_of(event.endpoint))
        if isinstance(event, AsideLease):
            return event._replace(mtu_bytes=self.size.mtu_of(event.at))
        return event

    def _next_event(self) -> AnyPathEvent | None:
        event = self.paths.poll_event()
        if event is None:
            return self._events.pop(0) if self._events else None
        if isinstance(event, Lease) and event.endpoint is None and self.kept is not None:
            lease = self.kept.lease(self._now)
            if lease is not None:
                # The ordinary path is gone; the punched one takes over without a gap.
                self._leased_aside = True
                return lease
        return event

    def next_timeout(self) -> tuple[float, str] | None:
        """Tell when `handle_timeout` is due, and why; None: not before something comes in."""
        parts = (self.paths, self._hard, self._easy, self.kept, self.size)
        due = [d for part in parts if part is not None and (d := part.next_timeout()) is not None]
        if self._without_since is not None and self._hard is None and self._easy is None:
            begin = max(self._without_since + START_AFTER_S, self._not_before)
            if begin > self._now:
                due.append((begin, "punching may begin"))
        return min(due) if due else None

    # What others ask.

    def is_active(self, now: float) -> bool:
        """Whether something was sent to the peer of late."""
        return self.paths.is_active(now)

    def path(self, now: float) -> Endpoint | Aside | None:
        """Return the direct path in use, or None while the relay is."""
        best = self.paths.path(now)
        if best is not None:
            return best.endpoint
        if self.kept is not None and self.kept.is_trusted(now):
            return self.kept.at
        return None

    def mtu_bytes(self, now: float) -> int:
        """Return the largest packet inside the tunnel that the direct path carries."""
        return self.size.mtu_of(self.path(now))

    def relay_region(self) -> int:
        """Return the region through which the peer is reached; 0 if none is known."""
        return self.paths.relay_region()

    # Attempts.

    def _turn(self, now: float) -> None:
        """Collect what the parts did, end what is over, begin what is due."""
        self._now = now
        self._settle_hard(now)
        self._settle_easy(now)
        self._settle_kept(now)
        self._follow_size(now)
        if not self._own.enabled:
            self._stop_attempts(Outcome.STOPPED, now)
        if self.path(now) is not None:
            self._without_since = None
            if self.paths.is_trusted(now):
                self._stop_attempts(Outcome.SUPERSEDED, now)
            return
        if not (self.paths.is_active(now) or now < self._wished_until):
            self._without_since = None
            return
        if self._without_since is None:
            self._without_since = now
        begin = max(self._without_since + START_AFTER_S, self._not_before)
        if self._hard is None and self._easy is None and now >= begin:
            self._begin(now)

    def _follow_size(self, now: float) -> None:
        """Search on the path that data takes; a new finding is told by a lease of its own."""
        via = self.path(now) if self.paths.is_active(now) else None
        used = self.paths.path(now) or self.kept
        self.size.follow(
            via,
            now,
            latency_s=(used.latency_s if used else None) or 0.0,
            busy=self.paths.is_busy(now),
        )
        while (probe := self.size.poll_transmit()) is not None:
            if isinstance(probe.to, Aside):
                self._out.append(AsideTransmit(probe.to, probe.message))
            else:
                self._out.append(Transmit(probe.to, probe.message))
        found = self.size.mtu_of(via)
        if via is not None and found != self._leased_mtu:
            part = self.kept if isinstance(via, Aside) and self.kept else self.paths
            if (lease := part.lease(now)) is not None:
                self._events.append(lease)
            self._leased_mtu = found

    def _begin(self, now: float) -> None:
        allocation = self._peer_ports.allocation()
        role, self.why = choose(
            self._own, self._peer, allocation, self._peer_ports.moved_to is not None
        )
        if role is Role.OPEN:
            self._begin_open(now)
        elif role is Role.SCAN:
            self._begin_scan(allocation, now)
        else:
            # What is known may change with the next map or measuring; ask again at leisure.
            self._not_before = now + NO_ROOM_S

    def _begin_scan(self, allocation: Allocation, now: float) -> None:
        """Look for the port through which a stock peer pings us; it does so when we call it."""
        since, address = self._without_since, self._peer_ports.address()
        assert since is not None and address is not None
        begin = since + (START_AFTER_S if self._peer.hard else SCAN_AFTER_S)
        if now < begin:
            self._not_before = begin
        elif self._heard_at is None or self._heard_at < since:
            # Who does not answer over the relay has not pinged us either: no port is open.
            self.why = "the peer has not answered over the relay"
            self._not_before = now + NO_ROOM_S
        else:
            self._guess(
                EasySide(
                    address=address,
                    plan=scan_plan_for(allocation),
                    own_key=self._own_key,
                    budget=self._own.probes,
                    entropy=self._own.entropy,
                    now=now,
                    scan=True,
                ),
                now,
            )

    def _begin_open(self, now: float) -> None:
        known = targets((*self._called_endpoints, *self._map_endpoints))
        if not known:
            self.why = "the peer has no public IPv4 endpoint"
            self._not_before = now + NO_ROOM_S
            return
        block = infer(self._own.memory.samples()).block
        count = min(SOCKETS, max(16, block.size // 2)) if block else SOCKETS
        group = self._own.sockets.open_group(count)
        if not group:
            self.why = "too many punching sockets are open for other peers"
            self._not_before = now + NO_ROOM_S
            return
        self._drop_kept()
        self._hard = HardSide(
            group=group,
            sockets=count,
            target=known[self._failures % len(known)],
            understands=self._peer.understands,
            memory=self._own.memory,
            stun_servers=self._own.stun_servers,
            own_key=self._own_key,
            budget=self._own.probes,
            entropy=self._own.entropy,
            now=now,
        )
        self._remember(self._hard.attempt)
        self.why = "an attempt is under way"
        self._hard.handle_timeout(now)
        self._settle_hard(now)

    def _receive_invite(self, invite: PunchInvite, now: float) -> None:
        if self._easy is not None and self._easy.number == invite.attempt:
            return
        reason = self._refusal(invite, now)
        if reason:
            self._say(PunchEnd(invite.attempt, reason))
            return
        spans = tuple(Span(first, last) for first, last in invite.spans)
        plan = GuessPlan(invite.ports, spans, max(1, invite.sockets))
        self._guess(
            EasySide(
                address=invite.address.ip,
                plan=plan,
                own_key=self._own_key,
                budget=self._own.probes,
                entropy=self._own.entropy,
                now=now,
                number=invite.attempt,
            ),
            now,
        )

    def _refusal(self, invite: PunchInvite, now: float) -> int:
        own = self._own
        if not own.enabled:
            return PunchReason.SWITCHED_OFF
        if not own.udp:
            return PunchReason.NO_UDP
        if own.hard:
            return PunchReason.BOTH_HARD
        # Nobody but the peer itself may be probed at a peer's word.
        known = targets((*self._map_endpoints, *self._called_endpoints))
        if invite.address.ip not in {endpoint.ip for endpoint in known}:
            return PunchReason.ADDRESS_NOT_YOURS
        if self._easy is not None or self._hard is not None or self.path(now) is not None:
            return PunchReason.BUSY
        if invite.address.ip == self._missed_at and now < self._missed_until:
            return PunchReason.BUSY
        return 0

    def _guess(self, easy: EasySide, now: float) -> None:
        self._easy = easy
        self._remember(easy.attempt)
        self.why = "an attempt is under way"
        easy.handle_timeout(now)
        self._settle_easy(now)

    def _settle_hard(self, now: float) -> None:
        hard = self._hard
        if hard is None:
            return
        while (item := hard.poll_transmit()) is not None:
            if isinstance(item, OverRelay):
                self._say(item.message)
                continue
            self._account(item)
            self._out.append(item)
        if hard.attempt.ended is None:
            return
        self._hard = None
        if hard.punched is not None:
            self.kept = KeptPath(hard.punched, self._own_key, self._own.entropy, now)
            self._tell_own_endpoints(now)
            if not self._peer.understands:
                # A list that was on its way may have pushed the port out again.
                self._say(CallMeMaybe((hard.punched.mapped, *self._own_endpoints)))
        self._ended(hard.attempt, now)

    def _settle_easy(self, now: float) -> None:
        easy = self._easy
        if easy is None:
            return
        while (probe := easy.poll_transmit()) is not None:
            self._out.append(Transmit(*probe))
        if easy.attempt.ended is None:
            return
        self._easy = None
        if easy.hit is not None:
            self.paths.adopt(easy.hit.endpoint, easy.hit.rtt_s, easy.hit.seen_as, now)
            if not self._peer.understands and self._own_endpoints:
                # It would ping us again only seconds later; called, it does so at once.
                self._say(CallMeMaybe(self._own_endpoints))
        elif easy.number is not None and easy.attempt.outcome is Outcome.EXHAUSTED:
            # An honest peer waits longer than this before it invites again.
            self._missed_at, self._missed_until = easy.address, now + BACKOFF_S / 2
            self._say(PunchEnd(easy.number, PunchReason.EXHAUSTED))
        self._ended(easy.attempt, now)

    def _ended(self, attempt: Attempt, now: float) -> None:
        self.why = attempt.sentence()
        if attempt.succeeded:
            self._failures, self._not_before = 0, now + SETTLE_S
        elif attempt.refusal in _PASSING and not self._failures:
            # The peer's view lags behind ours by seconds, once.
            self._failures, self._not_before = 1, now + LAG_S
        elif attempt.outcome not in (Outcome.SUPERSEDED, Outcome.STOPPED):
            self._failures += 1
            pause_s = min(BACKOFF_S * 2 ** min(self._failures - 1, 8), BACKOFF_MAX_S)
            self._not_before = now + pause_s

    def _settle_kept(self, now: float) -> None:
        kept = self.kept
        if kept is None:
            return
        while (item := kept.poll_transmit()) is not None:
            self._account(item)
            self._out.append(item)
        while (lease := kept.poll_event()) is not None:
            if isinstance(lease, Ponged):
                self._events.append(lease)
                continue
            # The ordinary machine's path comes first; its own leases say so.
            if not self.paths.is_trusted(now) and (lease.lease_ms or self._leased_aside):
                self._events.append(lease)
                self._leased_aside = lease.lease_ms > 0
        if self.paths.is_trusted(now):
            self._leased_aside = False
        if not kept.alive:
            self.kept = None
            self._tell_own_endpoints(now)

    def _receive_aside(self, message: Message, via: Aside, now: float) -> None:
        if self._hard is not None and self._hard.group == via.group:
            self._hard.receive(message, via, now)
        elif self.kept is not None and self.kept.at.group == via.group:
            self.kept.receive(message, via, now)
        else:
            self._drop("message at a closed socket")

    def _stop_attempts(self, outcome: Outcome, now: float) -> None:
        if self._hard is not None:
            self._hard.stop(outcome, now)
            self._settle_hard(now)
        if self._easy is not None:
            self._easy.stop(outcome, now)
            self._settle_easy(now)

    def _drop_kept(self) -> None:
        if self.kept is not None:
            self.kept.close()
            self._settle_kept(self._now)

    def _tell_own_endpoints(self, now: float) -> None:
        """A stock peer forgets an address that a later call leaves out: the punched one stays."""
        own = self._own_endpoints
        if self.kept is not None:
            own = (self.kept.mapped, *own)
        if own:
            self.paths.set_own_endpoints(own, now)

    def _may_pass(self, transmit: Transmit) -> bool:
        """Whether what the ordinary machine wants to send fits beside an attempt."""
        if isinstance(transmit.message, CallMeMaybe) and self._hard is not None:
            return not self._hard.calls_itself
        if isinstance(transmit.message, Ping) and isinstance(transmit.to, Endpoint):
            ip = transmit.to.ip
            used = self.paths.path(self._now)
            if used is not None and transmit.to == used.endpoint:
                self._own.probes.note(ip, self._now)
            elif not self._own.probes.take(ip, 1, self._now):
                # Whoever may call us must not make us flood an address of their choice.
                self._drop("ping over the rate to one address")
                return False
        return True

    def _account(self, item: AsideTransmit | SocketCommand) -> None:
        if isinstance(item, OpenSockets):
            self._own.sockets.note_open(item.group, item.count)
        elif isinstance(item, KeepSocket):
            self._own.sockets.keep_one(item.group)
        elif isinstance(item, CloseSockets):
            self._own.sockets.close(item.group)

    def _say(self, message: Message) -> None:
        region = self.paths.relay_region()
        if region:
            self._out.append(Transmit(Relay(region), message))

    def _drop(self, reason: str) -> None:
        self.paths.dropped[reason] = self.paths.dropped.get(reason, 0) + 1
