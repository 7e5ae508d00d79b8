"""What a policy answers once it is compiled, as a type: `Enforcement` is one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from datetime import datetime
from typing import Any, Protocol

from warren.coordinator.change import Change, Spread
from warren.coordinator.compiled import Compiled
from warren.coordinator.records import NodeRecord
from warren.coordinator.snapshot import Snapshot
from warren.netmap.derpmap import DERPMap
from warren.netmap.filterrule import FilterRule
from warren.netmap.node import CapMap


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

    def preparation(
        self, snapshot: Snapshot, change: Change, wall: datetime
    ) -> Callable[[], Compiled] | None:
        """Return what takes long of following a change, for a thread; None: nothing does.

        What it returns is to be the change's `compiled`.
        """
        ...

    def follow(self, snapshot: Snapshot, change: Change, wall: datetime) -> Spread:
        """Take in what changed; return it with what it changes for others beside."""
        ...
