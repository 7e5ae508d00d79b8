"""The smallest response that takes a node from one view to the next.

A full map is `diff(EMPTY, view)`: one way makes full maps and deltas. What the wire cannot say
as a patch (PROTOCOL §3.4) is sent as a whole node.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from warren.netmap.derpmap import DERPMap, DERPRegion, HomeParams
from warren.netmap.filterrule import FilterRule
from warren.netmap.messages import DisplayMessage, MapResponse, TKAInfo
from warren.netmap.node import Node, PeerChange, UserProfile
from warren.netmap.view import View

_T = TypeVar("_T")

# Members of a node that a PeerChange can carry, by the member's own name.
_PATCHABLE = frozenset(
    {
        "home_derp",
        "cap",
        "cap_map",
        "endpoints",
        "key",
        "key_signature",
        "disco_key",
        "online",
        "last_seen",
        "key_expiry",
    }
)


_NOTHING = MapResponse()


def diff(old: View, new: View, among: Collection[int] | None = None) -> MapResponse | None:
    """Return the response for which `fold(old, response) == new`, or None when nothing changed.

    `new.node` must be set: a coordinator that has no self node has nothing to say.
    among: the peers that may be others, where that is known; None: all.
    """
    changed, removed, patches = _diff_peers(old.peers, new.peers, among)
    first = old.node is None
    response = MapResponse(
        node=None if _same(old.node, new.node) else new.node,
        derp_map=_diff_derp_map(old.derp_map, new.derp_map, first=first),
        peers=_sorted(changed) if first and changed else None,
        peers_changed=_sorted(changed) if changed and not first else None,
        peers_removed=sorted(removed) or None,
        peers_changed_patch=patches or None,
        dns_config=_changed(old.dns, new.dns, first=first),
        domain=new.domain if old.domain != new.domain else "",
        collect_services=_changed(old.collect_services, new.collect_services, first=first),
        packet_filters=_diff_filters(old.packet_filters, new.packet_filters),
        user_profiles=_diff_profiles(old.profiles, new.profiles) or None,
        health=_changed(old.health, new.health),
        display_messages=_diff_messages(old.display_messages, new.display_messages),
        ssh_policy=_changed(old.ssh_policy, new.ssh_policy),
        tka_info=_diff_tka(old.tka, new.tka),
    )
    # Most are asked for because something changed, so looking at the whole comes last.
    return None if response == _NOTHING and _equal(old, new) else response


def _same(old: object, new: object) -> bool:
    # A mapping that is compared with itself compares its members.
    return old is new or old == new


def _equal(old: View, new: View) -> bool:
    return all(_same(getattr(old, name), getattr(new, name)) for name in View.__struct_fields__)


def _diff_peers(
    old: dict[int, Node], new: dict[int, Node], among: Collection[int] | None
) -> tuple[list[Node], list[int], list[PeerChange]]:
    changed: list[Node] = []
    patches: list[PeerChange] = []
    if old is new:
        return [], [], []
    if not old:
        return list(new.values()), [], []
    for peer_id in new if among is None else among:
        before, peer = old.get(peer_id), new.get(peer_id)
        if peer is None or before is peer or before == peer:
            continue
        patch = None if before is None else patch_between(before, peer)
        if patch is None:
            changed.append(peer)
        else:
            patches.append(patch)
    gone = old if among is None else among
    removed = [peer_id for peer_id in gone if peer_id in old and peer_id not in new]
    return changed, removed, sorted(patches, key=lambda patch: patch.node_id)


def patch_between(old: Node, new: Node) -> PeerChange | None:
    """Return the patch from one state of a peer to the next, or None when none can say it."""
    values: dict[str, object] = {}
    for name in Node.__struct_fields__:
        after = getattr(new, name)
        if getattr(old, name) == after:
            continue
        # Absent means "unchanged" in a patch, so nothing can be taken away by one.
        if name not in _PATCHABLE or after is None or (not after and after is not False):
            return None
        values["derp_region" if name == "home_derp" else name] = after
    return PeerChange(node_id=new.id, **values)  # type: ignore[arg-type]


def _diff_derp_map(old: DERPMap, new: DERPMap, *, first: bool) -> DERPMap | None:
    if _same(old, new) and not first:
        return None
    before, after = old.regions or {}, new.regions or {}
    regions: dict[int, DERPRegion | None] = {
        region_id: region for region_id, region in after.items() if before.get(region_id) != region
    }
    regions.update({region_id: None for region_id in before if region_id not in after})
    params = None
    if old.home_params != new.home_params:
        scores = new.home_params.region_score if new.home_params else None
        params = HomeParams(region_score=scores or {})
    return DERPMap(
        home_params=params, regions=regions, omit_default_regions=new.omit_default_regions
    )


def _diff_filters(
    old: dict[str, list[FilterRule]], new: dict[str, list[FilterRule]]
) -> dict[str, list[FilterRule] | None] | None:
    if old is new:
        return None
    changes: dict[str, list[FilterRule] | None] = {
        name: rules for name, rules in new.items() if old.get(name) != rules
    }
    changes.update({name: None for name in old if name not in new})
    return changes or None


def _diff_profiles(old: dict[int, UserProfile], new: dict[int, UserProfile]) -> list[UserProfile]:
    if old is new:
        return []
    changed = (profile for user, profile in new.items() if old.get(user) != profile)
    return sorted(changed, key=lambda profile: profile.id)


def _diff_messages(
    old: dict[str, DisplayMessage], new: dict[str, DisplayMessage]
) -> dict[str, DisplayMessage | None] | None:
    if old is new:
        return None
    changes: dict[str, DisplayMessage | None] = {
        name: message for name, message in new.items() if old.get(name) != message
    }
    changes.update({name: None for name in old if name not in new})
    return changes or None


def _diff_tka(old: TKAInfo | None, new: TKAInfo | None) -> TKAInfo | None:
    if _same(old, new):
        return None
    return TKAInfo(disabled=True) if new is None else new


def _changed(old: _T, new: _T, *, first: bool = False) -> _T | None:
    return new if first or not _same(old, new) else None


def _sorted(nodes: list[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: node.id)
