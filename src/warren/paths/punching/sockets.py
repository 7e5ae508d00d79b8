"""What punching asks of the engine's sockets, and where a message goes besides the usual ways.

A group is a set of UDP sockets beside the engine's own, numbered from 0. Commands and messages
are in one order: a group is opened before anything is sent from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from warren.disco.messages import Message
from warren.nat.stun import TxId as StunTxId
from warren.netmap.endpoint import Endpoint
from warren.paths.mtu import BASE_MTU_BYTES


@dataclass(frozen=True, slots=True)
class OpenSockets:
    """Open `count` IPv4 sockets on ports that the system chooses."""

    group: int
    count: int


@dataclass(frozen=True, slots=True)
class KeepSocket:
    """Close all sockets of the group but `index`; data of the peer's lease may use that one."""

    group: int
    index: int


@dataclass(frozen=True, slots=True)
class CloseSockets:
    """Close what is left of a group."""

    group: int


SocketCommand = OpenSockets | KeepSocket | CloseSockets


@dataclass(frozen=True, slots=True)
class Aside:
    """To or from `endpoint`, by one socket of a group."""

    group: int
    index: int
    endpoint: Endpoint


class StunAsk(NamedTuple):
    """A STUN binding request to send: it shows which port the NAT gives this very socket."""

    tx_id: StunTxId


class AsideTransmit(NamedTuple):
    """A message to send from a socket of a group; disco messages are sealed first."""

    to: Aside
    message: Message | StunAsk


class OverRelay(NamedTuple):
    """A message for the peer that goes over its relay."""

    message: Message


class AsideLease(NamedTuple):
    """Let data take the kept socket for `lease_ms`; 0: not any more. mtu_bytes: see `Lease`."""

    at: Aside
    lease_ms: int
    mtu_bytes: int = BASE_MTU_BYTES
