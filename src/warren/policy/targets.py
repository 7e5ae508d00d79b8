"""Who and what a word of a policy means: users, groups, tags, hosts, autogroups (§12.2)."""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Iterable
from graphlib import TopologicalSorter
from operator import attrgetter

from warren.policy.document import Policy
from warren.policy.logins import domain_key, login_key
from warren.policy.malformed import nearest
from warren.policy.ranges import POOLS, PUBLIC, Span, SpanSet, parse_spans, wire_form
from warren.policy.topology import Node, Topology, User

SELF = "autogroup:self"
INTERNET = "autogroup:internet"
DANGER_ALL = "autogroup:danger-all"
IPSET = "ipset:"
ROLES = {
    "autogroup:owner": "owner",
    "autogroup:admin": "admin",
    "autogroup:it-admin": "it-admin",
    "autogroup:network-admin": "network-admin",
    "autogroup:billing-admin": "billing-admin",
    "autogroup:auditor": "auditor",
}
MEMBERS = ("autogroup:member", "autogroup:members")
_PEOPLE = (*MEMBERS, *ROLES)
_SOURCES = (*_PEOPLE, "autogroup:tagged", "autogroup:shared", DANGER_ALL)
_DESTINATIONS = (*_PEOPLE, "autogroup:tagged", INTERNET, SELF)
_MAX_IPSET = 1000
_MAX_IPSET_LINES = 2000
_EVERYONE_AT = re.compile(r"user:\*@(.+)")


class UnknownTarget(ValueError):
    """A word that stands for nothing; the text is the service's."""

    def __init__(
        self, text: str, word: str = "", known: Iterable[str] = (), likeness: float = 0.7
    ) -> None:
        """likeness: what counts as near; a prefix that all have makes every word a little alike."""
        super().__init__(text)
        self._word, self._known, self._likeness = word, known, likeness

    @property
    def hint(self) -> str | None:
        """Return the word that is nearest, in quotes."""
        return nearest(self._word, self._known, self._likeness) if self._word else None


Pair = tuple[Node | None, Node | None]
"""A node that changed: as it was and as it is; None: it was not there, or is gone."""


_age = attrgetter("age")


def exchange(nodes: list[Node], pair: Pair) -> None:
    """Put a node in the place of another in a list of nodes that is in the order of their age."""
    before, after = pair
    if before is not None:
        at = bisect_left(nodes, before.age, key=_age)
        del nodes[at]
    if after is not None:
        insort(nodes, after, key=_age)


class Targets:
    """Resolves the words of one policy for one topology. What a word means is kept once found."""

    def __init__(self, policy: Policy, topology: Topology) -> None:
        self.policy = policy
        self.topology = topology
        self._users = {login_key(user.login): user for user in topology.users}
        self._user_names = {user.name + "@": user for user in topology.users}
        self._by_user: dict[str, list[Node]] = {}
        self._by_tag: dict[str, list[Node]] = {}
        for node in topology.nodes:
            for nodes in self._lists(node):
                nodes.append(node)
        self._ipsets: dict[str, list[str]] = {}
        self._outward: set[str] = set()
        # Of words; the first three change with the nodes.
        self._found: dict[str, list[Node]] = {}
        self._found_names: dict[str, frozenset[str]] = {}
        self._found_sources: dict[str, frozenset[str]] = {}
        self._found_users: dict[str, list[User]] = {}
        self._found_logins: dict[str, frozenset[str]] = {}
        self._places = {user.login: place for place, user in enumerate(topology.users)}

    def _lists(self, node: Node) -> list[list[Node]]:
        """Return the lists that a node belongs in, beside that of all."""
        found = [self._by_tag.setdefault(tag, []) for tag in dict.fromkeys(node.tags)]
        if node.user:
            found.append(self._by_user.setdefault(login_key(node.user.login), []))
        return found

    def follow(self, pairs: list[Pair]) -> None:
        """Take in nodes that changed. The topology's nodes are in the order of their age."""
        for before, after in pairs:
            exchange(self.topology.nodes, (before, after))
            for nodes in self._lists(before) if before is not None else ():
                exchange(nodes, (before, None))
            for nodes in self._lists(after) if after is not None else ():
                exchange(nodes, (None, after))
            for node in (before, after):
                if node is not None:
                    self._forget(node)

    def _forget(self, node: Node) -> None:
        """Forget what the words mean that a node is meant by."""
        for known in (self._found, self._found_names, self._found_sources):
            words = [word for word in known if self._may_mean(word, node)]
            for word in words:
                del known[word]

    def _may_mean(self, word: str, node: Node) -> bool:
        if word.startswith("tag:"):
            return word in node.tags
        if word == "autogroup:tagged":
            return bool(node.tags)
        if word == "*":
            return bool(node.approved)
        if not self.is_people(word):
            return False
        return node.user is not None and node.user.login in self.logins(word)

    # What is allowed where.

    def check(self, word: str) -> None:
        """Raise UnknownTarget for what is not defined."""
        if word == "*" or "@" in word:
            return
        if word.startswith("tag:"):
            if word not in self.policy.tag_owners:
                raise UnknownTarget(f'tag not found: "{word}"', word, self.policy.tag_owners)
        elif word.startswith("group:"):
            if word not in self.policy.groups:
                raise UnknownTarget(f'group not found: "{word}"', word, self.policy.groups)
        elif word.startswith("ipset:"):
            if word not in self.policy.ipsets:
                raise UnknownTarget(f'ipset not found: "{word}"', word, self.policy.ipsets)
        elif word.startswith("svc:"):
            return
        elif word.startswith("autogroup:"):
            if word not in _SOURCES + _DESTINATIONS:
                known = _SOURCES + _DESTINATIONS
                raise UnknownTarget(f'"{word}" is not a known autogroup', word, known)
        elif word not in self.policy.hosts and wire_form(word) is None:
            raise UnknownTarget(f'"{word}": invalid address', word, self.policy.hosts, 0.6)

    def is_people(self, word: str) -> bool:
        """Whether the word names users: what `autogroup:self` may be used with."""
        return word in _PEOPLE or word.startswith("group:") or "@" in word

    # Who is meant.

    def users(self, word: str) -> list[User]:
        """Return the users that a word names, in their order."""
        if word not in self._found_users:
            self._found_users[word] = self._people(word)
        return self._found_users[word]

    def _people(self, word: str) -> list[User]:
        everyone = self.topology.users
        if word == "*" or word in MEMBERS:
            return everyone
        if word in ROLES:
            return [user for user in everyone if user.role == ROLES[word]]
        if word.startswith("group:"):
            logins = self.policy.groups.get(word, ())
            found = {user.login: user for login in logins for user in self._person(login)}
            # Beside the policy's own groups there are those of identity providers.
            wanted = login_key(word)
            found |= {user.login: user for user in everyone if wanted in user.groups}
            return sorted(found.values(), key=lambda user: self._places[user.login])
        return self._person(word)

    def _person(self, word: str) -> list[User]:
        if found := _EVERYONE_AT.fullmatch(word):
            domain = domain_key(found[1])
            return [user for user in self.topology.users if user.domain == domain]
        user = self._users.get(login_key(word)) or self._user_names.get(word)
        return [user] if user else []

    def owned(self, user: User) -> list[Node]:
        """Return a user's untagged nodes."""
        return self._by_user.get(login_key(user.login), [])

    def nodes(self, word: str) -> list[Node]:
        """Return the nodes that a word names (not: those that an address belongs to)."""
        if word not in self._found:
            self._found[word] = self._nodes(word)
        return self._found[word]

    def _nodes(self, word: str) -> list[Node]:
        if word.startswith("tag:"):
            return list(self._by_tag.get(word, ()))
        if word == "autogroup:tagged":
            return [node for node in self.topology.nodes if node.tags]
        if word in MEMBERS:
            return [node for node in self.topology.nodes if node.user]
        if self.is_people(word):
            return [node for user in self.users(word) for node in self.owned(user)]
        return []

    def names(self, word: str) -> frozenset[str]:
        """Return the names of the nodes that a word names."""
        if word not in self._found_names:
            self._found_names[word] = frozenset(node.name for node in self.nodes(word))
        return self._found_names[word]

    def logins(self, word: str) -> frozenset[str]:
        """Return the log-ins of the users that a word names."""
        if word not in self._found_logins:
            self._found_logins[word] = frozenset(user.login for user in self.users(word))
        return self._found_logins[word]

    def names_nodes(self, word: str) -> bool:
        """Whether a word stands for nodes rather than for addresses."""
        return word.startswith("tag:") or word == "autogroup:tagged" or self.is_people(word)

    # What addresses are meant.

    def source(self, word: str) -> frozenset[str]:
        """Return the sources in the wire's form."""
        if word not in self._found_sources:
            self._found_sources[word] = self._source(word)
        return self._found_sources[word]

    def _source(self, word: str) -> frozenset[str]:
        if word == "*":
            return frozenset(POOLS) | {r for node in self.topology.nodes for r in node.routes}
        if word == DANGER_ALL:
            return frozenset("*")
        return frozenset(self.destination(word))

    def destination(self, word: str) -> list[str]:
        """Return the destinations in the wire's form; of nodes, theirs in the nodes' order."""
        if word == "*":
            return ["*"]
        if self.names_nodes(word):
            return [address for node in self.nodes(word) for address in node.addresses]
        if word.startswith("ipset:"):
            return self._ipset(word)
        form = wire_form(self.policy.hosts.get(word, word))
        return [form] if form else []

    def is_outward(self, word: str) -> bool:
        """Whether a word means addresses of the internet, which only exits lead to."""
        if not word.startswith(IPSET):
            return word == INTERNET
        self._ipset(word)
        return word in self._outward

    def _ipset(self, word: str) -> list[str]:
        """Return what is left of an ipset's additions after its removals."""
        if word not in self._ipsets:
            within = {name: _sets_in(lines) for name, lines in self.policy.ipsets.items()}
            # Those within first, so that no chain of them is too long to follow.
            for name in TopologicalSorter(within).static_order():
                self._make_ipset(name)
        return self._ipsets.get(word, [])

    def _make_ipset(self, name: str) -> None:
        left = SpanSet()
        lines = self.policy.ipsets.get(name, ())
        if len(lines) > _MAX_IPSET_LINES:
            raise self.policy.fail("ipsets", name, "", f"more than {_MAX_IPSET_LINES} lines")
        for line in lines:
            verb, target = split_line(line)
            change = left.remove if verb == "remove" else left.add
            for span in self._spans_in(target):
                change(span)
            if len(left) > _MAX_IPSET:
                raise self.policy.fail("ipsets", name, line, f"more than {_MAX_IPSET} parts")
            if verb == "add" and self.is_outward(target):
                self._outward.add(name)
        self._ipsets[name] = left.forms()

    def _spans_in(self, target: str) -> Iterable[Span]:
        if target == INTERNET:
            return PUBLIC
        forms = self.destination(target.removeprefix("host:"))
        return (span for form in forms for span in parse_spans(form))


def split_line(line: str) -> tuple[str, str]:
    """Split a line of an ipset into its verb, `add` where none is given, and its target."""
    verb, _, rest = line.partition(" ")
    if rest and verb in ("add", "remove"):
        return verb, rest.strip()
    return "add", line


def _sets_in(lines: list[str]) -> list[str]:
    return [target for _, target in map(split_line, lines) if target.startswith(IPSET)]
