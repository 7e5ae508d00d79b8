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
        return found


def _spans(rule: FilterRule) -> _Rule:
    ends = [end.ip for end in rule.dst_ports]
    ends += [end for grant in rule.cap_grant for end in grant.dsts]
    return _Rule(
        [span for source in rule.src_ips for span in parse_spans(source)],
        [span for end in ends for span in parse_spans(end)],
    )
