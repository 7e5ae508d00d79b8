"""One router asked by NAT-PMP or PCP: found, asked for a mapping, renewed, given back."""

from __future__ import annotations

from typing import Literal

from warren.nat.dialects import Alive, Denied, Dialect, Granted
from warren.nat.epoch import EpochWatch
from warren.nat.mapping import (
    LEASE_MIN_S,
    LEASE_S,
    Address,
    Finding,
    Mapping,
    MapProtocol,
    Outcome,
    why_unreachable,
)
from warren.nat.retry import Retry
from warren.netmap.endpoint import Endpoint

PROBE_SPACINGS_S = (0.125, 0.125)
"""A probe is sent twice; after 250 ms the router is silent (PROTOCOL §5.10)."""
LATE_S = 5.0
"""An answer that is this late still counts."""
_ASK_SPACINGS_S = (0.25, 0.5, 1.0, 2.0)
_RELEASE_SPACINGS_S = (0.2, 0.3)
_RENEW_MIN_S = 10.0
_RESTART_SPACING_S = 5.0
"""However often a router claims to have restarted, it is not asked more often."""
_DOUBTS_MAX = 6
"""A router that restarted and does not answer is asked for some minutes as if it still started."""

Stage = Literal["waiting", "ready", "busy", "holding", "done"]
"""waiting: for the answer to a probe; ready: to be asked; busy: asked; holding: a mapping;
done: nothing to be had before the next probe."""


class DatagramAsker:
    """Verbs: receive, handle_timeout, poll_datagram, next_timeout; `outcome` tells the rest."""

    def __init__(self, dialect: Dialect, internal_port: int, now: float) -> None:
        self._dialect = dialect
        self._port = internal_port
        self._epoch = EpochWatch()
        self._probe: Retry | None = None
        self._probed_at = now
        self._awaited = False
        self._ask: Retry | None = None
        self._asked_at = now - _RESTART_SPACING_S
        self._releasing = False
        self._ready = False
        self._renew_at: float | None = None
        self._doubts = 0
        """How often it was asked in vain since it claims to have restarted; 0: it did not."""
        self._wish: Endpoint | None = None
        self._external_ip: Address | None = None
        self.mapping: Mapping | None = None
        self.outcome = Outcome(dialect.protocol, Finding.UNKNOWN, since=now)

    @property
    def protocol(self) -> MapProtocol:
        """Which protocol."""
        return self._dialect.protocol

    @property
    def stage(self) -> Stage:
        """Where the conversation stands."""
        if self._ask is not None and self.mapping is None:
            return "busy"
        if self.mapping is not None:
            return "holding"
        if self._ready:
            return "ready"
        return "waiting" if self._probe is not None else "done"

    def probe(self, now: float) -> None:
        """Ask whether the router speaks this."""
        self._probe = Retry(self._dialect.probe_request(), PROBE_SPACINGS_S, now)
        self._probed_at = now
        self._awaited = True
        self._ready = False

    def map(self, now: float) -> None:
        """Ask for a mapping, or renew the one that is there."""
        self._ready = False
        self._releasing = False
        request = self._dialect.map_request(LEASE_S, self._wish)
        self._ask = Retry(request, _ASK_SPACINGS_S, now)
        self._asked_at = now
        self._renew_at = None

    def release(self, now: float) -> None:
        """Give a mapping back, if there is one."""
        self._ready = self._awaited = False
        self._probe = None
        if self.mapping is None and self._ask is None:
            return
        self.mapping, self._renew_at = None, None
        self._releasing = True
        self._ask = Retry(self._dialect.map_request(0, None), _RELEASE_SPACINGS_S, now)

    def receive(self, data: bytes, now: float, announced: bool = False) -> str | None:
        """Take a response of the router; return why it was dropped, or None.

        announced: it was multicast, unasked for. Raises MalformedNatPmp, MalformedPcp, Stray.
        """
        heard = self._dialect.hear_untrusted(data)
        if isinstance(heard, Alive):
            if not announced and (not self._awaited or now - self._probed_at > LATE_S):
                return "not asked for"
            self._take_alive(heard, now, announced)
        elif self._ask is None or announced:
            return "not asked for"
        elif isinstance(heard, Denied):
            self._ask = None
            self._watch(heard.epoch_s, now)
            if self._releasing:
                self._released(now)
            else:
                self._lose(heard.finding, heard.reason, now)
        elif isinstance(heard, Granted):
            return self._take_granted(heard, now)
        return None

    def handle_timeout(self, now: float) -> None:
        """Give up what was not answered; renew what is due."""
        if self._probe is not None and self._probe.over(now):
            self._probe = None
            if self.mapping is None and self.outcome.finding is not Finding.SILENT:
                self._conclude(Finding.SILENT, "", now)
        if self._ask is not None and self._ask.over(now):
            self._ask = None
            self._take_silence(now)
        if self.mapping is not None:
            expires_at = self.mapping.expires_at
            if expires_at is not None and now >= expires_at:
                self._lose(Finding.BROKEN, "it no longer answers", now)
            elif self._renew_at is not None and now >= self._renew_at:
                self.map(now)

    def poll_datagram(self, now: float) -> bytes | None:
        """Return the next datagram for the router."""
        for retry in (self._probe, self._ask):
            if retry is not None and (data := retry.step(now)) is not None:
                return data
        return None

    def next_timeout(self) -> float | None:
        """Tell when `handle_timeout` or `poll_datagram` has something to do."""
        dues = [retry.due for retry in (self._probe, self._ask) if retry is not None]
        if self._renew_at is not None:
            dues.append(self._renew_at)
        if self.mapping is not None and self.mapping.expires_at is not None:
            dues.append(self.mapping.expires_at)
        return min(dues, default=None)

    def _take_alive(self, heard: Alive, now: float, announced: bool) -> None:
        self._watch(heard.epoch_s, now)
        if announced and self.mapping is None:
            # Nobody proves that an announcement is the router's: it may only cause a probe.
            return
        if not announced:
            self._probe, self._awaited = None, False
        if heard.trouble:
            self._lose(heard.finding, heard.trouble, now)
            return
        if heard.external_ip is not None:
            self._external_ip = heard.external_ip
            if not self._check_external(heard.external_ip, now):
                return
        if self.mapping is None and self._ask is None:
            self._ready = True
            stale = [Finding.UNKNOWN, Finding.SILENT]
            if heard.external_ip is not None:
                stale.append(Finding.SECOND_NAT)
            if self.outcome.finding in stale:
                self._conclude(Finding.SPOKEN, "", now)
        elif self.mapping is not None and heard.external_ip not in (
            None,
            self.mapping.external.ip,
        ):
            # The line got another address; the mapping stayed.
            assert heard.external_ip is not None
            external = Endpoint(heard.external_ip, self.mapping.external.port)
            self._hold(self.mapping._replace(external=external), now)

    def _take_granted(self, heard: Granted, now: float) -> str | None:
        if self._releasing:
            if heard.lifetime_s:
                return "not asked for"
            self._ask = None
            self._watch(heard.epoch_s, now)
            self._released(now)
            return None
        external_ip = heard.external_ip or self._external_ip
        if heard.lifetime_s and (not heard.external_port or external_ip is None):
            return "malformed"
        self._ask = None
        self._watch(heard.epoch_s, now)
        if heard.lifetime_s < LEASE_MIN_S:
            self._lose(Finding.REFUSED, f"its leases last {heard.lifetime_s} s only", now)
            return None
        assert external_ip is not None
        external = Endpoint(external_ip, heard.external_port)
        lease_s = min(heard.lifetime_s, LEASE_S)
        mapping = Mapping(self.protocol, external, self._port, lease_s, now)
        self._doubts = 0
        if self._check_external(external_ip, now, mapping):
            self._wish = external
            self._renew_at = now + lease_s / 2
            self._hold(mapping, now)
        return None

    def _take_silence(self, now: float) -> None:
        if self._releasing:
            self._released(now)
        elif self.mapping is None:
            self._conclude(Finding.BROKEN, "it does not answer when asked for a mapping", now)
        elif self._doubts and self._doubts < _DOUBTS_MAX:
            # What starts may not answer yet, and the mapping is probably gone.
            self._renew_at = now + _RESTART_SPACING_S * 2 ** (self._doubts - 1)
            self._doubts += 1
        elif self.mapping.expires_at is not None:
            # Ever sooner as the end comes near (RFC 6887 §11.2.1).
            self._renew_at = now + max((self.mapping.expires_at - now) / 2, _RENEW_MIN_S)

    def _released(self, now: float) -> None:
        """A deletion is done, or as good as done: leases end by themselves."""
        if self.outcome.finding is Finding.MAPPED:
            self._conclude(Finding.SPOKEN, "", now)

    def _watch(self, epoch_s: int, now: float) -> None:
        if self._epoch.lost(epoch_s, now) and self.mapping is not None:
            self._renew_at = max(now, self._asked_at + _RESTART_SPACING_S)
            self._doubts = 1

    def _check_external(self, ip: Address, now: float, made: Mapping | None = None) -> bool:
        """Whether the internet reaches `ip`. If not, a mapping that was made is given back."""
        reason = why_unreachable(ip)
        if reason is None:
            return True
        held = made or self.mapping
        self._ready = False
        self.mapping = held
        if held is not None:
            self.release(now)
        self._conclude(Finding.SECOND_NAT, f"its outside address {ip} is {reason}", now)
        return False

    def _hold(self, mapping: Mapping, now: float) -> None:
        self.mapping = mapping
        self._external_ip = mapping.external.ip
        self._conclude(Finding.MAPPED, str(mapping.external), now)

    def _lose(self, finding: Finding, detail: str, now: float) -> None:
        self._ready, self._renew_at, self.mapping = False, None, None
        self._ask = None
        self._conclude(finding, detail, now)

    def _conclude(self, finding: Finding, detail: str, now: float) -> None:
        if (finding, detail) != (self.outcome.finding, self.outcome.detail):
            self.outcome = Outcome(self.protocol, finding, detail, self._external_ip, now)
