"""Which TURN servers are spoken to, and by which sockets: a node's way to each, as commands.

By UDP it is the socket that everything else uses, group 0. A stream, by TCP or TLS, is a socket
group of its own, which takes its allocation along when it ends.
"""

from __future__ import annotations

import itertools

from warren.engine.commands import (
    AnyCommand,
    CloseSockets,
    OpenStream,
    RelayNode,
    SendDatagram,
    SetPath,
    SetTurn,
)
from warren.keys import NodePublic
from warren.nat.turn.allocation import Transport
from warren.nat.turn.keeper import Server
from warren.netmap.endpoint import Endpoint
from warren.node.turn_peers import ProxyOf

FIRST_STREAM = 1 << 31
"""Socket groups from here on are streams to TURN servers; those for punching count from 1."""


class TurnWays:
    """The servers that are spoken to, each with its socket group."""

    def __init__(self, proxy_of: ProxyOf) -> None:
        """proxy_of: the HTTP proxy that leads to a host, if one does."""
        self._proxy_of = proxy_of
        self._numbers = itertools.count(FIRST_STREAM)
        self._groups: dict[Server, int] = {}

    def begin(self, server: Server) -> list[AnyCommand]:
        """Speak to a server: open its stream, let its datagrams in."""
        commands: list[AnyCommand] = []
        group = 0
        if server.transport is not Transport.UDP:
            group = next(self._numbers)
            to = _stream_to(server, self._proxy_of(server.name or str(server.at.ip)))
            commands.append(OpenStream(group=group, to=to))
        if not self._is_known(server.at):
            commands.append(SetTurn(server=str(server.at)))
        self._groups[server] = group
        return commands

    def end(self, server: Server) -> list[AnyCommand]:
        """Speak to it no longer."""
        commands: list[AnyCommand] = []
        if group := self._groups.pop(server):
            commands.append(CloseSockets(group=group))
        if not self._is_known(server.at):
            commands.append(SetTurn(server=str(server.at), on=False))
        return commands

    def server_at(self, src: Endpoint, group: int) -> Server | None:
        """Return the server that a datagram from `src` by this group is from."""
        found = self._groups.items()
        return next((server for server, its in found if server.at == src and its == group), None)

    def server_of(self, group: int) -> Server | None:
        """Return the server of a stream."""
        return next((server for server, its in self._groups.items() if its == group), None)

    def message(self, server: Server, data: bytes) -> SendDatagram | None:
        """Return what sends TURN's own bytes; None for a stream that was left."""
        group = self._groups.get(server, 0)
        if not group and server.transport is not Transport.UDP:
            return None
        return SendDatagram(to=str(server.at), data=data, group=group)

    def datagram(self, server: Server, channel: int, data: bytes) -> SendDatagram:
        """Return what sends a peer's datagram by its channel."""
        group = self._groups[server]
        return SendDatagram(to=str(server.at), data=data, channel=channel, group=group)

    def path(self, server: Server, channel: int, peer: NodePublic, lease_ms: int) -> SetPath:
        """Return what has the engine send a peer's packets by its channel."""
        return SetPath(
            peer=peer.raw,
            addr=str(server.at),
            lease_ms=lease_ms,
            channel=channel,
            group=self._groups[server],
        )

    def _is_known(self, at: Endpoint) -> bool:
        return any(server.at == at for server in self._groups)


def is_turn(data: bytes) -> bool:
    """Whether a STUN message is of another method than Binding (RFC 8489 §5)."""
    return len(data) >= 20 and data[0] < 0x40 and int.from_bytes(data[:2], "big") & 0x3EEF != 1


def _stream_to(server: Server, proxy: str | None) -> RelayNode:
    """Return how a server is dialled: by TLS its certificate is checked for its name or pin."""
    return RelayNode(
        addrs=[str(server.at)],
        server_name=server.name or str(server.at.ip),
        cert_sha256=server.pin,
        plain=server.transport is Transport.TCP,
        proxy=proxy,
    )
