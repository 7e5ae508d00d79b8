"""The server's own keys, made once and kept: machines and relays know it by them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from warren.edge.entropy import Entropy
from warren.edge.keyfile import load_key
from warren.keys import MachinePrivate, NodePrivate


class Identity(NamedTuple):
    """noise: the Noise static key of the coordinator. relay: the key of its DERP server."""

    noise: MachinePrivate
    relay: NodePrivate


def load_identity(state: Path, entropy: Entropy) -> Identity:
    """Read the keys, or make them at the first start (files of mode 0600). Raises FileProblem."""
    return Identity(
        noise=load_key(state / "noise.key", MachinePrivate, entropy),
        relay=load_key(state / "relay.key", NodePrivate, entropy),
    )
