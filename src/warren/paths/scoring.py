"""Which of two working paths is better (PROTOCOL §5.5), and when a switch is worth it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from warren.netmap.endpoint import Endpoint

_LATENCY_FLOOR_S = 0.002
# Below this, differences are the machine's noise and not the path's length.
_SWITCH_POINTS = 15.0
MUCH_BETTER_POINTS = 50.0

_PRIVATE = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv6Network("fc00::/7"),
)


def advantage(a: Endpoint, a_latency_s: float, b: Endpoint, b_latency_s: float) -> float:
    """Return by how many points path `a` is better than `b`; negative if it is worse.

    Up to 100 points for latency, and some for addresses that are near by their kind.
    """
    low, high = sorted((max(a_latency_s, _LATENCY_FLOOR_S), max(b_latency_s, _LATENCY_FLOOR_S)))
    latency_points = 100 - 100 * low / high
    if a_latency_s > b_latency_s:
        latency_points = -latency_points
    return latency_points + nearness(a) - nearness(b)


def nearness(endpoint: Endpoint) -> int:
    """Return points for what the address alone says."""
    ip = endpoint.ip
    points = 10 if ip.version == 6 else 0
    if ip.is_loopback:
        return points + 50
    if ip.is_link_local:
        return points + 30
    return points + 20 if is_private(ip) else points


def is_private(ip: IPv4Address | IPv6Address) -> bool:
    """Whether an address is of a private network (RFC 1918, RFC 4193)."""
    return any(ip.version == net.version and ip in net for net in _PRIVATE)


def worth_a_switch(points: float) -> bool:
    """Whether an advantage is large enough to leave a path that works."""
    return points > _SWITCH_POINTS
