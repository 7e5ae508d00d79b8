"""One STUN message of any method, with its integrity (RFC 8489 §5, §14.5, §14.6).

type: the class's two bits stand among the method's twelve (RFC 8489 §5, figure 3)
MESSAGE-INTEGRITY(-SHA256): HMAC over all before it, the header's length counting it already
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from warren.nat.stun import (
    FIRST_OPTIONAL,
    HEADER_BYTES,
    MalformedStun,
    TxId,
    attributes_untrusted,
    check_fingerprint_untrusted,
    encode_attribute,
    encode_header,
    encode_xor_address,
    parse_address_untrusted,
    parse_header_untrusted,
    with_fingerprint,
)
from warren.nat.turn.numbers import FAMILY_V4, FAMILY_V6, Attribute, Class, Code
from warren.netmap.endpoint import Endpoint

MAX_ATTRIBUTES = 64

Integrity = Literal["sha1", "sha256"]
"""MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256."""

_INTEGRITY_BYTES = 20
_SHA256_MIN_BYTES, _SHA256_MAX_BYTES = 16, 32
_ATTRIBUTE_HEAD_BYTES = 4


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it was read: attributes that integrity covers, and where it stands."""

    raw: bytes
    method: int
    kind: Class
    tx_id: TxId
    attributes: tuple[tuple[int, bytes], ...]
    sha1_at: int | None = None
    sha256_at: int | None = None
    fingerprint: bool = False

    def get(self, attribute: Attribute) -> bytes | None:
        """Return the first value of an attribute."""
        return next((value for kind, value in self.attributes if kind == attribute), None)

    def number(self, attribute: Attribute, size: int) -> int | None:
        """Return an attribute's first `size` bytes as a number. Raises MalformedStun."""
        value = self.get(attribute)
        if value is None:
            return None
        if len(value) < size:
            raise MalformedStun(f"attribute {attribute.name} is cut")
        return int.from_bytes(value[:size], "big")

    def endpoint(self, attribute: Attribute) -> Endpoint | None:
        """Return an XOR-…-ADDRESS attribute. Raises MalformedStun."""
        value = self.get(attribute)
        return None if value is None else parse_address_untrusted(value, self.tx_id)

    def endpoints(self, attribute: Attribute) -> list[Endpoint]:
        """Return all XOR-…-ADDRESS attributes of a type. Raises MalformedStun."""
        return [
            parse_address_untrusted(value, self.tx_id)
            for kind, value in self.attributes
            if kind == attribute
        ]

    def family(self, attribute: Attribute) -> int | None:
        """Return 4 or 6 from an address family attribute, 0 for any other. Raises MalformedStun."""
        number = self.number(attribute, 1)
        return None if number is None else {FAMILY_V4: 4, FAMILY_V6: 6}.get(number, 0)

    def error(self) -> tuple[int, str]:
        """Return code and reason of an error response. Raises MalformedStun."""
        value = self.get(Attribute.ERROR_CODE)
        if value is None or len(value) < 4:
            raise MalformedStun("an error response without its code")
        code = (value[2] & 0x07) * 100 + value[3]
        if not 300 <= code <= 699 or value[3] > 99:
            raise MalformedStun("an error code out of range")
        text = value[4:767].decode("utf-8", "replace")
        return code, "".join(c for c in text if c.isprintable())

    def unknown(self, known: Collection[int]) -> list[int]:
        """Return the attributes that must be understood and are not among the known."""
        return [kind for kind, _ in self.attributes if kind < FIRST_OPTIONAL and kind not in known]

    def verifies(self, key: bytes, integrity: Integrity) -> bool:
        """Whether the integrity of that kind is there and right; in constant time."""
        at = self.sha1_at if integrity == "sha1" else self.sha256_at
        if at is None:
            return False
        size = int.from_bytes(self.raw[at + 2 : at + 4], "big")
        value = self.raw[at + _ATTRIBUTE_HEAD_BYTES : at + _ATTRIBUTE_HEAD_BYTES + size]
        return hmac.compare_digest(_digest(self.raw[:at], key, integrity, size), value)


def parse_message_untrusted(data: bytes) -> Message:
    """Read one whole message; a FINGERPRINT that is there must be right. Raises MalformedStun.

    What stands behind the integrity is not covered by it and is left out (RFC 8489 §14.5).
    """
    number, tx_id = parse_header_untrusted(data)
    covered: list[tuple[int, bytes]] = []
    sha1_at = sha256_at = None
    for count, (kind, value, at) in enumerate(attributes_untrusted(data)):
        if count >= MAX_ATTRIBUTES:
            raise MalformedStun("too many STUN attributes")
        if kind == Attribute.MESSAGE_INTEGRITY:
            if sha1_at is None and sha256_at is None:
                if len(value) != _INTEGRITY_BYTES:
                    raise MalformedStun("MESSAGE-INTEGRITY has the wrong length")
                sha1_at = at
        elif kind == Attribute.MESSAGE_INTEGRITY_SHA256:
            if sha256_at is None:
                if not _SHA256_MIN_BYTES <= len(value) <= _SHA256_MAX_BYTES or len(value) % 4:
                    raise MalformedStun("MESSAGE-INTEGRITY-SHA256 has the wrong length")
                sha256_at = at
        elif kind != Attribute.FINGERPRINT and sha1_at is None and sha256_at is None:
            covered.append((kind, value))
    fingerprint = check_fingerprint_untrusted(data)
    method, klass = _split(number)
    return Message(data, method, klass, tx_id, tuple(covered), sha1_at, sha256_at, fingerprint)


def encode_message(
    method: int,
    kind: Class,
    tx_id: TxId,
    attributes: Sequence[tuple[int, bytes]],
    key: bytes | None = None,
    integrity: Integrity = "sha1",
    fingerprint: bool = False,
) -> bytes:
    """Return the bytes of a message; with a key, its integrity follows the attributes.

    The whole may not pass 65,555 bytes.
    """
    number = _join(method, kind)
    body = b"".join(encode_attribute(type_, value) for type_, value in attributes)
    if key is not None:
        sha1 = integrity == "sha1"
        size = _INTEGRITY_BYTES if sha1 else _SHA256_MAX_BYTES
        head = encode_header(number, len(body), tx_id) + body
        name = Attribute.MESSAGE_INTEGRITY if sha1 else Attribute.MESSAGE_INTEGRITY_SHA256
        body += encode_attribute(name, _digest(head, key, integrity, size))
    if fingerprint:
        return with_fingerprint(number, tx_id, body)
    return encode_header(number, len(body), tx_id) + body


def error_value(code: Code, reason: str = "") -> bytes:
    """Return the value of ERROR-CODE; without a reason, the code's own name."""
    text = reason or code.name.replace("_", " ").capitalize()
    return bytes([0, 0, code // 100, code % 100]) + text.encode()


def peer_value(endpoint: Endpoint, tx_id: TxId) -> tuple[int, bytes]:
    """Return an XOR-PEER-ADDRESS."""
    return Attribute.XOR_PEER_ADDRESS, encode_xor_address(endpoint, tx_id)


def _digest(head: bytes, key: bytes, integrity: Integrity, size: int) -> bytes:
    length = len(head) - HEADER_BYTES + _ATTRIBUTE_HEAD_BYTES + size
    counted = head[:2] + length.to_bytes(2, "big") + head[4:]
    algorithm = hashlib.sha1 if integrity == "sha1" else hashlib.sha256
    return hmac.digest(key, counted, algorithm)[:size]


def _split(number: int) -> tuple[int, Class]:
    klass = Class((number >> 4 & 1) | (number >> 7 & 2))
    return (number & 0xF) | (number >> 1 & 0x70) | (number >> 2 & 0xF80), klass


def _join(method: int, kind: Class) -> int:
    spread = (method & 0xF) | (method & 0x70) << 1 | (method & 0xF80) << 2
    return spread | (kind & 1) << 4 | (kind & 2) << 7
