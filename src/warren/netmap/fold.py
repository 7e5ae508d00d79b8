"""Adding a map response to what was known before (PROTOCOL §3.4)."""

from __future__ import annotations

from datetime import datetime

import msgspec

from warren.netmap.derpmap import DERPMap, HomeParams
from warren.netmap.filterrule import FilterRule
from warren.netmap.messages import DisplayMessage, MapResponse, TKAInfo
from warren.netmap.node import Node, PeerChange, UserProfile
from warren.netmap.view import View, referenced_users


def fold(view: View, response: MapResponse, wall: datetime) -> View:
    """Return the view after a response.

    wall: the time that a "seen now" means. Whatever names an unknown peer is passed over, as
    the wire asks. A keep-alive changes nothing.
    """
    if response.keep_alive:
        return view
    node = response.node or view.node
    peers = _fold_peers(view.peers, response, wall)
    return msgspec.structs.replace(
        view,
        node=node,
        peers=peers,
        derp_map=_fold_derp_map(view.derp_map, response.derp_map),
        dns=view.dns if response.dns_config is None else response.dns_config,
        domain=response.domain or view.domain,
        packet_filters=_fold_filters(view.packet_filters, response),
        profiles=_fold_profiles(view.profiles, response, referenced_users(node, peers)),
        ssh_policy=view.ssh_policy if response.ssh_policy is None else response.ssh_policy,
        collect_services=(
            view.collect_services
            if response.collect_services is None
            else response.collect_services
        ),
        health=view.health if response.health is None else response.health,
        display_messages=_fold_display_messages(view.display_messages, response),
        tka=_fold_tka(view, response),
    )


def _fold_peers(known: dict[int, Node], response: MapResponse, wall: datetime) -> dict[int, Node]:
    if response.peers:
        # A full list: other deltas in the same message do not count.
        return {peer.id: peer for peer in response.peers}
    deltas = (
        response.peers_changed,
        response.peers_removed,
        response.peers_changed_patch,
        response.peer_seen_change,
        response.online_change,
    )
    if not any(deltas):
        return known
    peers = dict(known)
    for peer in response.peers_changed or ():
        peers[peer.id] = peer
    for gone in response.peers_removed or ():
        peers.pop(gone, None)
    for patch in response.peers_changed_patch or ():
        if patch.node_id in peers:
            peers[patch.node_id] = apply_patch(peers[patch.node_id], patch)
    for peer_id, seen in (response.peer_seen_change or {}).items():
        if peer_id in peers:
            peers[peer_id] = msgspec.structs.replace(
                peers[peer_id], last_seen=wall if seen else None
            )
    for peer_id, online in (response.online_change or {}).items():
        if peer_id in peers:
            peers[peer_id] = msgspec.structs.replace(peers[peer_id], online=online)
    return peers


def apply_patch(peer: Node, patch: PeerChange) -> Node:
    """Return a peer after a patch; members that the patch leaves out stay."""
    changes: dict[str, object] = {
        name: value
        for name in (
            "cap_map",
            "endpoints",
            "key",
            "key_signature",
            "disco_key",
            "online",
            "last_seen",
            "key_expiry",
        )
        if (value := getattr(patch, name)) is not None
    }
    if patch.derp_region:
        changes["home_derp"] = patch.derp_region
    if patch.cap:
        changes["cap"] = patch.cap
    return msgspec.structs.replace(peer, **changes)


def _fold_derp_map(known: DERPMap, change: DERPMap | None) -> DERPMap:
    if change is None:
        return known
    regions = dict(known.regions or {})
    if change.regions is not None:
        # Regions that a non-empty list does not name stay; None deletes one.
        for region_id, region in change.regions.items():
            if region is None:
                regions.pop(region_id, None)
            else:
                regions[region_id] = region
    params = known.home_params
    if change.home_params is not None:
        scores = change.home_params.region_score
        if scores is not None or params is None:
            params = HomeParams(region_score=scores)
    return DERPMap(
        home_params=params,
        regions=regions,
        omit_default_regions=change.omit_default_regions,
    )


def _fold_filters(
    known: dict[str, list[FilterRule]], response: MapResponse
) -> dict[str, list[FilterRule]]:
    if response.packet_filter is None and response.packet_filters is None:
        return known
    filters = dict(known)
    if response.packet_filter is not None:
        filters["base"] = response.packet_filter
    changes = response.packet_filters or {}
    if "*" in changes and changes["*"] is None:
        filters.clear()
    for name, rules in changes.items():
        if rules is not None:
            filters[name] = rules
        else:
            filters.pop(name, None)
    return filters


def _fold_profiles(
    known: dict[int, UserProfile], response: MapResponse, referenced: set[int]
) -> dict[int, UserProfile]:
    told = {profile.id: profile for profile in response.user_profiles or ()}
    # The wire never removes a profile; one that no machine refers to is let go here, so that
    # a long session does not grow.
    return {user: profile for user, profile in {**known, **told}.items() if user in referenced}


def _fold_display_messages(
    known: dict[str, DisplayMessage], response: MapResponse
) -> dict[str, DisplayMessage]:
    changes = response.display_messages
    if changes is None:
        return known
    messages = {} if "*" in changes and changes["*"] is None else dict(known)
    for name, message in changes.items():
        if message is None:
            messages.pop(name, None)
        else:
            messages[name] = message
    return messages


def _fold_tka(view: View, response: MapResponse) -> TKAInfo | None:
    if response.tka_info is None:
        return view.tka
    return None if response.tka_info.disabled else response.tka_info
