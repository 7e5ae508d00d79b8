"""Whether a relay elsewhere may serve a machine: the stock relay's question (PROTOCOL §4.3).

`derper --verify-client-url URL/verify`, and `warren relay`, ask it for each client.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from warren.keys import MalformedKey, NodePublic
from warren.netmap.derpmap import AdmitRequest, AdmitResponse

PATH = "/verify"
MAX_BODY_BYTES = 4096


class MalformedQuestion(ValueError):
    """This is not a relay's question."""


def parse_question_untrusted(data: bytes) -> NodePublic:
    """Return the key that a relay asks about. Raises MalformedQuestion."""
    try:
        return NodePublic.parse(msgspec.json.decode(data, type=AdmitRequest).node_public)
    except (msgspec.DecodeError, MalformedKey, UnicodeDecodeError, RecursionError) as error:
        raise MalformedQuestion(str(error)) from error


def verify_route(admits: Callable[[NodePublic], bool]) -> Route:
    """Return the route that answers. admits: whether a key is a machine's of this network."""

    async def verify(request: Request) -> Response:
        data = b""
        async for piece in request.stream():
            data += piece
            if len(data) > MAX_BODY_BYTES:
                return Response("the question is too long\n", 413)
        try:
            key = parse_question_untrusted(data)
        except MalformedQuestion:
            return Response("this is not the question of a relay\n", 400)
        answer = msgspec.json.encode(AdmitResponse(allow=admits(key)))
        return Response(answer, media_type="application/json")

    return Route(PATH, verify, methods=["POST"])
