"""A network in one process: virtual time, NAT models, a relay, real path machines, one seed.

Nothing here opens a socket or reads a clock. The same seed gives the same run, and a run keeps a
message chart, so that a failing one can be told and repeated.
"""

from warren.lab.sim.coordinator import SimTailnet
from warren.lab.sim.nats import MODELS, NatModel, PortRule
from warren.lab.sim.node import SimNode, StockNode
from warren.lab.sim.world import SimWorld

__all__ = ["MODELS", "NatModel", "PortRule", "SimNode", "SimTailnet", "SimWorld", "StockNode"]
