"""Which peers a node is told of, and which of their routes (§12.5).

Two nodes know of each other if a rule lets one reach the other, by an address of theirs or
through a route that they serve.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network

from warren.netmap.filterrule import FilterRule
from warren.policy.compile import covers
from warren.policy.grants import INTERNET, Grant
from warren.policy.ranges import Span, parse_spans, span_of_network
from warren.policy.targets import Targets
from warren.policy.topology import EXITS, Node


@dataclass(slots=True)
class _Rule:
    sources: list[Span]
    ends: list[Span]


class Sight:
    """Answers who sees whom. `filters` are the rules of every node, by name."""

    def __init__(
        self,
        targets: Targets,
        grants: list[Grant],
        filters: dict[str, list[FilterRule]],
        primaries: dict[str, list[str]],
    ) -> None:
        self.targets = targets
        self.primaries = primaries
        self.plain = [grant for grant in grants if grant.ports and not grant.via]
        self.via = [grant for grant in grants if grant.via and grant.ports]
        self.spans = {n.name: n.spans + n.route_spans for n in targets.topology.nodes}
        self.rules = {name: [_spans(rule) for rule in rules] for name, rules in filters.items()}
        self.outward = [
            (
                [
                    s
                    for word in grant.sources
                    for form in targets.source(word)
                    for s in parse_spans(form)
                ],
                set(grant.via),
            )
            for grant in grants
            if INTERNET in grant.targets or ("*" in grant.targets and grant.ports)
        ]

    def _grants(self, grant: Grant, viewer: Node, span: list[Span]) -> bool:
        sources = [form for word in grant.sources for form in self.targets.source(word)]
        ends = [form for word in grant.targets for form in self.targets.destination(word)]
        return covers([s for form in sources for s in parse_spans(form)], viewer.spans) and covers(
            [s for form in ends for s in parse_spans(form)], span
        )

    def _leads(self, viewer: Node, peer: Node, route: str) -> bool:
        """Whether a rule sends the viewer's traffic for a route via this peer.

        A rule without `via` leaves it to the route's primary. Of the routers with the rule's
        tags, the one that serves the route leads, or else the first.
        """
        span = [span_of_network(ip_network(route))]
        if any(self._grants(grant, viewer, span) for grant in self.plain):
            return False
        for grant in self.via:
            routers = [
                node
                for node in self.targets.topology.nodes
                if set(grant.via) & set(node.tags) and route in node.routes
            ]
            if peer not in routers:
                continue
            if self._grants(grant, viewer, span):
                leader = [node for node in routers if route in self.primaries[node.name]]
                return peer is (leader or routers)[0]
        return False

    def _reaches(self, one: str, other: str) -> bool:
        return any(covers(rule.sources, self.spans[one]) for rule in self.rules[other])

    def sees(self, viewer: Node, peer: Node) -> bool:
        """Whether `viewer` is told of `peer`."""
        if viewer.name == peer.name:
            return False
        return (
            self._reaches(viewer.name, peer.name)
            or self._reaches(peer.name, viewer.name)
            or bool(self.exits(viewer, peer))
        )

    def exits(self, viewer: Node, peer: Node) -> list[str]:
        """Return the peer's exit routes that the viewer may use."""
        approved = [route for route in peer.approved if route in EXITS]
        if not approved:
            return []
        for sources, via in self.outward:
            if covers(sources, viewer.spans) and (not via or via & set(peer.tags)):
                return approved
        return []

    def routes(self, viewer: Node, peer: Node) -> list[str]:
        """Return the routes that the peer serves and the viewer may reach, or is reached from."""
        found = []
        mine = self.spans[viewer.name]
        for route in self.primaries[peer.name]:
            span = [span_of_network(ip_network(route))]
            out = any(
                covers(r.ends, span) and covers(r.sources, mine) for r in self.rules[peer.name]
            )
            back = any(covers(r.sources, span) for r in self.rules[viewer.name])
            # Two routers of one network know which of them serves it.
            if out or back or route in viewer.routes:
                found.append(route)
        for route in peer.routes if self.via else ():
            if route not in found and self._leads(viewer, peer, route):
                found.append(route)
        return found


def _spans(rule: FilterRule) -> _Rule:
    ends = [end.ip for end in rule.dst_ports]
    ends += [end for grant in rule.cap_grant for end in grant.dsts]
    return _Rule(
        [span for source in rule.src_ips for span in parse_spans(source)],
        [span for end in ends for span in parse_spans(end)],
    )
