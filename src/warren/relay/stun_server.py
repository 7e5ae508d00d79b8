"""STUN: tells a client from where its datagram came (RFC 8489; PROTOCOL §4.4)."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import Any, cast

from warren.nat.stun import (
    MalformedStun,
    binding_response,
    parse_binding_request_untrusted,
)
from warren.netmap.endpoint import Endpoint

_MAX_REQUEST_BYTES = 512


class StunServer(asyncio.DatagramProtocol):
    """Answers binding requests and nothing else; an answer is never longer than 64 bytes."""

    def __init__(self) -> None:
        self.answered = 0
        self.ignored = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket."""
        # uvloop's transports are none by inheritance.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Answer a request; whatever else comes is counted and dropped."""
        try:
            if len(data) > _MAX_REQUEST_BYTES:
                raise MalformedStun("too long for a binding request")
            transaction = parse_binding_request_untrusted(data)
            source = Endpoint.of(ip_address(addr[0].partition("%")[0]), addr[1])
        except ValueError:
            self.ignored += 1
            return
        if self._transport is not None:
            self.answered += 1
            self._transport.sendto(binding_response(transaction, source), addr)

    def error_received(self, exc: Exception) -> None:
        """An answer did not arrive; that is the client's to notice."""
