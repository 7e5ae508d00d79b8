"""The front door with everything behind it, as one fuzz target.

A connection's bytes go in as from a socket: HTTP, the upgrades, WebSocket, Noise records,
DERP. With entropy that never changes, whole recorded conversations replay. A logged error or an
exception in a callback is a finding, as an exception is.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import structlog.testing

from fuzz import seeds
from warren.control.channel import ClientChannel
from warren.control.handshake import Initiator, respond
from warren.control.upgrade import ClientUpgrade, websocket_target
from warren.coordinator.frontdoor import answers, ts2021_taker
from warren.coordinator.machine_api import Reply
from warren.derp.frames import ClientInfoBox, NotePreferred, Ping, SendPacket, encode_frame
from warren.derp.login import ClientInfo, ClientLogin
from warren.derp.upgrade import ClientUpgrade as DerpUpgrade
from warren.edge.http import Door, Lobby, Routes
from warren.engine.relay import NativeRelay, RelayConfig
from warren.keys import MachinePrivate, MachinePublic, NodePrivate
from warren.relay import serve
from warren.relay.hub import Hub

_NOISE = MachinePrivate.from_entropy(bytes(range(32)))
_MACHINE = MachinePrivate.from_entropy(bytes(range(1, 33)))
_RELAY = NodePrivate.from_entropy(bytes(range(2, 34)))
_NODE = NodePrivate.from_entropy(bytes(range(3, 35)))
_VERSION = 130
_PIECE_BYTES = 997


def _entropy(size: int) -> bytes:
    return bytes(range(4, 4 + size))


class _Wire(asyncio.Transport):
    """Takes what is written and throws it away; tells of its end as a socket's transport does."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol | None = None
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._closing or not data, "written after the close"

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self.protocol is not None
        return self.protocol

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_reading(self) -> bool:
        return not self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


async def _serve(
    machine: MachinePublic, source: str, method: str, target: str, body: bytes, reply: Reply
) -> None:
    reply.start(200)
    reply.write(body)
    await reply.drain()
    reply.finish(b"{}")


@cache
def _hub() -> Hub:
    config = RelayConfig(private_key=_RELAY.reveal(), threads=1, handshake_ms=100)
    return Hub(NativeRelay(config), lambda key: True)


def _door() -> Door:
    _hub()._native.poll()  # whoever logs in waits in vain
    takers = {**ts2021_taker(_NOISE, _serve, _entropy), **serve.takers(_hub())}
    return Door(Routes({**answers(_NOISE, {}), **serve.answers()}, takers), Lobby())


async def _converse(data: bytes) -> None:
    wire, door = _Wire(), _door()
    wire.set_protocol(door)
    door.connection_made(wire)
    for at in range(0, len(data), _PIECE_BYTES):
        if wire.is_closing():
            break
        wire.get_protocol().data_received(data[at : at + _PIECE_BYTES])  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    wire.close()
    wire.get_protocol().connection_lost(None)  # type: ignore[attr-defined]
    await asyncio.sleep(0)


def entry(data: bytes) -> None:
    """Let one connection send `data`."""
    faults: list[object] = []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    try:
        with structlog.testing.capture_logs() as logged:
            loop.run_until_complete(_converse(data))
    finally:
        loop.close()
    faults += [line for line in logged if line["log_level"] in ("error", "critical")]
    assert not faults, faults


def conversations() -> list[bytes]:
    """Whole conversations of clients that behave."""
    return [*_plain_requests(), _control(), _control_websocket(), *_derp()]


def _plain_requests() -> list[bytes]:
    end = b" HTTP/1.1\r\nHost: h\r\n\r\n"
    paths = (b"/key?v=130", b"/derp/probe", b"/generate_204", b"/bootstrap-dns?q=a", b"/none")
    return [b"".join(b"GET " + path + end for path in paths), b"POST /key" + end]


def _control() -> bytes:
    initiator = Initiator(_MACHINE, _NOISE.public(), _VERSION, _entropy(32))
    response = respond(initiator.message(), _NOISE, _entropy(32)).response
    channel = ClientChannel(initiator.finish(response))
    channel.request("POST", "/machine/register", body=seeds.map_json()[0])
    channel.request("POST", "/machine/map", body=seeds.map_json()[1])
    return ClientUpgrade("h", initiator.message()).request() + channel.poll_transmit()


def _websocket_head(target: str, subprotocol: str) -> bytes:
    return (
        f"GET {target} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    ).encode()


def _websocket_frame(data: bytes) -> bytes:
    """A masked binary message; the mask is zero."""
    return b"\x82\xfe" + len(data).to_bytes(2, "big") + bytes(4) + data


def _control_websocket() -> bytes:
    initiator = Initiator(_MACHINE, _NOISE.public(), _VERSION, _entropy(32))
    response = respond(initiator.message(), _NOISE, _entropy(32)).response
    channel = ClientChannel(initiator.finish(response))
    channel.request("POST", "/machine/register", body=seeds.map_json()[0])
    head = _websocket_head(websocket_target(initiator.message()), "tailscale-control-protocol")
    return head + _websocket_frame(channel.poll_transmit())


def _derp() -> list[bytes]:
    login = ClientLogin(_NODE, ClientInfo(), _entropy(24), _RELAY.public())
    frames = login.poll_transmit()
    frames += encode_frame(NotePreferred(home=True)) + encode_frame(Ping(bytes(8)))
    frames += encode_frame(SendPacket(_NODE.public(), bytes(200)))
    frames += encode_frame(SendPacket(_RELAY.public(), b"TS\xf0\x9f\x92\xac" + bytes(100)))
    again = encode_frame(ClientInfoBox(_NODE.public(), bytes(60)))
    return [
        DerpUpgrade("h", fast_start=True).request() + frames,
        DerpUpgrade("h").request() + frames + again,
        _websocket_head("/derp", "derp") + _websocket_frame(frames),
    ]
