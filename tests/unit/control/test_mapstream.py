"""Frames of the map stream, good and hostile."""

from __future__ import annotations

import os

import pytest
import zstandard

from warren.control.mapstream import (
    KEEP_ALIVE,
    MAX_REST_BYTES,
    MalformedMapFrame,
    MapFrames,
    MapFrameWriter,
    encode_map_frame,
)


def _frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "little") + payload


def test_the_keep_alive_never_changes() -> None:
    assert encode_map_frame(b'{"KeepAlive":true}') == KEEP_ALIVE
    assert MapFrames().receive(KEEP_ALIVE) == [b'{"KeepAlive":true}']


def test_several_frames_at_once_and_cut_anywhere() -> None:
    messages = [b"{}", b'{"Domain":"' + b"x" * 100_000 + b'"}', b""]
    stream = b"".join(map(encode_map_frame, messages))
    assert MapFrames().receive(stream) == messages
    for at in range(len(stream)):
        frames = MapFrames()
        assert frames.receive(stream[:at]) + frames.receive(stream[at:]) == messages


def test_a_frame_without_its_size_in_the_header() -> None:
    stream = zstandard.ZstdCompressor().compressobj()
    payload = stream.compress(b'{"a":1}') + stream.flush()
    assert MapFrames().receive(_frame(payload)) == [b'{"a":1}']


@pytest.mark.parametrize("size", [0, 1, 300, MAX_REST_BYTES])
@pytest.mark.parametrize("begin", [1, 20, 5_000, 300_000])
def test_a_beginning_for_many_frames(begin: int, size: int) -> None:
    head, writer = bytes(n * n % 251 for n in range(begin)), MapFrameWriter()
    begun = writer.begin(head)
    for rest in (bytes(size), os.urandom(size)):
        frame = writer.finish(begun, rest)
        assert MapFrames().receive(frame) == [head + rest]
        # As the library reads it whole, and no larger a window than it needs.
        whole = zstandard.ZstdDecompressor().decompress(frame[4:], max_output_size=1 << 20)
        assert whole == head + rest
        window = zstandard.get_frame_parameters(frame[4:]).window_size
        assert MAX_REST_BYTES <= window <= max(2048, 2 * (begin + size))


def test_a_bomb_is_found_while_it_unpacks() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(64 * 1024 * 1024))
    assert len(bomb) < 32 * 1024
    with pytest.raises(MalformedMapFrame, match="larger than"):
        MapFrames(max_json_bytes=1024 * 1024).receive(_frame(bomb))


def test_a_frame_too_long_is_refused_by_its_length() -> None:
    with pytest.raises(MalformedMapFrame, match="too long"):
        MapFrames().receive(b"\xff\xff\xff\xff")
    with pytest.raises(MalformedMapFrame, match="too long"):
        MapFrames(max_json_bytes=1000).receive((2000).to_bytes(4, "little"))


@pytest.mark.parametrize("length", range(20))
def test_a_zstd_frame_that_is_cut(length: int) -> None:
    payload = KEEP_ALIVE[4 : 4 + length]
    with pytest.raises(MalformedMapFrame):
        MapFrames().receive(_frame(payload))


@pytest.mark.parametrize("rest", [b"x", KEEP_ALIVE[4:], bytes(1000)])
def test_bytes_after_the_zstd_frame(rest: bytes) -> None:
    with pytest.raises(MalformedMapFrame):
        MapFrames().receive(_frame(KEEP_ALIVE[4:] + rest))


def test_what_is_not_zstd() -> None:
    for payload in (b'{"KeepAlive":true}', bytes(64), b"\x28\xb5\x2f\xfd" + b"\xff" * 64):
        with pytest.raises(MalformedMapFrame):
            MapFrames().receive(_frame(payload))


def test_a_window_too_large_is_refused() -> None:
    # A frame header that asks for a window of 1 GiB: descriptor, window byte, a raw block.
    payload = b"\x28\xb5\x2f\xfd\x00" + bytes([20 << 3]) + b"\x01\x00\x00"
    with pytest.raises(MalformedMapFrame):
        MapFrames().receive(_frame(payload))
