"""The coordinator of a simulated world: it tells every node of every other."""

from __future__ import annotations

from typing import TypeVar

from warren.lab.sim.nats import NatModel
from warren.lab.sim.node import SimNode, StockNode
from warren.lab.sim.world import Router, SimWorld
from warren.paths.punching.roles import PeerSide

Network = str | NatModel | Router | None
_LATENCY_S = 0.04
_Joined = TypeVar("_Joined", SimNode, StockNode)


class SimTailnet:
    """Nodes that know each other. tell_nat: whether peers learn each other's NetInfo. regions: how
    many relay regions the map has; a stock client asks one STUN server in each.

    `node` and `stock` add members, in a network of their own if a kind of NAT is named.
    """

    def __init__(self, world: SimWorld, tell_nat: bool = False, regions: int = 1) -> None:
        self.world = world
        self.tell_nat = tell_nat
        self.regions = regions
        self.members: list[SimNode | StockNode] = []

    def node(self, name: str, network: Network = None, latency_s: float = 0.01) -> SimNode:
        """Add a Warren node."""
        host = self.world.host(name, self._router(network, name), latency_s)
        return self._join(SimNode(self.world, host))

    def stock(self, name: str, network: Network = None, latency_s: float = 0.01) -> StockNode:
        """Add a stock client."""
        host = self.world.host(name, self._router(network, name), latency_s)
        return self._join(StockNode(self.world, host, self.regions))

    def settle(self, seconds: float = 1.0) -> None:
        """Let everybody measure and learn of the others."""
        self.world.run(seconds)

    def publish(self, member: SimNode | StockNode) -> None:
        """Tell everybody else of a member."""
        for other in self.members:
            if other is not member:
                self._tell(other, member)

    def _join(self, member: _Joined) -> _Joined:
        for other in self.members:
            self._tell(member, other)
        self.members.append(member)
        member.changed = lambda: self.publish(member)
        self.publish(member)
        member.measure()
        return member

    def _tell(self, to: SimNode | StockNode, about: SimNode | StockNode) -> None:
        identity = about.identity()
        if self.tell_nat and about.public:
            side = PeerSide(about.side.understands, about.varies, True)
            identity = identity._replace(side=side)
        self.world.after(_LATENCY_S, lambda: to.learn(identity))

    def _router(self, network: Network, name: str) -> Router | None:
        if network is None or isinstance(network, Router):
            return network
        return self.world.network(network, f"{name}'s router")
