"""The side whose ports vary: many sockets, and word to the peer of where to look for them.

Every socket sends one ping to the peer's one address, so that the own NAT has as many ports open
towards it. Some ask a STUN server too: what it answers shows how the NAT gives out ports at this
moment. When most of the time is gone, the sockets are exchanged for fresh ones: every guess so
far has left a way open in the peer's NAT, so some of their ports meet one of these at once. A peer
that is Warren gets one invitation and guesses for itself; a stock client gets
CallMeMaybe lists, one a second, whose every entry it pings at once (PROTOCOL §15).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import NamedTuple

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
from warren.nat.votes import is_plausible
from warren.netmap.endpoint import Endpoint
from warren.paths.punching.attempt import Attempt, Method, Outcome
from warren.paths.punching.budget import ProbeBudget
from warren.paths.punching.ports import PortMemory, Sample, guesses, infer, plan_for
from warren.paths.punching.sockets import (
    Aside,
    AsideTransmit,
    CloseSockets,
    KeepSocket,
    OpenSockets,
    OverRelay,
    SocketCommand,
    StunAsk,
)

SOCKETS = 256
SLICE, SLICE_EVERY_S = 32, 0.02
"""Sockets send their pings in slices, so that no queue on the way overflows."""
_ASKING_SLICES, _ASKS_PER_SLICE = (0, 3, 7), 2
ASK_WAIT_S = 0.25
CALL_PORTS, CALL_EVERY_S, CALL_PORTS_TOTAL = 96, 1.02, 1536
"""Towards a stock client: so many ports a list, so often, so many in all. Its own search sends a
few pings to the same address, and lists may move together on the way; where they arrive, a hundred
a second are still not to be exceeded. More and smaller lists would push out addresses that were
just pinged before their answers are back."""
INVITE_AGAIN_S, INVITE_WAIT_S = 3.0, 13.0
FRESH_AFTER_S = 7.0
"""After this long without a hit the sockets are exchanged, once."""
_LATE_S = 2.0
_CONFIRM_EVERY_S, _CONFIRM_TRIES = 0.25, 10
_TX_ID_BYTES = 12


class Punched(NamedTuple):
    """A path through a kept socket. `mapped`: our endpoint on it as the peer saw it."""

    group: int
    kept: int
    endpoint: Endpoint
    mapped: Endpoint
    rtt_s: float


class _Phase(Enum):
    OPENING = 0
    ASKING = 1
    CALLING = 2
    CONFIRMING = 3
    OVER = 4


class HardSide:
    """One attempt. It is over when `attempt.ended` is set; then `punched` is the path or None."""

    def __init__(
        self,
        *,
        group: int,
        sockets: int,
        target: Endpoint,
        understands: bool,
        memory: PortMemory,
        stun_servers: Sequence[Endpoint],
        own_key: NodePublic,
        budget: ProbeBudget,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        method = Method.SOCKETS if understands else Method.CALLS
        self.attempt = Attempt(method, target, now, sockets=sockets)
        self.group = group
        self.punched: Punched | None = None
        self._sockets = sockets
        self._target = target
        self._understands = understands
        self._memory = memory
        self._stun_servers = [server for server in stun_servers if server.is_v4]
        self._own_key = own_key
        self._budget = budget
        self._entropy = entropy
        self._phase = _Phase.OPENING
        self._due = now
        self._opened = 0
        self._asked: dict[StunTxId, tuple[Endpoint, float]] = {}
        self._flights: dict[TxId, tuple[int, float]] = {}
        self._number = int.from_bytes(entropy(4), "big")
        self._invite: PunchInvite | None = None
        self._calling_until = 0.0
        self._fresh_due: float | None = None
        """When the next slice of fresh sockets is due."""
        self._refreshed = False
        self._ports: Iterator[int] = iter(())
        self._kept = -1
        self._source = target
        self._confirms = 0
        self._out: deque[AsideTransmit | OverRelay | SocketCommand] = deque(
            [OpenSockets(group, sockets)]
        )

    @property
    def calls_itself(self) -> bool:
        """Whether other CallMeMaybe messages would spoil what this side's lists began."""
        return not self._understands and self._phase is _Phase.CALLING

    def receive(self, message: Message, via: Aside, now: float) -> None:
        """Take a message that came to a socket of the group."""
        if self._phase is _Phase.OVER or via.group != self.group:
            return
        if isinstance(message, Ping):
            if self._phase is not _Phase.CONFIRMING:
                self._keep(via.index, via.endpoint, now)
            if via.index == self._kept:
                self._out.append(AsideTransmit(via, Pong(message.tx_id, via.endpoint)))
                self._confirm(now)
        elif isinstance(message, Pong):
            index, sent_at = self._flights.pop(message.tx_id, (-1, 0.0))
            if index != via.index or (self._kept >= 0 and index != self._kept):
                return
            if self._kept < 0:
                self._out.append(KeepSocket(self.group, index))
            self.punched = Punched(
                self.group, index, via.endpoint, message.source, max(0.0, now - sent_at)
            )
            self.attempt.found = via.endpoint
            self._over(Outcome.FOUND, now)

    def receive_stun(self, tx_id: StunTxId, mapped: Endpoint, now: float) -> Rejected | None:
        """Take a STUN server's answer to a socket of the group; why not, if it is none."""
        asked = self._asked.get(tx_id)
        if asked is None:
            return Rejected.WRONG_ID
        if not is_plausible(mapped, asked[0]):
            return Rejected.RESERVED
        del self._asked[tx_id]
        self._memory.note(Sample(asked[0], mapped, asked[1]))
        if not self._asked and self._phase is _Phase.ASKING:
            self._due = now
        return None

    def receive_end(self, end: PunchEnd, now: float) -> None:
        """Take the peer's word that it stopped, or never began."""
        if self._invite is None or end.attempt != self._number or self._phase is not _Phase.CALLING:
            return
        if end.reason == PunchReason.EXHAUSTED:
            self.stop(Outcome.EXHAUSTED, now)
        else:
            self.attempt.refusal = end.reason
            self.stop(Outcome.REFUSED, now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        if self._phase is _Phase.CALLING and self._fresh_due is not None and now >= self._fresh_due:
            self._open_fresh(now)
        if self._phase is _Phase.OVER or now < self._due:
            return
        if self._phase is _Phase.OPENING:
            self._open_slice(now)
        elif self._phase is _Phase.ASKING:
            self._begin_calling(now)
        elif self._phase is _Phase.CONFIRMING:
            self._confirm(now)
        elif now >= self._calling_until:
            self.stop(Outcome.EXHAUSTED, now)
        elif self._invite is not None:
            self._out.append(OverRelay(self._invite))
            self._due = min(now + INVITE_AGAIN_S, self._calling_until)
        else:
            self._call(now)

    def poll_transmit(self) -> AsideTransmit | OverRelay | SocketCommand | None:
        """Return the next thing to do or send, in order."""
        return self._out.popleft() if self._out else None

    def next_timeout(self) -> tuple[float, str] | None:
        """Tell when `handle_timeout` is due, and why."""
        if self._phase is _Phase.OVER:
            return None
        due = self._due
        if self._phase is _Phase.CALLING and self._fresh_due is not None:
            due = min(due, self._fresh_due)
        return due, f"punching from many sockets: {self._phase.name.lower()}"

    def stop(self, outcome: Outcome, now: float) -> None:
        """Close every socket of the group; the attempt is over."""
        if self._phase is not _Phase.OVER:
            self._out.append(CloseSockets(self.group))
            self._over(outcome, now)

    def _over(self, outcome: Outcome, now: float) -> None:
        self._phase = _Phase.OVER
        self._flights.clear()
        self._asked.clear()
        self.attempt.end(outcome, now)

    def _open_slice(self, now: float) -> None:
        number = self._opened // SLICE
        last = min(self._opened + SLICE, self._sockets)
        if self._stun_servers and number in _ASKING_SLICES:
            # Asked one after the other, with nothing of ours between: their gap is the step.
            for index in range(self._opened, min(self._opened + _ASKS_PER_SLICE, last)):
                server = self._stun_servers[number % len(self._stun_servers)]
                tx_id = StunTxId(self._entropy(_TX_ID_BYTES))
                self._asked[tx_id] = (server, now + index * 1e-6)
                self._aside(index, server, StunAsk(tx_id))
        for index in range(self._opened, last):
            self._ping(index, self._target, now)
        self._opened = last
        self._due = now + SLICE_EVERY_S
        if self._opened == self._sockets:
            self._phase = _Phase.ASKING
            self._due = now + ASK_WAIT_S if self._asked else now

    def _open_fresh(self, now: float) -> None:
        if not self._refreshed:
            self._refreshed = True
            self._opened = 0
            self._flights.clear()
            self._out.append(CloseSockets(self.group))
            self._out.append(OpenSockets(self.group, self._sockets))
        last = min(self._opened + SLICE, self._sockets)
        for index in range(self._opened, last):
            self._ping(index, self._target, now)
        self._opened = last
        self._fresh_due = now + SLICE_EVERY_S if last < self._sockets else None

    def _begin_calling(self, now: float) -> None:
        address = self._memory.address()
        if address is None:
            self.stop(Outcome.ADDRESS_UNKNOWN, now)
            return
        allocation = infer(self._memory.samples())
        self.attempt.allocation = str(allocation)
        plan = plan_for(allocation, self._sockets)
        self._phase = _Phase.CALLING
        self._due = now
        self._fresh_due = now + FRESH_AFTER_S
        if self._understands:
            self._calling_until = now + INVITE_WAIT_S
            spans = tuple((span.first, span.last) for span in plan.spans)
            self._invite = PunchInvite(
                self._number, self._sockets, self._target, Endpoint(address, 0), plan.first, spans
            )
        else:
            patience_s = CALL_PORTS_TOTAL / CALL_PORTS * CALL_EVERY_S
            self._calling_until = now + 2 * patience_s
            self._ports = guesses(plan, self._entropy)
        self.handle_timeout(now)

    def _call(self, now: float) -> None:
        """Make the stock peer ping the next ports; towards one address no more than the rate."""
        address = self._memory.address()
        if address is None or self.attempt.probes >= CALL_PORTS_TOTAL:
            self.stop(Outcome.EXHAUSTED, now)
            return
        if not self._budget.take(address, CALL_PORTS, now):
            self._due = self._budget.next_free(address, CALL_PORTS, now)
            return
        ports = list(islice(self._ports, CALL_PORTS))
        self._out.append(OverRelay(CallMeMaybe(tuple(Endpoint(address, port) for port in ports))))
        self.attempt.probes += len(ports)
        self._due = now + CALL_EVERY_S
        if self.attempt.probes >= CALL_PORTS_TOTAL or not ports:
            self._due = self._calling_until = now + _LATE_S

    def _keep(self, index: int, source: Endpoint, now: float) -> None:
        self._kept, self._source = index, source
        self._out.append(KeepSocket(self.group, index))
        self._phase = _Phase.CONFIRMING
        self._confirms = 0
        self._due = now

    def _confirm(self, now: float) -> None:
        if self._confirms >= _CONFIRM_TRIES:
            self.stop(Outcome.UNCONFIRMED, now)
            return
        self._confirms += 1
        self._due = now + _CONFIRM_EVERY_S
        self._ping(self._kept, self._source, now)

    def _ping(self, index: int, to: Endpoint, now: float) -> None:
        tx_id = TxId(self._entropy(_TX_ID_BYTES))
        self._flights[tx_id] = (index, now)
        self._aside(index, to, Ping(tx_id, self._own_key))

    def _aside(self, index: int, to: Endpoint, message: Message | StunAsk) -> None:
        self._out.append(AsideTransmit(Aside(self.group, index, to), message))
