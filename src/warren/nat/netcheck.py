"""Measuring of relay regions and of our own NAT by STUN (PROTOCOL §5.9).

One `Netcheck` is one measuring: it begins with its construction, sends what `poll_transmit` gives
from the socket whose mapping is of interest, takes replies, and ends with one `Report`.

The first measuring asks every region three times; later ones ask the three fastest and home.
A region that has answered is not asked again, except that over each family a second server is
wanted: only two of them can tell whether the NAT maps by destination. If they disagree, a third one
is, as one of them may lie.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from warren.nat.rejected import Rejected
from warren.nat.report import Report
from warren.nat.stun import (
    TX_ID_BYTES,
    MalformedStun,
    TxId,
    binding_request,
    parse_binding_response_untrusted,
)
from warren.nat.targets import Target
from warren.nat.votes import is_plausible, weigh
from warren.netmap.endpoint import Endpoint

LIMIT_S = 3.0
"""A measuring by STUN never takes longer."""

_FULL_TRIES = 3
_FULL_SPACING_S = 0.100
_HOME_TRIES = 4
_FAST_TRIES = 2
_FASTEST_REGIONS = 3
_DEFAULT_LATENCY_S = 0.200
_LATENCY_FACTOR = 1.2
_EXTRA_SPACING_S = 0.050
_ENOUGH_REGIONS = 3
# How long answers of the other family and of second servers may lag behind at least.
_MIN_SETTLE_S = 0.050


class Transmit(NamedTuple):
    """A datagram to send."""

    to: Endpoint
    data: bytes


class PlannedProbe(NamedTuple):
    """A server to ask, `after_s` seconds into the measuring."""

    after_s: float
    target: Target


class _Sent(NamedTuple):
    at: float
    target: Target


class _Said(NamedTuple):
    server: Endpoint
    mapped: Endpoint


_Group = tuple[int, bool]
"""A region and whether over IPv4: what one answer satisfies."""


class Netcheck:
    """One measuring. Verbs: receive, handle_timeout, poll_transmit, poll_event, next_timeout.

    `entropy` gives that many random bytes. `fastest` are the latencies of late (none: a full
    measuring), `home` the present home region.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        entropy: Callable[[int], bytes],
        now: float,
        fastest: Mapping[int, float] | None = None,
        home: int = 0,
    ) -> None:
        self._entropy = entropy
        self._started = now
        self._full = not fastest
        plan = plan_full(targets) if not fastest else plan_incremental(targets, fastest, home)
        self._plan = deque(plan)
        self._groups = {_group(probe.target) for probe in plan}
        self._sent: dict[TxId, _Sent] = {}
        self._latency: dict[_Group, float] = {}
        self._servers: dict[IPv4Address | IPv6Address, _Said] = {}
        self._asked: set[Endpoint] = set()
        self._finish_at = now + LIMIT_S
        self._out: deque[Transmit] = deque()
        self._report: Report | None = None
        self._finished = False
        self.handle_timeout(now)

    def receive(self, data: bytes, src: Endpoint, now: float) -> Rejected | None:
        """Take a datagram; return why it is no answer to this measuring, if so. Never raises.

        With the right transaction id any `src` will do: the id can't be guessed, and servers with
        several addresses may answer from another one.
        """
        try:
            tx_id, mapped = parse_binding_response_untrusted(data)
        except MalformedStun:
            return Rejected.MALFORMED
        sent = self._sent.get(tx_id)
        if sent is None:
            return Rejected.WRONG_ID if src in self._asked else Rejected.FOREIGN
        if not is_plausible(mapped, sent.target.endpoint):
            return Rejected.RESERVED
        del self._sent[tx_id]
        if not self._finished:
            self._record(sent, mapped, now)
            self._settle(now)
        return None

    def handle_timeout(self, now: float) -> None:
        """Send what is due; end the measuring when its time is up."""
        if self._finished:
            return
        while self._plan and (
            self._started + self._plan[0].after_s <= now or not self._wanted(self._plan[0].target)
        ):
            target = self._plan.popleft().target
            if self._wanted(target):
                self._ask(target, now)
        if now >= self._finish_at or not self._groups:
            self._finish(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> Report | None:
        """Return the report, once."""
        report, self._report = self._report, None
        return report

    def next_timeout(self) -> tuple[float, str] | None:
        """Tell when `handle_timeout` is due, and why; None when the measuring is over."""
        if self._finished:
            return None
        if self._plan and self._started + self._plan[0].after_s < self._finish_at:
            return self._started + self._plan[0].after_s, "the next STUN probe"
        return self._finish_at, "the end of the measuring"

    def _ask(self, target: Target, now: float) -> None:
        tx_id = TxId(self._entropy(TX_ID_BYTES))
        self._sent[tx_id] = _Sent(now, target)
        self._asked.add(target.endpoint)
        self._out.append(Transmit(target.endpoint, binding_request(tx_id)))

    def _record(self, sent: _Sent, mapped: Endpoint, now: float) -> None:
        group = _group(sent.target)
        seconds = max(now - sent.at, 0.0)
        self._latency[group] = min(seconds, self._latency.get(group, seconds))
        server = sent.target.endpoint
        self._servers.setdefault(server.ip, _Said(server, mapped))

    def _settle(self, now: float) -> None:
        """Bring the end nearer once enough is known."""
        regions = {region for region, _ in self._groups}
        answered = {region for region, _ in self._latency}
        if len(answered) < min(_ENOUGH_REGIONS, len(regions)):
            return
        wait_s = max(self._latency.values()) * (2 if self._full else 1)
        self._finish_at = min(self._finish_at, now + max(wait_s, _MIN_SETTLE_S))
        # By family: where IPv6 does not work, its silence must not keep the second IPv4 server
        # from being asked.
        waiting = {
            sent.target.endpoint.is_v4 for sent in self._sent.values() if self._wanted(sent.target)
        }
        planned = next(
            (
                probe
                for probe in self._plan
                if probe.target.endpoint.is_v4 not in waiting and self._wanted(probe.target)
            ),
            None,
        )
        if planned is not None:
            # Its turn would come after the end: ask at once.
            self._plan.remove(planned)
            self._ask(planned.target, now)
        elif not waiting:
            self._finish(now)

    def _wanted(self, target: Target) -> bool:
        """Whether an answer of this server would still tell something."""
        if _group(target) not in self._latency:
            return True
        if target.endpoint.ip in self._servers:
            return False
        said = self._said(target.endpoint.ip.version)
        agree = len(set(said.values())) < 2
        return len(said) < (2 if agree else 3)

    def _said(self, version: int) -> dict[Endpoint, Endpoint]:
        """What the servers of one family said, in the order of their answers."""
        return {
            said.server: said.mapped for ip, said in self._servers.items() if ip.version == version
        }

    def _finish(self, now: float) -> None:
        self._finished = True
        self._plan.clear()
        self._sent.clear()
        verdict, verdict_v6 = weigh(self._said(4)), weigh(self._said(6))
        mapped = list(verdict.believed.values())
        self._report = Report(
            started=self._started,
            finished=now,
            latency_v4={region: s for (region, is_v4), s in self._latency.items() if is_v4},
            latency_v6={region: s for (region, is_v4), s in self._latency.items() if not is_v4},
            mapped_v4=tuple(dict.fromkeys(mapped)),
            mapped_v6=tuple(dict.fromkeys(verdict_v6.believed.values())),
            mapping_varies=len(set(mapped)) > 1 if len(mapped) > 1 else None,
            liars={**verdict.liars, **verdict_v6.liars},
        )


def stray(data: bytes) -> Rejected:
    """Return why a datagram is no answer while nothing is being measured."""
    try:
        parse_binding_response_untrusted(data)
    except MalformedStun:
        return Rejected.MALFORMED
    return Rejected.NOT_ASKED


def plan_full(targets: Sequence[Target]) -> list[PlannedProbe]:
    """Plan a first measuring: every region and family three times, its servers in turn."""
    plan = [
        PlannedProbe(attempt * _FULL_SPACING_S, group[attempt % len(group)])
        for group in _grouped(targets).values()
        for attempt in range(_FULL_TRIES)
    ]
    return sorted(plan, key=lambda probe: probe.after_s)


def plan_incremental(
    targets: Sequence[Target], fastest: Mapping[int, float], home: int
) -> list[PlannedProbe]:
    """Plan a later measuring: the three regions that were fastest, and home, most eagerly."""
    groups = _grouped(targets)
    known = {region for region, _ in groups}
    ranked = sorted(known & fastest.keys(), key=lambda region: (fastest[region], region))
    chosen = ranked[:_FASTEST_REGIONS]
    if home in known and home not in chosen:
        chosen.append(home)
    plan = []
    for (region, _), group in groups.items():
        if region not in chosen:
            continue
        tries = _HOME_TRIES if region == home else _FAST_TRIES if region in ranked[:2] else 1
        spacing_s = fastest.get(region, _DEFAULT_LATENCY_S / _LATENCY_FACTOR) * _LATENCY_FACTOR
        for attempt in range(tries):
            after_s = attempt * (spacing_s + _EXTRA_SPACING_S)
            plan.append(PlannedProbe(after_s, group[attempt % len(group)]))
    # No region of late is in the map any more: begin anew.
    return sorted(plan, key=lambda probe: probe.after_s) or plan_full(targets)


def _grouped(targets: Sequence[Target]) -> dict[_Group, list[Target]]:
    groups: dict[_Group, list[Target]] = {}
    for target in targets:
        groups.setdefault(_group(target), []).append(target)
    return groups


def _group(target: Target) -> _Group:
    return target.region, target.endpoint.is_v4
