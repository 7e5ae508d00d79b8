"""Names and resolvers that the map carries (PROTOCOL §3.7)."""

from __future__ import annotations

from warren.netmap.node import WireStruct


class Resolver(WireStruct, frozen=True, kw_only=True):
    """A DNS server: an IP, `ip:port`, or a DoH URL."""

    addr: str
    bootstrap_resolution: list[str] = []
    use_with_exit_node: bool = False


class DNSRecord(WireStruct, frozen=True, kw_only=True):
    """An extra record; an empty type is A or AAAA by value."""

    name: str
    type: str = ""
    value: str = ""


class DNSConfig(WireStruct, frozen=True, kw_only=True):
    """The whole DNS configuration; an empty one switches DNS off. `proxied` is MagicDNS."""

    resolvers: list[Resolver] = []
    routes: dict[str, list[Resolver] | None] = {}
    fallback_resolvers: list[Resolver] = []
    domains: list[str] = []
    proxied: bool = False
    nameservers: list[str] = []
    cert_domains: list[str] = []
    extra_records: list[DNSRecord] = []
    exit_node_filtered_set: list[str] = []
