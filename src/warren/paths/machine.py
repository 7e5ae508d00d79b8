"""The way to one peer: relay first, every candidate at once behind it, the best wins.

The machine sends nothing itself. It is told what came in (`receive`), that traffic flows
(`note_active`) and what time it is; it gives messages to send, leases for the engine, and asks
for fresh own endpoints. While no lease is valid the engine uses the relay, so nothing here can
lose a packet (PROTOCOL §5.3–5.5).

A search runs while the peer is active and no path is trusted: pings to all candidates, and a
CallMeMaybe over the peer's relay, so that both sides ping at the same time and both their NATs
let the other in. A path that works is pinged every 1.2 s while traffic flows, else every 3 s.
When a pong stays out, the path is asked again four times beside all others before it is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from warren.disco.messages import CallMeMaybe, Message, Ping, Pong, TxId
from warren.keys import NodePublic
from warren.netmap.endpoint import Endpoint
from warren.paths import timing
from warren.paths.candidates import Candidate, CandidateTable, Source, is_usable
from warren.paths.mtu import BASE_MTU_BYTES
from warren.paths.scoring import MUCH_BETTER_POINTS, advantage, worth_a_switch

FLIGHTS_MAX = 1024
CALL_ENDPOINTS_MAX = 128
_TX_ID_BYTES = 12
_PONG_BURST = 300.0
# A node that punches calls once a second; a stock one every few seconds.
_CALLS_PER_S, _CALL_BURST = 2.0, 20.0
# A ping is sent to one address and comes from one; NATs and several sockets may make it a few.
_PING_SOURCES_MAX = 8
_HEARD_PINGS_MAX = 64
_PONGS_PER_S = 100.0
_OTHERS_WHEN_SUSPECT = 8


class Relay(NamedTuple):
    """A way through a relay region."""

    region: int


Via = Endpoint | Relay


class Transmit(NamedTuple):
    """A message to seal and send."""

    to: Via
    message: Message


class Lease(NamedTuple):
    """Let data take `endpoint` for `lease_ms`; None: take the relay from now on.

    mtu_bytes: the largest packet inside the tunnel that it carries.
    """

    endpoint: Endpoint | None
    lease_ms: int
    mtu_bytes: int = BASE_MTU_BYTES


class Ponged(NamedTuple):
    """A ping that `ping` sent was answered."""

    tx_id: TxId
    via: Via
    rtt_s: float


class EndpointsWanted(NamedTuple):
    """Measure own endpoints now and tell them by `set_own_endpoints`."""


PathEvent = Lease | Ponged | EndpointsWanted


class _Flight(NamedTuple):
    via: Via
    at: float
    asked: bool
    """A person's ping: its pong becomes an event."""


class PeerPaths:
    """The path machine of one peer. `entropy` gives that many random bytes."""

    def __init__(self, own_key: NodePublic, entropy: Callable[[int], bytes]) -> None:
        self._own_key = own_key
        self._entropy = entropy
        self.candidates = CandidateTable()
        self.home_region = 0
        self._heard_region = 0
        self._best: Candidate | None = None
        self._trusted_until = 0.0
        self._switched_at = 0.0
        self._active_until = 0.0
        self._busy_until = 0.0
        self._flights: dict[TxId, _Flight] = {}
        self._own: tuple[Endpoint, ...] = ()
        self._own_at: float | None = None
        self._called_at: float | None = None
        self._call_by: float | None = None
        """A call waits for fresh endpoints, at most until then."""
        self._search_started: float | None = None
        self._search_round = 0
        self._next_search = 0.0
        self._next_heartbeat = 0.0
        self._next_upgrade = 0.0
        self._next_warming = 0.0
        self._peer_pinged_at: float | None = None
        self._peer_called_at: float | None = None
        self._nudge_at: float | None = None
        self._nudged_at: float | None = None
        self._suspect_since: float | None = None
        self._suspect_tries = 0
        self._next_suspect = 0.0
        self._pong_tokens = _Tokens(_PONGS_PER_S, _PONG_BURST)
        self._call_tokens = _Tokens(_CALLS_PER_S, _CALL_BURST)
        self._heard_pings: dict[TxId, int] = {}
        """Transaction → from how many addresses it came, of the last pings."""
        # Short lists: an empty deque takes 700 bytes, and most of a thousand peers never talk.
        self._transmits: list[Transmit] = []
        self._events: list[PathEvent] = []
        self.dropped: dict[str, int] = {}

    # What is known of both sides.

    def set_peer(self, endpoints: Iterable[Endpoint], home_region: int, now: float) -> None:
        """Take what the map says of the peer."""
        before = {candidate.endpoint for candidate in self.candidates}
        found = self.candidates.replace(endpoints, Source.MAP, now)
        self.home_region = home_region
        if self._search_started is not None and any(c.endpoint not in before for c in found):
            self._start_search(now)

    def set_own_endpoints(self, endpoints: Iterable[Endpoint], now: float) -> None:
        """Take own endpoints that were measured just now."""
        own = tuple(dict.fromkeys(endpoints))[:CALL_ENDPOINTS_MAX]
        changed = own != self._own
        self._own, self._own_at = own, now
        if self._call_by is not None:
            self._call(now)
        elif changed and self._search_started is not None:
            self._start_search(now)

    def network_changed(self, now: float) -> None:
        """This machine's addresses changed: trust nothing, and search again if active."""
        # A call with addresses of before would only hold up the one with those of now.
        self._own = ()
        self._own_at = self._called_at = self._nudge_at = None
        self._flights.clear()
        self._lose_path()
        for candidate in self.candidates:
            candidate.begin_anew()
        if self.is_active(now):
            self._start_search(now)

    def relay_connected(self, region: int, now: float) -> None:
        """The relay of a region is back: a call that went to it before may be lost."""
        if self._search_started is not None and region == self.relay_region():
            self._called_at = None
            self._start_search(now)

    # What happens.

    def note_active(self, now: float) -> None:
        """Traffic is being sent to the peer."""
        was_active = self.is_active(now)
        self._active_until = now + timing.ACTIVE_S
        self._busy_until = now + timing.BUSY_S
        if self.is_trusted(now):
            if not was_active:
                self._next_heartbeat = now
                self._next_upgrade = now + timing.UPGRADE_S
            self._next_heartbeat = min(self._next_heartbeat, now + timing.BUSY_HEARTBEAT_S)
        elif self._search_started is None:
            self._start_search(now)

    def ping(self, now: float) -> list[TxId]:
        """Ping for a person: on the trusted path, else everywhere and over the relay.

        It counts as traffic, so it begins a search too.
        """
        self.note_active(now)
        if self._best is not None and self.is_trusted(now):
            return [self._ping(self._best.endpoint, now, asked=True)]
        sent = [self._ping(c.endpoint, now, asked=True) for c in self.candidates]
        if region := self.relay_region():
            sent.append(self._ping(Relay(region), now, asked=True))
        return sent

    def receive(self, message: Message, via: Via, now: float) -> None:
        """Take an opened disco message of this peer."""
        if isinstance(via, Relay):
            self._heard_region = via.region
        if isinstance(message, Ping):
            self._receive_ping(message, via, now)
        elif isinstance(message, Pong):
            self._receive_pong(message, via, now)
        elif isinstance(message, CallMeMaybe):
            if isinstance(via, Relay):
                self._receive_call(message, now)
            else:
                self._drop("call not over a relay")
        else:
            self._drop("peer relay message")

    def adopt(self, endpoint: Endpoint, rtt_s: float, seen_as: Endpoint, now: float) -> None:
        """Take an address that answered a punching probe; it is kept like one found here."""
        candidate = self.candidates.add(endpoint, Source.PONG, now)
        if candidate is not None:
            candidate.record_pong(rtt_s, seen_as, now)
            self._consider(candidate, now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self._expire_flights(now)
        if self._call_by is not None and now >= self._call_by:
            self._call(now)
        if self._nudge_at is not None and now >= self._nudge_at:
            self._nudge(now)
        if self._best is not None and not self.is_trusted(now):
            self._suspect_since = None
        if not self.is_active(now):
            self._active_until = 0.0
            self._search_started = None
            self._call_by = None
            self._suspect_since = None
            return
        if self.is_trusted(now):
            self._search_started = None
            self._keep_path(now)
        elif self._search_started is None:
            self._start_search(now)
        elif now >= self._next_search:
            self._search(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next message to send."""
        return self._transmits.pop(0) if self._transmits else None

    def poll_event(self) -> PathEvent | None:
        """Return the next thing that the owner should do or know."""
        return self._events.pop(0) if self._events else None

    def next_timeout(self) -> tuple[float, str] | None:
        """Tell when `handle_timeout` is due, and why; None: not before something comes in."""
        due: list[tuple[float, str]] = []
        if self._flights:
            oldest = next(iter(self._flights.values()))
            due.append((oldest.at + timing.PING_TIMEOUT_S, "a ping times out"))
        if self._call_by is not None:
            due.append((self._call_by, "a call waits for endpoints"))
        if self._nudge_at is not None:
            due.append((self._nudge_at, "the peer has not pinged yet"))
        if self._search_started is not None:
            due.append((self._next_search, "the next round of a search"))
        elif self._active_until > 0:
            if self._best is not None and self._trusted_until > 0:
                due.append((self._trusted_until, "the trust in the path ends"))
                if self._suspect_since is None:
                    due.append((self._next_heartbeat, "a heartbeat"))
                else:
                    due.append((self._next_suspect, "a pong is overdue"))
            due.append((self._active_until, "the peer falls idle"))
        return min(due) if due else None

    # What others ask.

    def is_active(self, now: float) -> bool:
        """Whether something was sent to the peer of late."""
        return now < self._active_until

    def is_busy(self, now: float) -> bool:
        """Whether traffic flows at this moment."""
        return now < self._busy_until

    def lease(self, now: float) -> Lease | None:
        """Return a lease for as long as the last pong counts, or None if it does not."""
        left_ms = int((self._trusted_until - now) * 1000)
        return Lease(self._best.endpoint, left_ms) if self._best and left_ms > 0 else None

    def is_trusted(self, now: float) -> bool:
        """Whether the best path has a pong that still counts."""
        return self._best is not None and now < self._trusted_until

    def path(self, now: float) -> Candidate | None:
        """Return the direct path in use, or None while the relay is."""
        return self._best if self.is_trusted(now) else None

    def searching_s(self, now: float) -> float | None:
        """Return for how long a path is being searched; None: no search is on."""
        return None if self._search_started is None else max(0.0, now - self._search_started)

    def relay_region(self) -> int:
        """Return the region through which the peer is reached; 0 if none is known."""
        return self.home_region or self._heard_region

    # A search.

    def _start_search(self, now: float) -> None:
        self._search_started = now
        self._search_round = 0
        self._search(now)

    def _search(self, now: float) -> None:
        assert self._search_started is not None
        for candidate in self.candidates:
            self._ping(candidate.endpoint, now)
        self._want_call(now)
        pause_s = timing.search_pause_s(self._search_round, now - self._search_started)
        self._search_round += 1
        self._next_search = now + pause_s

    def _want_call(self, now: float) -> None:
        """Call the peer, with endpoints that are fresh or about to be."""
        if self._called_at is not None and now - self._called_at < timing.CALL_EVERY_S:
            return
        if not self.relay_region() or self._call_by is not None:
            return
        if self._own_at is not None and now - self._own_at <= timing.ENDPOINTS_FRESH_S:
            self._call(now)
        else:
            self._call_by = now + timing.ENDPOINTS_WAIT_S
            self._events.append(EndpointsWanted())

    def _call(self, now: float) -> None:
        self._call_by = None
        region = self.relay_region()
        if region and self._own:
            self._called_at = now
            self._transmits.append(Transmit(Relay(region), CallMeMaybe(self._own)))

    # A path that works.

    def _keep_path(self, now: float) -> None:
        assert self._best is not None
        if self._suspect_since is not None:
            if now >= self._next_suspect:
                self._ask_again(now)
        elif now >= self._next_heartbeat:
            self._ping(self._best.endpoint, now)
            self._next_heartbeat = now + self._heartbeat_s(now)
            self._suspect_since = now
            self._suspect_tries = 0
            patience_s = 3 * (self._best.latency_s or 0.0)
            self._next_suspect = now + max(timing.SUSPECT_AFTER_S, patience_s)
            if now >= self._next_warming:
                self._keep_warm(now)
        if now >= self._next_upgrade:
            self._next_upgrade = now + timing.UPGRADE_S
            if (self._best.latency_s or 0.0) > timing.GOOD_ENOUGH_S:
                for candidate in self.candidates:
                    if candidate is not self._best:
                        self._ping(candidate.endpoint, now)
                self._want_call(now)

    def _heartbeat_s(self, now: float) -> float:
        return timing.BUSY_HEARTBEAT_S if self.is_busy(now) else timing.HEARTBEAT_S

    def _keep_warm(self, now: float) -> None:
        """Ping the next best paths, so that they are there when the best one dies."""
        self._next_warming = now + timing.WARM_EVERY_S
        others = [c for c in self.candidates if c is not self._best and c.latency_s is not None]
        others.sort(key=Candidate.last_heard, reverse=True)
        for candidate in others[: timing.WARM_PATHS]:
            self._ping(candidate.endpoint, now)

    def _ask_again(self, now: float) -> None:
        """A pong is overdue: ask the path and the others, and leave it after four times."""
        assert self._best is not None and self._suspect_since is not None
        if self._suspect_tries >= timing.SUSPECT_TRIES:
            since = self._suspect_since
            self._lose_path()
            alive = [c for c in self.candidates if c.ponged_at is not None and c.ponged_at >= since]
            if alive:
                best = alive[0]
                for other in alive[1:]:
                    if _advantage(other, best) > 0:
                        best = other
                self._use(best, now)
            else:
                self._start_search(now)
            return
        self._suspect_tries += 1
        self._next_suspect = now + timing.SUSPECT_EVERY_S
        self._ping(self._best.endpoint, now)
        others = [c for c in self.candidates if c is not self._best]
        others.sort(key=Candidate.last_heard, reverse=True)
        for candidate in others[:_OTHERS_WHEN_SUSPECT]:
            self._ping(candidate.endpoint, now)

    def _use(self, candidate: Candidate, now: float) -> None:
        """Make a candidate that has just answered the path, or prolong the trust in it."""
        if candidate is not self._best:
            # The first path may be improved upon at once, as other pongs come in.
            self._switched_at = now if self._best is not None else now - timing.SWITCH_PAUSE_S
            self._best = candidate
            self._next_heartbeat = now + self._heartbeat_s(now)
            self._next_upgrade = now + timing.UPGRADE_S
        self._suspect_since = None
        self._search_started = None
        self._call_by = None
        self._trusted_until = now + timing.TRUST_S
        self._next_heartbeat = min(self._next_heartbeat, now + self._heartbeat_s(now))
        self._events.append(Lease(candidate.endpoint, int(timing.TRUST_S * 1000)))

    def _lose_path(self) -> None:
        if self._best is not None and self._trusted_until > 0:
            self._events.append(Lease(None, 0))
        self._best = None
        self._trusted_until = 0.0
        self._suspect_since = None

    # Messages.

    def _receive_ping(self, ping: Ping, via: Via, now: float) -> None:
        if not self._pong_tokens.take(now):
            self._drop("ping over the rate")
            return
        if isinstance(via, Relay):
            # The wire has no address for a relay; stock nodes write 127.3.3.40:<region>.
            source = Endpoint.parse(f"127.3.3.40:{min(via.region, 0xFFFF)}")
            self._transmits.append(Transmit(via, Pong(ping.tx_id, source)))
            return
        is_new = self.candidates.get(via) is None
        if is_new and self._is_replayed(ping.tx_id):
            self._drop("ping from too many addresses")
            return
        self._transmits.append(Transmit(via, Pong(ping.tx_id, via)))
        self._peer_pinged_at, self._nudge_at = now, None
        candidate = self.candidates.add(via, Source.PING, now)
        if candidate is None or (self.is_trusted(now) and not is_new):
            return
        if candidate.pinged_at is None or now - candidate.pinged_at >= timing.REPING_S:
            self._ping(via, now)
        elif candidate.ponged_at is None and candidate.pings == 1:
            # Our only ping so far may have met a closed NAT; the way is open now.
            self._ping(via, now)

    def _receive_pong(self, pong: Pong, via: Via, now: float) -> None:
        flight = self._flights.pop(pong.tx_id, None)
        if flight is None:
            self._drop("pong to no ping")
            return
        rtt_s = max(0.0, now - flight.at)
        if flight.asked:
            self._events.append(Ponged(pong.tx_id, via, rtt_s))
        if isinstance(via, Relay) or isinstance(flight.via, Relay):
            return
        if via != flight.via:
            # It came from elsewhere: that address must answer for itself.
            if self.candidates.add(via, Source.PONG, now) is not None:
                self._ping(via, now)
            return
        candidate = self.candidates.add(via, Source.PONG, now)
        if candidate is None:
            return
        candidate.record_pong(rtt_s, pong.source, now)
        self._consider(candidate, now)
        self._plan_nudge(now)

    def _plan_nudge(self, now: float) -> None:
        """The way is open; a stock peer that called would ping it only seconds later.

        Called back, it pings at once. Not more often than every 10 s, so that two nodes never
        answer each other's calls in a circle.
        """
        called, pinged = self._peer_called_at, self._peer_pinged_at
        if called is None or now - called > timing.PING_TIMEOUT_S or self._nudge_at is not None:
            return
        if pinged is not None and now - pinged <= timing.PING_TIMEOUT_S:
            return
        if self._nudged_at is None or now - self._nudged_at >= timing.NUDGE_EVERY_S:
            self._nudge_at = now + timing.NUDGE_AFTER_S

    def _nudge(self, now: float) -> None:
        self._nudge_at, self._nudged_at = None, now
        self._call(now)

    def _consider(self, candidate: Candidate, now: float) -> None:
        best = self._best
        if best is None or candidate is best or not self.is_trusted(now):
            self._use(candidate, now)
            return
        points = _advantage(candidate, best)
        settled = now - self._switched_at >= timing.SWITCH_PAUSE_S
        if candidate.left_at is not None and now - candidate.left_at < timing.RETURN_S:
            settled = False
        if worth_a_switch(points) and (settled or points >= MUCH_BETTER_POINTS):
            best.left_at = now
            self._use(candidate, now)

    def _receive_call(self, call: CallMeMaybe, now: float) -> None:
        if not self._call_tokens.take(now):
            self._drop("call over the rate")
            return
        self._peer_called_at = now
        if self.is_trusted(now):
            # Who has a path does not call: the peer's network may have changed.
            self._next_heartbeat = now
        usable = [endpoint for endpoint in call.endpoints if is_usable(endpoint)]
        self._drop("called to an address that nobody has", len(call.endpoints) - len(usable))
        for candidate in self.candidates.replace(usable, Source.CALL, now):
            if candidate is not self._best or not self.is_trusted(now):
                self._ping(candidate.endpoint, now)

    def _ping(self, via: Via, now: float, asked: bool = False) -> TxId:
        tx_id = TxId(self._entropy(_TX_ID_BYTES))
        if len(self._flights) >= FLIGHTS_MAX:
            del self._flights[next(iter(self._flights))]
        self._flights[tx_id] = _Flight(via, now, asked)
        if isinstance(via, Endpoint) and (candidate := self.candidates.get(via)) is not None:
            candidate.pings += 1
            candidate.pinged_at = now
        self._transmits.append(Transmit(via, Ping(tx_id, self._own_key)))
        return tx_id

    def _expire_flights(self, now: float) -> None:
        while self._flights:
            tx_id, flight = next(iter(self._flights.items()))
            # Compared as `next_timeout` computes it, or rounding would make it due for ever.
            if now < flight.at + timing.PING_TIMEOUT_S:
                return
            del self._flights[tx_id]

    def _is_replayed(self, tx_id: TxId) -> bool:
        """Whether a ping of this transaction came from other addresses too often."""
        heard = self._heard_pings.pop(tx_id, 0) + 1
        self._heard_pings[tx_id] = heard
        if len(self._heard_pings) > _HEARD_PINGS_MAX:
            del self._heard_pings[next(iter(self._heard_pings))]
        return heard > _PING_SOURCES_MAX

    def _drop(self, reason: str, count: int = 1) -> None:
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count


class _Tokens:
    """A bucket of `burst` tokens, which fills by `per_s`."""

    __slots__ = ("_at", "_burst", "_left", "_per_s")

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._left, self._at = burst, 0.0

    def take(self, now: float) -> bool:
        """Use a token, if there is one."""
        earned = max(0.0, now - self._at) * self._per_s
        self._left, self._at = min(self._burst, self._left + earned), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _advantage(a: Candidate, b: Candidate) -> float:
    assert a.latency_s is not None and b.latency_s is not None, "both have answered"
    return advantage(a.endpoint, a.latency_s, b.endpoint, b.latency_s)
