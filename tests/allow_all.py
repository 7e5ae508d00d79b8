"""A policy for tests of what stands behind policies: everyone reaches everyone (PROTOCOL §12.5)."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from datetime import datetime
from typing import Any

from warren.coordinator.change import Change, Spread
from warren.coordinator.records import NodeRecord
from warren.coordinator.snapshot import Snapshot
from warren.netmap.derpmap import DERPMap
from warren.netmap.filterrule import ANY_PORT, FilterRule, NetPortRange
from warren.netmap.node import CapMap

# What `*` as a source compiles to: the address pools, never a plain `*`.
_EVERY_NODE = [
    "100.64.0.0-100.115.91.255",
    "100.115.94.0-100.127.255.255",
    "fd7a:115c:a1e0::/48",
]
_ALLOW_ALL = {
    "base": [FilterRule(src_ips=_EVERY_NODE, dst_ports=[NetPortRange(ip="*", ports=ANY_PORT)])]
}
_SELF_CAPABILITIES: CapMap = {
    "default-auto-update": [False],
    "https://tailscale.com/cap/file-sharing": None,
    "probe-udp-lifetime": None,
}


class AllowAll:
    """Every node sees and reaches every other."""

    def visible(self, viewer: NodeRecord, peer: NodeRecord) -> bool:
        """Always."""
        return True

    def filters(self, node: NodeRecord) -> dict[str, list[FilterRule]]:
        """Return the one rule."""
        return _ALLOW_ALL

    def capabilities(self, node: NodeRecord) -> CapMap:
        """Return the same for all."""
        return _SELF_CAPABILITIES

    def may_relay(self, relay: NodeRecord, client: NodeRecord) -> bool:
        """A person's relay serves that person's machines; a tagged one is everybody's."""
        return bool(relay.tags) or (not client.tags and relay.user_id == client.user_id)

    says_who_relays = False

    def preparation(self, snapshot: Snapshot, change: Change, wall: datetime) -> None:
        """Nothing takes long."""

    def peers(self, viewer: NodeRecord) -> Collection[int] | None:
        """All."""
        return None

    def outlook(self, viewer: NodeRecord) -> Hashable:
        """The same for all."""
        return ()

    def ssh(self, node: NodeRecord) -> dict[str, Any] | None:
        """Return none."""
        return None

    takes_ipv4 = False

    def is_only_ipv6(self, node: NodeRecord) -> bool:
        """Never."""
        return False

    def own_routes(self, node: NodeRecord) -> tuple[list[str], list[str]]:
        """No routes."""
        return [], []

    def routes(self, viewer: NodeRecord, peer: NodeRecord) -> tuple[list[str], list[str]]:
        """No routes."""
        return [], []

    def derp_map(self, regions: DERPMap) -> DERPMap:
        """As they are."""
        return regions

    def follow(self, snapshot: Snapshot, change: Change, wall: datetime) -> Spread:
        """Nothing changes it."""
        return Spread.wide(change)
