"""Packet filter rules as they travel (PROTOCOL §3.8)."""

from __future__ import annotations

from warren.netmap.node import CapMap, WireStruct


class PortRange(WireStruct, frozen=True, kw_only=True, omit_defaults=False):
    """Inclusive ports."""

    first: int
    last: int


ANY_PORT = PortRange(first=0, last=65535)


class NetPortRange(WireStruct, frozen=True, kw_only=True):
    """A destination: an IP, CIDR, `a-b` range or `*`, and its ports. `bits` is an error."""

    ip: str
    ports: PortRange
    bits: int | None = None


class CapGrant(WireStruct, frozen=True, kw_only=True):
    """Capabilities that the sources have towards `dsts`."""

    dsts: list[str]
    cap_map: CapMap = {}
    caps: list[str] = []


class FilterRule(WireStruct, frozen=True, kw_only=True):
    """Who may send what to this node. No protocols: TCP, UDP, ICMP and ICMPv6."""

    src_ips: list[str]
    src_bits: list[int] = []
    dst_ports: list[NetPortRange] = []
    ip_proto: list[int] = []
    cap_grant: list[CapGrant] = []
