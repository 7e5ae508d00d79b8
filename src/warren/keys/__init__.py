"""Typed keys: one file per kind, each with its own text prefix (PROTOCOL §1).

A key is never a bare `bytes`: its type says what it may be used for, its text form carries
the prefix that the wire demands, and a private key never shows itself in a `repr`.
"""

from warren.keys.challenge import ChallengePrivate, ChallengePublic
from warren.keys.derp import MeshKey
from warren.keys.disco import DiscoPrivate, DiscoPublic
from warren.keys.kinds import MalformedKey, PrivateKey, PublicKey
from warren.keys.lock import LockPrivate, LockPublic
from warren.keys.machine import MachinePrivate, MachinePublic
from warren.keys.node import NodePrivate, NodePublic

__all__ = [
    "ChallengePrivate",
    "ChallengePublic",
    "DiscoPrivate",
    "DiscoPublic",
    "LockPrivate",
    "LockPublic",
    "MachinePrivate",
    "MachinePublic",
    "MalformedKey",
    "MeshKey",
    "NodePrivate",
    "NodePublic",
    "PrivateKey",
    "PublicKey",
]
