"""One router asked by UPnP: found by SSDP, described, asked for a mapping, kept, given back.

What is asked of the router one after the other is written as generators: each `yield` hands out
an HTTP request and gets back what came of it. The number of requests of one conversation is
bounded, whatever the router says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from ipaddress import IPv4Address

from warren.nat import ssdp, upnp
from warren.nat.datagram_asker import LATE_S, PROBE_SPACINGS_S, Stage
from warren.nat.dialects import NO_ADDRESS
from warren.nat.mapping import (
    LEASE_S,
    Address,
    Call,
    CallFailed,
    Datagram,
    Finding,
    Mapping,
    MapProtocol,
    Outcome,
    Reply,
    why_unreachable,
)
from warren.nat.retry import Retry
from warren.nat.ssdp import Location
from warren.nat.upnp import MalformedUpnp, Service, SoapFault, SoapRequest
from warren.netmap.endpoint import Endpoint

CALL_LIMIT_S = 10.0
"""A request without any news for this long has failed; the effects have a shorter limit."""
_LOCATIONS_MAX = 4
_CALLS_MAX = 24
_PORT_TRIES = 4
_RENEW_MIN_S = 10.0
_LOWEST_PORT = 1024

_Asked = SoapRequest | Location
_Came = Reply | CallFailed
Step = Generator[_Asked, _Came, None]


class GaveUp(Exception):
    """The conversation ended without a mapping."""

    def __init__(self, finding: Finding, detail: str) -> None:
        super().__init__(detail)
        self.finding = finding
        self.detail = detail


class UpnpAsker:
    """Verbs: receive, receive_reply, handle_timeout, poll_transmit, next_timeout."""

    protocol = MapProtocol.UPNP
    group: Address = ssdp.GROUP
    """Where it is searched for."""
    kinds: tuple[str, ...] = upnp.MAPPING_KINDS
    """Services that may be asked."""
    purpose = "maps ports"

    def __init__(
        self,
        router: Address,
        local_ip: Address,
        internal_port: int,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        self._router = router
        self._local_ip = local_ip
        self._port = internal_port
        self._entropy = entropy
        self._probe: Retry | None = None
        self._probed_at = now
        self._searches: deque[Datagram] = deque()
        self._found: dict[Location, None] = {}
        self._talk: Step | None = None
        self._talk_calls = 0
        self._calls = 0
        self._call: Call | None = None
        self._unsent = False
        self._call_until = now
        self._ready = False
        self._check_due = False
        self._renew_at: float | None = None
        self._boot_id = ""
        self._service: Service | None = None
        # A port that was asked for, and perhaps given: to be deleted if we stop right then.
        self._wanted: tuple[Service, int] | None = None
        self._external_ip: Address | None = None
        self._now = now
        self.model = ""
        self.malformed = 0
        """Answers to requests that cannot be read, or must not be."""
        self.mapping: Mapping | None = None
        self.outcome = Outcome(MapProtocol.UPNP, Finding.UNKNOWN, since=now)

    @property
    def stage(self) -> Stage:
        """Where the conversation stands."""
        if self.mapping is not None:
            return "holding"
        if self._talk is not None:
            return "busy"
        if self._ready:
            return "ready"
        return "waiting" if self._probe is not None else "done"

    def probe(self, now: float) -> None:
        """Search for the router by multicast, and ask it itself."""
        self._probe = Retry(b"", PROBE_SPACINGS_S, now)
        self._probed_at = now
        self._ready = False
        self._check_due = self.mapping is not None
        self._found.clear()

    def map(self, now: float) -> None:
        """Ask for a mapping."""
        self._ready = False
        self._begin(self._seek(), now)

    def release(self, now: float) -> None:
        """Give the mapping back, if there is one."""
        self._ready, self._probe = False, None
        self._end_talk()
        self.mapping, self._renew_at = None, None
        if self._wanted is not None:
            self._begin(self._delete(*self._wanted), now)

    def is_router(self, ip: Address) -> bool:
        """Whether an address is taken for the router's."""
        return ip == self._router

    def receive(self, data: bytes, now: float) -> str | None:
        """Take an answer to the search; return why it was dropped. Raises MalformedSsdp."""
        answer = ssdp.parse_ssdp_answer_untrusted(data)
        if not self.is_router(answer.location.server.ip):
            return "names another machine"
        if now - self._probed_at > LATE_S:
            return "not asked for"
        self._boot_id = answer.boot_id or self._boot_id
        if len(self._found) >= _LOCATIONS_MAX and answer.location not in self._found:
            return "too many"
        self._found.setdefault(answer.location)
        self._probe = None
        self._searches.clear()
        if self._talk is not None:
            return None
        if self.mapping is None:
            self._ready = True
            if self.outcome.finding in (Finding.UNKNOWN, Finding.SILENT):
                self._conclude(Finding.SPOKEN, "", now)
        elif self._check_due:
            self._check_due = False
            self._begin(self._check(self.mapping), now)
        return None

    def notice(self, data: bytes) -> bool:
        """Take what the router multicasts of itself; tell whether it has started anew.

        It repeats itself every minute or so, so that only another boot id is news, or that it
        speaks at all where it was silent. Raises MalformedSsdp.
        """
        heard = ssdp.parse_ssdp_notice_untrusted(data)
        if not heard.alive:
            return False
        before, self._boot_id = self._boot_id, heard.boot_id or self._boot_id
        if self.outcome.finding is Finding.SILENT:
            return True
        return bool(before) and self._boot_id != before

    def receive_reply(self, number: int, reply: _Came, now: float) -> bool:
        """Take what came of a request; tell whether it was waited for."""
        if self._call is None or self._call.number != number:
            return False
        self._call = None
        self._now = now
        self._advance(reply)
        return True

    def handle_timeout(self, now: float) -> None:
        """Give up what was not answered; renew what is due."""
        self._now = now
        if self._probe is not None and self._probe.over(now):
            self._probe = None
            if self.mapping is None and self.outcome.finding is not Finding.SILENT:
                self._conclude(Finding.SILENT, "", now)
        if self._call is not None and now >= self._call_until:
            self.receive_reply(self._call.number, CallFailed("it did not answer"), now)
        if self.mapping is None:
            return
        expires_at = self.mapping.expires_at
        if expires_at is not None and now >= expires_at:
            self._lose(Finding.BROKEN, "it no longer answers")
        elif self._renew_at is not None and now >= self._renew_at and self._talk is None:
            self._renew_at = None
            self._begin(self._renew(self.mapping), now)

    def poll_transmit(self, now: float) -> Datagram | Call | None:
        """Return the next thing to send."""
        if self._probe is not None and self._probe.step(now) is not None:
            group = Endpoint(self.group, ssdp.PORT)
            router = Endpoint(self._router, ssdp.PORT)
            self._searches.extend(
                Datagram(to, ssdp.search_request(target, to))
                for to, target in (
                    (group, ssdp.GATEWAY_V2),
                    (group, ssdp.GATEWAY_V1),
                    (router, ssdp.GATEWAY_V1),
                )
            )
        if self._searches:
            return self._searches.popleft()
        if self._unsent and self._call is not None:
            self._unsent = False
            return self._call
        return None

    def next_timeout(self) -> float | None:
        """Tell when `handle_timeout` or `poll_transmit` has something to do."""
        dues = [self._probe.due] if self._probe is not None else []
        if self._call is not None:
            dues.append(self._call_until)
        if self._renew_at is not None and self._talk is None:
            dues.append(self._renew_at)
        if self.mapping is not None and self.mapping.expires_at is not None:
            dues.append(self.mapping.expires_at)
        return min(dues, default=None)

    # The machinery of a conversation.

    def _begin(self, talk: Step, now: float) -> None:
        self._end_talk()
        self._now = now
        self._talk = talk
        self._talk_calls = 0
        self._advance(None)

    def _end_talk(self) -> None:
        self._talk, self._call, self._unsent = None, None, False

    def _advance(self, came: _Came | None) -> None:
        talk = self._talk
        assert talk is not None
        try:
            asked = next(talk) if came is None else talk.send(came)
        except StopIteration:
            self._end_talk()
        except GaveUp as end:
            self._end_talk()
            self._give_up(end)
        else:
            self._ask(asked)

    def _give_up(self, end: GaveUp) -> None:
        """No mapping came of it; one that we hold lives on if the router merely said nothing."""
        held = self.mapping
        if held is None or end.finding is not Finding.BROKEN:
            self._lose(end.finding, end.detail)
        elif held.expires_at is not None:
            left_s = held.expires_at - self._now
            self._renew_at = self._now + max(left_s / 2, _RENEW_MIN_S)

    def _ask(self, asked: _Asked) -> None:
        self._talk_calls += 1
        if self._talk_calls > _CALLS_MAX:
            self._end_talk()
            self._give_up(GaveUp(Finding.BROKEN, "it has too many services, and none works"))
            return
        self._calls += 1
        if isinstance(asked, SoapRequest):
            self._call = Call(self._calls, "POST", asked.to, asked.headers, asked.body)
        else:
            self._call = Call(self._calls, "GET", asked)
        self._unsent = True
        self._call_until = self._now + CALL_LIMIT_S

    # Conversations.

    def _seek(self, wish: int | None = None) -> Step:
        """Describe what was found, and ask each service until one gives a mapping."""
        failure = GaveUp(Finding.BROKEN, f"its description names no service that {self.purpose}")
        asked: set[Location] = set()
        while fresh := [location for location in self._found if location not in asked]:
            asked.add(fresh[0])
            try:
                services = yield from self._describe(fresh[0])
                for service in services:
                    try:
                        yield from self._map_at(service, wish)
                    except GaveUp as end:
                        failure = end
                    else:
                        return
            except GaveUp as end:
                failure = end
        raise failure

    def _check(self, mapping: Mapping) -> Step:
        """See that the mapping is still there; a router that restarted has forgotten it."""
        service = self._service
        if service is not None:
            try:
                external_ip = yield from self._external(service)
                port = mapping.external.port
                came = yield upnp.mapping_entry_soap(service, port)
                entry = self._arguments_of(came)
                ours = isinstance(entry, dict) and (
                    entry.get("NewInternalClient") == str(self._local_ip)
                    and entry.get("NewInternalPort") == str(self._port)
                )
                if ours:
                    if external_ip != mapping.external.ip:
                        self._hold(mapping._replace(external=Endpoint(external_ip, port)))
                    return
            except GaveUp as end:
                if end.finding is Finding.SECOND_NAT:
                    raise
        # Its control URL may have changed with the restart.
        yield from self._seek(mapping.external.port)

    def _renew(self, mapping: Mapping) -> Step:
        service = self._service
        if service is not None:
            try:
                yield from self._map_at(service, mapping.external.port)
            except GaveUp:
                pass
            else:
                return
        yield from self._seek(mapping.external.port)

    def _delete(self, service: Service, port: int) -> Step:
        self._wanted = None
        yield upnp.delete_mapping_soap(service, port)
        if self.outcome.finding is Finding.MAPPED:
            self._conclude(Finding.SPOKEN, "", self._now)

    def _describe(self, location: Location) -> Generator[_Asked, _Came, tuple[Service, ...]]:
        came = yield location
        if isinstance(came, CallFailed):
            raise GaveUp(Finding.BROKEN, f"its description cannot be read: {came.reason}")
        if came.status != 200:
            raise GaveUp(Finding.BROKEN, f"its description has HTTP status {came.status}")
        try:
            description = upnp.parse_description_untrusted(came.body, location, self.kinds)
        except MalformedUpnp as error:
            self.malformed += 1
            raise GaveUp(Finding.BROKEN, str(error)) from error
        self.model = self.model or description.model
        if not description.services:
            raise GaveUp(Finding.BROKEN, f"its description names no service that {self.purpose}")
        return description.services

    def _external(self, service: Service) -> Generator[_Asked, _Came, IPv4Address]:
        came = yield upnp.external_address_soap(service)
        answer = self._arguments_of(came)
        if isinstance(answer, SoapFault):
            raise GaveUp(Finding.REFUSED, f"it does not tell its outside address: {answer}")
        try:
            external_ip = upnp.parse_external_ip_untrusted(answer)
        except MalformedUpnp as error:
            raise GaveUp(Finding.SECOND_NAT, NO_ADDRESS) from error
        self._external_ip = external_ip
        if (reason := why_unreachable(external_ip)) is not None:
            raise GaveUp(Finding.SECOND_NAT, f"its outside address {external_ip} is {reason}")
        return external_ip

    def _map_at(self, service: Service, wish: int | None) -> Step:
        external_ip = yield from self._external(service)
        port = wish or (self._port if self._port >= _LOWEST_PORT else self._random_port())
        any_port = service.is_v2 and wish is None
        lease_s = LEASE_S
        fault = SoapFault(upnp.CONFLICT, "")
        tries = _PORT_TRIES
        while tries > 0:
            tries -= 1
            self._wanted = (service, port)
            came = yield upnp.add_mapping_soap(
                service, port, self._local_ip, self._port, lease_s, any_port=any_port
            )
            answer = self._arguments_of(came)
            if isinstance(answer, dict):
                if any_port:
                    try:
                        port = upnp.parse_reserved_port_untrusted(answer)
                    except MalformedUpnp as error:
                        self.malformed += 1
                        raise GaveUp(Finding.BROKEN, str(error)) from error
                self._service = service
                self._wanted = (service, port)
                self._hold_new(Endpoint(external_ip, port), lease_s or None)
                return
            fault = answer
            if fault.code == upnp.ONLY_PERMANENT_LEASES and lease_s:
                lease_s = 0
            elif fault.code in (upnp.INVALID_ACTION, upnp.INVALID_ARGUMENTS) and any_port:
                any_port = False
            elif fault.code == upnp.SAME_PORT_REQUIRED and port != self._port:
                port = self._port
            elif fault.code in (upnp.CONFLICT, upnp.CONFLICT_WITH_OTHER_MECHANISM):
                port = self._random_port()
            else:
                break
        if fault.code:
            self._wanted = None
        raise GaveUp(Finding.REFUSED if fault.code else Finding.BROKEN, str(fault))

    def _arguments_of(self, came: _Came) -> dict[str, str] | SoapFault:
        """Return what a service answered, or why it did not."""
        if isinstance(came, CallFailed):
            return SoapFault(0, came.reason)
        try:
            return upnp.parse_soap_reply_untrusted(came.status, came.body)
        except MalformedUpnp as error:
            self.malformed += 1
            return SoapFault(0, str(error))

    # What is known.

    def _random_port(self) -> int:
        number = int.from_bytes(self._entropy(2), "big")
        return _LOWEST_PORT + number % (0x10000 - _LOWEST_PORT)

    def _hold_new(self, external: Endpoint, lease_s: int | None) -> None:
        self._renew_at = None if lease_s is None else self._now + lease_s / 2
        self._hold(Mapping(MapProtocol.UPNP, external, self._port, lease_s, self._now))

    def _hold(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self._conclude(Finding.MAPPED, str(mapping.external), self._now)

    def _lose(self, finding: Finding, detail: str) -> None:
        self.mapping, self._renew_at = None, None
        self._conclude(finding, detail, self._now)

    def _conclude(self, finding: Finding, detail: str, now: float) -> None:
        if (finding, detail) != (self.outcome.finding, self.outcome.detail):
            self.outcome = Outcome(self.protocol, finding, detail, self._external_ip, now)
