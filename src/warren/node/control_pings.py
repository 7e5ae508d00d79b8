"""Answering a coordinator that asks whether this node is there (PROTOCOL §2.9)."""

from __future__ import annotations

import base64
import binascii
from typing import Literal, Protocol
from urllib.parse import parse_qs, urlsplit

import h11
import msgspec

from warren.netmap.wire import PingRequest as ControlPing
from warren.node.control_link import ControlLink
from warren.node.localapi import RequestFailed
from warren.node.schema import ApiError, Explanation, PingReply, PingRequest, WhyRequest

_TIMEOUT_S = 10.0
_KINDS: dict[str, Literal["disco", "tsmp", "icmp"]] = {
    "disco": "disco",
    "TSMP": "tsmp",
    "ICMP": "icmp",
}


class _PingResponse(msgspec.Struct, rename="pascal", omit_defaults=True):
    """What a coordinator reads (the stock clients' PingResult)."""

    type: str
    ip: str = msgspec.field(name="IP")
    node_ip: str = msgspec.field(default="", name="NodeIP")
    node_name: str = ""
    err: str = ""
    latency_seconds: float = 0.0
    endpoint: str = ""
    derp_region_id: int = msgspec.field(default=0, name="DERPRegionID")
    derp_region_code: str = msgspec.field(default="", name="DERPRegionCode")


class Answerer(Protocol):
    """Who answers. Methods raise RequestFailed."""

    async def ping(self, request: PingRequest) -> PingReply:
        """Ping a peer once."""
        ...

    def why(self, request: WhyRequest) -> Explanation:
        """Explain the path to a peer."""
        ...


async def answer_control_ping(link: ControlLink, request: ControlPing, node: Answerer) -> None:
    """Do what is asked and answer over the same link. Raises LinkLost.

    Only answers inside Noise are given: a URL elsewhere would have this node make requests to
    whatever the coordinator names.
    """
    if not request.url_is_noise:
        return
    parts = urlsplit(request.url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    if not request.types:
        await link.call("HEAD", path)
    elif request.types == "c2n":
        await link.call("POST", path, answer_c2n(request.payload or "", node))
    elif request.ip:
        for name in request.types.split(","):
            if name in _KINDS:
                reply = await _ping(node, PingRequest(peer=request.ip, kind=_KINDS[name]))
                await link.call("POST", path, msgspec.json.encode(_result(name, request, reply)))


def answer_c2n(payload: str, node: Answerer) -> bytes:
    """Return the serialised HTTP response to a request inside a PingRequest. Never raises.

    `/echo` is the protocol's; `/warren/why?peer=ADDRESS` is ours: the explanation as JSON.
    """
    http = h11.Connection(h11.SERVER)
    status, body = 404, b"not found\n"
    try:
        http.receive_data(base64.b64decode(payload, validate=True))
        http.receive_data(b"")
        event = http.next_event()
        if not isinstance(event, h11.Request):
            status, body = 400, b"bad request\n"
        else:
            target = urlsplit(event.target.decode("ascii"))
            if target.path == "/echo":
                data = http.next_event()
                status, body = 200, bytes(data.data) if isinstance(data, h11.Data) else b""
            elif target.path == "/warren/why":
                status, body = _why(node, parse_qs(target.query).get("peer", [""])[0])
    except (binascii.Error, ValueError, h11.RemoteProtocolError):
        status, body = 400, b"bad request\n"
    reason = {200: "OK", 404: "Not Found", 409: "Conflict"}.get(status, "Bad Request")
    return f"HTTP/1.1 {status} {reason}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _why(node: Answerer, peer: str) -> tuple[int, bytes]:
    try:
        return 200, msgspec.json.encode(node.why(WhyRequest(peer=peer)))
    except RequestFailed as error:
        # Never 404: that says that a node knows no such question.
        return 409, msgspec.json.encode(ApiError(error=str(error)))


async def _ping(node: Answerer, request: PingRequest) -> PingReply:
    try:
        return await node.ping(request)
    except RequestFailed as error:
        return PingReply(
            ok=False, kind=request.kind, peer="", address=request.peer, error=str(error)
        )


def _result(name: str, request: ControlPing, reply: PingReply) -> _PingResponse:
    return _PingResponse(
        type=name,
        ip=request.ip,
        node_ip=reply.address,
        node_name=reply.peer,
        err=reply.error,
        latency_seconds=(reply.ms or 0.0) / 1000,
        endpoint=reply.path or "",
        derp_region_id=reply.region or 0,
        derp_region_code=reply.region_code or "",
    )
