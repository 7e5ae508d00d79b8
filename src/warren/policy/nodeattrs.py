"""What the policy lets a node do, as its own map entry says (§3.11, §12.5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, ip_network
from typing import Any

from warren.policy.document import Entry, Policy
from warren.policy.ranges import parse_spans
from warren.policy.targets import Targets, UnknownTarget
from warren.policy.topology import EXITS, Node

CGNAT = IPv4Network("100.64.0.0/10")
ONLY_IPV6 = "disable-ipv4"
_ONE_ROUTE = {"mac-always": "one-cgnat?v=true", "mac-never": "one-cgnat?v=false"}
_CAP = "https://tailscale.com/cap/"
_EVERYONE: dict[str, Any] = {
    f"{_CAP}file-sharing": None,
    f"{_CAP}ssh": None,
    f"{_CAP}tailnet-lock": None,
    "probe-udp-lifetime": None,
    "ssh-behavior-v1": None,
    "ssh-env-vars": None,
    "store-appc-routes": None,
}
_FUNNEL: dict[str, Any] = {
    f"{_CAP}funnel-ports?ports=443,8443,10000": None,
    f"{_CAP}warn-funnel-no-https": None,
}
_ADMINS = ("owner", "admin", "it-admin", "network-admin")


@dataclass(slots=True)
class Attribute:
    """One `nodeAttrs` rule, checked."""

    targets: list[str]
    capabilities: dict[str, Any]
    pools: list[IPv4Network] = field(default_factory=list)


def read_attributes(policy: Policy, targets: Targets) -> list[Attribute]:
    """Return the rules. Raises MalformedPolicy."""
    found = []
    for entry in policy.node_attrs:
        words = entry.words("target")
        for word in words:
            try:
                targets.check(word)
            except UnknownTarget as error:
                raise entry.fail(str(error), "target", word, error.hint) from None
        capabilities: dict[str, Any] = dict.fromkeys(entry.words("attr"))
        capabilities.update(entry.members.get("app") or {})
        found.append(Attribute(words, capabilities, _pools(entry)))
    return found


def _pools(entry: Entry) -> list[IPv4Network]:
    found = []
    for text in entry.words("ipPool"):
        try:
            pool = ip_network(text, strict=False)
        except ValueError:
            raise entry.fail(f'"{text}": invalid IP pool', "ipPool", text) from None
        if not isinstance(pool, IPv4Network) or not pool.subnet_of(CGNAT):
            raise entry.fail(f'"{text}": an IP pool is a part of {CGNAT}', "ipPool", text)
        found.append(pool)
    return found


class Attributes:
    """Answers what nodes may do."""

    def __init__(self, policy: Policy, rules: list[Attribute], targets: Targets) -> None:
        self.policy = policy
        self.rules = rules
        self.targets = targets
        self._narrowing = [rule for rule in rules if ONLY_IPV6 in rule.capabilities]

    def _meant(self, word: str, node: Node) -> bool:
        if word == "*":
            return True
        if word.startswith("tag:"):
            return word in node.tags
        if word == "autogroup:tagged":
            return bool(node.tags)
        if self.targets.names_nodes(word):
            return node.user is not None and node.user.login in self.targets.logins(word)
        spans = [s for form in self.targets.destination(word) for s in parse_spans(form)]
        return any(own.overlaps(span) for own in node.spans for span in spans)

    def granted(self, node: Node) -> dict[str, Any]:
        """Return what the policy's own words give a node."""
        found: dict[str, Any] = {}
        for rule in self.rules:
            if any(self._meant(word, node) for word in rule.targets):
                found.update(rule.capabilities)
        if self.policy.randomize_client_port:
            found["randomize-client-port"] = None
        one_route = _ONE_ROUTE.get(self.policy.one_cgnat_route)
        if one_route is not None and node.facts.get("node:os") == "macos":
            found[one_route] = None
        if "funnel" in found:
            found.update(_FUNNEL)
        return found

    def is_only_ipv6(self, node: Node) -> bool:
        """Whether a node has no IPv4 address in the network, by its attribute or as all have."""
        return self.policy.disable_ipv4 or any(
            self._meant(word, node) for rule in self._narrowing for word in rule.targets
        )

    def pools(self, node: Node) -> list[IPv4Network]:
        """Return the pools of a node that has no address yet: those of the first rule with any."""
        for rule in self.rules:
            if rule.pools and any(self._meant(word, node) for word in rule.targets):
                return rule.pools
        return []

    def of_self(self, node: Node) -> dict[str, Any]:
        """Return a node's whole CapMap: what everyone has, what its user is, and its grants."""
        users = self.targets.topology.users
        owner = users[0] if users else None
        found = dict(_EVERYONE)
        if node.user is None or node.user is owner:
            found[f"{_CAP}is-owner"] = None
        if node.user is not None and node.user.role in _ADMINS:
            found[f"{_CAP}is-admin"] = None
        if owner is not None:
            found["tailnet-display-name"] = [owner.login]
        found.update(self.granted(node))
        return dict(sorted(found.items()))

    def of_peer(self, peer: Node) -> dict[str, Any]:
        """Return what others are told that a peer may do: an approved exit may be suggested."""
        return {"suggest-exit-node": None} if set(EXITS) & set(peer.approved) else {}
