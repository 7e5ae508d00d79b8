"""ChannelData, and what tells messages apart on a stream (RFC 8656 §12.4, §12.5; RFC 8489 §5).

ChannelData: channel u16 | length u16 | data; over a stream padded to 4 bytes
"""

from __future__ import annotations

from warren.nat.stun import HEADER_BYTES, MalformedStun
from warren.nat.turn.numbers import FIRST_CHANNEL, LAST_OLD_CHANNEL

CHANNEL_HEADER_BYTES = 4
MAX_STREAM_MESSAGE_BYTES = HEADER_BYTES + 0xFFFF
"""The longest message; a stream that brings more without an end is cut off."""


def is_channel_data(data: bytes) -> bool:
    """Whether the first byte says ChannelData: the ranges of the kinds do not touch."""
    return bool(data) and FIRST_CHANNEL >> 8 <= data[0] <= LAST_OLD_CHANNEL >> 8


def encode_channel_data(channel: int, data: bytes, padded: bool) -> bytes:
    """Return a ChannelData message; `padded` for streams. `data` has at most 65,535 bytes."""
    head = channel.to_bytes(2, "big") + len(data).to_bytes(2, "big")
    return head + data + bytes(-len(data) % 4 if padded else 0)


def parse_channel_data_untrusted(data: bytes) -> tuple[int, bytes]:
    """Return channel and data; padding behind these is allowed. Raises MalformedStun."""
    if len(data) < CHANNEL_HEADER_BYTES or not is_channel_data(data):
        raise MalformedStun("not ChannelData")
    length = int.from_bytes(data[2:4], "big")
    end = CHANNEL_HEADER_BYTES + length
    if not end <= len(data) < end + 4:
        raise MalformedStun("the ChannelData is not as long as it says")
    return int.from_bytes(data[:2], "big"), data[CHANNEL_HEADER_BYTES:end]


class TurnStream:
    """Cuts a stream into STUN messages and ChannelData (padding included).

    The first message is STUN either way: nobody has a channel before that.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._began = False

    def receive(self, data: bytes) -> list[bytes]:
        """Take stream bytes; return the messages that are whole now. Raises MalformedStun.

        After that nothing can be read from the stream any more: it is to be closed.
        """
        self._buffer += data
        found = []
        start = 0
        while len(self._buffer) - start >= CHANNEL_HEADER_BYTES:
            size = self._size(start)
            if len(self._buffer) - start < size:
                break
            found.append(bytes(self._buffer[start : start + size]))
            self._began = True
            start += size
        del self._buffer[:start]
        return found

    def _size(self, at: int) -> int:
        first, length = self._buffer[at], int.from_bytes(self._buffer[at + 2 : at + 4], "big")
        if first & 0xC0 == 0:
            if length % 4:
                raise MalformedStun("the length of a STUN message is no multiple of 4")
            return HEADER_BYTES + length
        if self._began and FIRST_CHANNEL >> 8 <= first <= LAST_OLD_CHANNEL >> 8:
            return CHANNEL_HEADER_BYTES + length + -length % 4
        raise MalformedStun("neither STUN nor ChannelData")
