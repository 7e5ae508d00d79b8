"""The record layer after the handshake: a byte stream in frames of at most 4096 bytes.

    type 0x04 | u16 BE length of the ciphertext | ChaCha20-Poly1305 ciphertext

The nonce is four zero bytes and a counter in *big* endian, where stock Noise has little endian
(PROTOCOL §2.4). There is no rekey: a connection ends when a counter is used up.
"""

from __future__ import annotations

from warren.control.aead import TAG_BYTES, MakeCipher, NotAuthentic, Sodium
from warren.control.malformed import MalformedControl

MAX_FRAME_BYTES = 4096
HEADER_BYTES = 3
MAX_CIPHERTEXT_BYTES = MAX_FRAME_BYTES - HEADER_BYTES
MAX_PLAINTEXT_BYTES = MAX_CIPHERTEXT_BYTES - TAG_BYTES

_RECORD_TYPE = 0x04
_LAST_COUNTER = 2**64 - 2


class MalformedRecord(MalformedControl):
    """The stream holds something that is not a record of this session: it is over."""


class RecordLayer:
    """Both directions of one established Noise session. cipher: what does the sealing."""

    __slots__ = ("_buffer", "_failed", "_opener", "_receive_count", "_sealer", "_send_count")

    def __init__(self, send_key: bytes, receive_key: bytes, cipher: MakeCipher = Sodium) -> None:
        self._sealer = cipher(send_key)
        self._opener = cipher(receive_key)
        self._send_count = 0
        self._receive_count = 0
        self._buffer = bytearray()
        self._failed = False

    def receive(self, data: bytes) -> list[bytes]:
        """Take stream bytes; return the plaintext of every record that is now complete.

        A plaintext may be empty. At most one incomplete record is kept. Raises MalformedRecord;
        the session is then dead and every later call raises too.
        """
        if self._failed:
            raise MalformedRecord("the session ended with an earlier record")
        buffer = self._buffer
        buffer += data
        plaintexts: list[bytes] = []
        start = 0
        try:
            while len(buffer) - start >= HEADER_BYTES:
                end = start + HEADER_BYTES + _ciphertext_length(buffer, start)
                if end > len(buffer):
                    break
                plaintexts.append(self._open(bytes(buffer[start + HEADER_BYTES : end])))
                start = end
        except MalformedRecord:
            self._failed = True
            buffer.clear()
            raise
        del buffer[:start]
        return plaintexts

    def seal(self, plaintext: bytes) -> bytes:
        """Return the records that carry `plaintext`; nothing for nothing.

        Raises OverflowError when the counter is used up (after 2⁶⁴-1 records).
        """
        if len(plaintext) <= MAX_PLAINTEXT_BYTES:
            return self._seal_one(plaintext) if plaintext else b""
        return b"".join(
            self._seal_one(plaintext[start : start + MAX_PLAINTEXT_BYTES])
            for start in range(0, len(plaintext), MAX_PLAINTEXT_BYTES)
        )

    def _seal_one(self, plaintext: bytes) -> bytes:
        if self._send_count > _LAST_COUNTER:
            raise OverflowError("the session has sent as many records as it may")
        ciphertext = self._sealer.seal(_nonce(self._send_count), plaintext)
        self._send_count += 1
        return (_RECORD_TYPE << 16 | len(ciphertext)).to_bytes(3, "big") + ciphertext

    def _open(self, ciphertext: bytes) -> bytes:
        if self._receive_count > _LAST_COUNTER:
            raise MalformedRecord("the session has received as many records as it may")
        try:
            plaintext = self._opener.open_untrusted(_nonce(self._receive_count), ciphertext)
        except NotAuthentic as error:
            raise MalformedRecord("a record does not authenticate") from error
        self._receive_count += 1
        return plaintext


def _ciphertext_length(buffer: bytearray, start: int) -> int:
    if buffer[start] != _RECORD_TYPE:
        raise MalformedRecord(f"expected a record, got a frame of type {buffer[start]}")
    length = int.from_bytes(buffer[start + 1 : start + HEADER_BYTES], "big")
    if not TAG_BYTES <= length <= MAX_CIPHERTEXT_BYTES:
        raise MalformedRecord(f"a record cannot hold {length} bytes")
    return length


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")
