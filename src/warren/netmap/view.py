"""What one node knows of the network at a moment: an immutable value."""

from __future__ import annotations

from typing import Any

import msgspec

from warren.netmap.derpmap import DERPMap
from warren.netmap.dnsconfig import DNSConfig
from warren.netmap.filterrule import FilterRule
from warren.netmap.messages import DisplayMessage, TKAInfo
from warren.netmap.node import Node, UserProfile


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The whole map of one node.

    node: the node itself, None before the first message.
    peers, profiles: by id. packet_filters: named rule lists, evaluated in name order.
    profiles holds exactly the users that `node` or a peer refers to.
    """

    node: Node | None = None
    peers: dict[int, Node] = {}
    derp_map: DERPMap = DERPMap(regions={})
    dns: DNSConfig = DNSConfig()
    domain: str = ""
    packet_filters: dict[str, list[FilterRule]] = {}
    profiles: dict[int, UserProfile] = {}
    ssh_policy: dict[str, Any] | None = None
    collect_services: bool = False
    health: list[str] = []
    display_messages: dict[str, DisplayMessage] = {}
    tka: TKAInfo | None = None

    def rules(self) -> list[FilterRule]:
        """Return the packet filter: all named lists, in name order (PROTOCOL §3.4)."""
        return [rule for name in sorted(self.packet_filters) for rule in self.packet_filters[name]]


EMPTY = View()


def referenced_users(node: Node | None, peers: dict[int, Node]) -> set[int]:
    """Return the ids of the users that own, or shared, a machine in a view."""
    machines = [*peers.values(), *([node] if node else [])]
    return {user for machine in machines for user in (machine.user, machine.sharer) if user}
