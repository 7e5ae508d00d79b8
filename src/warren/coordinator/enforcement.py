"""The policy in force: compiled for the network as it is, and kept so with little work.

A change of the policy, or of who users are, compiles everything anew. A change of a machine
resolves the rules that meet it, and forgets the filters of the machines that those reach.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from datetime import datetime
from functools import partial
from typing import Any

from warren.coordinator.change import Change, Facet, Spread
from warren.coordinator.compiled import Compiled, compile_policy
from warren.coordinator.policies import POLICY, policy_text
from warren.coordinator.policy_topology import policy_node
from warren.coordinator.records import NodeRecord, PolicyRecord
from warren.coordinator.roles import OWNER, administers
from warren.coordinator.snapshot import Snapshot
from warren.netmap.derpmap import DERPMap
from warren.netmap.filterrule import FilterRule
from warren.netmap.node import CapMap
from warren.policy.compile import companions
from warren.policy.derpmap import merge
from warren.policy.logins import login_key
from warren.policy.meeting import Resolved
from warren.policy.mending import RELAY
from warren.policy.narrow import only_ports_differ
from warren.policy.routes import approve
from warren.policy.targets import Pair
from warren.policy.topology import Node, User
from warren.policy.verdict import World

_MANY = 50
"""Machines that change at once, from which on compiling everything anew is quicker."""
_SHOWN_PROBLEMS = 10
_NO_LOGINS: dict[str, Any] = {"rules": []}
_NO_FILTERS: dict[str, list[FilterRule]] = {"base": []}
_CAP = "https://tailscale.com/cap/"
_EVERYONE: CapMap = {
    "default-auto-update": [False],
    f"{_CAP}file-sharing": None,
    "probe-udp-lifetime": None,
}
_SSH: CapMap = {f"{_CAP}ssh": None, "ssh-behavior-v1": None, "ssh-env-vars": None}


class Enforcement:
    """Answers what the mapper asks of the policy. It never fails.

    problem: why the stored policy cannot be read, though it was checked when it was set: by a
    version that checked less. Then nobody reaches anybody until it is mended.
    left_out: why parts of it do not count, where the rest of it is safe without them.
    """

    def __init__(self, snapshot: Snapshot, wall: datetime) -> None:
        self._rebuild(snapshot, wall)

    # Following changes.

    def _rebuild(self, snapshot: Snapshot, wall: datetime) -> None:
        self._take(compile_policy(snapshot, policy_text(snapshot), wall), snapshot)

    def _take(self, compiled: Compiled, snapshot: Snapshot) -> None:
        """Let a policy that was compiled be the one in force."""
        self._record: PolicyRecord | None = snapshot.policy
        self._user_records = snapshot.users
        self._users, self._nodes = compiled.users, compiled.nodes
        self.problem, self.left_out = compiled.problem, compiled.left_out
        self._world = compiled.world
        self._filters: dict[str, dict[str, list[FilterRule]]] = {}
        self._ssh: dict[str, dict[str, Any]] = {}
        self._regions: tuple[DERPMap, DERPMap] | None = None
        checked = self._world.checked
        self.takes_ipv4 = checked.attributes.takes_ipv4
        self.says_who_relays = any(RELAY in grant.app for grant in checked.grants)

    def _replace(self, compiled: Compiled | None, snapshot: Snapshot, wall: datetime) -> bool:
        """Put another policy in force; return whether only filters can be others by it.

        compiled: it, perhaps, for a network of before.
        """
        pairs = None if compiled is None else _behind(compiled, snapshot, wall)
        if compiled is None or pairs is None:
            self._rebuild(snapshot, wall)
            return False
        before, people = self._world.checked, self._users
        self._take(compiled, snapshot)
        if pairs:
            self._advance(pairs)
            return False
        return not _people_changed(snapshot, people) and only_ports_differ(
            before, compiled.world.checked
        )

    def _pairs(self, snapshot: Snapshot, numbers: Iterable[int], wall: datetime) -> dict[int, Pair]:
        """Return those of some machines that have become others for the policy."""
        known = self._nodes, self._users, self._world
        return _differing(known, snapshot, numbers, wall)

    def _is_other(self, snapshot: Snapshot) -> bool:
        """Whether the policy, or whom it is about, is another one than it was compiled for."""
        return snapshot.policy is not self._record or (
            snapshot.users is not self._user_records and _people_changed(snapshot, self._users)
        )

    def preparation(
        self, snapshot: Snapshot, change: Change, wall: datetime
    ) -> Callable[[], Compiled] | None:
        """Return what compiles the policy anew, where following a change asks for that."""
        if self._is_other(snapshot):
            if change.compiled is not None and _behind(change.compiled, snapshot, wall) is not None:
                return None
        elif len(change.nodes) <= _MANY or len(self._pairs(snapshot, change.nodes, wall)) <= _MANY:
            return None
        return partial(compile_policy, snapshot, policy_text(snapshot), wall)

    def follow(self, snapshot: Snapshot, change: Change, wall: datetime) -> Spread:
        """Take a change in; return it with whom it reaches."""
        if self._is_other(snapshot):
            narrow = self._replace(change.compiled, snapshot, wall)
            if narrow and not change.nodes and change.why == POLICY:
                return Spread(Change(why=change.why), (), {}, None)
            return Spread.wide(change.merge(Change(everything=True)))
        self._user_records = snapshot.users
        pairs = self._pairs(snapshot, change.nodes, wall)
        if len(pairs) > _MANY:
            before = {node.name for node in self._world.meeting.addresses.routers}
            self._replace(change.compiled, snapshot, wall)
            routers = before | {node.name for node in self._world.meeting.addresses.routers}
            return Spread.wide(change.merge(_moved(int(name) for name in routers)))
        saw = {number: self._viewers(number) for number in change.nodes}
        if not pairs:
            return Spread(change, (), saw)
        beside, others = self._advance(pairs)
        change = change.merge(_moved(beside))
        viewers = {
            number: _both(saw.get(number, ()), self._viewers(number)) for number in change.nodes
        }
        return Spread(change, pairs.keys() | set(beside), viewers, others)

    def _viewers(self, number: int) -> Collection[int] | None:
        node = self._nodes.get(number)
        if node is None:
            # One that is not in force is met by no rule, but by those for everyone.
            meeting = self._world.meeting
            met = meeting.by_source.get("*") or meeting.by_target.get("*")
            return None if met else ()
        found = self._world.sight.viewers(node)
        return None if found is None else {int(name) for name in found}

    def _advance(self, pairs: dict[int, Pair]) -> tuple[list[int], Collection[int]]:
        """Bring the world up to nodes that changed.

        Return the routers beside them whose part may have passed to or from them, and the
        machines whose filter or log-ins may be others.
        """
        world, checked = self._world, self._world.checked
        changed = [node for pair in pairs.values() for node in pair if node is not None]
        for number, (_, after) in pairs.items():
            self._nodes.pop(number, None)
            if after is not None:
                self._nodes[number] = after
        made = [after for _, after in pairs.values() if after is not None]
        approve(checked.policy, checked.targets, made)
        checked.targets.follow(list(pairs.values()))
        touched = world.meeting.follow(list(pairs.values()))
        if touched:
            world.compiler.claim()
        if touched or any(node.approved for node in changed):
            world.sight.follow()
        names = self._forget(touched, changed)
        if any(self._logs_in(node) for node in changed):
            names |= self._ssh.keys()
            self._ssh.clear()
            world.ssh.follow()
        for node in changed:
            self._ssh.pop(node.name, None)
        beside = [int(node.name) for node in self._beside(changed)]
        return beside, self._nodes.keys() if "*" in names else {int(name) for name in names}

    def _forget(self, touched: list[tuple[Resolved, Resolved]], changed: list[Node]) -> set[str]:
        """Forget the filters that are no longer right; return whose."""
        meeting = self._world.meeting
        names = {node.name for node in changed}
        for node in changed:
            if node.user is not None and node.user.login in self._world.sight.owners:
                names |= {other.name for other in meeting.targets.owned(node.user)}
        keys = set()
        for before, after in touched:
            answered = bool(companions(after.grant))
            if before.sources != after.sources:
                keys |= {before.sources, after.sources}
                names |= before.target_nodes | after.target_nodes
            if answered and (before.target_nodes != after.target_nodes or keys):
                names |= before.source_nodes | after.source_nodes
            after.own_sources.clear()
        for one in meeting.resolved if keys else ():
            # Rules of equal sources stand together, where the first of them stands.
            if one.sources in keys:
                names |= one.target_nodes
        if "*" in names:
            self._filters.clear()
        for name in names:
            self._filters.pop(name, None)
        return names

    def _logs_in(self, node: Node) -> bool:
        """Whether a rule for log-ins names a machine as its source, or as its recorder."""
        ssh, targets = self._world.ssh, self._world.meeting.targets
        for rule in ssh.rules:
            if not set(rule.recorders).isdisjoint(node.tags):
                return True
            for word in rule.sources:
                if word == "*" or not targets.names_nodes(word):
                    return True
                if node.name in targets.names(word) or (
                    node.user is not None and node.user.login in targets.logins(word)
                ):
                    return True
                if word in node.tags or (word == "autogroup:tagged" and node.tags):
                    return True
        return False

    def _beside(self, changed: list[Node]) -> list[Node]:
        """Return the routers whose part may have passed to or from others."""
        routes = {route for node in changed for route in node.routes}
        if not routes:
            return []
        sight = self._world.sight
        return [
            node
            for node in self._world.meeting.addresses.routers
            if sight.via or routes & set(node.routes)
        ]

    def problems(self) -> list[str]:
        """Return sentences for whoever runs the server; none: all of the policy is in force."""
        how = "see it with `warren admin policy get`, and put a mended one in force with `set`"
        if self.problem:
            said = f"the policy cannot be read ({self.problem}), so nobody reaches anybody"
            return [f"{said}; {how}"]
        shown = self.left_out[:_SHOWN_PROBLEMS]
        found = [f"a part of the policy is not in force: {problem}; {how}" for problem in shown]
        if len(self.left_out) > len(shown):
            found.append(f"{len(self.left_out) - len(shown)} more parts of it are not in force")
        return found

    # What the mapper asks.

    def peers(self, viewer: NodeRecord) -> Collection[int] | None:
        """Return the machines that one is told of, perhaps with itself; None: of all."""
        node = self._nodes.get(viewer.id)
        if node is None:
            return ()
        found = self._world.sight.peers(node)
        return None if found is None else [int(name) for name in found]

    def outlook(self, viewer: NodeRecord) -> Hashable:
        """Return what is equal for viewers that see the same; None: this one is like no other."""
        node = self._nodes.get(viewer.id)
        return None if node is None else self._world.sight.outlook(node)

    def visible(self, viewer: NodeRecord, peer: NodeRecord) -> bool:
        """Whether `viewer` is told of `peer`. An expired peer that was there is still shown."""
        one, other = self._nodes.get(viewer.id), self._nodes.get(peer.id)
        if other is None and peer.authorized:
            other = policy_node(peer, self._users)
        return one is not None and other is not None and self._world.sight.sees(one, other)

    def filters(self, node: NodeRecord) -> dict[str, list[FilterRule]]:
        """Return the packet filters of one node; the same object while nothing changes."""
        known = self._nodes.get(node.id)
        if known is None:
            return _NO_FILTERS
        if known.name not in self._filters:
            self._filters[known.name] = {"base": self._world.compiler.filters(known)}
        return self._filters[known.name]

    def ssh(self, node: NodeRecord) -> dict[str, Any]:
        """Return who may log in to a node; the same object while nothing changes."""
        known = self._nodes.get(node.id)
        if known is None or not self._world.ssh.rules:
            return _NO_LOGINS
        if known.name not in self._ssh:
            self._ssh[known.name] = self._world.ssh.policy(known)
        return self._ssh[known.name]

    def ssh_check_s(self, source: NodeRecord, target: NodeRecord, local_user: str) -> float | None:
        """Return for how long a check of a log-in by SSH holds; None: the policy asks for none."""
        one, other = self._nodes.get(source.id), self._nodes.get(target.id)
        if one is None or other is None:
            return None
        return self._world.ssh.check_s(one, other, local_user)

    def capabilities(self, node: NodeRecord) -> CapMap:
        """Return what the node may do, as its own map entry says."""
        found = dict(_EVERYONE)
        if self._world.ssh.rules:
            found.update(_SSH)
        known = self._nodes.get(node.id)
        if known is None:
            return found
        if known.user is not None and administers(known.user.role):
            found[f"{_CAP}is-admin"] = None
        if known.user is not None and known.user.role == OWNER:
            found[f"{_CAP}is-owner"] = None
        found.update(self._world.checked.attributes.granted(known))
        return found

    def is_only_ipv6(self, node: NodeRecord) -> bool:
        """Whether the policy takes a node's IPv4 address away."""
        known = self._nodes.get(node.id)
        return known is not None and self._world.checked.attributes.is_only_ipv6(known)

    def own_routes(self, node: NodeRecord) -> tuple[list[str], list[str]]:
        """Return the routes that a node may serve, and those of them that it does serve."""
        known = self._nodes.get(node.id)
        if known is None:
            return [], []
        return known.approved, self._world.sight.primaries.get(known.name, [])

    def routes(self, viewer: NodeRecord, peer: NodeRecord) -> tuple[list[str], list[str]]:
        """Return the subnets that a peer serves for a viewer, and its exits that it may use."""
        one, other = self._nodes.get(viewer.id), self._nodes.get(peer.id)
        if one is None or other is None or not other.approved:
            return [], []
        sight = self._world.sight
        return sight.routes(one, other), sight.exits(one, other)

    def derp_map(self, regions: DERPMap) -> DERPMap:
        """Return regions with the policy's `derpMap` over them; the same object for the same."""
        if self._regions is None or self._regions[0] is not regions:
            self._regions = (regions, merge(regions, self._world.checked.policy.derp_map))
        return self._regions[1]

    def may_relay(self, relay: NodeRecord, client: NodeRecord) -> bool:
        """Whether `relay` passes a client's traffic on, where no rule says who may.

        A person's relay serves that person's machines; a tagged one is everybody's.
        """
        return bool(relay.tags) or (not client.tags and relay.user_id == client.user_id)


def _behind(compiled: Compiled, snapshot: Snapshot, wall: datetime) -> dict[int, Pair] | None:
    """Return the machines of which a compiled policy knows only how they were.

    None: it is of other words or people, or of so many such machines that compiling is quicker.
    """
    if compiled.text != policy_text(snapshot) or _people_changed(snapshot, compiled.users):
        return None
    known = compiled.nodes, compiled.users, compiled.world
    pairs = _differing(known, snapshot, compiled.behind(snapshot, wall), wall)
    return pairs if len(pairs) <= _MANY else None


def _differing(
    known: tuple[dict[int, Node], dict[int, User], World],
    snapshot: Snapshot,
    numbers: Iterable[int],
    wall: datetime,
) -> dict[int, Pair]:
    """Return those of some machines that are others than a policy knows them.

    known: its machines, its people, and what it was compiled to.
    """
    nodes, users, world = known
    asked = world.checked.postures.keys
    found = {}
    for number in numbers:
        record = snapshot.nodes.get(number)
        made = None
        if record is not None and record.in_force(wall):
            made = policy_node(record, users)
        if not _alike(nodes.get(number), made, asked):
            found[number] = nodes.get(number), made
    return found


def _both(before: Collection[int] | None, after: Collection[int] | None) -> Collection[int] | None:
    return None if before is None or after is None else {*before, *after}


def _moved(numbers: Any) -> Change:
    return Change(dict.fromkeys(numbers, Facet.OWNER))


def _people_changed(snapshot: Snapshot, users: dict[int, User]) -> bool:
    return any(
        _identity(snapshot, number) != _identity_of(users.get(number))
        for number in snapshot.users.keys() | users.keys()
    )


_Identity = tuple[str, str, frozenset[str]]


def _identity(snapshot: Snapshot, number: int) -> _Identity | None:
    user = snapshot.users.get(number)
    return None if user is None else (user.name, user.role, frozenset(map(login_key, user.groups)))


def _identity_of(user: User | None) -> _Identity | None:
    return None if user is None else (user.login, user.role, user.groups)


def _alike(before: Node | None, after: Node | None, asked: frozenset[str]) -> bool:
    """Whether nothing that a policy reads of a machine has changed."""
    if before is None or after is None:
        return before is after
    return (
        (before.addresses, before.user, before.tags, before.routable, before.by_hand)
        == (after.addresses, after.user, after.tags, after.routable, after.by_hand)
        and (before.seniority == after.seniority or not before.approved)
        and all(before.facts.get(key) == after.facts.get(key) for key in asked)
    )
