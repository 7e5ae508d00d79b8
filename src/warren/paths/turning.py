"""For one peer, ways through TURN servers (RFC 8656): our own relayed address, or the peer's.

While traffic flows and nothing better is trusted, the side that has a relayed address tells the
other (TurnOffer over DERP; the owner tells stock peers by CallMeMaybe). The other pings it, the
server passes the ping on, and so the address is known to which a channel is bound; one relayed
address for both sides is enough. A way that answers is a path: it loses to any direct path, which
the owner says by `set_better`, and takes DERP's place once it is measured not to be slower.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from warren.disco.messages import Message, Ping, Pong, TurnOffer, TxId
from warren.keys import NodePublic
from warren.netmap.endpoint import Endpoint
from warren.paths import timing
from warren.paths.candidates import is_usable
from warren.paths.peer_relay.limits import Bucket
from warren.paths.scoring import advantage, worth_a_switch

ALLOCATE_AFTER_S, ALLOCATE_LATER_S = 1.5, 5.0
"""Without a better path for this long, a relayed address is asked for; one of the two sides
waits longer, since the other's is enough for both."""
WAYS_MAX, HELD_MAX, FLIGHTS_MAX = 16, 8, 128
HOLD_S = 3.0
"""A ping waits this long for its channel, so that what follows it comes by the channel as well."""
OFFER_LIFE_S = 600.0
DERP_SILENT_S = 3.0
"""DERP that does not answer for this long is no rival."""
SLACK_S = 0.005
"""So much slower TURN may be: its datagrams do not wait for lost ones, as those of a stream do."""
LEAVE_POINTS = 40.0
"""TURN in use gives way to DERP only if that is so much better: both jitter."""
REPING_S = 0.2
HEARD_S = 30.0
"""Who pinged at our relayed address within this time still uses it."""
_ANSWERS_BURST, _ANSWERS_PER_S = 20.0, 10.0
_CHANNELS_BURST, _CHANNELS_PER_S = 8.0, 0.5
_TX_ID_BYTES = 12
_SMOOTHING = 0.25


class Way(NamedTuple):
    """Pings go to the address `to`: from our relayed address (`own`), else to the peer's."""

    to: Endpoint
    own: bool


class ToWay(NamedTuple):
    """A message to seal and send this way."""

    way: Way
    message: Message


class ToDerp(NamedTuple):
    """A message to seal and send over DERP."""

    message: Message


class TurnLease(NamedTuple):
    """Let data take a way for `lease_ms`, unless there is something better; None: no longer."""

    way: Way | None
    lease_ms: int


class TurnPonged(NamedTuple):
    """A ping that `ping` sent was answered."""

    tx_id: TxId
    rtt_s: float


class ChannelWanted(NamedTuple):
    """The peer is heard from an address at our relayed one: bind a channel, say `channel_open`."""

    peer: Endpoint


class WayDead(NamedTuple):
    """A way that carried data answers no longer; its server may be gone."""

    way: Way


TurnEvent = TurnLease | TurnPonged | ChannelWanted | WayDead


@dataclass(slots=True)
class WayState:
    """What is known of a way. Times are monotonic seconds."""

    open: bool
    """Pings may be sent: own ways need their channel."""
    pings: int = 0
    pinged_at: float | None = None
    ponged_at: float | None = None
    latency_s: float | None = None
    heard_at: float | None = None
    """When the peer pinged by it."""
    held: list[tuple[TxId, float]] = field(default_factory=list)
    """Pings of the peer that wait for the channel."""

    def is_trusted(self, now: float) -> bool:
        """Whether its latest pong counts."""
        return self.ponged_at is not None and now < self.ponged_at + timing.TRUST_S


class _Flight(NamedTuple):
    way: Way | None
    """None: over DERP."""
    at: float
    asked: bool


class TurnPaths:
    """The machine for one peer. `first`: whether this side asks for a relayed address first."""

    def __init__(
        self, own_key: NodePublic, entropy: Callable[[int], bytes], *, first: bool, offers: bool
    ) -> None:
        """offers: the peer understands TurnOffer."""
        self._own_key = own_key
        self._entropy = entropy
        self._first = first
        self._offers = offers
        self._own: tuple[Endpoint, ...] = ()
        self._udp = True
        self._theirs: tuple[Endpoint, ...] = ()
        self._theirs_at = 0.0
        self.ways: dict[Way, WayState] = {}
        self._better = False
        self._active_until = self._busy_until = 0.0
        self._wanted_since: float | None = None
        self._best: Way | None = None
        self._leased = False
        self._switched_at = 0.0
        self._unanswered = 0
        self._round = 0
        self._next_search = 0.0
        self._next_ping = 0.0
        self._next_derp = 0.0
        self._derp_asked_at: float | None = None
        self.derp_latency_s: float | None = None
        """Smoothed round trip over DERP."""
        self._answers = Bucket(_ANSWERS_BURST, _ANSWERS_PER_S)
        self._channels = Bucket(_CHANNELS_BURST, _CHANNELS_PER_S)
        self._flights: dict[TxId, _Flight] = {}
        self._transmits: deque[ToWay | ToDerp] = deque()
        self._events: deque[TurnEvent] = deque()
        self.dropped: dict[str, int] = {}

    # What is known.

    def set_better(self, better: bool, now: float) -> bool:
        """Tell whether a better path than TURN is trusted; then nothing is asked or pinged.

        Returns whether that is news.
        """
        if better == self._better:
            return False
        self._better = better
        if better:
            self._rest()
        elif self.is_active(now):
            self._resume(now)
        return True

    def set_own(self, relayed: tuple[Endpoint, ...], now: float) -> None:
        """Take where a server relays for us and lets the peer in; empty: nowhere any more."""
        if relayed == self._own:
            return
        self._own = relayed
        for way in [way for way in self.ways if way.own]:
            self._forget(way, now)
        self._make_ways()
        if self._wanted_since is not None and self.path(now) is None:
            self._restart_search(now)

    def set_udp(self, works: bool, now: float) -> None:
        """Tell whether UDP works here; without it a peer's relayed address is reached by ours."""
        if works != self._udp:
            self._udp = works
            self._make_ways()

    def note_active(self, now: float) -> None:
        """Traffic is being sent to the peer."""
        was_active = self.is_active(now)
        self._active_until = now + timing.ACTIVE_S
        self._busy_until = now + timing.BUSY_S
        self._next_ping = min(self._next_ping, now + timing.BUSY_HEARTBEAT_S)
        if not was_active and not self._better:
            self._resume(now)

    def network_changed(self, now: float) -> None:
        """This machine's addresses changed: no way is trusted."""
        self.derp_latency_s = self._derp_asked_at = None
        for way in list(self.ways):
            self._forget(way, now)
        self._make_ways()
        if self.is_active(now) and not self._better:
            self._resume(now)

    # What happens.

    def receive_offer(self, offer: TurnOffer, now: float) -> None:
        """Take the peer's relayed addresses, which came over DERP."""
        said = tuple(each for each in dict.fromkeys(offer.relayed) if is_usable(each))
        gone = set(self._theirs) - set(said)
        self._theirs, self._theirs_at = said, now
        for way in [way for way in self.ways if way.to in gone]:
            self._forget(way, now)
        self._make_ways()
        for way, state in self.ways.items():
            if way.to in said and state.open and _is_due(state.pinged_at, REPING_S, now):
                self._ping(way, now)

    def receive(self, message: Message, way: Way, now: float) -> None:
        """Take an opened message that came this way; pongs are for `receive_pong`."""
        if not isinstance(message, Ping):
            self._drop("message not for a TURN server")
            return
        if not self._answers.take(now):
            self._drop("ping over the rate")
            return
        if way.own and way not in self.ways and self._channels.take(now):
            self._admit(way)
        state = self.ways.get(way)
        if state is None:
            self._drop("ping by no way")
            return
        state.heard_at = now
        if not way.own:
            self._theirs_at = now
        if state.open:
            self._transmits.append(ToWay(way, Pong(message.tx_id, way.to)))
            if not state.is_trusted(now) and _is_due(state.pinged_at, timing.REPING_S, now):
                self._ping(way, now)
        else:
            state.held = [*state.held, (message.tx_id, now)][-HELD_MAX:]

    def channel_open(self, peer: Endpoint, now: float) -> None:
        """A channel to an address was bound: answer what waited for it."""
        way = Way(peer, own=True)
        state = self.ways.get(way)
        if state is None:
            return
        state.open = True
        held, state.held = state.held, []
        for tx_id, at in held:
            if now - at < HOLD_S:
                self._transmits.append(ToWay(way, Pong(tx_id, peer)))
        if held or self._wanted_since is not None:
            self._ping(way, now)

    def channel_refused(self, peer: Endpoint, now: float) -> None:
        """A channel can't be had: the way is of no use."""
        self._forget(Way(peer, own=True), now)

    def receive_pong(self, pong: Pong, way: Way | None, now: float) -> bool:
        """Take a pong that came a way, None for DERP; False if its ping was not sent here."""
        flight = self._flights.get(pong.tx_id)
        if flight is None:
            return False
        del self._flights[pong.tx_id]
        rtt_s = max(0.0, now - flight.at)
        if flight.way is None:
            self._derp_asked_at = None
            self.derp_latency_s = _smooth(self.derp_latency_s, rtt_s)
            self._decide(now)
            return True
        if flight.way != way or (state := self.ways.get(way)) is None:
            self._drop("pong from elsewhere")
            return True
        state.ponged_at = now
        state.latency_s = _smooth(state.latency_s, rtt_s)
        if flight.asked:
            self._events.append(TurnPonged(pong.tx_id, rtt_s))
        self._choose(way, state, now)
        return True

    def ping(self, now: float) -> TxId | None:
        """Ping for a person, by the way that carries data; None where none does."""
        if not self._leased or self._best is None or self._better:
            return None
        return self._ping(self._best, now, asked=True)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        while self._flights:
            tx_id, flight = next(iter(self._flights.items()))
            if now < flight.at + timing.PING_TIMEOUT_S:
                break
            del self._flights[tx_id]
        if self._theirs and now >= self._theirs_at + OFFER_LIFE_S:
            if self._best is not None and self._best.to in self._theirs:
                self._theirs_at = now
            else:
                self.receive_offer(TurnOffer(()), now)
        if not self.is_active(now):
            self._active_until = 0.0
            self._rest()
        if self._wanted_since is None:
            return
        if self._best is not None and now >= self._next_ping:
            self._keep(self._best, now)
        if self._best is not None and now >= self._next_derp:
            self._next_derp = now + timing.WARM_EVERY_S
            self._ping_derp(now)
        if now >= self._next_search:
            self._search(now)
        self._decide(now)

    def poll_transmit(self) -> ToWay | ToDerp | None:
        """Return the next message to send."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> TurnEvent | None:
        """Return what the owner should do or know."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` is due; None: not before something happens."""
        due = []
        if self._flights:
            due.append(next(iter(self._flights.values())).at + timing.PING_TIMEOUT_S)
        if self._theirs:
            due.append(self._theirs_at + OFFER_LIFE_S)
        if self._active_until:
            due.append(self._active_until)
        if self._wanted_since is not None:
            due.append(self._next_search)
            if self._best is not None:
                due += [self._next_ping, self._next_derp]
                if self._derp_asked_at is not None and not self._leased:
                    due.append(self._derp_asked_at + DERP_SILENT_S)
        return min(due, default=None)

    # What others ask.

    def is_active(self, now: float) -> bool:
        """Whether something was sent to the peer of late."""
        return now < self._active_until

    def is_idle(self, now: float) -> bool:
        """Whether this machine may be forgotten."""
        heard = any(not _is_due(state.heard_at, HEARD_S, now) for state in self.ways.values())
        return not (self._active_until or self._flights or self._theirs or heard)

    def is_wanted(self) -> bool:
        """Whether traffic flows and nothing better carries it."""
        return self._wanted_since is not None

    def allocate_at(self, now: float) -> float | None:
        """Return when a relayed address of our own is to be asked for; None: it is not needed."""
        if self._wanted_since is None:
            return None
        if any(state.is_trusted(now) and not way.own for way, state in self.ways.items()):
            return None
        wait = ALLOCATE_AFTER_S if self._first or not self._udp else ALLOCATE_LATER_S
        return self._wanted_since + wait

    def uses_own(self, now: float) -> bool:
        """Whether our relayed address is of use to this peer, or to the other side."""
        recent = any(
            way.own and (state.is_trusted(now) or not _is_due(state.heard_at, HEARD_S, now))
            for way, state in self.ways.items()
        )
        allocate_at = self.allocate_at(now)
        return recent or (allocate_at is not None and now >= allocate_at)

    def theirs(self, endpoint: Endpoint) -> bool:
        """Whether an address is one that a server relays for the peer."""
        return endpoint in self._theirs

    def offered(self) -> tuple[Endpoint, ...]:
        """Return the peer's relayed addresses."""
        return self._theirs

    def path(self, now: float) -> tuple[Way, WayState] | None:
        """Return the way that carries data while nothing better does."""
        if self._best is None or not self._leased:
            return None
        state = self.ways[self._best]
        return (self._best, state) if state.is_trusted(now) else None

    def left_ms(self, now: float) -> int:
        """Return for how long the path is still trusted."""
        found = self.path(now)
        if found is None or found[1].ponged_at is None:
            return 0
        return int((found[1].ponged_at + timing.TRUST_S - now) * 1000)

    # Searching.

    def _resume(self, now: float) -> None:
        self._wanted_since = now
        self._next_derp = now
        self._next_ping = now
        self._unanswered = 0
        self._restart_search(now)

    def _rest(self) -> None:
        """Nothing is to be done any more: the better path, or none, has the lease."""
        self._wanted_since = self._best = None
        self._leased = False

    def _restart_search(self, now: float) -> None:
        self._round = 0
        self._search(now)

    def _search(self, now: float) -> None:
        """Ping every way; tell the peer of our relayed address, unless it is used."""
        assert self._wanted_since is not None
        for way, state in self.ways.items():
            if state.open and way != self._best:
                self._ping(way, now)
        used = any(way.own and state.is_trusted(now) for way, state in self.ways.items())
        if self._own and self._offers and not used and self._best is None:
            self._transmits.append(ToDerp(TurnOffer(self._own)))
        if self._best is None:
            pause_s = timing.search_pause_s(self._round, now - self._wanted_since)
        else:
            pause_s = timing.WARM_EVERY_S
        self._round += 1
        self._next_search = now + pause_s

    def _make_ways(self) -> None:
        """See that there is a way to each of the peer's relayed addresses."""
        for each in self._theirs:
            self._admit(Way(each, own=False) if self._udp else Way(each, own=True))

    def _admit(self, way: Way) -> None:
        if way in self.ways:
            return
        if way.own and all(own.is_v4 != way.to.is_v4 for own in self._own):
            return
        if len(self.ways) >= WAYS_MAX:
            oldest = min(self.ways, key=lambda one: (one == self._best, self._heard(one)))
            del self.ways[oldest]
        self.ways[way] = WayState(open=not way.own)
        if way.own:
            self._events.append(ChannelWanted(way.to))

    def _heard(self, way: Way) -> float:
        heard = self.ways[way].ponged_at
        return float("-inf") if heard is None else heard

    def _forget(self, way: Way, now: float) -> None:
        if self.ways.pop(way, None) is not None and way == self._best:
            self._lose(now)

    # A way that works.

    def _choose(self, way: Way, state: WayState, now: float) -> None:
        """A way has answered: make it the best one if it is, and see whether it may carry data."""
        if self._wanted_since is None:
            return
        best = self.ways.get(self._best) if self._best is not None else None
        if way != self._best and best is not None and best.is_trusted(now):
            assert state.latency_s is not None and best.latency_s is not None
            points = advantage(way.to, state.latency_s, way.to, best.latency_s)
            if not worth_a_switch(points) or now - self._switched_at < timing.SWITCH_PAUSE_S:
                return
        if way != self._best:
            self._best, self._switched_at = way, now
            if best is None:
                self._next_derp = now
        self._unanswered = 0
        busy = now < self._busy_until and self._leased
        self._next_ping = now + (timing.BUSY_HEARTBEAT_S if busy else timing.HEARTBEAT_S)
        if self._leased:
            self._lease(way)
        self._decide(now)

    def _decide(self, now: float) -> None:
        """Compare with DERP: TURN carries data once it is measured to be no slower."""
        state = self.ways.get(self._best) if self._best is not None else None
        if self._best is None or state is None or not state.is_trusted(now):
            return
        derp_is_silent = (
            self._derp_asked_at is not None and now - self._derp_asked_at >= DERP_SILENT_S
        )
        if self._leased:
            if not derp_is_silent and self._points(state) < -LEAVE_POINTS:
                self._leased = False
                self._events.append(TurnLease(None, 0))
        elif derp_is_silent or (
            self.derp_latency_s is not None and not worth_a_switch(-self._points(state))
        ):
            self._leased = True
            self._next_ping = min(self._next_ping, now + timing.BUSY_HEARTBEAT_S)
            self._lease(self._best)

    def _points(self, state: WayState) -> float:
        """By how much TURN is better than DERP, as far as latency tells."""
        if self.derp_latency_s is None or state.latency_s is None or self._best is None:
            return 0.0
        at = self._best.to
        return advantage(at, state.latency_s - SLACK_S, at, self.derp_latency_s)

    def _lease(self, way: Way) -> None:
        self._events.append(TurnLease(way, int(timing.TRUST_S * 1000)))

    def _keep(self, best: Way, now: float) -> None:
        """Ping the way in use; leave it when pongs stay out."""
        if self._unanswered > timing.SUSPECT_TRIES:
            self.ways[best].ponged_at = None
            self._lose(now)
            self._events.append(WayDead(best))
            alive = [way for way, state in self.ways.items() if state.is_trusted(now)]
            if alive:
                way = min(alive, key=lambda one: self.ways[one].latency_s or 0.0)
                self._choose(way, self.ways[way], now)
            else:
                self._restart_search(now)
            return
        self._ping(best, now)
        patience_s = max(timing.SUSPECT_AFTER_S, 3 * (self.ways[best].latency_s or 0.0))
        self._next_ping = now + (timing.SUSPECT_EVERY_S if self._unanswered else patience_s)
        self._unanswered += 1

    def _lose(self, now: float) -> None:
        if self._leased:
            self._events.append(TurnLease(None, 0))
        self._best, self._leased = None, False
        self._unanswered = 0
        self._next_search = min(self._next_search, now)

    def _ping(self, way: Way, now: float, asked: bool = False) -> TxId:
        state = self.ways[way]
        state.pings += 1
        state.pinged_at = now
        tx_id = self._begin_flight(_Flight(way, now, asked))
        self._transmits.append(ToWay(way, Ping(tx_id, self._own_key)))
        return tx_id

    def _ping_derp(self, now: float) -> None:
        if self._derp_asked_at is None:
            self._derp_asked_at = now
        tx_id = self._begin_flight(_Flight(None, now, asked=False))
        self._transmits.append(ToDerp(Ping(tx_id, self._own_key)))

    def _begin_flight(self, flight: _Flight) -> TxId:
        tx_id = TxId(self._entropy(_TX_ID_BYTES))
        if len(self._flights) >= FLIGHTS_MAX:
            del self._flights[next(iter(self._flights))]
        self._flights[tx_id] = flight
        return tx_id

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def _smooth(before_s: float | None, rtt_s: float) -> float:
    return rtt_s if before_s is None else before_s + _SMOOTHING * (rtt_s - before_s)


def _is_due(at: float | None, pause_s: float, now: float) -> bool:
    return at is None or now - at >= pause_s
