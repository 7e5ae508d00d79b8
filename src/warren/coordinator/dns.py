"""What administrators choose for names and resolvers, and what machines are told of it; pure.

Each part of the choice is a setting of its own in the database, so that the audit log says
which part was changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from warren.coordinator.addresses import V4_POOL, V6_POOL
from warren.coordinator.refusal import Refused
from warren.netmap.dnsconfig import DNSConfig, Resolver
from warren.netmap.endpoint import Endpoint, MalformedEndpoint

MAX_NAMESERVERS = 32
MAX_SEARCH_PATHS = 32
MAX_SPLIT_DOMAINS = 1000
_MAX_URL_CHARACTERS = 500
_OWN_RESOLVER = IPv4Address("100.100.100.100")
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
                   r"(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\Z")  # fmt: skip


class Nameserver(msgspec.Struct, frozen=True):
    """A resolver: an address, `ADDRESS:PORT`, or a DNS-over-HTTPS URL (RFC 8484)."""

    address: str
    use_with_exit_node: bool = False
    """Asked also while an exit node takes the rest of the traffic."""


Nameservers = tuple[Nameserver, ...]


class DnsChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The whole choice.

    nameservers: for all names; without `override_local` only where a machine has no others.
    split: domain → its own resolvers. magic: machines answer the network's names themselves.
    """

    nameservers: Nameservers = ()
    split: Mapping[str, Nameservers] = {}
    search_paths: tuple[str, ...] = ()
    magic: bool = True
    override_local: bool = False


_KEYS = {name: f"dns.{name}" for name in DnsChoice.__struct_fields__}
_TYPES: dict[str, Any] = {
    "nameservers": Nameservers,
    "split": dict[str, Nameservers],
    "search_paths": tuple[str, ...],
    "magic": bool,
    "override_local": bool,
}


def chosen(settings: Mapping[str, str]) -> DnsChoice:
    """Return the choice that is kept in a snapshot's settings."""
    return DnsChoice(
        **{
            name: msgspec.json.decode(settings[key], type=_TYPES[name])
            for name, key in _KEYS.items()
            if key in settings
        }
    )


def as_settings(before: DnsChoice, after: DnsChoice) -> dict[str, str]:
    """Return the settings that differ, to be kept."""
    return {
        key: msgspec.json.encode(getattr(after, name)).decode()
        for name, key in _KEYS.items()
        if getattr(after, name) != getattr(before, name)
    }


def checked(choice: DnsChoice, domain: str) -> DnsChoice:
    """Return a choice in its usual form. domain: the network's own. Raises Refused."""
    if len(choice.split) > MAX_SPLIT_DOMAINS:
        raise Refused(f"there can be {MAX_SPLIT_DOMAINS} domains with resolvers of their own")
    if len(choice.search_paths) > MAX_SEARCH_PATHS:
        raise Refused(f"there can be {MAX_SEARCH_PATHS} search paths")
    split: dict[str, Nameservers] = {}
    for name, servers in sorted(choice.split.items()):
        plain = domain_name(name)
        if plain == domain:
            raise Refused(f"{domain} is the network's own; its machines answer these names")
        if servers:
            split[plain] = _nameservers(servers)
    return replace(
        choice,
        nameservers=_nameservers(choice.nameservers),
        split=split,
        search_paths=tuple(dict.fromkeys(map(domain_name, choice.search_paths))),
    )


def dns_config(domain: str, choice: DnsChoice) -> DNSConfig:
    """Return what machines are told (PROTOCOL §3.7)."""
    routes: dict[str, list[Resolver] | None] = {
        name: _resolvers(servers) for name, servers in choice.split.items()
    }
    if choice.magic:
        local = [domain, *_reverse_zones(V4_POOL), *_reverse_zones(V6_POOL)]
        routes |= {zone: [] for zone in local if zone not in routes}
    everything = _resolvers(choice.nameservers)
    return DNSConfig(
        resolvers=everything if choice.override_local else [],
        fallback_resolvers=[] if choice.override_local else everything,
        routes=routes,
        domains=[*([domain] if choice.magic else []), *choice.search_paths],
        proxied=choice.magic,
    )


def _resolvers(servers: Iterable[Nameserver]) -> list[Resolver]:
    return [Resolver(addr=s.address, use_with_exit_node=s.use_with_exit_node) for s in servers]


def _nameservers(servers: Nameservers) -> Nameservers:
    if len(servers) > MAX_NAMESERVERS:
        raise Refused(f"there can be {MAX_NAMESERVERS} nameservers for one domain")
    plain = [replace(server, address=_address(server.address.strip())) for server in servers]
    return tuple({server.address: server for server in plain}.values())


def _address(text: str) -> str:
    ip: IPv4Address | IPv6Address
    if text.startswith("https://"):
        try:
            parts = urlsplit(text)
            good = bool(parts.hostname) and parts.port != 0 and parts.username is None
        except ValueError:
            good = False
        if not good or len(text) > _MAX_URL_CHARACTERS or not text.isascii() or " " in text:
            raise Refused(f"{text[:80]!r} is not a URL of DNS over HTTPS")
        return text
    try:
        ip = ip_address(text)
        plain = str(ip)
    except ValueError:
        try:
            endpoint = Endpoint.parse(text)
        except MalformedEndpoint:
            raise Refused(
                f"{text[:80]!r} is not a nameserver; write 192.0.2.1, 192.0.2.1:5353 or "
                "https://dns.example.com/dns-query"
            ) from None
        ip, plain = endpoint.ip, str(endpoint)
        if not endpoint.port:
            raise Refused(f"{text}: port 0 is none") from None
    if ip.is_unspecified or ip.is_multicast:
        raise Refused(f"{ip} is not the address of one machine")
    if ip == _OWN_RESOLVER:
        raise Refused(f"{ip} is each machine's own resolver; name one that it can ask")
    return plain


def domain_name(text: str) -> str:
    """Return a domain in lower case, without a dot at its end. Raises Refused."""
    plain = text.strip().removesuffix(".").lower()
    if not plain.isascii():
        raise Refused(f"{text[:80]!r}: write it in its ASCII form, such as xn--bcher-kva.example")
    if not _NAME.match(plain):
        raise Refused(f"{text[:80]!r} is not a domain name")
    return plain


def _reverse_zones(network: IPv4Network | IPv6Network) -> list[str]:
    """Return the reverse zones that together are exactly `network` (RFC 1035 §3.5, 3596 §2.5)."""
    step = 8 if network.version == 4 else 4
    length = -(-network.prefixlen // step) * step
    labels = 32 // 8 - length // 8 if network.version == 4 else (128 - length) // 4
    return [
        subnet.network_address.reverse_pointer.split(".", labels)[labels]
        for subnet in network.subnets(new_prefix=length)
    ]
