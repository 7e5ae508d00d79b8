"""Who may use whose peer relay, as rules of the packet filter (PROTOCOL §5.12, §12.5).

A node that says of itself that it relays gets a rule that lets its clients ask it, and each of
them one that names it. Without those that say so, stock clients would ask every machine.
"""

from __future__ import annotations

from collections.abc import Iterable

from warren.coordinator.compiled_policy import CompiledPolicy
from warren.coordinator.records import NodeRecord
from warren.netmap.filterrule import CapGrant, FilterRule
from warren.netmap.node import Node

NAME = "relays"
"""Of these rules, among a node's packet filters."""
RELAY, RELAY_TARGET = "tailscale.com/cap/relay", "tailscale.com/cap/relay-target"


def relay_rules(
    node: NodeRecord, seen: Iterable[NodeRecord], policy: CompiledPolicy
) -> dict[str, list[FilterRule]]:
    """Return the rules of one node, by name; empty if no relay concerns it.

    seen: of those that it is told of, perhaps with itself, the relays; for a relay all of them.
    """
    others = [other for other in seen if other.id != node.id]
    rules = []
    if node.hostinfo.peer_relay:
        clients = [other for other in others if policy.may_relay(node, other)]
        rules += _rule(clients, node, RELAY)
    relays = [o for o in others if o.hostinfo.peer_relay and policy.may_relay(o, node)]
    rules += _rule(relays, node, RELAY_TARGET)
    return {NAME: rules} if rules else {}


def concern_relays(node: NodeRecord, before: Node | None, after: NodeRecord | None) -> bool:
    """Whether a peer's change can change what `relay_rules` gives for `node`."""
    return (
        node.hostinfo.peer_relay
        or (before is not None and before.hostinfo.peer_relay)
        or (after is not None and after.hostinfo.peer_relay)
    )


def _rule(sources: list[NodeRecord], target: NodeRecord, capability: str) -> list[FilterRule]:
    if not sources:
        return []
    ordered = sorted(sources, key=lambda source: source.id)
    addresses = [str(ip) for source in ordered for ip in (source.ipv4, source.ipv6)]
    own = [f"{target.ipv4}/32", f"{target.ipv6}/128"]
    grant = CapGrant(dsts=own, cap_map={capability: None})
    return [FilterRule(src_ips=addresses, cap_grant=[grant])]
