"""The policy until there is another: everyone reaches everyone (PROTOCOL §12.5)."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from datetime import datetime
from typing import Any, Protocol

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


class CompiledPolicy(Protocol):
    """What the mapper asks of a policy."""

    def visible(self, viewer: NodeRecord, peer: NodeRecord) -> bool:
        """Whether `viewer` is told of `peer`."""
        ...

    def filters(self, node: NodeRecord) -> dict[str, list[FilterRule]]:
        """Return the packet filters of one node, by name."""
        ...

    def capabilities(self, node: NodeRecord) -> CapMap:
        """Return what the node may do, as its own map entry says."""
        ...

    def may_relay(self, relay: NodeRecord, client: NodeRecord) -> bool:
        """Whether `client` may have its traffic passed on by `relay`."""
        ...

    @property
    def says_who_relays(self) -> bool:
        """Whether its filters say who may use which relay, so that `may_relay` does not count."""
        ...

    def peers(self, viewer: NodeRecord) -> Collection[int] | None:
        """Return the ids of all that `viewer` is told of, perhaps with its own; None: all."""
        ...

    def outlook(self, viewer: NodeRecord) -> Hashable:
        """Return what is equal for viewers that see the same machines with the same routes.

        Each of them sees the others of the same outlook if it sees itself. None: like nobody else.
        """
        ...

    def ssh(self, node: NodeRecord) -> dict[str, Any] | None:
        """Return a node's SSH policy."""
        ...

    @property
    def takes_ipv4(self) -> bool:
        """Whether it takes the IPv4 address of any node away, so that `is_only_ipv6` counts."""
        ...

    def is_only_ipv6(self, node: NodeRecord) -> bool:
        """Whether the policy takes a node's IPv4 address away."""
        ...

    def own_routes(self, node: NodeRecord) -> tuple[list[str], list[str]]:
        """Return the routes that a node may serve, and those that it is the one to serve."""
        ...

    def routes(self, viewer: NodeRecord, peer: NodeRecord) -> tuple[list[str], list[str]]:
        """Return the subnets, then the exits, that `viewer` reaches through `peer`."""
        ...

    def derp_map(self, regions: DERPMap) -> DERPMap:
        """Return the relay regions with what the policy says of them."""
        ...

    def follow(self, snapshot: Snapshot, change: Change, wall: datetime) -> Spread:
        """Take in what changed; return it with what it changes for others beside."""
        ...


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
