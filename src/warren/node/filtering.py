"""From the coordinator's packet filter to the engine's spans (PROTOCOL §3.8).

One rule that breaks a rule of the format voids the whole filter: better nothing comes in than
something that nobody allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from warren.engine.commands import DstSpan, FilterRule, Span
from warren.netmap.node import Node
from warren.netmap.wire import FilterRule as WireRule
from warren.netmap.wire import NetPortRange

DEFAULT_PROTOCOLS = (6, 17, 1, 58)
_EVERYWHERE = (
    Span(first="0.0.0.0", last="255.255.255.255"),  # noqa: S104 - a range, not a listener
    Span(first="::", last="ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
)
_CAPABILITY = "cap:"

Address = IPv4Address | IPv6Address


class MalformedFilter(ValueError):
    """A rule breaks the format, so the whole filter is void."""


def compile_filter(rules: Iterable[WireRule], peers: Iterable[Node]) -> list[FilterRule]:
    """Return the engine's rules. Raises MalformedFilter.

    Rules that only grant capabilities are not the packet filter's and are left out.
    """
    known = list(peers)
    by_capability = _addresses_by_capability(known)
    unsigned = {
        ip_network(prefix, strict=False).network_address
        for peer in known
        if peer.unsigned_peer_api_only
        for prefix in peer.addresses
    }
    compiled = []
    for rule in rules:
        if rule.src_bits:
            raise MalformedFilter("a rule has SrcBits")
        if rule.dst_ports and rule.cap_grant:
            raise MalformedFilter("a rule has both DstPorts and CapGrant")
        sources = [span for text in rule.src_ips for span in _sources(text, by_capability)]
        destinations = [span for port in rule.dst_ports for span in _destinations(port)]
        protocols = [number for number in rule.ip_proto if 0 <= number <= 255]
        if rule.ip_proto and not protocols:
            continue
        if not destinations or not sources:
            continue
        if any(_covers(span, ip) for ip in unsigned for span in sources):
            raise MalformedFilter("a rule lets a peer in that only the PeerAPI is for")
        compiled.append(
            FilterRule(
                sources=sources,
                destinations=destinations,
                protocols=protocols or list(DEFAULT_PROTOCOLS),
            )
        )
    return compiled


def parse_span_untrusted(text: str) -> tuple[Span, ...]:
    """Read an address, a masked CIDR, an `a-b` range, or `*`. Raises MalformedFilter."""
    if text == "*":
        return _EVERYWHERE
    try:
        if "%" in text:
            # A scope names an interface of one machine; the engine's addresses have none.
            raise MalformedFilter(f"{text[:80]!r} has a scope")
        if "/" in text:
            network = ip_network(text, strict=True)
            return (Span(first=str(network[0]), last=str(network[-1])),)
        if "-" in text:
            first, last = (ip_address(part) for part in text.split("-", 1))
            if first.version != last.version or int(first) > int(last):
                raise MalformedFilter(f"{text[:80]!r} is not a range")
            return (Span(first=str(first), last=str(last)),)
        address = str(ip_address(text))
    except MalformedFilter:
        raise
    except ValueError as error:
        raise MalformedFilter(f"{text[:80]!r} is no address, prefix or range") from error
    return (Span(first=address, last=address),)


def _sources(text: str, by_capability: Mapping[str, list[Address]]) -> tuple[Span, ...]:
    if text.startswith(_CAPABILITY):
        holders = by_capability.get(text.removeprefix(_CAPABILITY), [])
        return tuple(Span(first=str(ip), last=str(ip)) for ip in holders)
    return parse_span_untrusted(text)


def _destinations(port: NetPortRange) -> list[DstSpan]:
    if port.bits is not None:
        raise MalformedFilter("a destination has Bits")
    first, last = port.ports.first, port.ports.last
    if not 0 <= first <= last <= 0xFFFF:
        raise MalformedFilter(f"{first}-{last} are not ports")
    return [
        DstSpan(span=span, first_port=first, last_port=last)
        for span in parse_span_untrusted(port.ip)
    ]


def _addresses_by_capability(peers: Iterable[Node]) -> dict[str, list[Address]]:
    found: dict[str, list[Address]] = {}
    for peer in peers:
        for capability in (*peer.cap_map, *peer.capabilities):
            found.setdefault(capability, []).extend(
                ip_network(prefix, strict=False).network_address for prefix in peer.addresses
            )
    return found


def _covers(span: Span, ip: Address) -> bool:
    first, last = ip_address(span.first), ip_address(span.last)
    return first.version == ip.version and int(first) <= int(ip) <= int(last)
