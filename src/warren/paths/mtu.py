"""Sizes of packets, in bytes: inside the tunnel, and on the wire around them (PROTOCOL §5.7)."""

from __future__ import annotations

from warren.netmap.endpoint import Endpoint

BASE_MTU_BYTES = 1280
"""Inside; what IPv6 asks of every path (RFC 8200 §5), and the stock client's MTU."""
WIRE_SIZES = (
    *(9001, 9000, 8896, 8000, 6000, 4000, 3000, 2000),
    *(1500, 1492, 1480, 1460, 1440, 1420, 1400, 1380, 1360),
)
"""Whole IP packets that are tried: usual links and tunnels, at most 20 bytes apart below 1,500."""
_WIREGUARD_BYTES = 32
_UDP_BYTES = 8


def ip_and_udp_bytes(to: Endpoint) -> int:
    """Return the length of the headers around a datagram."""
    return (20 if to.is_v4 else 40) + _UDP_BYTES


def inside_bytes(wire_bytes: int, to: Endpoint) -> int:
    """Return the largest packet of the tunnel that fits into an IP packet of `wire_bytes`."""
    return wire_bytes - ip_and_udp_bytes(to) - _WIREGUARD_BYTES


MTU_MAX_BYTES = WIRE_SIZES[0] - 20 - _UDP_BYTES - _WIREGUARD_BYTES
"""The most that is ever found inside: over IPv4."""
