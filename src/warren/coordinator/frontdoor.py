"""The coordinator's paths at the front door: `/key`, `/ts2021`, health and the like."""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Mapping
from typing import cast
from urllib.parse import parse_qs, urlsplit

import msgspec
import structlog

from warren.control.early import encode_early
from warren.control.handshake import VersionTooOld, encode_error, respond
from warren.control.malformed import MalformedControl
from warren.control.upgrade import (
    PATH,
    WEBSOCKET_SUBPROTOCOL,
    initiation_from_headers_untrusted,
    initiation_from_target_untrusted,
    switching_response,
)
from warren.coordinator.cipher import OpenSsl
from warren.coordinator.settings import MINIMUM_VERSION
from warren.coordinator.ts2021 import ControlConnection, Handler
from warren.edge.entropy import Entropy
from warren.edge.http import Answer, Answerer, Arrival, Head, Taker, hand_over
from warren.edge.websocket import accept_websocket, is_websocket
from warren.keys import ChallengePublic, MachinePrivate
from warren.netmap.codec import encode_json
from warren.netmap.register import ServerKeys

_log = structlog.get_logger("door")

_JSON = "application/json"
# Control connections at once; a machine needs one, and an idle one is closed soon.
MAX_CONNECTIONS = 30_000
# A dead machine's connection is found out within this time, while data waits to be sent.
_USER_TIMEOUT_MS = 60_000


def ts2021_taker(noise: MachinePrivate, handler: Handler, entropy: Entropy) -> Mapping[str, Taker]:
    """Return what takes over control connections, by path."""

    open_now: weakref.WeakSet[ControlConnection] = weakref.WeakSet()

    def take(arrival: Arrival) -> Answer | None:
        if len(open_now) >= MAX_CONNECTIONS:
            return Answer(503, b"too many machines are connected\n")
        websocket = is_websocket(arrival.head)
        try:
            if websocket:
                initiation = initiation_from_target_untrusted(arrival.head.target)
            else:
                initiation = initiation_from_headers_untrusted(
                    arrival.head.method, arrival.head.headers
                )
            accepted = respond(initiation, noise, entropy(32), MINIMUM_VERSION, OpenSsl)
        except VersionTooOld as error:
            return _turn_away(arrival, websocket, _too_old(error.version))
        except MalformedControl as error:
            return Answer(400, f"{error}\n".encode())
        # Clients of the WebSocket form know of no early payload (PROTOCOL §2.3).
        # Nobody answers it, so nobody needs its private half.
        early = None if websocket else encode_early(ChallengePublic(entropy(32)))
        connection = ControlConnection(accepted, early, handler)
        open_now.add(connection)
        if websocket:
            opener = _Opener(accepted.response, connection)
            return accept_websocket(arrival, WEBSOCKET_SUBPROTOCOL, opener)
        _watch_for_death(arrival.transport)
        arrival.transport.write(switching_response() + accepted.response)
        hand_over(arrival.transport, connection, arrival.rest)
        return None

    return {PATH: take}


def answers(noise: MachinePrivate, addresses: Mapping[str, list[str]]) -> Mapping[str, Answerer]:
    """Return the small answers, by path. addresses: of the names that we serve, for bootstrap."""
    keys = Answer(200, encode_json(ServerKeys(public_key=noise.public())), _JSON)

    def bootstrap_dns(head: Head) -> Answer:
        asked = parse_qs(urlsplit(head.target).query).get("q", [""])[0].lower().rstrip(".")
        found = {asked: addresses[asked]} if asked in addresses else addresses if not asked else {}
        return Answer(200, msgspec.json.encode(found), _JSON)

    return {
        "/key": lambda head: keys,
        "/health": lambda head: Answer(200, b'{"status":"ok"}', _JSON),
        "/healthz": lambda head: Answer(200, b'{"status":"ok"}', _JSON),
        "/bootstrap-dns": bootstrap_dns,
    }


class _Opener(asyncio.Protocol):
    """Writes the Noise response as the first bytes of a stream, then steps aside."""

    def __init__(self, response: bytes, connection: ControlConnection) -> None:
        self._response = response
        self._connection = connection
        self.data_received = connection.data_received  # type: ignore[method-assign]
        self.connection_lost = connection.connection_lost  # type: ignore[method-assign]
        self.pause_writing = connection.pause_writing  # type: ignore[method-assign]
        self.resume_writing = connection.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Write the response."""
        cast(asyncio.Transport, transport).write(self._response)
        self._connection.connection_made(transport)


def _turn_away(arrival: Arrival, websocket: bool, reason: str) -> Answer | None:
    """Tell an old client why, in the handshake's own error frame: those it shows to people."""
    _log.debug("a client is too old", reason=reason)
    if websocket:
        return Answer(400, reason.encode() + b"\n")
    arrival.transport.write(switching_response() + encode_error(reason))
    arrival.transport.close()
    return None


def _too_old(version: int) -> str:
    return (
        f"this client is too old for the server (capability version {version}, at least "
        f"{MINIMUM_VERSION} is needed: Tailscale 1.80 or any Warren); please update it"
    )


def _watch_for_death(transport: asyncio.Transport) -> None:
    found = transport.get_extra_info("socket")
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
