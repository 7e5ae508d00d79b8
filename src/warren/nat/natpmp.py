"""NAT-PMP, the client's half of the wire (RFC 6886; PROTOCOL §5.10).

    request:   version 0 | op
    mapping:   version 0 | op | reserved u16 | internal port | external port | lifetime u32
    response:  version 0 | 128 + op | result u16 | seconds since the router's start u32 | …

There is no transaction id: only sender, operation and internal port join a response to a request.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv4Address
from typing import NamedTuple

PORT = 5351
"""Where routers listen, for NAT-PMP and PCP alike."""
ANNOUNCE_PORT = 5350
"""Where clients hear from a router that restarted, at 224.0.0.1."""
VERSION = 0

_OP_EXTERNAL_ADDRESS = 0
_OP_MAP_UDP = 1
_RESPONSE = 128
_HEAD = struct.Struct("!BBHI")
_MAP_REQUEST = struct.Struct("!BBHHHI")
_MAPPED = struct.Struct("!HHI")


class MalformedNatPmp(ValueError):
    """A datagram is not the NAT-PMP response that it was read as."""


class NatPmpResult(IntEnum):
    """RFC 6886 §3.5."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


class ExternalAddress(NamedTuple):
    """The router's own outside address; None where `result` is not success."""

    result: int
    epoch_s: int
    ip: IPv4Address | None


class NatPmpMapped(NamedTuple):
    """What became of a request for a mapping; `lifetime_s` is 0 after a deletion."""

    result: int
    epoch_s: int
    internal_port: int
    external_port: int
    lifetime_s: int


def external_address_request() -> bytes:
    """Return the request for the router's outside address, 2 bytes (§3.2)."""
    return bytes((VERSION, _OP_EXTERNAL_ADDRESS))


def map_request(internal_port: int, external_port: int, lifetime_s: int) -> bytes:
    """Return the request for a UDP mapping, 12 bytes (§3.3). A lifetime of 0 deletes (§3.4)."""
    return _MAP_REQUEST.pack(VERSION, _OP_MAP_UDP, 0, internal_port, external_port, lifetime_s)


def parse_natpmp_response_untrusted(data: bytes) -> ExternalAddress | NatPmpMapped:
    """Read a response. Raises MalformedNatPmp, also for operations that are never asked for.

    An error may come without the part that only a success needs.
    """
    if len(data) < _HEAD.size:
        raise MalformedNatPmp("the response is cut")
    version, op, result, epoch_s = _HEAD.unpack_from(data)
    if version != VERSION:
        raise MalformedNatPmp(f"version {version} is not NAT-PMP")
    body = data[_HEAD.size :]
    if op == _RESPONSE + _OP_EXTERNAL_ADDRESS:
        if result != NatPmpResult.SUCCESS:
            return ExternalAddress(result, epoch_s, None)
        if len(body) != 4:
            raise MalformedNatPmp("the address has not 4 bytes")
        return ExternalAddress(result, epoch_s, IPv4Address(body))
    if op == _RESPONSE + _OP_MAP_UDP:
        if result != NatPmpResult.SUCCESS and len(body) < _MAPPED.size:
            return NatPmpMapped(result, epoch_s, 0, 0, 0)
        if len(body) != _MAPPED.size:
            raise MalformedNatPmp("the mapping has not 8 bytes")
        return NatPmpMapped(result, epoch_s, *_MAPPED.unpack(body))
    raise MalformedNatPmp(f"operation {op} is no response to us")
