"""Addresses as spans of integers, for overlaps between IPs, CIDRs and `a-b` ranges."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

Network = IPv4Network | IPv6Network

# What `*` as a source means: the pools of addresses (§12.5), never a plain `*`.
POOLS = ("100.64.0.0-100.115.91.255", "100.115.94.0-100.127.255.255", "fd7a:115c:a1e0::/48")


class Span(NamedTuple):
    """Inclusive addresses of one family (4 or 6)."""

    family: int
    first: int
    last: int

    def overlaps(self, other: Span) -> bool:
        """Whether an address is in both."""
        return self.family == other.family and self.first <= other.last and other.first <= self.last


def span_of_network(network: Network) -> Span:
    """Return a network's addresses."""
    first = int(network.network_address)
    return Span(
        network.version, first, first | ((1 << (network.max_prefixlen - network.prefixlen)) - 1)
    )


def span_of_address(text: str) -> Span:
    """Return a single address as a span. Raises ValueError."""
    address = ip_address(text)
    return Span(address.version, int(address), int(address))


ALL = (Span(4, 0, (1 << 32) - 1), Span(6, 0, (1 << 128) - 1))


def parse_spans(text: str) -> tuple[Span, ...]:
    """Parse the wire's form of addresses: IP, CIDR, `a-b` or `*`. Raises ValueError."""
    if text == "*":
        return ALL
    low, dash, high = text.partition("-")
    if dash:
        first, last = ip_address(low), ip_address(high)
        if first.version != last.version or int(first) > int(last):
            raise ValueError("a range that ends before it begins")
        return (Span(first.version, int(first), int(last)),)
    return (span_of_network(ip_network(text, strict=False)),)


def wire_form(text: str) -> str | None:
    """Return the wire's form of an IP, CIDR or range; None for what is none of them."""
    if not text or text[0] not in "0123456789abcdefABCDEF:":
        return None
    try:
        if "-" in text:
            parse_spans(text)
            return text
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if single else str(network)
