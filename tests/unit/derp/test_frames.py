"""DERP frames as hex, both ways, and what is not one."""

from __future__ import annotations

import pytest

from warren.derp.frames import (
    MAX_PACKET_BYTES,
    ClientInfoBox,
    ClosePeer,
    ForwardPacket,
    Frame,
    FrameReader,
    Health,
    KeepAlive,
    NotePreferred,
    PeerGone,
    PeerPresent,
    Ping,
    Pong,
    RecvPacket,
    Restarting,
    SendPacket,
    ServerInfoBox,
    ServerKey,
    WatchConns,
    encode_frame,
)
from warren.derp.malformed import MalformedDerp
from warren.keys import NodePublic
from warren.netmap.endpoint import Endpoint

A, B = NodePublic(b"\xaa" * 32), NodePublic(b"\xbb" * 32)
AA, BB = "aa" * 32, "bb" * 32
V4_HEX = "00000000000000000000ffff010203040237"
LIMIT = 1 << 20

CASES: list[tuple[str, Frame]] = [
    ("01 00000028 44455250f09f9491" + AA, ServerKey(A)),
    ("02 00000038" + AA + "11" * 24, ClientInfoBox(A, b"\x11" * 24)),
    ("03 00000018" + "11" * 24, ServerInfoBox(b"\x11" * 24)),
    ("04 00000023" + AA + "010203", SendPacket(A, b"\x01\x02\x03")),
    ("05 00000023" + AA + "010203", RecvPacket(A, b"\x01\x02\x03")),
    ("06 00000000", KeepAlive()),
    ("07 00000001 01", NotePreferred(home=True)),
    ("07 00000001 00", NotePreferred(home=False)),
    ("08 00000021" + AA + "01", PeerGone(A, 1)),
    ("09 00000020" + AA, PeerPresent(A)),
    ("09 00000033" + AA + V4_HEX + "05", PeerPresent(A, Endpoint.parse("1.2.3.4:567"), 5)),
    ("0a 00000042" + AA + BB + "0102", ForwardPacket(A, B, b"\x01\x02")),
    ("10 00000000", WatchConns()),
    ("11 00000020" + AA, ClosePeer(A)),
    ("12 00000008 0102030405060708", Ping(bytes(range(1, 9)))),
    ("13 00000008 0102030405060708", Pong(bytes(range(1, 9)))),
    ("14 00000003 626164", Health("bad")),
    ("14 00000000", Health("")),
    ("15 00000008 000003e8 00002710", Restarting(1000, 10_000)),
]
# How short a payload of each type may be.
LEAST = {1: 40, 2: 56, 3: 24, 4: 32, 5: 32, 7: 1, 8: 32, 9: 32, 10: 64, 17: 32, 18: 8, 19: 8, 21: 8}


def _frame(kind: int, payload: bytes) -> bytes:
    return bytes([kind]) + len(payload).to_bytes(4, "big") + payload


@pytest.mark.parametrize(("text", "frame"), CASES)
def test_both_ways(text: str, frame: Frame) -> None:
    assert encode_frame(frame) == bytes.fromhex(text)
    assert FrameReader(LIMIT).receive(bytes.fromhex(text)) == [frame]


@pytest.mark.parametrize(("text", "frame"), CASES)
def test_a_payload_that_is_too_short(text: str, frame: Frame) -> None:
    kind, payload = bytes.fromhex(text)[0], bytes.fromhex(text)[5:]
    for length in range(LEAST.get(kind, 0)):
        with pytest.raises(MalformedDerp):
            FrameReader(LIMIT).receive(_frame(kind, payload[:length]))


@pytest.mark.parametrize(
    ("text", "frame"), [case for case in CASES if int(case[0][:2], 16) in (1, 6, 8, 16, 17, 18, 21)]
)
def test_payloads_may_grow(text: str, frame: Frame) -> None:
    kind, payload = bytes.fromhex(text)[0], bytes.fromhex(text)[5:]
    assert FrameReader(LIMIT).receive(_frame(kind, payload + b"later")) == [frame]


def test_a_stream_cut_anywhere() -> None:
    stream = b"".join(bytes.fromhex(text) for text, _ in CASES)
    expected = [frame for _, frame in CASES]
    for at in range(len(stream)):
        reader = FrameReader(LIMIT)
        assert reader.receive(stream[:at]) + reader.receive(stream[at:]) == expected


def test_unknown_types_are_skipped_by_their_length() -> None:
    stream = _frame(0x7F, bytes(1000)) + encode_frame(KeepAlive()) + _frame(0x00, b"")
    assert FrameReader(LIMIT).receive(stream) == [KeepAlive()]


def test_limits() -> None:
    with pytest.raises(MalformedDerp, match="too long"):
        FrameReader(100).receive(b"\x06" + (101).to_bytes(4, "big"))
    with pytest.raises(MalformedDerp, match="too long"):
        FrameReader(LIMIT).receive(b"GET / HTTP/1.1")
    largest = SendPacket(A, bytes(MAX_PACKET_BYTES))
    assert FrameReader(LIMIT).receive(encode_frame(largest)) == [largest]
    for kind, head in ((0x04, 32), (0x05, 32), (0x0A, 64)):
        with pytest.raises(MalformedDerp, match="too long"):
            FrameReader(LIMIT).receive(_frame(kind, bytes(head + MAX_PACKET_BYTES + 1)))
    with pytest.raises(MalformedDerp, match="too long"):
        FrameReader(LIMIT).receive(_frame(0x02, bytes(256 * 1024 + 1)))
    with pytest.raises(MalformedDerp, match="too long"):
        FrameReader(LIMIT).receive(_frame(0x14, bytes(65 * 1024)))


def test_the_magic_and_odd_values() -> None:
    with pytest.raises(MalformedDerp, match="magic"):
        FrameReader(LIMIT).receive(_frame(0x01, bytes(40)))
    with pytest.raises(MalformedDerp):
        FrameReader(LIMIT).receive(_frame(0x07, b"\x01\x01"))
    assert FrameReader(LIMIT).receive(_frame(0x07, b"\x02")) == [NotePreferred(home=True)]
    assert FrameReader(LIMIT).receive(_frame(0x08, A.raw)) == [PeerGone(A, 0)]
    assert FrameReader(LIMIT).receive(_frame(0x14, b"\xff")) == [Health("\ufffd")]
