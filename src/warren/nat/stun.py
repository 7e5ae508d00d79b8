"""STUN Binding, both ends (RFC 8489; PROTOCOL §5.9).

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
_BINDING_REQUEST = 0x0001
_BINDING_SUCCESS = 0x0101

_MAPPED_ADDRESS = 0x0001
_XOR_MAPPED_ADDRESS = 0x0020
_SOFTWARE = 0x8022
_FINGERPRINT = 0x8028
# A draft's number for XOR-MAPPED-ADDRESS, which old servers still use.
_XOR_MAPPED_ADDRESS_DRAFT = 0x8020

_FINGERPRINT_XOR = 0x5354554E
_FINGERPRINT_BYTES = 8
_FAMILY_V4, _FAMILY_V6 = 0x01, 0x02
# Attributes below this number must be understood for a request to be answered (RFC 8489 §14).
_FIRST_OPTIONAL = 0x8000


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
    software = _attribute(_SOFTWARE, SOFTWARE)
    return _with_fingerprint(_BINDING_REQUEST, tx_id, software)


def parse_binding_request_untrusted(data: bytes, plain: bool = True) -> TxId:
    """Return the transaction id of a request that is to be answered.

    With `plain`, any RFC 8489 Binding request will do; without, only one of a client of our kind,
    with SOFTWARE and FINGERPRINT. A FINGERPRINT that is there must be right. Raises MalformedStun,
    also for a request with an attribute that must be understood (such as CHANGE-REQUEST) and isn't.
    """
    tx_id = _check_header(data, _BINDING_REQUEST)
    software = False
    for kind, value, _ in _attributes(data):
        software = software or (kind == _SOFTWARE and value == SOFTWARE)
        if kind < _FIRST_OPTIONAL:
            raise MalformedStun(f"the request needs attribute {kind:#06x}, which is not served")
    fingerprint = _check_fingerprint(data)
    if not plain and not (software and fingerprint):
        raise MalformedStun("the request is not from a client of our kind")
    return tx_id


def binding_response(tx_id: TxId, endpoint: Endpoint) -> bytes:
    """Return the answer to a request that came from `endpoint`."""
    port = endpoint.port ^ int.from_bytes(_COOKIE[:2], "big")
    family = _FAMILY_V4 if endpoint.is_v4 else _FAMILY_V6
    value = bytes([0, family]) + port.to_bytes(2, "big") + _xor(endpoint.ip.packed, tx_id)
    body = _attribute(_XOR_MAPPED_ADDRESS, value)
    return _header(_BINDING_SUCCESS, len(body), tx_id) + body


def parse_binding_response_untrusted(data: bytes) -> tuple[TxId, Endpoint]:
    """Return transaction id and our own address as the server saw it. Raises MalformedStun."""
    tx_id = _check_header(data, _BINDING_SUCCESS)
    _check_fingerprint(data)
    fallback: Endpoint | None = None
    for kind, value, _ in _attributes(data):
        if kind in (_XOR_MAPPED_ADDRESS, _XOR_MAPPED_ADDRESS_DRAFT):
            return tx_id, _parse_address(value, tx_id)
        if kind == _MAPPED_ADDRESS and fallback is None:
            fallback = _parse_address(value, None)
    if fallback is None:
        raise MalformedStun("the response holds no address")
    return tx_id, fallback


def _check_header(data: bytes, kind: int) -> TxId:
    if len(data) < HEADER_BYTES or data[4:8] != _COOKIE:
        raise MalformedStun("not a STUN message")
    if int.from_bytes(data[:2], "big") != kind:
        raise MalformedStun(f"not a STUN message of type {kind:#06x}")
    length = int.from_bytes(data[2:4], "big")
    if length % 4 or HEADER_BYTES + length != len(data):
        raise MalformedStun("the STUN message is not as long as it says")
    return TxId(data[8:HEADER_BYTES])


def _attributes(data: bytes) -> Iterator[tuple[int, bytes, int]]:
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


def _check_fingerprint(data: bytes) -> bool:
    """Whether a FINGERPRINT is there. Raises MalformedStun if it is wrong or not the last."""
    for kind, value, at in _attributes(data):
        if kind != _FINGERPRINT:
            continue
        if at + _FINGERPRINT_BYTES != len(data) or value != _fingerprint(data[:at]):
            raise MalformedStun("the STUN fingerprint is wrong")
        return True
    return False


def _parse_address(value: bytes, xor_tx_id: TxId | None) -> Endpoint:
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


def _header(kind: int, length: int, tx_id: TxId) -> bytes:
    return kind.to_bytes(2, "big") + length.to_bytes(2, "big") + _COOKIE + tx_id


def _attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + padding


def _with_fingerprint(kind: int, tx_id: TxId, attributes: bytes) -> bytes:
    # The length already counts the FINGERPRINT when the checksum is taken (RFC 8489 §14.7).
    head = _header(kind, len(attributes) + _FINGERPRINT_BYTES, tx_id) + attributes
    return head + _attribute(_FINGERPRINT, _fingerprint(head))


def _fingerprint(head: bytes) -> bytes:
    return (zlib.crc32(head) ^ _FINGERPRINT_XOR).to_bytes(4, "big")
