"""Who may use whose peer relay: capabilities in the packet filter (PROTOCOL §3.8, §5.12)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from warren.netmap.node import Node
from warren.netmap.view import View
from warren.netmap.wire import FilterRule
from warren.node.filtering import MalformedFilter, parse_span_untrusted
from warren.node.reconcile import home_region
from warren.paths.peer_relay.client import RelayNode

RELAY = "tailscale.com/cap/relay"
"""The source may have sessions of this node."""
RELAY_TARGET = "tailscale.com/cap/relay-target"
"""This node may have sessions of the source."""
NO_SERVER, NO_CLIENT = "disable-relay-server", "disable-relay-client"
"""Attributes in a node's own CapMap that switch a side off."""
CAPABLE_VERSION = 121
"""The first capability version that speaks to peer relays in this way."""

Address = IPv4Address | IPv6Address


def usable_relays(view: View) -> list[RelayNode]:
    """Return the peers that this node may ask for sessions, the likeliest first."""
    own = view.node
    if own is None or NO_CLIENT in own.cap_map:
        return []
    rules = [rule for rule in view.rules() if _names(rule, RELAY_TARGET)]
    found = [
        peer
        for peer in view.peers.values()
        if peer.cap >= CAPABLE_VERSION
        and home_region(peer)
        and not (peer.expired or peer.is_wireguard_only)
        and not (peer.key.is_zero or peer.disco_key.is_zero)
        and is_granted(rules, peer, own, RELAY_TARGET)
    ]
    found.sort(key=lambda peer: (not peer.hostinfo.peer_relay, peer.online is False, peer.id))
    return [RelayNode(peer.key, peer.disco_key, home_region(peer)) for peer in found]


def may_be_served(view: View, peer: Node) -> bool:
    """Whether a peer may have sessions of this node's relay."""
    own = view.node
    if own is None or NO_SERVER in own.cap_map or peer.expired:
        return False
    return is_granted(view.rules(), peer, own, RELAY)


def is_granted(rules: Iterable[FilterRule], source: Node, target: Node, capability: str) -> bool:
    """Whether rules give `source` a capability towards `target`.

    As for stock nodes, the first address of each family counts, and peers whose keys nobody
    signed have none.
    """
    if source.unsigned_peer_api_only:
        return False
    wanted = [rule for rule in rules if _names(rule, capability)]
    if not wanted:
        return False
    theirs, ours = _addresses(source), _addresses(target)
    pairs = [(theirs[family], ours[family]) for family in theirs.keys() & ours.keys()]
    return any(_gives(rule, capability, *pair) for rule in wanted for pair in pairs)


def _names(rule: FilterRule, capability: str) -> bool:
    return any(capability in g.cap_map or capability in g.caps for g in rule.cap_grant)


def _gives(rule: FilterRule, capability: str, source: Address, target: Address) -> bool:
    grants = (g for g in rule.cap_grant if capability in g.cap_map or capability in g.caps)
    return any(_within(text, source) for text in rule.src_ips) and any(
        _within(text, target) for grant in grants for text in grant.dsts
    )


def _within(text: str, address: Address) -> bool:
    try:
        spans = parse_span_untrusted(text)
    except MalformedFilter:
        return False
    for span in spans:
        first, last = ip_address(span.first), ip_address(span.last)
        if first.version == address.version and int(first) <= int(address) <= int(last):
            return True
    return False


def _addresses(node: Node) -> dict[int, Address]:
    found: dict[int, Address] = {}
    for prefix in node.addresses:
        try:
            network = ip_network(prefix, strict=False)
        except ValueError:
            continue
        if network.prefixlen == network.max_prefixlen:
            found.setdefault(network.version, network.network_address)
    return found
