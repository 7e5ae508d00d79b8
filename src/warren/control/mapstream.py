"""Framing of the map stream: `u32 LE length | one zstd frame with one JSON MapResponse`.

A client always decompresses, whatever it asked for (PROTOCOL §3.3). What is read from outside
is bounded twice: the compressed frame by its length, the JSON while it is being decompressed.
"""

from __future__ import annotations

import zstandard

from warren.control.malformed import MalformedControl

LENGTH_BYTES = 4
DEFAULT_MAX_JSON_BYTES = 64 * 1024 * 1024

# On maps the fastest level compresses as well as higher ones.
_LEVEL = 1
MAX_REST_BYTES = 1024
"""What may follow a shared beginning: no block is larger than the window, which is no smaller."""
_MAX_WINDOW_BYTES = 32 * 1024 * 1024
# One zstd block may blow 4 bytes up to 128 KiB. Fed in pieces of this size, a hostile frame
# overshoots the limit by 16 MiB at the most before it is found out.
_PIECE_BYTES = 512


class MalformedMapFrame(MalformedControl):
    """A frame of the map stream is oversized, cut, or not one zstd frame."""


class MapFrameWriter:
    """Makes many frames with one compressor; for one thread."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)

    def write(self, response_json: bytes, *, compressed: bool = True) -> bytes:
        """Do what `encode_map_frame` does."""
        payload = self._compressor.compress(response_json) if compressed else response_json
        return _framed(payload)

    def begin(self, head: bytes) -> bytes:
        """Return the compressed beginning of frames whose JSON begins with `head`, not empty."""
        chosen = zstandard.ZstdCompressionParameters.from_level(
            _LEVEL, source_size=len(head) + MAX_REST_BYTES, write_content_size=False
        )
        begun = zstandard.ZstdCompressor(compression_params=chosen).compressobj()
        return begun.compress(head) + begun.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def finish(self, begun: bytes, rest: bytes) -> bytes:
        """Return a frame whose JSON is what `begun` was made of, and `rest`, as it is.

        rest: at most MAX_REST_BYTES. It becomes a raw block, the last of the frame (RFC 8878
        section 3.1.1.2): smaller than what it saves to compress the same anew.
        """
        assert len(rest) <= MAX_REST_BYTES
        return _framed(begun + (len(rest) << 3 | 1).to_bytes(3, "little") + rest)


def _framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(LENGTH_BYTES, "little") + payload


def encode_map_frame(response_json: bytes, *, compressed: bool = True) -> bytes:
    """Return the frame that carries one MapResponse, given as JSON.

    compressed: as stock clients ask for with Compress "zstd"; the Rust client asks for nothing.
    """
    return MapFrameWriter().write(response_json, compressed=compressed)


# Clients recognise a repeated keep-alive by comparing its bytes, so they never change.
KEEP_ALIVE = encode_map_frame(b'{"KeepAlive":true}')
PLAIN_KEEP_ALIVE = encode_map_frame(b'{"KeepAlive":true}', compressed=False)


class MapFrames:
    """Reads the body of a map response, as it arrives, into JSON messages."""

    __slots__ = ("_buffer", "_max_json_bytes")

    def __init__(self, max_json_bytes: int = DEFAULT_MAX_JSON_BYTES) -> None:
        self._buffer = bytearray()
        self._max_json_bytes = max_json_bytes

    def receive(self, data: bytes) -> list[bytes]:
        """Take body bytes; return the JSON of every message that is now complete.

        Raises MalformedMapFrame; the stream is then unusable.
        """
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        start = 0
        while len(buffer) - start >= LENGTH_BYTES:
            length = int.from_bytes(buffer[start : start + LENGTH_BYTES], "little")
            # Compression never gains more than a few bytes a block on what it cannot compress.
            if length > self._max_json_bytes + self._max_json_bytes // 128 + 64:
                raise MalformedMapFrame(f"a map frame of {length} bytes is too long")
            end = start + LENGTH_BYTES + length
            if end > len(buffer):
                break
            messages.append(self._decompress(bytes(buffer[start + LENGTH_BYTES : end])))
            start = end
        del buffer[:start]
        return messages

    @property
    def pending_bytes(self) -> int:
        """How much of an incomplete message is held; not 0 at the end means it was cut."""
        return len(self._buffer)

    def _decompress(self, frame: bytes) -> bytes:
        stream = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
        pieces: list[bytes] = []
        total = 0
        try:
            for start in range(0, len(frame), _PIECE_BYTES):
                if stream.eof:
                    raise MalformedMapFrame("bytes follow the zstd frame")
                piece = stream.decompress(frame[start : start + _PIECE_BYTES])
                total += len(piece)
                if total > self._max_json_bytes:
                    raise MalformedMapFrame(
                        f"a map message is larger than {self._max_json_bytes} bytes"
                    )
                pieces.append(piece)
        except zstandard.ZstdError as error:
            raise MalformedMapFrame("a map frame is not zstd") from error
        if not stream.eof or stream.unused_data:
            raise MalformedMapFrame("a map frame is not exactly one zstd frame")
        return b"".join(pieces)
