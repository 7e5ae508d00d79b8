"""One ping of one machine: by disco, or with a packet through the tunnel, and how it went."""

from __future__ import annotations

from ipaddress import ip_address

import msgspec

from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.engine.protocol import Engine
from warren.netmap.node import Node
from warren.netmap.view import View
from warren.node import statuses
from warren.node.dataplane import Dataplane
from warren.node.localapi import RequestFailed
from warren.node.probes import icmp_echo, tsmp_ping
from warren.node.schema import PingReply, PingRequest
from warren.node.turn_peers import TurnPath
from warren.paths.machine import Relay
from warren.paths.peer_relay.client import Session

TIMEOUT_MAX_S = 60.0
SIZE_MAX_BYTES = 1000
_NONCE_BYTES = 8


class Pinger:
    """Pings machines of a view for whoever asks."""

    def __init__(
        self, engine: Engine, dataplane: Dataplane, clock: Clock, entropy: Entropy
    ) -> None:
        self._engine = engine
        self._dataplane = dataplane
        self._clock = clock
        self._entropy = entropy

    async def ping(self, view: View, request: PingRequest) -> PingReply:
        """Ping once; no answer is a reply too. view: with a self node. Raises RequestFailed."""
        if not 0 < request.timeout_s <= TIMEOUT_MAX_S:
            raise RequestFailed(400, f"timeout_s is between 0 and {TIMEOUT_MAX_S:.0f}.")
        if not 0 <= request.size_bytes <= SIZE_MAX_BYTES:
            raise RequestFailed(400, f"size_bytes is between 0 and {SIZE_MAX_BYTES}.")
        node = statuses.find_machine(view, request.peer)
        if node is None:
            raise RequestFailed(404, f"There is no machine {request.peer[:80]!r} in this network.")
        reply = PingReply(
            ok=False,
            kind=request.kind,
            peer=statuses.first_name(node),
            address=next(iter(statuses.plain_addresses(node)), ""),
        )
        if node is view.node:
            return msgspec.structs.replace(reply, ok=True, via="self", ms=0.0)
        try:
            if request.kind == "disco":
                return await self._ping_disco(view, node, request, reply)
            return await self._ping_inside(view, node, request, reply)
        except TimeoutError:
            online = "" if node.online is not False else "; the coordinator calls it offline"
            text = f"no answer within {request.timeout_s:g} s{online}"
            return msgspec.structs.replace(reply, error=text)

    async def _ping_disco(
        self, view: View, node: Node, request: PingRequest, reply: PingReply
    ) -> PingReply:
        if self._dataplane.paths_of(node.key) is None:
            text = "it has no disco key now, so only `--kind tsmp` or `icmp` can reach it"
            return msgspec.structs.replace(reply, error=text)
        pong = await self._dataplane.ping_disco(node.key, request.timeout_s)
        reply = msgspec.structs.replace(reply, ok=True, ms=pong.rtt_s * 1000)
        if isinstance(pong.via, Relay):
            region = pong.via.region
            code = statuses.region_code(view, region)
            return msgspec.structs.replace(reply, via="relay", region=region, region_code=code)
        if isinstance(pong.via, Session):
            return msgspec.structs.replace(reply, via="peer-relay", path=str(pong.via.at))
        if isinstance(pong.via, TurnPath):
            path, server = str(pong.via.relayed), pong.via.server
            told = str(server) if server else None
            return msgspec.structs.replace(reply, via="turn", path=path, server=told)
        return msgspec.structs.replace(reply, via="direct", path=str(pong.via))

    async def _ping_inside(
        self, view: View, node: Node, request: PingRequest, reply: PingReply
    ) -> PingReply:
        assert view.node is not None
        own = [ip_address(a) for a in statuses.plain_addresses(view.node)]
        theirs = [ip_address(a) for a in statuses.plain_addresses(node)]
        pair = next(((s, d) for d in theirs for s in own if s.version == d.version), None)
        if pair is None:
            return msgspec.structs.replace(reply, error="no address family in common")
        nonce = self._entropy(_NONCE_BYTES)
        if request.kind == "tsmp":
            packet = tsmp_ping(*pair, nonce)
        else:
            packet = icmp_echo(*pair, nonce, request.size_bytes)
        pong = await self._dataplane.probe(packet, nonce, request.timeout_s)
        stats = {peer.key: peer for peer in self._engine.snapshot().peers}
        path = statuses.path_status(
            view,
            node,
            stats.get(node.key.raw),
            self._dataplane.paths_of(node.key),
            self._clock.now(),
            self._dataplane.through(node.key, self._clock.now()),
        )
        return msgspec.structs.replace(
            reply,
            ok=True,
            ms=pong.rtt_s * 1000,
            via="unknown" if path.kind == "none" else path.kind,
            path=path.address,
            server=path.server,
            region=path.region,
            region_code=path.region_code,
        )
