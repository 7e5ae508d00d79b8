"""Pings that travel inside the tunnel: ICMP echo and TSMP (PROTOCOL §5.11), as whole packets."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

TSMP = 99
_ICMP, _ICMPV6 = 1, 58
_ECHO, _ECHO_REPLY = (8, 128), (0, 129)
_TSMP_PING, _TSMP_PONG = b"p", b"o"
_TTL = 64
_NONCE_BYTES = 8

Address = IPv4Address | IPv6Address


class ProbeAnswer(NamedTuple):
    """An answer: who sent it, and the eight bytes that the probe carried."""

    source: Address
    nonce: bytes


def tsmp_ping(src: Address, dst: Address, nonce: bytes) -> bytes:
    """Return an IP packet with a TSMP ping; `nonce` has 8 bytes."""
    return _packet(src, dst, TSMP, _TSMP_PING + nonce)


def icmp_echo(src: Address, dst: Address, nonce: bytes, size_bytes: int = 0) -> bytes:
    """Return an IP packet with an echo request: identifier and sequence are nonce[:4].

    size_bytes: payload beyond the nonce, zeros.
    """
    kind = _ECHO[0] if src.version == 4 else _ECHO[1]
    body = nonce[:4] + nonce + bytes(size_bytes)
    message = struct.pack("!BBH", kind, 0, 0) + body
    protocol = _ICMP if src.version == 4 else _ICMPV6
    pseudo = b"" if src.version == 4 else _pseudo_header(src, dst, len(message))
    checksum = _checksum(pseudo + message)
    return _packet(src, dst, protocol, struct.pack("!BBH", kind, 0, checksum) + body)


def parse_answer_untrusted(packet: bytes) -> ProbeAnswer | None:
    """Return what a packet answers, or None if it is no answer to a probe. Never raises."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        start = (packet[0] & 15) * 4
        protocol, source = packet[9], ip_address(packet[12:16])
    elif len(packet) >= 40 and packet[0] >> 4 == 6:
        start, protocol, source = 40, packet[6], ip_address(packet[8:24])
    else:
        return None
    body = packet[start:]
    if protocol == TSMP and body[:1] == _TSMP_PONG and len(body) >= 1 + _NONCE_BYTES:
        return ProbeAnswer(source, body[1 : 1 + _NONCE_BYTES])
    echoes = {_ICMP: _ECHO_REPLY[0], _ICMPV6: _ECHO_REPLY[1]}
    if protocol in echoes and len(body) >= 8 + _NONCE_BYTES and body[0] == echoes[protocol]:
        return ProbeAnswer(source, body[8 : 8 + _NONCE_BYTES])
    return None


def _packet(src: Address, dst: Address, protocol: int, body: bytes) -> bytes:
    if src.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(body), protocol, _TTL)
        return head + src.packed + dst.packed + body
    total = 20 + len(body)
    head = struct.pack("!BBHHHBBH", 0x45, 0, total, 0, 0x4000, _TTL, protocol, 0)
    head += src.packed + dst.packed
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + body


def _pseudo_header(src: Address, dst: Address, length: int) -> bytes:
    return src.packed + dst.packed + struct.pack("!II", length, _ICMPV6)


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
