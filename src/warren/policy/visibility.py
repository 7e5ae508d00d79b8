"""Which peers a node is told of, and which of their routes (§12.5).

Two nodes know of each other if a rule lets one reach the other, by an address of theirs or
through a route that they serve.
"""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import ip_network

from warren.policy.compile import companions
from warren.policy.meeting import Meeting, overlap
from warren.policy.ranges import Span, span_of_network
from warren.policy.routes import primaries
from warren.policy.topology import EXITS, Node


class Sight:
    """Answers who sees whom."""

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting
        grants = meeting.grants
        self.outward = {
            number
            for number, grant in enumerate(grants)
            if grant.ports
            and (
                any(meeting.targets.is_outward(word) for word in grant.targets)
                or ("*" in grant.targets and not grant.via)
            )
        }
        self.via = {n for n, grant in enumerate(grants) if grant.via and grant.ports}
        self.plain = {n for n, grant in enumerate(grants) if grant.ports and not grant.via}
        self.own = [n for n, grant in enumerate(grants) if not grant.via]
        self.owners = {login for number in self.own for login in meeting.resolved[number].owners}
        # Those of them whose devices reach each other whatever their posture.
        self._free = {
            login
            for number in self.own
            if not meeting.asks_posture(grants[number])
            for login in meeting.resolved[number].owners
        }
        self.follow()

    def follow(self) -> None:
        """Look at the routers anew, and at whom rules meet."""
        meeting = self.meeting
        self.primaries = primaries(meeting.addresses.routers)
        self._routes: dict[str, tuple[set[int], set[int], set[int]]] = {}
        self.open = bool(meeting.by_source.get("*", set()) & meeting.by_target.get("*", set()))

    def viewers(self, node: Node) -> frozenset[str] | None:
        """Return the names of all that are told of a node (itself perhaps too); None: everyone."""
        found = self._met(node)
        if found is None:
            return None
        if any(route in EXITS for route in node.approved):
            for number in self.outward:
                via = self.meeting.grants[number].via
                if not via or set(via) & set(node.tags):
                    found |= self.meeting.resolved[number].source_nodes
        return None if "*" in found else frozenset(found)

    def peers(self, viewer: Node) -> frozenset[str] | None:
        """Return the names of all that a node is told of (itself perhaps too); None: everyone."""
        found = self._met(viewer)
        if found is None:
            return None
        found |= {n.name for n in self.meeting.addresses.exits if self.exits(viewer, n)}
        return frozenset(found)

    def outlook(self, viewer: Node) -> Hashable:
        """Return what is equal for nodes that see the same peers with the same routes.

        None: for a router, which also sees who else serves its routes.
        """
        if viewer.routes:
            return None
        meeting, user = self.meeting, viewer.user
        owner = user.login if user is not None and user.login in self.owners else ""
        fit = not owner or owner in self._free or viewer.name in self._fit(owner)
        return frozenset(meeting.from_(viewer)), frozenset(meeting.to(viewer)), owner, fit

    def _met(self, node: Node) -> set[str] | None:
        """Return who reaches a node, is reached by it, or has the same owner; None: everyone."""
        meeting = self.meeting
        found: set[str] = set()
        for number in meeting.from_(node):
            found |= meeting.resolved[number].target_nodes
        for number in meeting.to(node):
            found |= meeting.resolved[number].source_nodes
        if "*" in found:
            return None
        if node.user is not None and node.user.login in self.owners:
            login = node.user.login
            fit = None if login in self._free else self._fit(login)
            if fit is None or node.name in fit:
                fit = {other.name for other in meeting.targets.owned(node.user)}
            found |= fit
        return found

    def _fit(self, login: str) -> set[str]:
        """Return the devices of an owner that have the posture to reach the owner's others."""
        meeting = self.meeting
        return {
            node.name
            for number in self.own
            if login in meeting.resolved[number].owners
            for user in meeting.targets.users(login)
            for node in meeting.with_posture(meeting.grants[number], meeting.targets.owned(user))
        }

    def _share(self, one: Node, other: Node) -> bool:
        """Whether one of two devices may reach the other because they have one owner."""
        if one.user is None or one.user is not other.user or one.user.login not in self.owners:
            return False
        login = one.user.login
        return login in self._free or not self._fit(login).isdisjoint((one.name, other.name))

    def sees(self, viewer: Node, peer: Node) -> bool:
        """Whether `viewer` is told of `peer`."""
        if viewer is peer:
            return False
        if self.open:
            return True
        meeting = self.meeting
        return (
            bool(meeting.from_(viewer) & meeting.to(peer))
            or bool(meeting.from_(peer) & meeting.to(viewer))
            or self._share(viewer, peer)
            or bool(self.exits(viewer, peer))
        )

    def exits(self, viewer: Node, peer: Node) -> list[str]:
        """Return the peer's exit routes that the viewer may use."""
        approved = [route for route in peer.approved if route in EXITS]
        if not approved:
            return []
        for number in self.outward & self.meeting.from_(viewer):
            via = self.meeting.grants[number].via
            if not via or set(via) & set(peer.tags):
                return approved
        return []

    def routes(self, viewer: Node, peer: Node) -> list[str]:
        """Return the routes that the peer serves and the viewer may reach, or is reached from."""
        found = []
        meeting = self.meeting
        from_viewer, to_viewer = meeting.from_(viewer), meeting.to(viewer)
        for route in self.primaries.get(peer.name, ()):
            ends, sources, answered = self._of_route(route)
            out = from_viewer & ends & meeting.to(peer)
            back = (to_viewer & sources) or (from_viewer & answered)
            # Two routers of one network know which of them serves it.
            if out or back or route in viewer.routes:
                found.append(route)
        for route in peer.routes if self.via else ():
            if route not in found and self._leads(viewer, peer, route):
                found.append(route)
        return found

    def _of_route(self, route: str) -> tuple[set[int], set[int], set[int]]:
        """Return the grants to a route, those from it, and those whose answers come from it."""
        if route not in self._routes:
            span = [_span(route)]
            forms = [self.meeting.forms(one.words) for one in self.meeting.resolved]
            ends = {n for n, found in enumerate(forms) if overlap(found, span)}
            sources = {one.number for one in self.meeting.resolved if overlap(one.sources, span)}
            answered = {n for n in ends if companions(self.meeting.grants[n])}
            self._routes[route] = ends & (self.plain | self.via), sources, answered
        return self._routes[route]

    def _leads(self, viewer: Node, peer: Node, route: str) -> bool:
        """Whether a rule sends the viewer's traffic for a route via this peer.

        A rule without `via` leaves it to the route's primary. Of the routers with the rule's
        tags, the one that serves the route leads, or else the first.
        """
        numbers = self._of_route(route)[0] & self.meeting.from_(viewer)
        if numbers & self.plain:
            return False
        for number in sorted(numbers & self.via):
            tags = set(self.meeting.grants[number].via)
            routers = [
                node
                for node in self.meeting.addresses.routers
                if tags & set(node.tags) and route in node.routes
            ]
            if peer in routers:
                leader = [node for node in routers if route in self.primaries.get(node.name, ())]
                return peer is (leader or routers)[0]
        return False


def _span(route: str) -> Span:
    return span_of_network(ip_network(route))
