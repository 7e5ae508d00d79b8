"""Addresses as spans of integers, for overlaps between IPs, CIDRs and `a-b` ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
    summarize_address_range,
)
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


@lru_cache(maxsize=1 << 16)
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


def networks_of(form: str) -> list[Network]:
    """Return the networks that a form on the wire is made of: one, or several of a range."""
    return [
        network
        for span in parse_spans(form)
        for kind in (IPv4Address if span.family == 4 else IPv6Address,)
        for network in summarize_address_range(kind(span.first), kind(span.last))
    ]


def wire_form(text: str) -> str | None:
    """Return the wire's form of an IP, CIDR or range; None for what is none of them."""
    if not text or text[0] not in "0123456789abcdefABCDEF:" or "%" in text:
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


class SpanSet:
    """Addresses as spans that neither overlap nor touch, in order."""

    def __init__(self) -> None:
        self._firsts: dict[int, list[int]] = {4: [], 6: []}
        self._lasts: dict[int, list[int]] = {4: [], 6: []}

    def __len__(self) -> int:
        return sum(len(firsts) for firsts in self._firsts.values())

    def add(self, span: Span) -> None:
        """Put a span's addresses in."""
        firsts, lasts = self._firsts[span.family], self._lasts[span.family]
        low, high = bisect_left(lasts, span.first - 1), bisect_right(firsts, span.last + 1)
        first = min([span.first, *firsts[low : min(high, low + 1)]])
        last = max([span.last, *lasts[max(low, high - 1) : high]])
        firsts[low:high], lasts[low:high] = [first], [last]

    def remove(self, span: Span) -> None:
        """Take a span's addresses out."""
        firsts, lasts = self._firsts[span.family], self._lasts[span.family]
        low, high = bisect_left(lasts, span.first), bisect_right(firsts, span.last)
        if low >= high:
            return
        left = [(firsts[low], span.first - 1)] if firsts[low] < span.first else []
        right = [(span.last + 1, lasts[high - 1])] if lasts[high - 1] > span.last else []
        firsts[low:high] = [first for first, _ in left + right]
        lasts[low:high] = [last for _, last in left + right]

    def forms(self) -> list[str]:
        """Return the wire's forms: a network where a span is one, else a range."""
        return [
            _form_of(family, first, last)
            for family in (4, 6)
            for first, last in zip(self._firsts[family], self._lasts[family], strict=True)
        ]


def _form_of(family: int, first: int, last: int) -> str:
    kind = IPv4Address if family == 4 else IPv6Address
    if first == last:
        return str(kind(first))
    size = last - first + 1
    if size & (size - 1) == 0 and first % size == 0:
        return f"{kind(first)}/{kind(0).max_prefixlen - size.bit_length() + 1}"
    return f"{kind(first)}-{kind(last)}"


def _internet() -> tuple[Span, ...]:
    """Return the addresses that `autogroup:internet` means (recorded of the real service)."""
    found = SpanSet()
    for text in ("0.0.0.0/0", "2000::/3"):
        found.add(span_of_network(ip_network(text)))
    for text in ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12",
                 "192.168.0.0/16"):  # fmt: skip
        found.remove(span_of_network(ip_network(text)))
    return tuple(span for form in found.forms() for span in parse_spans(form))


PUBLIC = _internet()
PUBLIC_FORMS = tuple(
    f"{kind(span.first)}-{kind(span.last)}"
    for span in PUBLIC
    for kind in (IPv4Address if span.family == 4 else IPv6Address,)
)
"""The same as it travels to an exit: always a range, even where a network would do."""
