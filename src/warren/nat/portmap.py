"""Asking one router for a port by every protocol at once (PROTOCOL §5.10).

All three are probed together; what does not answer within 250 ms is off, and is left alone for
ten minutes. The first protocol that answers, in the order of `_ORDER`, is asked for a mapping; if
it refuses, the next. The mapping is renewed at half its lease, made anew when the router has
restarted, and given back at the end. What came of each protocol stays readable in `outcomes`.

A router of IPv6 is asked by PCP and UPnP, for a hole in its firewall: outside it is our own
address and port (RFC 6887 §11.1 calls that a mapping too).
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from warren.nat import natpmp, pcp, ssdp
from warren.nat.datagram_asker import DatagramAsker
from warren.nat.dialects import NatPmpDialect, PcpDialect, Stray
from warren.nat.mapping import (
    Call,
    CallFailed,
    Datagram,
    Finding,
    Mapping,
    MapProtocol,
    Outcome,
    Reply,
)
from warren.nat.natpmp import MalformedNatPmp
from warren.nat.pcp import MalformedPcp, Nonce
from warren.nat.ssdp import MalformedSsdp
from warren.nat.upnp_asker import UpnpAsker
from warren.nat.upnp_pinhole import PinholeAsker
from warren.netmap.endpoint import Endpoint

PROBE_EVERY_S = 600.0
"""How long it is believed what a router speaks and what not."""
_PROBE_AGAIN_MIN_S = 10.0
"""After a mapping was lost, or a router came back."""

_KEY_BYTES = 32

_ORDER = (MapProtocol.NATPMP, MapProtocol.PCP, MapProtocol.UPNP)
_ORDER_V6 = (MapProtocol.PCP, MapProtocol.UPNP)


class MappingChanged(NamedTuple):
    """The mapping is now this one (None: there is none), or the outcome of a protocol is new."""

    mapping: Mapping | None


class Portmapper:
    """One router, one internal UDP port. Verbs: receive, receive_reply, handle_timeout,
    poll_transmit, poll_event, next_timeout.

    router: where to ask; local_ip: the address of ours that it sees. disabled: protocols not to
    use. entropy gives that many random bytes. secret: makes PCP's nonce the same after a crash,
    as the router gives a port that is still mapped only to who knows its nonce (RFC 6887 §11.3).
    """

    def __init__(
        self,
        router: IPv4Address | IPv6Address,
        local_ip: IPv4Address | IPv6Address,
        internal_port: int,
        entropy: Callable[[int], bytes],
        now: float,
        disabled: Collection[MapProtocol] = (),
        secret: bytes | None = None,
    ) -> None:
        self.router = router
        self.local_ip = local_ip
        self.internal_port = internal_port
        self.drops: Counter[str] = Counter()
        self._disabled = frozenset(disabled)
        mapped = router.packed + local_ip.packed + internal_port.to_bytes(2, "big")
        key = entropy(_KEY_BYTES) if secret is None else secret
        nonce = Nonce(hashlib.blake2s(key + mapped, digest_size=pcp.NONCE_BYTES).digest())
        self._natpmp = DatagramAsker(NatPmpDialect(internal_port), internal_port, now)
        self._pcp = DatagramAsker(PcpDialect(local_ip, internal_port, nonce), internal_port, now)
        every: dict[MapProtocol, DatagramAsker | UpnpAsker] = {
            MapProtocol.NATPMP: self._natpmp,
            MapProtocol.PCP: self._pcp,
        }
        self._upnp: UpnpAsker
        if isinstance(router, IPv6Address) and isinstance(local_ip, IPv6Address):
            self._order: tuple[MapProtocol, ...] = _ORDER_V6
            self._upnp = PinholeAsker(router, local_ip, internal_port, entropy, now)
        else:
            self._order = _ORDER
            self._upnp = UpnpAsker(router, local_ip, internal_port, entropy, now)
        every[MapProtocol.UPNP] = self._upnp
        self._disabled |= frozenset(MapProtocol) - set(self._order)
        self._askers = [every[name] for name in self._order if name not in self._disabled]
        self._since = now
        self._stopping = False
        self._told: tuple[Mapping | None, tuple[Outcome, ...]] = (None, self.outcomes)
        self._events: deque[MappingChanged] = deque(maxlen=1)
        self._probed_at = now
        self._probe_at: float | None = now
        self.handle_timeout(now)

    @property
    def mapping(self) -> Mapping | None:
        """The mapping that is held, if any."""
        return next((a.mapping for a in self._askers if a.mapping is not None), None)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What came of each protocol, in the order in which they are preferred."""
        told = {asker.protocol: asker.outcome for asker in self._askers}
        return tuple(
            told.get(name) or Outcome(name, Finding.DISABLED, since=self._since)
            for name in self._order
        )

    @property
    def model(self) -> str:
        """What the router calls itself, if UPnP told; for people."""
        return self._upnp.model

    @property
    def settled(self) -> bool:
        """Whether nothing is under way: no probe, no request, no deletion."""
        return all(asker.stage in ("done", "holding") for asker in self._askers)

    def stop(self, now: float) -> None:
        """Give back what is mapped; it is done when `settled`."""
        self._stopping = True
        self._probe_at = None
        for asker in self._askers:
            asker.release(now)
        self._tell()

    def receive(self, data: bytes, src: Endpoint, now: float, announced: bool = False) -> bool:
        """Take a datagram; tell whether it was of use. Never raises; what it drops it counts.

        announced: it came by multicast, to a port where routers tell of their restart.
        """
        dropped = self._drop_reason(data, src, now, announced)
        if dropped is not None:
            self.drops[dropped] += 1
            return False
        self._proceed(now)
        return True

    def receive_reply(self, number: int, reply: Reply | CallFailed, now: float) -> None:
        """Take what came of a `Call`."""
        malformed = self._upnp.malformed
        if not self._upnp.receive_reply(number, reply, now):
            self.drops["UPnP: reply not waited for"] += 1
        elif isinstance(reply, CallFailed):
            self.drops["UPnP: no whole reply"] += 1
        elif self._upnp.malformed > malformed:
            self.drops["UPnP: malformed reply"] += 1
        self._proceed(now)

    def handle_timeout(self, now: float) -> None:
        """Probe, give up, renew: whatever is due."""
        if self._probe_at is not None and now >= self._probe_at:
            self._probed_at, self._probe_at = now, now + PROBE_EVERY_S
            for asker in self._askers:
                asker.probe(now)
        for asker in self._askers:
            asker.handle_timeout(now)
        self._proceed(now)

    def poll_transmit(self, now: float) -> Datagram | Call | None:
        """Return the next thing to send."""
        port = Endpoint(self.router, natpmp.PORT)
        for asker in self._askers:
            if isinstance(asker, UpnpAsker):
                if (transmit := asker.poll_transmit(now)) is not None:
                    return transmit
            elif (data := asker.poll_datagram(now)) is not None:
                return Datagram(port, data)
        return None

    def poll_event(self) -> MappingChanged | None:
        """Tell once that something changed; only the last change counts."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> tuple[float, str] | None:
        """Tell when `handle_timeout` is due, and why."""
        dues = [
            (due, asker.protocol.value)
            for asker in self._askers
            if (due := asker.next_timeout()) is not None
        ]
        if self._probe_at is not None:
            dues.append((self._probe_at, "the next probe"))
        return min(dues, default=None)

    def _drop_reason(self, data: bytes, src: Endpoint, now: float, announced: bool) -> str | None:
        if src.ip != self.router and (src.port == natpmp.PORT or not self._upnp.is_router(src.ip)):
            return "from another machine than the router"
        if len(data) > ssdp.MAX_BYTES:
            return "too long"
        name = MapProtocol.UPNP
        try:
            if announced and data[:1] == b"N":
                if name not in self._disabled and self._upnp.notice(data):
                    self._probe_soon(now)
                return None
            if src.port != natpmp.PORT:
                if announced or name in self._disabled:
                    return "from another port than the router's"
                why = self._upnp.receive(data, now)
            elif data[:1] in (bytes([natpmp.VERSION]), bytes([pcp.VERSION])):
                is_pcp = data[0] == pcp.VERSION
                name = MapProtocol.PCP if is_pcp else MapProtocol.NATPMP
                asker = self._pcp if is_pcp else self._natpmp
                if name in self._disabled and not announced:
                    return f"{name}: not asked for"
                why = asker.receive(data, now, announced)
                if announced and why is None:
                    # Whatever it was announced by: what the router speaks may be new, and what
                    # it held by another protocol may be gone.
                    self._probe_soon(now)
            else:
                return "of no known version"
        except (MalformedNatPmp, MalformedPcp, MalformedSsdp):
            why = "malformed"
        except Stray as error:
            why = str(error)
        return None if why is None else f"{name}: {why}"

    def _proceed(self, now: float) -> None:
        """Ask the next protocol for a mapping if there is none and none is coming."""
        held_before = self._told[0] is not None
        if not self._stopping:
            stages = [asker.stage for asker in self._askers]
            for asker, stage in zip(self._askers, stages, strict=True):
                if "holding" in stages or "busy" in stages or stage == "waiting":
                    break
                if stage == "ready":
                    asker.map(now)
                    break
            else:
                if held_before:
                    self._probe_soon(now)
        self._tell()

    def _probe_soon(self, now: float) -> None:
        """A mapping was lost, or a router came up: do not wait ten minutes."""
        if self._probe_at is not None:
            soon = max(now, self._probed_at + _PROBE_AGAIN_MIN_S)
            self._probe_at = min(self._probe_at, soon)

    def _tell(self) -> None:
        known = (self.mapping, self.outcomes)
        if known != self._told:
            self._told = known
            self._events.append(MappingChanged(known[0]))
