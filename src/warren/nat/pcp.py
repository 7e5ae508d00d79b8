"""PCP, the client's half of the wire: MAP and ANNOUNCE (RFC 6887; PROTOCOL §5.10).

    request:   version 2 | op | reserved u16 | lifetime u32 | client address (16)
    response:  version 2 | 128 + op | reserved | result | lifetime u32 | epoch u32 | reserved (12)
    MAP:       nonce (12) | protocol | reserved (3) | internal port | external port | address (16)

IPv4 addresses are written as IPv4-mapped IPv6 ones. Options may follow; we send none and step
over those of a response.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, NewType

VERSION = 2
NONCE_BYTES = 12
MAX_BYTES = 1100
"""No PCP message is longer (§7)."""

Nonce = NewType("Nonce", bytes)
"""Twelve random bytes that only the owner of a mapping knows (§11.1)."""

Address = IPv4Address | IPv6Address

_OP_ANNOUNCE = 0
_OP_MAP = 1
_RESPONSE = 128
_UDP = 17
_REQUEST = struct.Struct("!BBHI16s")
_HEAD = struct.Struct("!BBBBII12x")
_MAP = struct.Struct("!12sB3xHH16s")
_OPTION_HEAD_BYTES = 4
_ANY_V4 = IPv4Address(0)


class MalformedPcp(ValueError):
    """A datagram is not the PCP response that it was read as."""


class PcpResult(IntEnum):
    """RFC 6887 §7.4."""

    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


class Announced(NamedTuple):
    """The router is there, and its clock stands at `epoch_s`; sent unasked after a restart too."""

    result: int
    epoch_s: int


class PcpMapped(NamedTuple):
    """What became of a MAP request. After an error `lifetime_s` tells how long it will last."""

    result: int
    epoch_s: int
    lifetime_s: int
    nonce: Nonce
    internal_port: int
    external_port: int
    external_ip: Address


class PcpRefused(NamedTuple):
    """An error without the request's body, as of a router that does not know the operation."""

    result: int
    epoch_s: int
    op: int


def announce_request(client: Address) -> bytes:
    """Return an ANNOUNCE request, 24 bytes: the question whether PCP is spoken (§14.1)."""
    return _REQUEST.pack(VERSION, _OP_ANNOUNCE, 0, 0, _mapped(client))


def pcp_map_request(
    client: Address,
    nonce: Nonce,
    internal_port: int,
    lifetime_s: int,
    external_port: int = 0,
    external_ip: Address = _ANY_V4,
) -> bytes:
    """Return a MAP request for UDP, 60 bytes (§11.1). A lifetime of 0 deletes (§15.1).

    client: the address that the request is sent from. external_…: what is wished for.
    """
    head = _REQUEST.pack(VERSION, _OP_MAP, 0, lifetime_s, _mapped(client))
    return head + _MAP.pack(nonce, _UDP, internal_port, external_port, _mapped(external_ip))


def parse_pcp_response_untrusted(data: bytes) -> Announced | PcpMapped | PcpRefused:
    """Read a response. Raises MalformedPcp, also for operations that are never asked for."""
    if not _HEAD.size <= len(data) <= MAX_BYTES or len(data) % 4:
        raise MalformedPcp(f"a response cannot have {len(data)} bytes")
    version, op, _, result, lifetime_s, epoch_s = _HEAD.unpack_from(data)
    if version != VERSION:
        raise MalformedPcp(f"version {version} is not the PCP that was asked for")
    if op == _RESPONSE + _OP_ANNOUNCE:
        _check_options(data[_HEAD.size :])
        return Announced(result, epoch_s)
    if op != _RESPONSE + _OP_MAP:
        raise MalformedPcp(f"operation {op} is no response to us")
    body = data[_HEAD.size :]
    if len(body) < _MAP.size:
        if result == PcpResult.SUCCESS:
            raise MalformedPcp("the mapping is cut")
        return PcpRefused(result, epoch_s, _OP_MAP)
    nonce, protocol, internal_port, external_port, address = _MAP.unpack_from(body)
    if protocol != _UDP:
        raise MalformedPcp(f"the mapping is for protocol {protocol}")
    _check_options(body[_MAP.size :])
    external_ip = IPv6Address(address)
    return PcpMapped(
        result,
        epoch_s,
        lifetime_s,
        Nonce(nonce),
        internal_port,
        external_port,
        external_ip.ipv4_mapped or external_ip,
    )


def _check_options(data: bytes) -> None:
    """Step over the options. Raises MalformedPcp if one is cut."""
    while data:
        if len(data) < _OPTION_HEAD_BYTES:
            raise MalformedPcp("an option is cut")
        length = int.from_bytes(data[2:4], "big")
        end = _OPTION_HEAD_BYTES + length + -length % 4
        if end > len(data):
            raise MalformedPcp("an option is cut")
        data = data[end:]


def _mapped(ip: Address) -> bytes:
    return bytes(10) + b"\xff\xff" + ip.packed if ip.version == 4 else ip.packed
