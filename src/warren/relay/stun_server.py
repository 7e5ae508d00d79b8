"""STUN: tells a client from where its datagram came (RFC 8489; PROTOCOL §4.4).

Where the server has another address or port, it also answers from there if asked to, by which a
client finds out how its NAT behaves (RFC 5780). One datagram brings one answer at the most, always
to where it came from, and longer ones than 32 bytes (44 over IPv6) only so often: whoever forges
a source address gains nothing by it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, cast

from warren.edge.listen import listen_udp
from warren.edge.settings import parse_address, stun_groups
from warren.nat.stun import MalformedStun, binding_response
from warren.nat.stun5780 import (
    DiscoveryRequest,
    discovery_response,
    parse_discovery_request_untrusted,
)
from warren.netmap.endpoint import Endpoint

ANSWERED, DROPPED = "stun_answered", "stun_dropped"
_SOURCES_MAX = 4096
_SOURCE_BURST, _SOURCE_PER_S = 200.0, 40.0
_TOTAL_BURST, _TOTAL_PER_S = 4000.0, 2000.0


class Places:
    """The sockets of one IP family that answer for each other: up to two addresses and ports.

    now: monotonic seconds.
    """

    def __init__(self, endpoints: Sequence[Endpoint], now: Callable[[], float]) -> None:
        self.endpoints = tuple(endpoints)
        self._now = now
        self._senders: dict[Endpoint, StunServer] = {}
        self._sources: OrderedDict[IPv4Address | IPv6Address, tuple[float, float]] = OrderedDict()
        self._total = (_TOTAL_BURST, now())

    def join(self, at: Endpoint, server: StunServer) -> None:
        """A socket is there."""
        self._senders[at] = server

    def other(self, at: Endpoint) -> Endpoint | None:
        """Return the address and port that differ most from `at`; None if there is but one."""
        others = [place for place in self.endpoints if place != at]
        key = lambda place: (place.ip != at.ip, place.port != at.port)  # noqa: E731
        return max(others, key=key) if others else None

    def sender(self, at: Endpoint, request: DiscoveryRequest) -> StunServer | None:
        """Return the socket from which a request to `at` wants to be answered."""
        other = self.other(at)
        if other is None:
            return None
        wanted = Endpoint(
            other.ip if request.change_ip else at.ip,
            other.port if request.change_port else at.port,
        )
        changed = (wanted.ip != at.ip, wanted.port != at.port)
        if changed != (request.change_ip, request.change_port):
            return None
        return self._senders.get(wanted)

    def allow(self, source: IPv4Address | IPv6Address) -> bool:
        """Whether a source may have one more of the longer answers now."""
        now = self._now()
        total = _refill(self._total, now, _TOTAL_BURST, _TOTAL_PER_S)
        known = self._sources.pop(source, (_SOURCE_BURST, now))
        left = _refill(known, now, _SOURCE_BURST, _SOURCE_PER_S)
        allowed = total >= 1 and left >= 1
        self._total = (total - allowed, now)
        self._sources[source] = (left - allowed, now)
        if len(self._sources) > _SOURCES_MAX:
            self._sources.popitem(last=False)
        return allowed


class StunServer(asyncio.DatagramProtocol):
    """Answers binding requests on one socket and nothing else.

    `at` is the socket's own address, and `places` those who can answer in its stead; without
    them it answers plainly. counts: how much was `stun_answered`, and how much `stun_dropped`;
    shared by all sockets of a server.
    """

    def __init__(
        self,
        places: Places | None = None,
        at: Endpoint | None = None,
        counts: Counter[str] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._places = places
        self._at = at
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket."""
        # uvloop's transports are none by inheritance.
        self._transport = cast(asyncio.DatagramTransport, transport)
        if self._places is not None and self._at is not None:
            self._places.join(self._at, self)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Answer a request; whatever else comes is counted and dropped."""
        try:
            request = parse_discovery_request_untrusted(data)
            source = Endpoint.of(ip_address(addr[0].partition("%")[0]), addr[1])
            sender, answer = self._answer(request, source)
        except ValueError:
            self.counts[DROPPED] += 1
            return
        self.counts[ANSWERED] += 1
        sender.send(answer, addr)

    def send(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Send from this socket."""
        if self._transport is not None:
            self._transport.sendto(data, addr)

    def error_received(self, exc: Exception) -> None:
        """An answer did not arrive; that is the client's to notice."""

    def _answer(self, request: DiscoveryRequest, source: Endpoint) -> tuple[StunServer, bytes]:
        """Return who answers, and what. Raises MalformedStun for what is not served."""
        places, at = self._places, self._at
        changes = request.change_ip or request.change_port
        rich = places is not None and at is not None and places.allow(source.ip)
        if not rich or places is None or at is None:
            if changes:
                raise MalformedStun("there is no other address to answer from")
            return self, binding_response(request.tx_id, source)
        sender = places.sender(at, request) if changes else self
        if sender is None:
            raise MalformedStun("there is no such other address to answer from")
        answer = discovery_response(request.tx_id, source, sender._at, places.other(at))
        return sender, answer


async def open_stun(
    text: str, now: Callable[[], float], counts: Counter[str] | None = None
) -> list[asyncio.DatagramTransport]:
    """Listen where a setting says: `:3478`, addresses with commas between them, or `off`.

    now: monotonic seconds. counts: see `StunServer`. Raises BadConfig and PortProblem.
    """
    loop = asyncio.get_running_loop()
    groups = stun_groups(text)
    made: list[asyncio.DatagramTransport] = []

    async def listen(host: str | None, port: int, server: Callable[[], StunServer]) -> None:
        for sock in listen_udp(host, port, "--stun"):
            transport, _ = await loop.create_datagram_endpoint(server, sock=sock)
            made.append(transport)

    if len(groups) == 1 and len(groups[0]) == 1:
        # Without a host it means both families.
        await listen(*parse_address("stun", text), partial(StunServer, counts=counts))
        return made
    for group in groups:
        places = Places(group, now) if len(group) > 1 else None
        for at in group:
            await listen(str(at.ip), at.port, partial(StunServer, places, at, counts))
    return made


def _refill(bucket: tuple[float, float], now: float, burst: float, per_s: float) -> float:
    tokens, at = bucket
    return min(burst, tokens + (now - at) * per_s)
