"""Which nodes a policy's words meet, and every grant resolved for the nodes that there are.

A grant meets a node by its name (a tag, a user, a group), by an address of the node, or by a
route that the node serves. What is found is kept by node, so that a node's rules and peers cost
what meets it, and is found anew only for grants that meet a node that changed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from warren.policy.grants import Grant
from warren.policy.postures import Postures
from warren.policy.ranges import POOLS, Span, parse_spans
from warren.policy.targets import INTERNET, SELF, Pair, Targets, exchange
from warren.policy.topology import Node, is_exit

spans_of = lru_cache(maxsize=1 << 16)(parse_spans)
EVERYONE: frozenset[str] = frozenset({"*"})
"""Stands for all nodes where a set of their names is meant."""
_POOL_SPANS = [span for pool in POOLS for span in parse_spans(pool)]


def overlap(forms: Iterable[str], others: list[Span]) -> bool:
    """Whether any address is in both; `forms` are the wire's."""
    return any(one.overlaps(other) for form in forms for one in spans_of(form) for other in others)


class Sources(tuple[str, ...]):
    """Sources as they travel, sorted. Rules are merged by them, so their hash is kept."""

    @cached_property
    def _hash(self) -> int:
        return tuple.__hash__(self)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def shared(self) -> list[str]:
        """Return them as the list that all filters share; nobody may change it."""
        return list(self)


@dataclass(slots=True, eq=False)
class Resolved:
    """A grant for a topology: its sources as they travel, and the nodes at both of its ends."""

    grant: Grant
    number: int
    sources: Sources
    source_nodes: frozenset[str]
    target_nodes: frozenset[str]
    owners: frozenset[str] = frozenset()
    """Log-ins whose devices reach each other by `autogroup:self`."""
    own_sources: dict[str, Sources] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """Return the targets that stand for addresses whoever asks.

        A rule with `via` is for networks behind routers, and everything is none.
        """
        none = (SELF, INTERNET, "*") if self.grant.via else (SELF, INTERNET)
        return [word for word in self.grant.targets if word not in none]


class Addresses:
    """Finds nodes by their addresses, and routers by their routes. Lists are oldest first."""

    def __init__(self, nodes: list[Node]) -> None:
        own = sorted((span.family, span.first, node.name) for node in nodes for span in node.spans)
        self._keys = [(family, first) for family, first, _ in own]
        self._names = [name for *_, name in own]
        self.routers = [node for node in nodes if node.routes]
        self.exits = [node for node in nodes if is_exit(node)]

    def follow(self, pairs: list[Pair]) -> None:
        """Take in nodes that changed."""
        for before, after in pairs:
            self._remove(before)
            self._add(after)
            exchange(
                self.routers,
                (before if before and before.routes else None,
                 after if after and after.routes else None),
            )  # fmt: skip
            exchange(
                self.exits,
                (before if before and is_exit(before) else None,
                 after if after and is_exit(after) else None),
            )  # fmt: skip

    def _remove(self, node: Node | None) -> None:
        for span in node.spans if node else ():
            at = bisect_left(self._keys, (span.family, span.first))
            # Two nodes of one address are an accident, but one that happens.
            at = self._names.index(node.name if node else "", at)
            del self._keys[at], self._names[at]

    def _add(self, node: Node | None) -> None:
        for span in node.spans if node else ():
            at = bisect_left(self._keys, (span.family, span.first))
            self._keys.insert(at, (span.family, span.first))
            self._names.insert(at, node.name if node else "")

    def within(self, forms: Iterable[str], own: bool = False) -> set[str]:
        """Return the nodes that an address of `forms` belongs to. own: not by their routes."""
        found: set[str] = set()
        for form in forms:
            for span in spans_of(form):
                low = bisect_left(self._keys, (span.family, span.first))
                high = bisect_left(self._keys, (span.family, span.last + 1))
                found.update(self._names[low:high])
                if not own:
                    found.update(
                        r.name for r in self.routers if any(span.overlaps(s) for s in r.route_spans)
                    )
        return found


class Meeting:
    """All grants resolved, by number and by node."""

    def __init__(self, grants: list[Grant], targets: Targets, postures: Postures) -> None:
        self.grants = grants
        self.targets = targets
        self.postures = postures
        self.by_source: dict[str, set[int]] = {}
        self.by_target: dict[str, set[int]] = {}
        self.nodes = {node.name: node for node in targets.topology.nodes}
        self.addresses = Addresses(targets.topology.nodes)
        self._find_inner()
        self.resolved: list[Resolved] = []
        for number, grant in enumerate(grants):
            self.resolved.append(self._resolve(number, grant))
            self._enter(self.resolved[number])
        self._words = _Words(grants, targets)

    def _find_inner(self) -> None:
        # Few routers serve a part of the pool itself; only they can have others' addresses.
        self.inner = [node for node in self.addresses.routers if _is_inner(node)]

    # Who is at the ends.

    def _resolve(self, number: int, grant: Grant) -> Resolved:
        targets = self.targets
        if all(word == SELF for word in grant.targets):
            # Who asks is whose device it is; what all of them have for addresses, nobody needs.
            forms, nodes = set[str](), frozenset[str]()
        else:
            forms, nodes = self._sources(grant)
        found = Resolved(grant, number, Sources(sorted(forms)), nodes, frozenset())
        if SELF in grant.targets:
            people = {user.login for word in grant.sources for user in targets.users(word)}
            found.owners = frozenset(people)
        found.target_nodes = self._ends(grant, found.words)
        return found

    def _sources(self, grant: Grant) -> tuple[set[str], frozenset[str]]:
        targets, words = self.targets, grant.sources
        if self.asks_posture(grant):
            # Only machines have a posture: what stands behind a router has none.
            named = self._named(words, None)
            met = [n for name, n in self.nodes.items() if named is EVERYONE or name in named]
            met = self.with_posture(grant, met)
            return {a for n in met for a in n.addresses}, frozenset(n.name for n in met)
        forms = {form for word in words for form in targets.source(word)}
        return forms, self._named(words, forms)

    def asks_posture(self, grant: Grant) -> bool:
        """Whether a grant is for machines of some posture alone."""
        return bool(grant.postures or self.postures.default)

    def with_posture(self, grant: Grant, nodes: list[Node]) -> list[Node]:
        """Return the nodes that have the posture that a grant asks for."""
        wanted = grant.postures or self.postures.default
        return [node for node in nodes if self.postures.holds(wanted, node)]

    def _ends(self, grant: Grant, words: list[str]) -> frozenset[str]:
        outward = grant.ports and any(map(self.targets.is_outward, grant.targets))
        exits = self.addresses.exits if outward else []
        if grant.via:
            tags, forms = set(grant.via), self.forms(words)
            return frozenset(
                node.name
                for node in self.addresses.routers
                if grant.ports and tags & set(node.tags) and overlap(forms, node.route_spans)
            ) | {node.name for node in exits if tags & set(node.tags)}
        if not grant.ports:
            return EVERYONE if "*" in words else self._named(words, None) | self._serving(words)
        named = self._named(words, self.forms(words))
        return named if named is EVERYONE else named | {node.name for node in exits}

    def _named(self, words: list[str], forms: Iterable[str] | None) -> frozenset[str]:
        """Return the nodes that words mean. forms: what routes are looked at for; None: none."""
        if "*" in words or "autogroup:danger-all" in words:
            return EVERYONE
        targets, found = self.targets, set[str]()
        for word in words:
            if targets.names_nodes(word):
                found |= targets.names(word)
            else:
                found |= self.addresses.within(targets.destination(word), own=forms is None)
        if forms is not None:
            found |= {node.name for node in self.inner if overlap(forms, node.route_spans)}
        return frozenset(found)

    def forms(self, words: list[str]) -> list[str]:
        """Return the addresses that targets stand for."""
        return [form for word in words for form in self.targets.destination(word)]

    def _serving(self, words: list[str]) -> set[str]:
        """Return the routers to addresses that words are themselves."""
        forms = self.forms([word for word in words if not self.targets.names_nodes(word)])
        return {node.name for node in self.addresses.routers if overlap(forms, node.route_spans)}

    # By node.

    def _enter(self, one: Resolved) -> None:
        for name in one.source_nodes:
            self.by_source.setdefault(name, set()).add(one.number)
        for name in one.target_nodes:
            self.by_target.setdefault(name, set()).add(one.number)

    def _leave(self, one: Resolved) -> None:
        for name in one.source_nodes:
            self.by_source[name].discard(one.number)
        for name in one.target_nodes:
            self.by_target[name].discard(one.number)

    def from_(self, node: Node) -> Set[int]:
        """Return the numbers of the grants that let a node reach something."""
        return _met(self.by_source, node)

    def to(self, node: Node) -> Set[int]:
        """Return the numbers of the grants that let something reach a node or its routes."""
        return _met(self.by_target, node)

    # When nodes change.

    def follow(self, pairs: list[Pair]) -> list[tuple[Resolved, Resolved]]:
        """Resolve anew what meets nodes that changed; return those grants, before and after.

        The targets know of the change already.
        """
        changed = [node for pair in pairs for node in pair if node is not None]
        for before, after in pairs:
            if before is not None:
                del self.nodes[before.name]
            if after is not None:
                self.nodes[after.name] = after
        self.addresses.follow(pairs)
        if any(node.routes for node in changed):
            self._find_inner()
        found = []
        for number in sorted(self._words.meeting(changed)):
            before_it, after_it = self.resolved[number], self._resolve(number, self.grants[number])
            self._leave(before_it)
            self._enter(after_it)
            self.resolved[number] = after_it
            found.append((before_it, after_it))
        return found


def _met(numbers: dict[str, set[int]], node: Node) -> Set[int]:
    own, all_nodes = numbers.get(node.name), numbers.get("*")
    if own and all_nodes:
        return own | all_nodes
    return own or all_nodes or frozenset()


class _Words:
    """Tells which grants meet a node, by the words in which they name their ends."""

    def __init__(self, grants: list[Grant], targets: Targets) -> None:
        self._targets = targets
        self._always: set[int] = set()
        self._outward: set[int] = set()
        self._by_word: dict[str, list[int]] = {}
        for number, grant in enumerate(grants):
            words = {*grant.sources, *grant.targets}
            if "*" in words or grant.via or any(map(targets.is_outward, words - {INTERNET})):
                self._always.add(number)
            if INTERNET in words:
                self._outward.add(number)
            for word in words - {"*", SELF, INTERNET}:
                self._by_word.setdefault(word, []).append(number)
        self._people = [word for word in self._by_word if targets.is_people(word)]
        self._addresses = [
            (word, [span for form in targets.destination(word) for span in spans_of(form)])
            for word in self._by_word
            if not targets.names_nodes(word)
        ]
        self._of_login: dict[str, list[str]] = {}

    def meeting(self, nodes: list[Node]) -> set[int]:
        """Return the numbers of the grants that any of these nodes may be an end of."""
        found = set(self._always)
        if any(map(is_exit, nodes)):
            found |= self._outward
        for node in nodes:
            if _is_inner(node):
                return {n for numbers in self._by_word.values() for n in numbers} | found
            for word in self._met(node):
                found.update(self._by_word.get(word, ()))
        return found

    def _met(self, node: Node) -> list[str]:
        words = [*node.tags, "autogroup:tagged"] if node.tags else []
        if node.user is not None:
            words += self._words_of(node.user.login)
        own = node.spans + node.route_spans
        words += [
            word
            for word, spans in self._addresses
            if any(span.overlaps(mine) for span in spans for mine in own)
        ]
        return words

    def _words_of(self, login: str) -> list[str]:
        if login not in self._of_login:
            self._of_login[login] = [w for w in self._people if login in self._targets.logins(w)]
        return self._of_login[login]


def _is_inner(node: Node) -> bool:
    """Whether a node serves a part of the pool of addresses."""
    return bool(node.routes) and any(
        one.overlaps(other) for one in node.route_spans for other in _POOL_SPANS
    )
