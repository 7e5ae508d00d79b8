"""Kinds of NAT as data: what a router does with ports, and the nftables rules that do it.

Terms are those of RFC 4787: *mapping* says when two flows of one inside socket share an outside
port (§4.1), *filtering* says whose packets may come in through it (§5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import Literal

Behaviour = Literal["endpoint-independent", "address-dependent", "address-and-port-dependent"]

WAN = "wan"
LAN = "lan"
"""Names of a router's two interfaces, the same in every router of the lab."""


@dataclass(frozen=True)
class NatKind:
    """One kind of router. All but the firewall is about IPv4: IPv6 is never translated, and what
    comes in by it must belong to a flow that began inside, unless `filter_wan` is False.

    everyday: the name that people use. translate: body of the nftables chain at `postrouting`,
    empty for a router that does not translate. filter_wan: whether packets from outside must
    belong to a flow that began inside. udp: False where the router forwards no UDP at all.
    cone: let UDP in that conntrack alone would not, to the port's last user inside: from
    "anybody", or from any port of an "address" that was written to. hairpin: also from inside.
    forward: False where nothing passes at all, so that only what runs on the router helps.
    """

    name: str
    everyday: str
    mapping: Behaviour | None
    filtering: Behaviour | None
    translate: str
    filter_wan: bool = True
    udp: bool = True
    cone: Literal["anybody", "address"] | None = None
    hairpin: bool = False
    forward: bool = True


# Linux keeps the inside port while it is free ("port preservation", RFC 4787 §4.2.1), so one
# inside socket has one outside port: endpoint-independent mapping for all practical purposes.
# Conntrack lets in only replies from exactly the address and port that were written to.
_MASQUERADE = f'oifname "{WAN}" masquerade'
_BLOCK = (
    f'oifname "{WAN}" meta l4proto udp masquerade to :FIRST-LAST fully-random\n    {_MASQUERADE}'
)
# The counter alone would be taken for a port in the wrong order of bytes.
_IN_TURN = ", ".join(f"{number} : {30000 + number}" for number in range(4096))

# IPv6 has no ARP: without these nobody finds the router (RFC 4861 §4.3, §4.4).
_NEIGHBOURS = "{ nd-neighbor-solicit, nd-neighbor-advert }"

KINDS: Mapping[str, NatKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            NatKind(
                name="public",
                everyday="no NAT, no firewall",
                mapping=None,
                filtering=None,
                translate="",
                filter_wan=False,
            ),
            NatKind(
                name="firewall",
                everyday="no NAT, stateful firewall",
                mapping=None,
                filtering="address-and-port-dependent",
                translate="",
            ),
            NatKind(
                name="full-cone",
                everyday="full cone",
                mapping="endpoint-independent",
                filtering="endpoint-independent",
                translate=_MASQUERADE,
                cone="anybody",
            ),
            NatKind(
                name="address-restricted",
                everyday="address-restricted cone",
                mapping="endpoint-independent",
                filtering="address-dependent",
                translate=_MASQUERADE,
                cone="address",
            ),
            NatKind(
                name="carrier-hairpin",
                everyday="full cone that also connects its own customers",
                mapping="endpoint-independent",
                filtering="endpoint-independent",
                translate=_MASQUERADE,
                cone="anybody",
                hairpin=True,
            ),
            NatKind(
                name="port-restricted",
                everyday="port-restricted cone",
                mapping="endpoint-independent",
                filtering="address-and-port-dependent",
                translate=_MASQUERADE,
            ),
            NatKind(
                name="symmetric",
                everyday="symmetric, random ports",
                mapping="address-and-port-dependent",
                filtering="address-and-port-dependent",
                translate=f"{_MASQUERADE} random,fully-random",
            ),
            NatKind(
                name="symmetric-sequential",
                everyday="symmetric, ports one after the other",
                mapping="address-and-port-dependent",
                filtering="address-and-port-dependent",
                translate=(
                    f'oifname "{WAN}" meta l4proto udp snat to OUTSIDE:numgen inc mod 4096 '
                    f"map {{ {_IN_TURN} }}\n    {_MASQUERADE}"
                ),
            ),
            NatKind(
                name="carrier-block",
                everyday="symmetric, ports from a carrier's block",
                mapping="address-and-port-dependent",
                filtering="address-and-port-dependent",
                translate=_BLOCK.replace("FIRST", "20480").replace("LAST", "22527"),
            ),
            NatKind(
                name="carrier-block-512",
                everyday="symmetric, ports from one of a carrier's small blocks",
                mapping="address-and-port-dependent",
                filtering="address-and-port-dependent",
                translate=_BLOCK.replace("FIRST", "20480").replace("LAST", "20991"),
            ),
            NatKind(
                name="udp-blocked",
                everyday="port-restricted for TCP, no UDP at all",
                mapping=None,
                filtering=None,
                translate=_MASQUERADE,
                udp=False,
            ),
            NatKind(
                name="http-proxy",
                everyday="nothing passes but an HTTP proxy",
                mapping=None,
                filtering=None,
                translate=_MASQUERADE,
                udp=False,
                forward=False,
            ),
        )
    }
)


def ruleset(kind: NatKind, outside: IPv4Address | None) -> str:
    """nftables input for a router of this kind and outside address, for an empty ruleset.

    outside: None for a router without IPv4.

    Unsolicited packets are dropped before conntrack confirms them. That is what real routers do,
    and it matters: a confirmed entry for the other side's early packet would clash with the reply
    tuple of our own flow, and a port-preserving NAT would then pick another port.
    """
    dead_udp = "" if kind.udp else "    meta l4proto udp drop\n"
    if not kind.forward:
        dead_udp = "    drop\n"
    if kind.filter_wan:
        guard = f'    iifname "{WAN}" ct state established,related accept\n'
        if kind.cone:
            guard += f'    iifname "{WAN}" ct status dnat accept\n'
        guard += f'    iifname "{WAN}" drop\n'
        neighbours = f'    iifname "{WAN}" icmpv6 type {_NEIGHBOURS} accept\n'
    else:
        guard = neighbours = ""
    rules = (
        "table inet guard {\n"
        "  chain input {\n    type filter hook input priority 0; policy accept;\n"
        f"{neighbours}{guard}  }}\n"
        "  chain forward {\n    type filter hook forward priority 0; policy accept;\n"
        f"{dead_udp}{guard}  }}\n"
        "}\n"
    )
    if kind.translate and outside is not None:
        rules += (
            "table ip nat {\n"
            f"{_cone(kind, outside)}"
            "  chain postrouting {\n    type nat hook postrouting priority 100; policy accept;\n"
            f"    {kind.translate.replace('OUTSIDE', str(outside))}\n  }}\n"
            "}\n"
        )
    return rules


def _cone(kind: NatKind, outside: IPv4Address) -> str:
    """Who used a port last is remembered beside conntrack, and packets that it did not expect
    are brought there. As ports are kept, inside and outside port are the same."""
    if kind.cone is None:
        return ""
    known = "udp dport . ip saddr @written " if kind.cone == "address" else ""
    rules = (
        "  map user { type inet_service : ipv4_addr; flags dynamic,timeout; timeout 2m; }\n"
        "  set written { type inet_service . ipv4_addr; flags dynamic,timeout; timeout 2m; }\n"
        "  chain learn {\n    type filter hook forward priority -5; policy accept;\n"
        f'    iifname "{LAN}" ip saddr != {outside} meta l4proto udp'
        " update @user { udp sport : ip saddr }"
        " update @written { udp sport . ip daddr }\n  }\n"
        "  chain prerouting {\n    type nat hook prerouting priority -100; policy accept;\n"
        f'    iifname "{WAN}" meta l4proto udp {known}dnat to udp dport map @user\n'
    )
    if not kind.hairpin:
        return rules + "  }\n"
    # The source is changed before conntrack looks, so that also a host that writes to itself by
    # the outside address is let through: Linux drops what has one address at both ends.
    return (
        f'{rules}    iifname "{LAN}" ip daddr {outside} meta l4proto udp '
        "dnat to udp dport map @user\n  }\n"
        "  chain hairpin {\n    type filter hook prerouting priority -300; policy accept;\n"
        f'    iifname "{LAN}" ip daddr {outside} meta l4proto udp ip saddr set {outside}\n  }}\n'
    )


BLOCK_UDP = """table inet blockudp {
  chain forward {
    type filter hook forward priority -10; policy accept;
    meta l4proto udp drop
  }
}
"""
"""Added to a router while a test wants UDP to be dead; the table is deleted to lift it."""
