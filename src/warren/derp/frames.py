"""DERP frames: `type u8 | length u32 BE | payload` (PROTOCOL §4.2).

`FrameReader` turns stream bytes into typed frames and `encode_frame` is its inverse. Frames of
types that we do not know are skipped by their length, as the wire wants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from warren.derp.malformed import MalformedDerp
from warren.keys import MalformedKey, NodePublic
from warren.netmap.endpoint import PACKED_BYTES, Endpoint

HEADER_BYTES = 5
MAGIC = b"DERP\xf0\x9f\x94\x91"
PROTOCOL_VERSION = 2

MAX_PACKET_BYTES = 64 * 1024
"""The largest packet that is relayed."""
MAX_CLIENT_INFO_BYTES = 256 * 1024
CLIENT_MAX_PAYLOAD_BYTES = 1024 * 1024
"""What a client gives its `FrameReader`."""
SERVER_MAX_PAYLOAD_BYTES = MAX_CLIENT_INFO_BYTES
"""What a server gives its `FrameReader`."""

GONE_DISCONNECTED = 0x00
GONE_NOT_HERE = 0x01
GONE_MESH = 0xF0

PRESENT_REGULAR = 1
PRESENT_MESH_PEER = 2
PRESENT_PROBER = 4
PRESENT_NOT_IDEAL = 8

_KEY_BYTES = 32
_NONCE_BYTES = 24
_PING_BYTES = 8
_MAX_HEALTH_BYTES = 64 * 1024


class ServerKey(NamedTuple):
    """The server's first word: its public key."""

    key: NodePublic


class ClientInfoBox(NamedTuple):
    """The client's answer: its key, and JSON sealed to the server (nonce and box)."""

    key: NodePublic
    sealed: bytes


class ServerInfoBox(NamedTuple):
    """The end of the login: JSON sealed to the client (nonce and box)."""

    sealed: bytes


class SendPacket(NamedTuple):
    """A client's packet for `destination`."""

    destination: NodePublic
    packet: bytes


class RecvPacket(NamedTuple):
    """A packet from `source` for the client that reads this."""

    source: NodePublic
    packet: bytes


class KeepAlive(NamedTuple):
    """The server is there."""


class NotePreferred(NamedTuple):
    """Whether this relay is the client's home."""

    home: bool


class PeerGone(NamedTuple):
    """`key` is not connected, and one of the `GONE_…` reasons (or one that we do not know)."""

    key: NodePublic
    reason: int = GONE_DISCONNECTED


class PeerPresent(NamedTuple):
    """To watchers: `key` is connected, from where (None from older senders), `PRESENT_…` flags."""

    key: NodePublic
    address: Endpoint | None = None
    flags: int = 0


class ForwardPacket(NamedTuple):
    """Between relays of one region: a packet of `source` for `destination`."""

    source: NodePublic
    destination: NodePublic
    packet: bytes


class WatchConns(NamedTuple):
    """A mesh peer asks to be told who is connected."""


class ClosePeer(NamedTuple):
    """A mesh peer asks to disconnect `key`."""

    key: NodePublic


class Ping(NamedTuple):
    """Asks for a Pong with the same 8 bytes."""

    data: bytes


class Pong(NamedTuple):
    """Answers a Ping."""

    data: bytes


class Health(NamedTuple):
    """What is wrong with the connection, in words; empty when nothing is."""

    problem: str


class Restarting(NamedTuple):
    """The server goes away: come back after `reconnect_in_ms`, try for `try_for_ms`."""

    reconnect_in_ms: int
    try_for_ms: int


Frame = (
    ServerKey
    | ClientInfoBox
    | ServerInfoBox
    | SendPacket
    | RecvPacket
    | KeepAlive
    | NotePreferred
    | PeerGone
    | PeerPresent
    | ForwardPacket
    | WatchConns
    | ClosePeer
    | Ping
    | Pong
    | Health
    | Restarting
)


class FrameReader:
    """Cuts a stream into frames. Holds one incomplete frame of at most `max_payload` bytes."""

    __slots__ = ("_buffer", "_max_payload")

    def __init__(self, max_payload: int) -> None:
        self._buffer = bytearray()
        self._max_payload = max_payload

    def receive(self, data: bytes) -> list[Frame]:
        """Take stream bytes; return the known frames that are now complete.

        Raises MalformedDerp; the stream is then unusable.
        """
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        start = 0
        while len(buffer) - start >= HEADER_BYTES:
            length = int.from_bytes(buffer[start + 1 : start + HEADER_BYTES], "big")
            if length > self._max_payload:
                raise MalformedDerp(f"a frame of {length} bytes is too long")
            end = start + HEADER_BYTES + length
            if end > len(buffer):
                break
            payload = bytes(buffer[start + HEADER_BYTES : end])
            frame = parse_frame_untrusted(buffer[start], payload)
            if frame is not None:
                frames.append(frame)
            start = end
        del buffer[:start]
        return frames


def encode_frame(frame: Frame) -> bytes:
    """Return header and payload of a frame."""
    kind = _TYPE_OF[type(frame)]
    payload = _encode_payload(frame)
    return bytes([kind]) + len(payload).to_bytes(4, "big") + payload


def parse_frame_untrusted(kind: int, payload: bytes) -> Frame | None:
    """Read one payload; None if the type is not known. Raises MalformedDerp.

    Bytes beyond what we know are ignored where a payload has a fixed form, so that it can grow.
    """
    parse = _PARSERS.get(kind)
    try:
        return parse(payload) if parse else None
    except MalformedKey as error:
        raise MalformedDerp(f"a frame of type {kind:#04x} is cut") from error


def _encode_payload(frame: Frame) -> bytes:
    match frame:
        case ServerKey(key):
            return MAGIC + key.raw
        case ClientInfoBox(key, sealed):
            return key.raw + sealed
        case ServerInfoBox(sealed):
            return sealed
        case SendPacket(key, packet) | RecvPacket(key, packet):
            return key.raw + packet
        case ForwardPacket(source, destination, packet):
            return source.raw + destination.raw + packet
        case NotePreferred(home):
            return b"\x01" if home else b"\x00"
        case PeerGone(key, reason):
            return key.raw + bytes([reason])
        case PeerPresent(key, None, _):
            return key.raw
        case PeerPresent(key, Endpoint() as address, flags):
            return key.raw + address.pack() + bytes([flags])
        case ClosePeer(key):
            return key.raw
        case Ping(data) | Pong(data):
            return data
        case Health(problem):
            return problem.encode()
        case Restarting(reconnect_in_ms, try_for_ms):
            return reconnect_in_ms.to_bytes(4, "big") + try_for_ms.to_bytes(4, "big")
        case _:
            return b""


def _key_and_rest(payload: bytes) -> tuple[NodePublic, bytes]:
    return NodePublic(payload[:_KEY_BYTES]), payload[_KEY_BYTES:]


def _packet(payload: bytes) -> bytes:
    if len(payload) > MAX_PACKET_BYTES:
        raise MalformedDerp(f"a packet of {len(payload)} bytes is too long to be relayed")
    return payload


def _parse_server_key(payload: bytes) -> ServerKey:
    if not payload.startswith(MAGIC):
        raise MalformedDerp("the server's first frame lacks the magic of DERP")
    return ServerKey(_key_and_rest(payload[len(MAGIC) :])[0])


def _parse_client_info(payload: bytes) -> ClientInfoBox:
    if len(payload) > MAX_CLIENT_INFO_BYTES:
        raise MalformedDerp(f"a client info of {len(payload)} bytes is too long")
    key, sealed = _key_and_rest(payload)
    return ClientInfoBox(key, _sealed(sealed))


def _sealed(payload: bytes) -> bytes:
    if len(payload) < _NONCE_BYTES:
        raise MalformedDerp("a sealed info is cut")
    return payload


def _parse_send(payload: bytes) -> SendPacket:
    key, packet = _key_and_rest(payload)
    return SendPacket(key, _packet(packet))


def _parse_recv(payload: bytes) -> RecvPacket:
    key, packet = _key_and_rest(payload)
    return RecvPacket(key, _packet(packet))


def _parse_forward(payload: bytes) -> ForwardPacket:
    source, rest = _key_and_rest(payload)
    destination, packet = _key_and_rest(rest)
    return ForwardPacket(source, destination, _packet(packet))


def _parse_note_preferred(payload: bytes) -> NotePreferred:
    if len(payload) != 1:
        raise MalformedDerp("the note of a preferred relay has one byte")
    return NotePreferred(payload[0] != 0)


def _parse_gone(payload: bytes) -> PeerGone:
    key, rest = _key_and_rest(payload)
    return PeerGone(key, rest[0] if rest else GONE_DISCONNECTED)


def _parse_present(payload: bytes) -> PeerPresent:
    key, rest = _key_and_rest(payload)
    if len(rest) < PACKED_BYTES:
        return PeerPresent(key)
    flags = rest[PACKED_BYTES] if len(rest) > PACKED_BYTES else 0
    return PeerPresent(key, Endpoint.unpack(rest[:PACKED_BYTES]), flags)


def _ping_data(payload: bytes) -> bytes:
    if len(payload) < _PING_BYTES:
        raise MalformedDerp("a ping has 8 bytes")
    return payload[:_PING_BYTES]


def _parse_health(payload: bytes) -> Health:
    if len(payload) > _MAX_HEALTH_BYTES:
        raise MalformedDerp(f"a health text of {len(payload)} bytes is too long")
    return Health(payload.decode("utf-8", "replace"))


def _parse_restarting(payload: bytes) -> Restarting:
    if len(payload) < 8:
        raise MalformedDerp("a restart notice is cut")
    return Restarting(int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big"))


_PARSERS: dict[int, Callable[[bytes], Frame]] = {
    0x01: _parse_server_key,
    0x02: _parse_client_info,
    0x03: lambda payload: ServerInfoBox(_sealed(payload)),
    0x04: _parse_send,
    0x05: _parse_recv,
    0x06: lambda payload: KeepAlive(),
    0x07: _parse_note_preferred,
    0x08: _parse_gone,
    0x09: _parse_present,
    0x0A: _parse_forward,
    0x10: lambda payload: WatchConns(),
    0x11: lambda payload: ClosePeer(_key_and_rest(payload)[0]),
    0x12: lambda payload: Ping(_ping_data(payload)),
    0x13: lambda payload: Pong(_ping_data(payload)),
    0x14: _parse_health,
    0x15: _parse_restarting,
}

_TYPE_OF: dict[type[Frame], int] = {
    ServerKey: 0x01,
    ClientInfoBox: 0x02,
    ServerInfoBox: 0x03,
    SendPacket: 0x04,
    RecvPacket: 0x05,
    KeepAlive: 0x06,
    NotePreferred: 0x07,
    PeerGone: 0x08,
    PeerPresent: 0x09,
    ForwardPacket: 0x0A,
    WatchConns: 0x10,
    ClosePeer: 0x11,
    Ping: 0x12,
    Pong: 0x13,
    Health: 0x14,
    Restarting: 0x15,
}
