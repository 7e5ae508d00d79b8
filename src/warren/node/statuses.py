"""What `warren status` shows, put together from the map, the engine and the path machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import ip_address

from warren.engine.protocol import PeerStats, Snapshot
from warren.keys import NodePublic
from warren.netmap.node import Node
from warren.netmap.view import View
from warren.node.reconcile import home_region
from warren.node.schema import PathStatus, PeerStatus, RegionLatency, SelfStatus
from warren.node.turn_peers import TurnPath
from warren.paths.machine import PeerPaths
from warren.paths.peer_relay.client import Session


def self_status(view: View, home: int, endpoints: list[str]) -> SelfStatus | None:
    """Return this node as the coordinator knows it; None before the first map."""
    node = view.node
    if node is None:
        return None
    expiry = node.key_expiry
    return SelfStatus(
        id=node.id,
        name=first_name(node),
        fqdn=node.name,
        addresses=plain_addresses(node),
        key=str(node.key),
        user=_owner(view, node),
        tags=node.tags,
        home_region=home,
        home_region_code=region_code(view, home),
        endpoints=endpoints,
        key_expiry=expiry.isoformat() if expiry and expiry.year > 1 else None,
    )


def region_latencies(view: View, latency: Mapping[int, float]) -> list[RegionLatency]:
    """Return the relay regions by number. latency: seconds by region, where it is known."""
    return [
        RegionLatency(
            region=number,
            code=region.region_code,
            name=region.region_name,
            latency_ms=latency[number] * 1000 if number in latency else None,
        )
        for number, region in sorted((view.derp_map.regions or {}).items())
        if region is not None
    ]


def peer_statuses(
    view: View,
    snapshot: Snapshot,
    paths_of: Callable[[NodePublic], PeerPaths | None],
    now: float,
    through: Callable[[NodePublic, float], Session | TurnPath | None] = lambda key, now: None,
    mtu_fallbacks: Callable[[NodePublic], int] = lambda key: 0,
) -> list[PeerStatus]:
    """Return every peer, by name. through: the way through a peer relay or TURN server."""
    stats = {peer.key: peer for peer in snapshot.peers}
    peers = sorted(view.peers.values(), key=lambda node: (first_name(node), node.id))
    return [
        _peer_status(
            view,
            node,
            stats,
            paths_of(node.key),
            now,
            through(node.key, now),
            mtu_fallbacks(node.key),
        )
        for node in peers
    ]


def path_status(
    view: View,
    node: Node,
    stats: PeerStats | None,
    paths: PeerPaths | None,
    now: float,
    through: Session | TurnPath | None = None,
    mtu_fallbacks: int = 0,
) -> PathStatus:
    """Return how packets to a peer travel now: the engine's lease decides."""
    direct = stats.direct if stats else None
    mtu_bytes = stats.mtu_bytes if stats else None
    if isinstance(through, Session) and direct == str(through.at):
        return PathStatus(
            kind="peer-relay",
            address=direct,
            latency_ms=through.latency_s * 1000,
            mtu_bytes=mtu_bytes,
        )
    if isinstance(through, TurnPath) and direct == str(through.lease):
        return PathStatus(
            kind="turn",
            address=str(through.relayed),
            server=str(through.server) if through.server else None,
            latency_ms=through.latency_s * 1000,
            mtu_bytes=mtu_bytes,
        )
    if direct is not None:
        used = paths.path(now) if paths else None
        latency_s = used.latency_s if used and str(used.endpoint) == direct else None
        latency_ms = None if latency_s is None else latency_s * 1000
        return PathStatus(
            kind="direct",
            address=direct,
            latency_ms=latency_ms,
            mtu_bytes=mtu_bytes,
            mtu_fallbacks=mtu_fallbacks,
        )
    region = paths.relay_region() if paths else home_region(node)
    if not region:
        return PathStatus(kind="none")
    return PathStatus(kind="relay", region=region, region_code=region_code(view, region))


def region_code(view: View, region: int) -> str | None:
    """Return a region's code, or None if the map does not know it."""
    found = (view.derp_map.regions or {}).get(region)
    return (found.region_code or None) if found else None


def first_name(node: Node) -> str:
    """Return the first label of a node's name, or its host name."""
    return node.name.split(".", 1)[0] or node.hostinfo.hostname or str(node.id)


def plain_addresses(node: Node) -> list[str]:
    """Return a node's addresses without the prefix lengths."""
    return [prefix.split("/", 1)[0] for prefix in node.addresses]


def find_machine(view: View, text: str) -> Node | None:
    """Return the machine with this address, first name or full name; also this node itself."""
    wanted = text.strip().lower().rstrip(".")
    if not wanted:
        return None
    with suppress(ValueError):
        wanted = str(ip_address(wanted))
    machines = [*view.peers.values(), *([view.node] if view.node else [])]
    for exact in (True, False):
        for node in machines:
            full = node.name.lower().rstrip(".")
            if exact and (wanted == full or wanted in plain_addresses(node)):
                return node
            if not exact and wanted in (first_name(node).lower(), node.hostinfo.hostname.lower()):
                return node
    return None


def _peer_status(
    view: View,
    node: Node,
    all_stats: Mapping[bytes, PeerStats],
    paths: PeerPaths | None,
    now: float,
    through: Session | TurnPath | None,
    mtu_fallbacks: int,
) -> PeerStatus:
    stats = all_stats.get(node.key.raw)
    handshake_ms = stats.handshake_ago_ms if stats else None
    return PeerStatus(
        id=node.id,
        name=first_name(node),
        fqdn=node.name,
        addresses=plain_addresses(node),
        key=str(node.key),
        online=node.online,
        os=node.hostinfo.os,
        user=_owner(view, node),
        tags=node.tags,
        expired=node.expired,
        routes=node.primary_routes,
        path=path_status(view, node, stats, paths, now, through, mtu_fallbacks),
        active=paths.is_active(now) if paths else False,
        rx_bytes=stats.rx_bytes if stats else 0,
        tx_bytes=stats.tx_bytes if stats else 0,
        handshake_ago_s=None if handshake_ms is None else handshake_ms / 1000,
    )


def _owner(view: View, node: Node) -> str:
    profile = view.profiles.get(node.user)
    return "" if node.tags or profile is None else profile.login_name or profile.display_name
