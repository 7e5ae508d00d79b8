"""STUN Binding for finding out how a NAT behaves: the attributes of RFC 5780 §7, both ends.

    CHANGE-REQUEST  u32: 0x04 answer from the other address, 0x02 from the other port
    PADDING         any bytes; makes a request as long as a packet that is to be tried
    RESPONSE-ORIGIN address: from where the answer was sent
    OTHER-ADDRESS   address: the server's other address and port

Our server departs from the RFC where that would make it an amplifier: it answers a padded request
with a short response, and leaves out MAPPED-ADDRESS, which XOR-MAPPED-ADDRESS says already.
"""

from __future__ import annotations

from typing import NamedTuple

from warren.nat.stun import (
    BINDING_REQUEST,
    FINGERPRINT_BYTES,
    FIRST_OPTIONAL,
    HEADER_BYTES,
    SOFTWARE,
    XOR_MAPPED_ADDRESS,
    MalformedStun,
    TxId,
    attributes_untrusted,
    check_fingerprint_untrusted,
    encode_attribute,
    encode_header,
    encode_xor_address,
    parse_address_untrusted,
    parse_binding_response_untrusted,
    parse_header_untrusted,
    with_fingerprint,
)
from warren.netmap.endpoint import Endpoint

CHANGE_REQUEST = 0x0003
PADDING = 0x0026
RESPONSE_ORIGIN = 0x802B
OTHER_ADDRESS = 0x802C
_SOFTWARE = 0x8022

_SUCCESS = 0x0101
_CHANGE_IP, _CHANGE_PORT = 0x04, 0x02
_ATTRIBUTE_HEAD_BYTES = 4
MAX_REQUEST_BYTES = 1500
"""No request is longer: more than that would be to test fragments, which nobody needs."""


class DiscoveryRequest(NamedTuple):
    """A request, and from where its sender wants the answer."""

    tx_id: TxId
    change_ip: bool = False
    change_port: bool = False


class DiscoveryResponse(NamedTuple):
    """An answer. `other` is None where the server has no other address."""

    tx_id: TxId
    mapped: Endpoint
    origin: Endpoint | None = None
    other: Endpoint | None = None


def discovery_request(
    tx_id: TxId, *, change_ip: bool = False, change_port: bool = False, size_bytes: int = 0
) -> bytes:
    """Return a request that also stock servers answer if it asks for nothing special.

    size_bytes: pad it to this length in all (a multiple of 4, up to MAX_REQUEST_BYTES); 0: no
    padding. Raises ValueError for a size that can't be had.
    """
    body = encode_attribute(_SOFTWARE, SOFTWARE)
    if change_ip or change_port:
        flags = _CHANGE_IP * change_ip | _CHANGE_PORT * change_port
        body += encode_attribute(CHANGE_REQUEST, flags.to_bytes(4, "big"))
    if size_bytes:
        room = size_bytes - HEADER_BYTES - len(body) - FINGERPRINT_BYTES - _ATTRIBUTE_HEAD_BYTES
        if size_bytes % 4 or room < 0 or size_bytes > MAX_REQUEST_BYTES:
            raise ValueError(f"a request cannot be {size_bytes} bytes long")
        body += encode_attribute(PADDING, bytes(room))
    return with_fingerprint(BINDING_REQUEST, tx_id, body)


def parse_discovery_request_untrusted(data: bytes) -> DiscoveryRequest:
    """Return what a Binding request asks for. Raises MalformedStun.

    Also for attributes that must be understood and aren't, such as RESPONSE-PORT, which would
    send the answer to a port that did not ask.
    """
    if len(data) > MAX_REQUEST_BYTES:
        raise MalformedStun("too long for a binding request")
    kind, tx_id = parse_header_untrusted(data)
    if kind != BINDING_REQUEST:
        raise MalformedStun("not a binding request")
    flags = 0
    for attribute, value, _ in attributes_untrusted(data):
        if attribute == CHANGE_REQUEST:
            if len(value) != 4:
                raise MalformedStun("a change request has the wrong length")
            flags = int.from_bytes(value, "big")
        elif attribute < FIRST_OPTIONAL and attribute != PADDING:
            raise MalformedStun(f"the request needs attribute {attribute:#06x}")
    check_fingerprint_untrusted(data)
    return DiscoveryRequest(tx_id, bool(flags & _CHANGE_IP), bool(flags & _CHANGE_PORT))


def discovery_response(
    tx_id: TxId, mapped: Endpoint, origin: Endpoint | None = None, other: Endpoint | None = None
) -> bytes:
    """Return the answer to a request that came from `mapped`; 32 to 104 bytes."""
    body = encode_attribute(XOR_MAPPED_ADDRESS, encode_xor_address(mapped, tx_id))
    for kind, endpoint in ((RESPONSE_ORIGIN, origin), (OTHER_ADDRESS, other)):
        if endpoint is not None:
            body += encode_attribute(kind, _encode_address(endpoint))
    return encode_header(_SUCCESS, len(body), tx_id) + body


def parse_discovery_response_untrusted(data: bytes) -> DiscoveryResponse:
    """Return what a server answered. Raises MalformedStun."""
    tx_id, mapped = parse_binding_response_untrusted(data)
    found: dict[int, Endpoint] = {}
    for kind, value, _ in attributes_untrusted(data):
        if kind in (RESPONSE_ORIGIN, OTHER_ADDRESS) and kind not in found:
            found[kind] = parse_address_untrusted(value, None)
    return DiscoveryResponse(tx_id, mapped, found.get(RESPONSE_ORIGIN), found.get(OTHER_ADDRESS))


def _encode_address(endpoint: Endpoint) -> bytes:
    family = 0x01 if endpoint.is_v4 else 0x02
    return bytes([0, family]) + endpoint.port.to_bytes(2, "big") + endpoint.ip.packed
