"""STUN: the framing of every message, and Binding, both ends (RFC 8489; PROTOCOL §5.9).

    type u16 | length u16 | cookie 0x2112A442 | transaction id (12) | attributes
    attribute: type u16 | length u16 | value, padded to 4 bytes

Our requests are byte for byte those of the stock client: its SOFTWARE and a FINGERPRINT, without
which stock servers do not answer.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NewType

from warren.netmap.endpoint import Endpoint

TxId = NewType("TxId", bytes)
"""Twelve random bytes that join a response to its request."""

TX_ID_BYTES = 12
HEADER_BYTES = 20
SOFTWARE = b"tailnode"

_COOKIE = bytes.fromhex("2112a442")
BINDING_REQUEST = 0x0001
_BINDING_SUCCESS = 0x0101

_MAPPED_ADDRESS = 0x0001
XOR_MAPPED_ADDRESS = 0x0020
_SOFTWARE = 0x8022
FINGERPRINT = 0x8028
# A draft's number for XOR-MAPPED-ADDRESS, which old servers still use.
_XOR_MAPPED_ADDRESS_DRAFT = 0x8020

_FINGERPRINT_XOR = 0x5354554E
FINGERPRINT_BYTES = 8
_FAMILY_V4, _FAMILY_V6 = 0x01, 0x02
# Attributes below this number must be understood for a request to be answered (RFC 8489 §14).
FIRST_OPTIONAL = 0x8000


class MalformedStun(ValueError):
    """A datagram is not the STUN message that it was read as."""


def looks_like_stun(data: bytes) -> bool:
    """Whether the shared socket should treat a datagram as STUN Binding (PROTOCOL §5.2)."""
    return (
        len(data) >= HEADER_BYTES
        and data[0] & 0xC0 == 0
        and data[1] == 0x01
        and data[4:8] == _COOKIE
    )


def binding_request(tx_id: TxId) -> bytes:
    """Return a request of 40 bytes, as the stock client sends it."""
    software = encode_attribute(_SOFTWARE, SOFTWARE)
    return with_fingerprint(BINDING_REQUEST, tx_id, software)


def parse_binding_request_untrusted(data: bytes, plain: bool = True) -> TxId:
    """Return the transaction id of a request that is to be answered.

    With `plain`, any RFC 8489 Binding request will do; without, only one of a client of our kind,
    with SOFTWARE and FINGERPRINT. A FINGERPRINT that is there must be right. Raises MalformedStun,
    also for a request with an attribute that must be understood (such as CHANGE-REQUEST) and isn't.
    """
    tx_id = _check_type(data, BINDING_REQUEST)
    software = False
    for kind, value, _ in attributes_untrusted(data):
        software = software or (kind == _SOFTWARE and value == SOFTWARE)
        if kind < FIRST_OPTIONAL:
            raise MalformedStun(f"the request needs attribute {kind:#06x}, which is not served")
    fingerprint = check_fingerprint_untrusted(data)
    if not plain and not (software and fingerprint):
        raise MalformedStun("the request is not from a client of our kind")
    return tx_id


def binding_response(tx_id: TxId, endpoint: Endpoint) -> bytes:
    """Return the answer to a request that came from `endpoint`."""
    body = encode_attribute(XOR_MAPPED_ADDRESS, encode_xor_address(endpoint, tx_id))
    return encode_header(_BINDING_SUCCESS, len(body), tx_id) + body


def parse_binding_response_untrusted(data: bytes) -> tuple[TxId, Endpoint]:
    """Return transaction id and our own address as the server saw it. Raises MalformedStun."""
    tx_id = _check_type(data, _BINDING_SUCCESS)
    check_fingerprint_untrusted(data)
    fallback: Endpoint | None = None
    for kind, value, _ in attributes_untrusted(data):
        if kind in (XOR_MAPPED_ADDRESS, _XOR_MAPPED_ADDRESS_DRAFT):
            return tx_id, parse_address_untrusted(value, tx_id)
        if kind == _MAPPED_ADDRESS and fallback is None:
            fallback = parse_address_untrusted(value, None)
    if fallback is None:
        raise MalformedStun("the response holds no address")
    return tx_id, fallback


def parse_header_untrusted(data: bytes) -> tuple[int, TxId]:
    """Return type and transaction id of a whole message of any method. Raises MalformedStun."""
    if len(data) < HEADER_BYTES or data[0] & 0xC0 or data[4:8] != _COOKIE:
        raise MalformedStun("not a STUN message")
    length = int.from_bytes(data[2:4], "big")
    if length % 4 or HEADER_BYTES + length != len(data):
        raise MalformedStun("the STUN message is not as long as it says")
    return int.from_bytes(data[:2], "big"), TxId(data[8:HEADER_BYTES])


def _check_type(data: bytes, kind: int) -> TxId:
    found, tx_id = parse_header_untrusted(data)
    if found != kind:
        raise MalformedStun(f"not a STUN message of type {kind:#06x}")
    return tx_id


def attributes_untrusted(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield type, value and offset of each attribute. Raises MalformedStun."""
    at = HEADER_BYTES
    while at < len(data):
        kind = int.from_bytes(data[at : at + 2], "big")
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        start, end = at + 4, at + 4 + length
        if end > len(data):
            raise MalformedStun("a STUN attribute is cut")
        yield kind, data[start:end], at
        at = end + -end % 4


def check_fingerprint_untrusted(data: bytes) -> bool:
    """Whether a FINGERPRINT is there. Raises MalformedStun if it is wrong or not the last."""
    for kind, value, at in attributes_untrusted(data):
        if kind != FINGERPRINT:
            continue
        if at + FINGERPRINT_BYTES != len(data) or value != _fingerprint(data[:at]):
            raise MalformedStun("the STUN fingerprint is wrong")
        return True
    return False


def encode_xor_address(endpoint: Endpoint, tx_id: TxId) -> bytes:
    """Return the value of an XOR-…-ADDRESS attribute (RFC 8489 §14.2)."""
    port = endpoint.port ^ int.from_bytes(_COOKIE[:2], "big")
    family = _FAMILY_V4 if endpoint.is_v4 else _FAMILY_V6
    return bytes([0, family]) + port.to_bytes(2, "big") + _xor(endpoint.ip.packed, tx_id)


def parse_address_untrusted(value: bytes, xor_tx_id: TxId | None) -> Endpoint:
    """Read the value of an address attribute; with a transaction id, of the XOR kind.

    Raises MalformedStun.
    """
    if len(value) < 4:
        raise MalformedStun("a STUN address is cut")
    family, port, address = value[1], int.from_bytes(value[2:4], "big"), value[4:]
    if xor_tx_id is not None:
        port ^= int.from_bytes(_COOKIE[:2], "big")
        address = _xor(address, xor_tx_id)
    if family == _FAMILY_V4 and len(value) == 8:
        return Endpoint.of(IPv4Address(address), port)
    if family == _FAMILY_V6 and len(value) == 20:
        return Endpoint.of(IPv6Address(address), port)
    raise MalformedStun("a STUN address has an unknown family or the wrong length")


def _xor(address: bytes, tx_id: TxId) -> bytes:
    return bytes(a ^ b for a, b in zip(address, _COOKIE + tx_id, strict=False))


def encode_header(kind: int, length: int, tx_id: TxId) -> bytes:
    """Return the 20 bytes before the attributes; `length` counts these in bytes."""
    return kind.to_bytes(2, "big") + length.to_bytes(2, "big") + _COOKIE + tx_id


def encode_attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute with its padding; `value` has at most 65,535 bytes."""
    padding = bytes(-len(value) % 4)
    return kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + padding


def with_fingerprint(kind: int, tx_id: TxId, attributes: bytes) -> bytes:
    """Return a message that ends with its FINGERPRINT."""
    # The length already counts the FINGERPRINT when the checksum is taken (RFC 8489 §14.7).
    head = encode_header(kind, len(attributes) + FINGERPRINT_BYTES, tx_id) + attributes
    return head + encode_attribute(FINGERPRINT, _fingerprint(head))


def _fingerprint(head: bytes) -> bytes:
    return (zlib.crc32(head) ^ _FINGERPRINT_XOR).to_bytes(4, "big")
