"""What a node says to its coordinator over a link: register, map, update (PROTOCOL §2.8, §3)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from warren.control.malformed import MalformedControl
from warren.control.mapstream import MapFrames
from warren.keys import NodePublic
from warren.netmap.wire import (
    MalformedMessage,
    MapRequest,
    MapResponse,
    RegisterRequest,
    RegisterResponse,
    decode_json_untrusted,
    encode_json,
)
from warren.node.control_link import ControlLink, LinkLost, Reply

MAP_WATCHDOG_S = 120.0
MAP_JSON_MAX_BYTES = 64 * 1024 * 1024
LOGOUT_EXPIRY = datetime.fromtimestamp(123, UTC)
_RETRY_AFTER_MAX_S = 3600.0
_RETRY_AFTER_DEFAULT_S = 7.0


class Refused(Exception):
    """The coordinator understood and said no. The text is its word; another try is no use."""


class RateLimited(Exception):
    """The coordinator asks to come back after `retry_s` seconds."""

    def __init__(self, retry_s: float) -> None:
        super().__init__(f"The coordinator is busy; trying again in {retry_s:.0f} s.")
        self.retry_s = retry_s


async def register(link: ControlLink, request: RegisterRequest) -> RegisterResponse:
    """Send a registration; with `followup` set, wait as long as the coordinator does.

    Raises Refused (an `Error` text, or a 4xx reply), RateLimited, LinkLost.
    """
    keys = (request.old_node_key, request.node_key)
    reply = await link.call(
        "POST",
        "/machine/register",
        encode_json(request),
        [_load_balancer(key) for key in keys if not key.is_zero],
        timeout_s=None if request.followup else 30.0,
    )
    if reply.status == 429:
        raise RateLimited(_retry_after_s(reply))
    if 400 <= reply.status < 500:
        raise Refused(_sentence(reply.text() or f"it answered {reply.status}"))
    if reply.status != 200:
        raise LinkLost(f"The coordinator answered {reply.status}: {reply.text()}")
    try:
        response = decode_json_untrusted(reply.body, RegisterResponse)
    except MalformedMessage as error:
        raise LinkLost(f"The coordinator's registration reply is malformed: {error}.") from error
    if response.error:
        raise Refused(_sentence(response.error))
    return response


async def update(link: ControlLink, request: MapRequest) -> None:
    """Report endpoints, Hostinfo and disco key (a lite update). Raises LinkLost."""
    reply = await link.call(
        "POST", "/machine/map", encode_json(request), [_load_balancer(request.node_key)]
    )
    if reply.status != 200:
        raise LinkLost(f"The coordinator refused an update ({reply.status}): {reply.text()}")


@contextlib.asynccontextmanager
async def map_stream(
    link: ControlLink, request: MapRequest
) -> AsyncIterator[AsyncIterator[MapResponse]]:
    """Open the long poll. The iterator raises LinkLost when it breaks, or is silent for 120 s."""
    async with link.stream(
        "POST", "/machine/map", encode_json(request), [_load_balancer(request.node_key)]
    ) as (head, pieces):
        if head.status != 200:
            text = await _first_piece(pieces)
            raise LinkLost(f"The coordinator gave no map ({head.status}): {text}")
        yield _responses(pieces)


async def _responses(pieces: AsyncIterator[bytes]) -> AsyncIterator[MapResponse]:
    frames = MapFrames(MAP_JSON_MAX_BYTES)
    while True:
        try:
            async with asyncio.timeout(MAP_WATCHDOG_S):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise LinkLost("The coordinator has been silent for two minutes.") from None
        if piece is None:
            return
        try:
            for message in frames.receive(piece):
                yield decode_json_untrusted(message, MapResponse)
        except (MalformedControl, MalformedMessage) as error:
            raise LinkLost(f"The coordinator sent a malformed map: {error}.") from error


async def _first_piece(pieces: AsyncIterator[bytes]) -> str:
    try:
        async with asyncio.timeout(2):
            return Reply(0, (), await anext(pieces, b"")).text()
    except TimeoutError:
        return ""


def _load_balancer(key: NodePublic) -> tuple[str, str]:
    return ("Ts-Lb", str(key))


def _sentence(text: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in text[:300]).split())
    return f"The coordinator refused: {text.rstrip('.')}."


def _retry_after_s(reply: Reply) -> float:
    value = next((value for name, value in reply.headers if name == "retry-after"), "")
    try:
        if value.isdecimal():
            seconds = float(value)
        else:
            # Hardly ever needed, and it takes 1 MB of every daemon that has it.
            from email.utils import parsedate_to_datetime

            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return _RETRY_AFTER_DEFAULT_S
    return seconds if 0 <= seconds <= _RETRY_AFTER_MAX_S else _RETRY_AFTER_DEFAULT_S
