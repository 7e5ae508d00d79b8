"""A policy and a topology in, what the service answers and what each node is told out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec

from warren.policy.compile import Compiler
from warren.policy.document import Policy, parse_policy_untrusted
from warren.policy.grants import Grant, read_grants
from warren.policy.malformed import MalformedPolicy
from warren.policy.meeting import Meeting
from warren.policy.mending import mended
from warren.policy.nodeattrs import Attributes, read_attributes
from warren.policy.postures import Postures
from warren.policy.references import check_references
from warren.policy.routes import approve
from warren.policy.ssh import SshCompiler, SshRule, read_ssh
from warren.policy.targets import Targets
from warren.policy.topology import Node, Topology, parse_topology_untrusted
from warren.policy.trials import Trial, refuse
from warren.policy.visibility import Sight

_ALLOW_ALL = """{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}"""


@dataclass(slots=True)
class Checked:
    """A policy whose every section was read for a topology."""

    policy: Policy
    targets: Targets
    grants: list[Grant]
    ssh: list[SshRule]
    attributes: Attributes
    postures: Postures

    def trial(self) -> Trial:
        """Return what runs the policy's own tests."""
        return Trial(self.grants, self.ssh, self.targets, self.postures)


def read(source: str, topology: Topology) -> Checked:
    """Read a policy whole, without running its tests. Raises MalformedPolicy."""
    policy = parse_policy_untrusted(source)
    return _checked(policy, Targets(policy, topology))


def read_stored(source: str, topology: Topology) -> tuple[Checked, list[MalformedPolicy]]:
    """Read a policy that is in force, without what is wrong in it; return that beside it.

    Raises MalformedPolicy where leaving something out might allow more than was meant.
    """
    try:
        return read(source, topology), []
    except MalformedPolicy:
        policy = parse_policy_untrusted(source)
        policy, problems = mended(policy, Targets(policy, topology))
        return _checked(policy, Targets(policy, topology)), problems


def _checked(policy: Policy, targets: Targets) -> Checked:
    check_references(policy, targets)
    rules = policy
    if policy.acls is None and policy.grants is None:
        rules = parse_policy_untrusted(_ALLOW_ALL)
    grants = read_grants(rules, targets)
    ssh = read_ssh(policy, targets)
    attributes = Attributes(policy, read_attributes(policy, targets), targets)
    approve(policy, targets, targets.topology.nodes)
    postures = Postures(policy.postures, policy.default_posture)
    return Checked(policy, targets, grants, ssh, attributes, postures)


def name_users(source: str, topology: Topology) -> None:
    """Give a user without an e-mail address the one by which the policy names them.

    For topologies that leave addresses out; never for a network, where a name is who one is.
    Raises MalformedPolicy.
    """
    policy = parse_policy_untrusted(source)
    for user in topology.users:
        if "@" in user.login:
            continue
        lists = (*policy.groups.values(), *policy.tag_owners.values())
        logins = (word for words in lists for word in words if ":" not in word)
        user.login = next((w for w in logins if w.startswith(user.name + "@")), user.login)


class World:
    """What every node of a topology is told under a checked policy."""

    def __init__(self, checked: Checked) -> None:
        self.checked = checked
        self.nodes = checked.targets.topology.nodes
        self.meeting = Meeting(checked.grants, checked.targets, checked.postures)
        self.compiler = Compiler(self.meeting)
        self.ssh = SshCompiler(checked.ssh, checked.targets, checked.postures)
        self.sight = Sight(self.meeting)

    def node(self, node: Node) -> dict[str, Any]:
        """Return one node's part in the form of the recorded verdicts."""
        rules = msgspec.to_builtins(self.compiler.filters(node))
        mine: dict[str, Any] = {
            "AllowedIPs": self._prefixes(node) + node.approved,
            "CapMap": self.checked.attributes.of_self(node),
        }
        if served := self.sight.primaries.get(node.name):
            mine["PrimaryRoutes"] = served
        if node.tags:
            mine["Tags"] = node.tags
        return {
            "packet_filter_rules": rules or None,
            "ssh_policy": self.ssh.policy(node),
            "self": mine,
            "peers": {
                peer.name: self._peer(node, peer)
                for peer in self.nodes
                if self.sight.sees(node, peer)
            },
        }

    def _prefixes(self, node: Node) -> list[str]:
        if self.checked.attributes.is_only_ipv6(node):
            return [prefix for prefix in node.prefixes if ":" in prefix]
        return node.prefixes

    def _peer(self, viewer: Node, peer: Node) -> dict[str, Any]:
        routes = self.sight.routes(viewer, peer)
        exits = self.sight.exits(viewer, peer)
        shown: dict[str, Any] = {"AllowedIPs": self._prefixes(peer) + routes + exits}
        if routes:
            shown["PrimaryRoutes"] = routes
        if capabilities := self.checked.attributes.of_peer(peer):
            shown["CapMap"] = capabilities
        if peer.tags:
            shown["Tags"] = peer.tags
        return shown


def _text(policy: Any) -> str:
    try:
        return json.dumps(policy, ensure_ascii=False)
    except (RecursionError, TypeError, ValueError) as error:
        raise MalformedPolicy(f"policy: {error}") from None


def verdict_untrusted(question: Any) -> dict[str, Any]:
    """Answer one `{policy, topology, …, id?}` object as the service would. Never raises."""
    answer: dict[str, Any] = {}
    if isinstance(question, dict) and "id" in question:
        answer["id"] = question["id"]
    try:
        if not isinstance(question, dict):
            raise MalformedPolicy("expected an object with policy and topology")
        policy = question.get("policy")
        source = policy if isinstance(policy, str) else _text(policy)
        topology = parse_topology_untrusted(question.get("topology") or {"nodes": {}})
        name_users(source, topology)
        checked = read(source, topology)
        refuse(checked.trial().run(checked.policy))
        world = World(checked)
    except MalformedPolicy as error:
        return answer | {"http_code": 400, "http_message": error.message, "nodes": {}}
    nodes = {node.name: world.node(node) for node in world.nodes}
    return answer | {"http_code": 200, "http_message": None, "nodes": nodes}
