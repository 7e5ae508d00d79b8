"""What coordinator and nodes ask each other over Noise beside maps, as fuzz targets."""

from __future__ import annotations

import base64
from contextlib import suppress

from warren.coordinator.questions import parse_answer_untrusted
from warren.coordinator.refusal import NotFound
from warren.coordinator.ssh_checks import PATH, parse_target_untrusted
from warren.node.control_pings import answer_c2n
from warren.node.localapi import RequestFailed
from warren.node.schema import Explanation, PingReply, PingRequest, WhyRequest


class _Node:
    async def ping(self, request: PingRequest) -> PingReply:
        raise RequestFailed(404, "There is no such machine.")

    def why(self, request: WhyRequest) -> Explanation:
        raise RequestFailed(404, "There is no such machine.")


def entry(data: bytes) -> None:
    """Read it as an answer, and answer it as a question: always with something readable."""
    parse_answer_untrusted(data)
    for payload in (base64.b64encode(data).decode(), data.decode("latin-1")):
        answered = parse_answer_untrusted(answer_c2n(payload, _Node()))
        assert answered.status in (200, 400, 404, 409)


def questions() -> list[bytes]:
    """Questions and answers as they travel."""
    return [
        b"GET /warren/why?peer=100.64.0.2 HTTP/1.1\r\nHost: node\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: node\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ]


def ssh_check(data: bytes) -> None:
    """What asks for a check of a log-in by SSH is ids and a short printable name, or refused."""
    text = data.decode("latin-1")
    for target in (text, PATH + text):
        with suppress(NotFound):
            asked = parse_target_untrusted(target)
            assert asked.source >= 0 and asked.local_user.isprintable()
            assert 0 < len(asked.local_user) <= 64


def ssh_checks() -> list[bytes]:
    """Requests as machines make them."""
    return [
        f"{PATH}7/to/12?local_user=dev".encode(),
        b"7/to/12?local_user=a%20b%C3%A9&check=abc",
    ]
