"""From what a peer's path machine wants to the engine's commands. Pure."""

from __future__ import annotations

from collections.abc import Callable

from warren.disco.messages import Message, Ping
from warren.engine.commands import (
    AnyCommand,
    CloseSockets,
    KeepSocket,
    OpenSockets,
    SendDatagram,
    SendRelayed,
    SetPath,
)
from warren.keys import NodePublic
from warren.nat.stun import binding_request
from warren.paths.machine import Lease, Relay
from warren.paths.punching import sockets
from warren.paths.punching.puncher import AnyTransmit
from warren.paths.punching.sockets import AsideLease, AsideTransmit, StunAsk


def transmit_command(
    peer: NodePublic, transmit: AnyTransmit, seal: Callable[[Message], bytes]
) -> AnyCommand:
    """Return the command for what a machine wants to send or do with sockets.

    seal: gives a disco message as it travels to the peer.
    """
    if isinstance(transmit, sockets.OpenSockets):
        return OpenSockets(group=transmit.group, count=transmit.count)
    if isinstance(transmit, sockets.KeepSocket):
        return KeepSocket(group=transmit.group, index=transmit.index)
    if isinstance(transmit, sockets.CloseSockets):
        return CloseSockets(group=transmit.group)
    if isinstance(transmit.message, StunAsk):
        data = binding_request(transmit.message.tx_id)
    else:
        data = seal(transmit.message)
    # Padding asks whether a datagram of that size arrives.
    whole = isinstance(transmit.message, Ping) and transmit.message.padding > 0
    if isinstance(transmit, AsideTransmit):
        at = transmit.to
        return SendDatagram(
            to=str(at.endpoint), data=data, group=at.group, index=at.index, whole=whole
        )
    if isinstance(transmit.to, Relay):
        return SendRelayed(region=transmit.to.region, peer=peer.raw, data=data)
    return SendDatagram(to=str(transmit.to), data=data, whole=whole)


def no_path(peer: NodePublic) -> SetPath:
    """Return the command that takes a peer's direct path away."""
    return SetPath(peer=peer.raw, addr=None, lease_ms=0)


def lease_command(peer: NodePublic, lease: Lease | AsideLease) -> SetPath:
    """Return the command for a path that was found, holds on, or is lost."""
    if isinstance(lease, Lease):
        return SetPath(
            peer=peer.raw,
            addr=str(lease.endpoint) if lease.endpoint else None,
            lease_ms=lease.lease_ms,
            mtu_bytes=lease.mtu_bytes,
        )
    if not lease.lease_ms:
        return no_path(peer)
    return SetPath(
        peer=peer.raw,
        addr=str(lease.at.endpoint),
        lease_ms=lease.lease_ms,
        group=lease.at.group,
        index=lease.at.index,
        mtu_bytes=lease.mtu_bytes,
    )
