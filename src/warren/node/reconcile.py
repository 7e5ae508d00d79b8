"""What the engine must be told so that it does what the map says: a pure function.

`desire` turns a view and this machine's settings into the whole wanted configuration;
`reconcile` gives the commands that lead from one to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from ipaddress import ip_network

import msgspec

from warren.engine.commands import (
    AnyCommand,
    FilterRule,
    Peer,
    RelayNode,
    SetFilter,
    SetHome,
    SetIdentity,
    SetPeers,
    SetRegion,
)
from warren.keys import DiscoPublic
from warren.netmap.node import Node
from warren.netmap.view import View
from warren.node.filtering import MalformedFilter, compile_filter
from warren.node.regions import compile_regions

_LEGACY_DERP = "127.3.3.40:"
NO_EXPIRY_BEFORE_YEAR = 1971


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine adds to the map.

    private_key: 32 raw bytes. resolved: relay host name → addresses as text. proxies: relay host
    name → `ip:port` of the HTTP proxy that leads there.
    """

    private_key: bytes
    home_region: int = 0
    accept_routes: bool = False
    shields_up: bool = False
    resolved: Mapping[str, Sequence[str]] = {}
    proxies: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return f"Settings(private_key=(secret), home_region={self.home_region})"


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration of an engine. `filter_fault` says why a filter is void.

    discos: each peer's disco key, which is new whenever the peer's program has started anew.
    """

    private_key: bytes = b""
    addresses: list[str] = []
    peers: dict[bytes, Peer] = {}
    discos: dict[bytes, DiscoPublic] = {}
    rules: list[FilterRule] = []
    shields_up: bool = False
    regions: dict[int, list[RelayNode]] = {}
    home_region: int = 0
    filter_fault: str = ""

    def __repr__(self) -> str:
        return f"Desired({len(self.peers)} peers, home {self.home_region})"


NOTHING = Desired()


def desire(view: View, settings: Settings, wall: datetime) -> Desired:
    """Return what the engine should be, for a view with a self node. `wall`: for expiry."""
    assert view.node is not None
    rules: list[FilterRule] = []
    fault = ""
    try:
        rules = compile_filter(view.rules(), view.peers.values())
    except MalformedFilter as error:
        fault = f"The packet filter is void, so nothing comes in: {error}."
    regions = compile_regions(view.derp_map, settings.resolved, settings.proxies)
    peers = (_peer(node, settings, wall) for _, node in sorted(view.peers.items()))
    return Desired(
        private_key=settings.private_key,
        addresses=own_addresses(view.node),
        peers={peer.key: peer for peer in peers if peer is not None},
        discos={node.key.raw: node.disco_key for node in view.peers.values()},
        rules=rules,
        shields_up=settings.shields_up,
        regions=regions,
        home_region=settings.home_region if settings.home_region in regions else 0,
        filter_fault=fault,
    )


def reconcile(old: Desired, new: Desired) -> list[AnyCommand]:
    """Return the commands that make an engine that is `old` into `new`, in a safe order.

    The filter comes before the peers, so that no packet of a new peer meets an old rule.
    """
    commands: list[AnyCommand] = []
    if new.private_key and (old.private_key, old.addresses) != (new.private_key, new.addresses):
        commands.append(SetIdentity(private_key=new.private_key, addresses=new.addresses))
    if (old.rules, old.shields_up) != (new.rules, new.shields_up) or old is NOTHING:
        commands.append(SetFilter(rules=new.rules, shields_up=new.shields_up))
    for region, nodes in new.regions.items():
        if old.regions.get(region) != nodes:
            commands.append(SetRegion(region=region, nodes=nodes))
    if old.home_region != new.home_region:
        commands.append(SetHome(region=new.home_region))
    for region in old.regions:
        if region not in new.regions:
            commands.append(SetRegion(region=region, nodes=[]))
    restarted = [key for key in new.peers if key in old.peers and _has_restarted(key, old, new)]
    if restarted:
        # It has forgotten its sessions; ours with it would be talking to nobody for 15 s.
        commands.append(SetPeers(upsert=[], remove=restarted))
    upsert = [
        peer for key, peer in new.peers.items() if key in restarted or old.peers.get(key) != peer
    ]
    remove = [key for key in old.peers if key not in new.peers]
    if upsert or remove:
        commands.append(SetPeers(upsert=upsert, remove=remove))
    return commands


def _has_restarted(key: bytes, old: Desired, new: Desired) -> bool:
    before, after = old.discos.get(key), new.discos.get(key)
    if before is None or after is None or before.is_zero or after.is_zero:
        return False
    return before != after


def is_expired(node: Node, wall: datetime) -> bool:
    """Whether a node's key is over, by its own word or by the clock."""
    expiry = node.key_expiry
    return node.expired or (
        expiry is not None and expiry.year >= NO_EXPIRY_BEFORE_YEAR and expiry <= wall
    )


def home_region(node: Node) -> int:
    """Return a peer's home region, also from the form that old coordinators use; 0 for none."""
    if node.home_derp:
        return node.home_derp
    text = node.derp.removeprefix(_LEGACY_DERP)
    return int(text) if node.derp != text and text.isascii() and text.isdecimal() else 0


def own_addresses(node: Node) -> list[str]:
    """Return the addresses that are a node's own: its /32 and /128 prefixes."""
    return [prefix for prefix in node.addresses if _is_host(prefix)]


def _peer(node: Node, settings: Settings, wall: datetime) -> Peer | None:
    if node.key.is_zero or is_expired(node, wall):
        return None
    addresses = own_addresses(node)
    allowed = node.addresses if node.allowed_ips is None else node.allowed_ips
    if node.unsigned_peer_api_only:
        allowed = node.addresses
    accepted = [
        prefix
        for prefix in dict.fromkeys(allowed)
        if prefix in addresses or (settings.accept_routes and _is_subnet(prefix))
    ]
    return Peer(
        key=node.key.raw,
        allowed_ips=accepted,
        home_region=home_region(node),
        roams=node.is_wireguard_only,
        endpoint=node.endpoints[0] if node.is_wireguard_only and node.endpoints else None,
    )


def _is_host(prefix: str) -> bool:
    try:
        network = ip_network(prefix, strict=True)
    except ValueError:
        return False
    return network.prefixlen == network.max_prefixlen


def _is_subnet(prefix: str) -> bool:
    """Whether it is a route that may be accepted: not the default route (an exit node's)."""
    try:
        return ip_network(prefix, strict=True).prefixlen > 0
    except ValueError:
        return False
