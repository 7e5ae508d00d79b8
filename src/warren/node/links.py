"""The peers of the map that speak disco, each with its box and its path machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import NamedTuple

from warren.disco.malformed import MalformedDisco
from warren.disco.sealed import SharedBox
from warren.keys import DiscoPrivate, DiscoPublic, NodePublic
from warren.nat.targets import measured_regions
from warren.netmap.endpoint import Endpoint, MalformedEndpoint
from warren.netmap.node import Node
from warren.netmap.view import View
from warren.node.reconcile import home_region
from warren.paths.mtu import BASE_MTU_BYTES
from warren.paths.punching.puncher import PunchingPaths
from warren.paths.punching.roles import OwnSide, PeerSide


class Link:
    """One peer that speaks disco."""

    __slots__ = ("announced", "box", "mtu_bytes", "node", "paths")

    def __init__(self, node: Node, box: SharedBox, paths: PunchingPaths) -> None:
        self.node = node
        self.box = box
        self.paths = paths
        self.announced: tuple[Endpoint, ...] = ()
        """Relayed addresses that it is told beside our endpoints."""
        self.mtu_bytes = BASE_MTU_BYTES
        """The largest packet inside the tunnel that it may be sent."""


class Changes(NamedTuple):
    """What a new map did: `gone` are no peers any more, `present` were told what it says."""

    gone: list[Link]
    present: list[Link]


class Links:
    """One link for each such peer, by its node key and by its disco key.

    own_side: what punching knows of this node's NAT. drops: counts peers with a key that is none.
    """

    def __init__(self, disco: DiscoPrivate, own_side: OwnSide, drops: Counter[str]) -> None:
        self._disco = disco
        self._own_side = own_side
        self._drops = drops
        self._own_key = NodePublic.zero()
        self._by_key: dict[NodePublic, Link] = {}
        self._by_disco: dict[DiscoPublic, Link] = {}
        self._own_endpoints: tuple[Endpoint, ...] = ()
        self._own_endpoints_at: float | None = None
        self.inside: set[IPv4Address | IPv6Address] = set()
        """Every address of the network's machines themselves."""

    def __iter__(self) -> Iterator[Link]:
        return iter(self._by_key.values())

    def get(self, key: NodePublic) -> Link | None:
        """Return the link to a peer."""
        return self._by_key.get(key)

    def of_disco(self, key: DiscoPublic) -> Link | None:
        """Return the link to whoever has this disco key."""
        return self._by_disco.get(key)

    def set_view(self, view: View, own_key: NodePublic, now: float) -> Changes:
        """Keep one link for each peer of the map that speaks disco."""
        nodes = {
            node.key: node
            for node in view.peers.values()
            if not (node.key.is_zero or node.disco_key.is_zero or node.is_wireguard_only)
        }
        gone = [
            link
            for key, link in self._by_key.items()
            if own_key != self._own_key or not _is_same(link, nodes.get(key))
        ]
        for link in gone:
            del self._by_key[link.node.key]
        self._own_key = own_key
        self.inside = _inside_addresses(view)
        regions = measured_regions(view.derp_map)
        present = []
        for key, node in nodes.items():
            link_or_none = self._by_key.get(key) or self._new(node)
            if link_or_none is None:
                continue
            self._by_key[key] = link = link_or_none
            link.node = node
            side = PeerSide.of(node.hostinfo, regions)
            link.paths.set_peer(self._usable(node.endpoints), home_region(node), side, now)
            present.append(link)
        self._by_disco = {link.box.peer: link for link in present}
        return Changes(gone, present)

    def set_own_endpoints(self, endpoints: tuple[Endpoint, ...], now: float | None) -> None:
        """Take own endpoints for peers to come. now: when they were measured."""
        self._own_endpoints, self._own_endpoints_at = endpoints, now

    @property
    def own_endpoints(self) -> tuple[Endpoint, ...]:
        """The ones that were measured last."""
        return self._own_endpoints

    def _new(self, node: Node) -> Link | None:
        try:
            box = SharedBox(self._disco, node.disco_key)
        except MalformedDisco:
            self._drops["disco key malformed"] += 1
            return None
        paths = PunchingPaths(self._own_key, self._own_side)
        if self._own_endpoints_at is not None:
            paths.set_own_endpoints(self._own_endpoints, self._own_endpoints_at)
        return Link(node, box, paths)

    def _usable(self, texts: list[str]) -> list[Endpoint]:
        found = []
        for text in texts:
            try:
                endpoint = Endpoint.parse(text)
            except MalformedEndpoint:
                continue
            # An address inside the network would send the tunnel through itself.
            if endpoint.ip not in self.inside:
                found.append(endpoint)
        return found


def _is_same(link: Link, node: Node | None) -> bool:
    return node is not None and node.disco_key == link.box.peer


def _inside_addresses(view: View) -> set[IPv4Address | IPv6Address]:
    machines = [*view.peers.values(), *([view.node] if view.node else [])]
    found = set()
    for machine in machines:
        for prefix in machine.addresses:
            try:
                found.add(ip_network(prefix, strict=False).network_address)
            except ValueError:
                continue
    return found
