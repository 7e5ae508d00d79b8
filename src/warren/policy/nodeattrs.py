"""What the policy lets a node do, as its own map entry says (§3.11, §12.5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, ip_network
from typing import Any

from warren.policy.document import Entry, Policy
from warren.policy.targets import INTERNET, SELF, Targets, UnknownTarget
from warren.policy.topology import EXITS, Node
from warren.policy.words_at import WordsAt

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
_NOT_TARGETS = (SELF, INTERNET, "autogroup:danger-all", "autogroup:shared")
ADMINS = ("owner", "admin", "it-admin", "network-admin")
"""Roles whose machines are told that their user administers something."""


@dataclass(slots=True)
class Attribute:
    """One `nodeAttrs` rule, checked."""

    targets: list[str]
    capabilities: dict[str, Any]
    pools: list[IPv4Network] = field(default_factory=list)


def read_attributes(policy: Policy, targets: Targets) -> list[Attribute]:
    """Return the rules. Raises MalformedPolicy."""
    return [read_attribute(entry, targets) for entry in policy.node_attrs]


def read_attribute(entry: Entry, targets: Targets) -> Attribute:
    """Read a rule. Raises MalformedPolicy."""
    words = entry.words("target")
    for word in words:
        if word in _NOT_TARGETS:
            raise entry.fail(f'"{word}" not valid as a target of nodeAttrs', "target", word)
        try:
            targets.check(word)
        except UnknownTarget as error:
            raise entry.fail(str(error), "target", word, error.hint) from None
    capabilities: dict[str, Any] = dict.fromkeys(entry.words("attr"))
    capabilities.update(entry.members.get("app") or {})
    return Attribute(words, capabilities, _pools(entry))


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
        self._narrows = any(ONLY_IPV6 in rule.capabilities for rule in rules)
        self.takes_ipv4 = self._narrows or policy.disable_ipv4
        """Whether any node may be without an IPv4 address."""
        self._by_word: dict[str, list[int]] = {}
        for number, rule in enumerate(rules):
            for word in rule.targets:
                self._by_word.setdefault(word, []).append(number)
        self._of_login: dict[str, set[str]] = {}

    @cached_property
    def _addresses(self) -> WordsAt:
        words = [w for w in self._by_word if w != "*" and not self.targets.names_nodes(w)]
        return WordsAt(words, self.targets)

    def _for(self, node: Node) -> list[Attribute]:
        """Return the rules that mean a node, in their order."""
        if not self.rules:
            return []
        words = {"*", *node.tags} | ({"autogroup:tagged"} if node.tags else set())
        for span in node.spans if self._by_word else ():
            words |= self._addresses.at(span)
        if node.user is not None:
            words |= self._words_of(node.user.login)
        numbers = {number for word in words for number in self._by_word.get(word, ())}
        return [self.rules[number] for number in sorted(numbers)]

    def _words_of(self, login: str) -> set[str]:
        if login not in self._of_login:
            people = (word for word in self._by_word if self.targets.is_people(word))
            self._of_login[login] = {w for w in people if login in self.targets.logins(w)}
        return self._of_login[login]

    def granted(self, node: Node) -> dict[str, Any]:
        """Return what the policy's own words give a node."""
        found: dict[str, Any] = {}
        for rule in self._for(node):
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
        if self.policy.disable_ipv4 or not self._narrows:
            return self.policy.disable_ipv4
        return any(ONLY_IPV6 in rule.capabilities for rule in self._for(node))

    def pools(self, node: Node) -> list[IPv4Network]:
        """Return the pools of a node that has no address yet: those of the first rule with any."""
        return next((rule.pools for rule in self._for(node) if rule.pools), [])

    def of_self(self, node: Node) -> dict[str, Any]:
        """Return a node's whole CapMap: what everyone has, what its user is, and its grants."""
        users = self.targets.topology.users
        owner = users[0] if users else None
        found = dict(_EVERYONE)
        if node.user is None or node.user is owner:
            found[f"{_CAP}is-owner"] = None
        if node.user is not None and node.user.role in ADMINS:
            found[f"{_CAP}is-admin"] = None
        if owner is not None:
            found["tailnet-display-name"] = [owner.login]
        found.update(self.granted(node))
        return dict(sorted(found.items()))

    def of_peer(self, peer: Node) -> dict[str, Any]:
        """Return what others are told that a peer may do: an approved exit may be suggested."""
        return {"suggest-exit-node": None} if set(EXITS) & set(peer.approved) else {}
