"""The side with one address: it looks for one of the hard side's many ports.

A hundred pings a second at the most, from the one socket that the hard side wrote to. The same
serves to scan the ports of a stock client's NAT for the one through which it pinged us.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from warren.disco.messages import Ping, Pong, TxId
from warren.keys import NodePublic
from warren.netmap.endpoint import Endpoint
from warren.paths.punching.attempt import Attempt, Method, Outcome
from warren.paths.punching.budget import PROBES_PER_S, ProbeBudget
from warren.paths.punching.ports import FIRST_MAX, SCAN_WIDTH, GuessPlan, guesses

PROBES_MAX = 1024
SCAN_MAX = SCAN_WIDTH + FIRST_MAX
"""The widest block whole, and the likeliest ports, which may lie outside of it."""
HINTS_MAX = 16
LATE_S = 1.0
"""How long answers are waited for after the last probe."""
_TX_ID_BYTES = 12


class Hit(NamedTuple):
    """A probe was answered. `seen_as`: our own endpoint as the peer saw it."""

    endpoint: Endpoint
    rtt_s: float
    seen_as: Endpoint


class EasySide:
    """One attempt. It is over when `attempt.ended` is set; then `hit` is the path or None.

    scan: look for a single port and leave no likely one out, instead of hoping for one of many.
    number: the hard side's number of the attempt, None if nobody invited.
    """

    def __init__(
        self,
        *,
        address: IPv4Address | IPv6Address,
        plan: GuessPlan,
        own_key: NodePublic,
        budget: ProbeBudget,
        entropy: Callable[[int], bytes],
        now: float,
        number: int | None = None,
        scan: bool = False,
    ) -> None:
        self.address = address
        self.number = number
        self.hit: Hit | None = None
        self.attempt = Attempt(
            Method.SCAN if scan else Method.PROBES, Endpoint(address, 0), now, sockets=plan.sockets
        )
        if scan:
            self.attempt.sockets = 0
        self._limit = SCAN_MAX if scan else PROBES_MAX
        self._ports: Iterator[int] = guesses(plan, entropy, whole=not scan, exhaust=scan)
        self._own_key = own_key
        self._budget = budget
        self._entropy = entropy
        self._due = now
        self._all_sent = False
        self._hints: deque[int] = deque()
        self._hints_left = HINTS_MAX
        self._flights: dict[TxId, tuple[Endpoint, float]] = {}
        self._out: deque[tuple[Endpoint, Ping]] = deque()

    def owns(self, tx_id: TxId) -> bool:
        """Whether a pong answers one of our probes."""
        return tx_id in self._flights

    def hint(self, endpoint: Endpoint, now: float) -> None:
        """A ping came from there: it is probed next, within the rate."""
        if endpoint.ip == self.address and self.attempt.ended is None and self._hints_left:
            self._hints_left -= 1
            self._hints.append(endpoint.port)
            if self._all_sent:
                self._all_sent = False
                self._due = now

    def receive(self, pong: Pong, via: Endpoint, now: float) -> None:
        """Take the answer to a probe. One that came from elsewhere counts for nothing."""
        flight = self._flights.get(pong.tx_id)
        if flight is not None and flight[0] == via and self.attempt.ended is None:
            self.hit = Hit(via, max(0.0, now - flight[1]), pong.source)
            self.attempt.found = via
            self.stop(Outcome.FOUND, now)

    def handle_timeout(self, now: float) -> None:
        """Send the next probe, if the rate allows it."""
        if self.attempt.ended is not None or now < self._due:
            return
        if self._all_sent:
            self.stop(Outcome.EXHAUSTED, now)
            return
        port = None
        if self._budget.take(self.address, 1, now):
            port = self._next_port()
            if port is None:
                self._all_sent = True
                self._due = now + LATE_S
                return
            endpoint = Endpoint(self.address, port)
            tx_id = TxId(self._entropy(_TX_ID_BYTES))
            self._flights[tx_id] = (endpoint, now)
            self._out.append((endpoint, Ping(tx_id, self._own_key)))
            self.attempt.probes += 1
            # A late timer may catch up, but not by a burst: the pace is kept from where it was.
            self._due = max(self._due + 1 / PROBES_PER_S, now + 0.5 / PROBES_PER_S)
        else:
            self._due = self._budget.next_free(self.address, 1, now)

    def _next_port(self) -> int | None:
        if self._hints:
            return self._hints.popleft()
        return next(self._ports, None) if self.attempt.probes < self._limit else None

    def poll_transmit(self) -> tuple[Endpoint, Ping] | None:
        """Return the next probe to send from the main socket."""
        return self._out.popleft() if self._out else None

    def next_timeout(self) -> tuple[float, str] | None:
        """Tell when `handle_timeout` is due, and why."""
        return None if self.attempt.ended is not None else (self._due, "the next probe")

    def stop(self, outcome: Outcome, now: float) -> None:
        """Send nothing more."""
        self._out.clear()
        self._flights.clear()
        self.attempt.end(outcome, now)
