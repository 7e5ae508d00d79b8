"""Kinds of NAT as data: what a router does with ports, and the nftables rules that do it.

Terms are those of RFC 4787: *mapping* says when two flows of one inside socket share an outside
port (§4.1), *filtering* says whose packets may come in through it (§5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Behaviour = Literal["endpoint-independent", "address-dependent", "address-and-port-dependent"]

WAN = "wan"
LAN = "lan"
"""Names of a router's two interfaces, the same in every router of the lab."""


@dataclass(frozen=True)
class NatKind:
    """One kind of router.

    everyday: the name that people use. translate: body of the nftables chain at `postrouting`,
    empty for a router that does not translate. filter_wan: whether packets from outside must
    belong to a flow that began inside. udp: False where the router forwards no UDP at all.
    """

    name: str
    everyday: str
    mapping: Behaviour | None
    filtering: Behaviour | None
    translate: str
    filter_wan: bool = True
    udp: bool = True


# Linux keeps the inside port while it is free ("port preservation", RFC 4787 §4.2.1), so one
# inside socket has one outside port: endpoint-independent mapping for all practical purposes.
# Conntrack lets in only replies from exactly the address and port that were written to.
_MASQUERADE = f'oifname "{WAN}" masquerade'

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
                name="udp-blocked",
                everyday="port-restricted for TCP, no UDP at all",
                mapping=None,
                filtering=None,
                translate=_MASQUERADE,
                udp=False,
            ),
        )
    }
)


def ruleset(kind: NatKind) -> str:
    """nftables input for a router of this kind; loads into an empty ruleset.

    Unsolicited packets are dropped before conntrack confirms them. That is what real routers do,
    and it matters: a confirmed entry for the other side's early packet would clash with the reply
    tuple of our own flow, and a port-preserving NAT would then pick another port.
    """
    dead_udp = "" if kind.udp else "    meta l4proto udp drop\n"
    if kind.filter_wan:
        guard = f'    iifname "{WAN}" ct state established,related accept\n'
        guard += f'    iifname "{WAN}" drop\n'
    else:
        guard = ""
    rules = (
        "table inet guard {\n"
        "  chain input {\n    type filter hook input priority 0; policy accept;\n"
        f"{guard}  }}\n"
        "  chain forward {\n    type filter hook forward priority 0; policy accept;\n"
        f"{dead_udp}{guard}  }}\n"
        "}\n"
    )
    if kind.translate:
        rules += (
            "table ip nat {\n"
            "  chain postrouting {\n    type nat hook postrouting priority 100; policy accept;\n"
            f"    {kind.translate}\n  }}\n"
            "}\n"
        )
    return rules


BLOCK_UDP = """table inet blockudp {
  chain forward {
    type filter hook forward priority -10; policy accept;
    meta l4proto udp drop
  }
}
"""
"""Added to a router while a test wants UDP to be dead; the table is deleted to lift it."""
