"""Which routes a node may serve, and which of several nodes serves one (§12.1 autoApprovers)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from warren.policy.document import Policy
from warren.policy.ranges import span_of_network
from warren.policy.targets import Targets
from warren.policy.topology import EXITS, Node


def approve(policy: Policy, targets: Targets, nodes: Iterable[Node]) -> None:
    """Add what the policy approves of each node's own wishes to what was approved by hand.

    An exit is approved by `exitNode` alone: a route of length nought says nothing about it.
    """
    approvers = [
        (span_of_network(ip_network(route, strict=False)), owners)
        for route, owners in policy.route_approvers.items()
        if _is_network(route)
    ]
    for node in nodes:
        for route in node.routable:
            if route in node.approved:
                continue
            if route in EXITS:
                if _owned(node, policy.exit_approvers, targets):
                    node.approved.append(route)
                continue
            wanted = span_of_network(ip_network(route))
            if any(
                span.family == wanted.family
                and span.first <= wanted.first
                and wanted.last <= span.last
                and _owned(node, owners, targets)
                for span, owners in approvers
            ):
                node.approved.append(route)
        node.approved.sort(key=lambda route: (route in EXITS, route))


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _owned(node: Node, owners: list[str], targets: Targets) -> bool:
    for owner in owners:
        if owner in node.tags or (owner == "autogroup:tagged" and node.tags):
            return True
        if node.user and any(user is node.user for user in targets.users(owner)):
            return True
    return False


def primaries(nodes: list[Node]) -> dict[str, list[str]]:
    """Return the routes that each node serves, by node: the most senior that may serve one does."""
    taken: dict[str, str] = {}
    for node in sorted(nodes, key=lambda node: node.seniority):
        for route in node.routes:
            taken.setdefault(route, node.name)
    return {node.name: [r for r in node.routes if taken[r] == node.name] for node in nodes}
