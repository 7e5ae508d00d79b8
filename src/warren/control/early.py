"""The early payload: what a server may say before HTTP/2 begins (PROTOCOL §2.5).

    FF FF FF 54 53 | u32 BE length | JSON {"nodeKeyChallenge": "chalpub:…"}

The five bytes are an impossible HTTP/2 frame length, so a client that peeks tells the two apart.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from warren.control.malformed import MalformedControl
from warren.keys import ChallengePublic, MalformedKey

MAGIC = b"\xff\xff\xffTS"
HEADER_BYTES = len(MAGIC) + 4
MAX_JSON_BYTES = 10 * 1024 * 1024


class MalformedEarly(MalformedControl):
    """The early payload is oversized or is not the JSON that it must be."""


class EarlyNoise(NamedTuple):
    """What the server said early; a challenge that was left out is the zero key."""

    challenge: ChallengePublic


class _EarlyJson(msgspec.Struct, rename={"challenge": "nodeKeyChallenge"}):
    challenge: str | None = None


def encode_early(challenge: ChallengePublic) -> bytes:
    """Return the bytes to send before the first HTTP/2 frame."""
    body = msgspec.json.encode(_EarlyJson(str(challenge)))
    return MAGIC + len(body).to_bytes(4, "big") + body


class EarlyReader:
    """Peels an early payload, if there is one, off the front of the server's plaintext."""

    __slots__ = ("_buffer", "done")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.done = False

    def receive(self, data: bytes) -> tuple[EarlyNoise | None, bytes]:
        """Take plaintext; return the payload when it is complete, and the bytes of HTTP/2.

        Once `done`, everything is passed through. Raises MalformedEarly.
        """
        if self.done:
            return None, data
        self._buffer += data
        head = bytes(self._buffer[:HEADER_BYTES])
        if not MAGIC.startswith(head[: len(MAGIC)]):
            return None, self._finish(0)
        if len(head) < HEADER_BYTES:
            return None, b""
        length = int.from_bytes(head[len(MAGIC) :], "big")
        if length > MAX_JSON_BYTES:
            raise MalformedEarly(f"an early payload of {length} bytes is too long")
        if len(self._buffer) < HEADER_BYTES + length:
            return None, b""
        early = _parse_json(bytes(self._buffer[HEADER_BYTES : HEADER_BYTES + length]))
        return early, self._finish(HEADER_BYTES + length)

    def _finish(self, used: int) -> bytes:
        self.done = True
        rest = bytes(self._buffer[used:])
        self._buffer.clear()
        return rest


def _parse_json(data: bytes) -> EarlyNoise:
    try:
        text = msgspec.json.decode(data, type=_EarlyJson).challenge
        return EarlyNoise(ChallengePublic.parse(text) if text else ChallengePublic.zero())
    except (msgspec.DecodeError, UnicodeDecodeError, MalformedKey, RecursionError) as error:
        raise MalformedEarly("the early payload is not the JSON that it must be") from error
