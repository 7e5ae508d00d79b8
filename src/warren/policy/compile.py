"""From rules to the packet filter of each node, in the form and order of the wire (§12.5)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from warren.netmap.filterrule import CapGrant, FilterRule, NetPortRange, PortRange
from warren.policy.grants import Grant
from warren.policy.meeting import Meeting, Resolved, Sources, overlap
from warren.policy.ports import Ports
from warren.policy.ranges import PUBLIC, PUBLIC_FORMS, networks_of
from warren.policy.targets import DANGER_ALL, INTERNET, SELF
from warren.policy.template import Template, anonymous
from warren.policy.topology import Node, User, is_exit

_COMPANIONS = {
    "tailscale.com/cap/drive": "tailscale.com/cap/drive-sharer",
    "tailscale.com/cap/relay": "tailscale.com/cap/relay-target",
}
# Of one grant's capabilities, in the service's order.
_OWN, _GIVEN, _ANSWER = range(3)
_Key = tuple[Sources, tuple[int, ...]]
_Order = tuple[int, int, tuple[int, ...]]
# The grants that meet a node, its tags, its owner, how many addresses it has.
_Class = tuple[frozenset[int], tuple[str, ...], str | None, int]


class _Filter:
    """A node's filter in the making: port rules merge by key, capabilities stand alone."""

    def __init__(self, claims: dict[_Key, _Order]) -> None:
        self.claims = claims
        self.ports: dict[_Key, list[tuple[_Order, list[NetPortRange]]]] = {}
        self.alone: list[tuple[_Order, FilterRule]] = []

    def add(self, order: _Order, key: _Key, ends: list[NetPortRange]) -> None:
        self.ports.setdefault(key, []).append((order, ends))

    def capability(self, number: int, kind: int, rule: FilterRule) -> None:
        self.alone.append(((number, 2, (kind, len(self.alone))), rule))

    def rules(self) -> list[FilterRule]:
        """Return the rules, each where its key first stands in the policy."""
        made = list(self.alone)
        for key, parts in self.ports.items():
            parts.sort(key=lambda part: part[0])
            order = min(self.claims.get(key, parts[0][0]), parts[0][0])
            ends = [end for _, found in parts for end in found]
            rule = FilterRule(src_ips=key[0].shared, ip_proto=list(key[1]), dst_ports=ends)
            made.append((order, rule))
        return [rule for _, rule in sorted(made, key=lambda pair: pair[0])]


def _net_ports(ip: str, ports: Ports) -> NetPortRange:
    return NetPortRange(ip=ip, ports=_port_range(ports))


@lru_cache(maxsize=4096)
def _port_range(ports: Ports) -> PortRange:
    # Few of them stand in the filters of all nodes.
    return PortRange(first=ports.first, last=ports.last)


class Compiler:
    """Makes filters for nodes; work for a node is in proportion to the rules that meet it."""

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting
        # Targets in the service's order, with the place of each, by protocol.
        self.orders = [self._ordered(grant) for grant in meeting.grants]
        self.own = [number for number, grant in enumerate(meeting.grants) if SELF in grant.targets]
        # Grants to everything: what they say, they say to every node alike.
        self.wide = {
            number
            for number, grant in enumerate(meeting.grants)
            if grant.ports and grant.targets == ["*"] and not grant.app and not grant.via
        }
        # Grants that say the same to every node whom the same of their words mean, but for its
        # own addresses; and whether what devices of one owner are told is such.
        self.plain = {
            number
            for number, grant in enumerate(meeting.grants)
            if not grant.app and not grant.via and self._is_plain(grant)
        }
        self.plain_own = not any(grant.app for grant in map(meeting.grants.__getitem__, self.own))
        # What exits are told of these is not of their own addresses.
        self.outward = {
            number for number, grant in enumerate(meeting.grants) if INTERNET in grant.targets
        }
        self.answered = {n for n, grant in enumerate(meeting.grants) if companions(grant)}
        self.claims: dict[_Key, _Order] = {}
        self._templates: dict[_Class, Template] = {}
        self.claim()

    def claim(self) -> None:
        """Look where in the policy each key (sources and protocols) first stands."""
        self.claims.clear()
        self._templates.clear()
        for one, ordered in zip(self.meeting.resolved, self.orders, strict=True):
            if not one.sources or one.grant.via:
                continue
            for position, (protocol, words) in enumerate(ordered):
                if words:
                    self.claims.setdefault((one.sources, protocol), (one.number, 0, (position,)))

    def _is_plain(self, grant: Grant) -> bool:
        names_nodes = self.meeting.targets.names_nodes
        return all(word in ("*", SELF, INTERNET) or names_nodes(word) for word in grant.targets)

    def _ordered(self, grant: Grant) -> list[tuple[tuple[int, ...], list[str]]]:
        found = []
        for protocol, by_target in grant.ports.items():
            words = sorted(by_target, key=self._rank)
            found.append((protocol, [word for word in words if word != SELF]))
        return found

    def _rank(self, word: str) -> int:
        """Everything first, then addresses, users, groups, the rest: as the service orders."""
        if word == "*":
            return 0
        if "@" in word:
            return 2
        if word.startswith("group:"):
            return 3
        return 4 if word == INTERNET or self.meeting.targets.names_nodes(word) else 1

    def filters(self, node: Node) -> list[FilterRule]:
        """Return a node's rules; the same list for nodes that only rules for all nodes meet."""
        meeting, numbers = self.meeting, self.meeting.to(node)
        if (
            not numbers <= self.plain
            or (self.answered and not self.answered.isdisjoint(meeting.from_(node)))
            or (node.user is not None and not self.plain_own)
            or (meeting.inner and node in meeting.inner)
            or (is_exit(node) and not self.outward.isdisjoint(numbers))
        ):
            return self.compiled(node)
        key: _Class = (frozenset(numbers), (), None, 0)
        if not numbers <= self.wide or (self.own and node.user is not None):
            # By its tags and owner it is meant by words.
            login = node.user.login if node.user is not None else None
            key = (key[0], tuple(node.tags), login, len(node.addresses))
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = Template(self.compiled(anonymous(node)))
        return template.filled(node.addresses)

    def compiled(self, node: Node) -> list[FilterRule]:
        """Return the same, made for this node alone."""
        made = _Filter(self.claims)
        resolved = self.meeting.resolved
        for number in sorted(self.meeting.to(node)):
            one = resolved[number]
            if one.sources:
                self._ports(one, node, made)
            if one.grant.app and not one.grant.via:
                self._app(one, node, made)
        for number in self.own:
            if not resolved[number].grant.via:
                self._self(resolved[number], node, made)
        for number in sorted(self.meeting.from_(node)):
            self._companions(resolved[number], node, made)
        return made.rules()

    def _ports(self, one: Resolved, node: Node, made: _Filter) -> None:
        for position, (protocol, words) in enumerate(self.orders[one.number]):
            key, by_target = (one.sources, protocol), one.grant.ports[protocol]
            for place, word in enumerate(words):
                for number, ip in self._addresses(word, node, via=bool(one.grant.via)):
                    ends = [_net_ports(ip, ports) for ports in by_target[word]]
                    made.add((one.number, 0, (position, place, number)), key, ends)

    def _addresses(self, word: str, node: Node, *, via: bool) -> list[tuple[int, str]]:
        """Return the addresses of a target that are the node's, or its routes', numbered."""
        if word == "*":
            return [] if via else [(0, "*")]
        targets = self.meeting.targets
        if word == INTERNET:
            return list(enumerate(PUBLIC_FORMS)) if is_exit(node) else []
        if targets.names_nodes(word) and not via and node not in self.meeting.inner:
            return list(enumerate(node.addresses)) if node.name in targets.names(word) else []
        routes = node.route_spans
        # A rule with `via` is for what a router serves, not for itself.
        mine = routes if via else node.spans + routes
        if is_exit(node) and targets.is_outward(word):
            mine = [*mine, *PUBLIC]
        forms = enumerate(targets.destination(word))
        return [(number, form) for number, form in forms if overlap([form], mine)]

    def _owner(self, one: Resolved, node: Node) -> User | None:
        if node.user is None or node.user.login not in one.owners:
            return None
        return node.user

    def _own_sources(self, one: Resolved, owner: User) -> Sources:
        """Return the addresses of a person's devices that have the posture that a rule asks for."""
        if owner.login not in one.own_sources:
            owned = self.meeting.with_posture(one.grant, self.meeting.targets.owned(owner))
            found = sorted(address for node in owned for address in node.addresses)
            one.own_sources[owner.login] = Sources(found)
        return one.own_sources[owner.login]

    def _self(self, one: Resolved, node: Node, made: _Filter) -> None:
        owner = self._owner(one, node)
        if owner is None:
            return
        sources = self._own_sources(one, owner)
        for position, (protocol, by_target) in enumerate(one.grant.ports.items()):
            ends = [_net_ports(a, ports) for a in node.addresses for ports in by_target[SELF]]
            if sources:
                made.add((one.number, 1, (position,)), (sources, protocol), ends)
        app = one.grant.app
        if app and sources:
            rules = [app, *({name: None} for name in companions(one.grant))]
            for capabilities in rules:
                rule = _capabilities(list(sources), node.prefixes, capabilities)
                made.capability(one.number, _OWN, rule)

    def _app(self, one: Resolved, node: Node, made: _Filter) -> None:
        ends = self._own_prefixes(node, self.meeting.forms(one.words))
        ends += self._served_prefixes(node, one.words)
        if ends:  # even if nobody is meant, as the service does
            rule = _capabilities(list(one.sources), ends, one.grant.app)
            made.capability(one.number, _GIVEN, rule)

    def _companions(self, one: Resolved, node: Node, made: _Filter) -> None:
        """Tell the sources that the targets may answer them: the rule turned round."""
        names = () if one.grant.via else companions(one.grant)
        if not names:
            return
        mine = self._own_prefixes(node, one.sources)
        if not self.meeting.asks_posture(one.grant):
            mine += self._served_prefixes(node, one.grant.sources)
        targets = self.meeting.targets
        back = sorted({ip for word in one.words for ip in targets.source(word)})
        if mine:  # even if nobody is meant, as above
            for name in names:
                rule = _capabilities(back, mine, {name: None})
                made.capability(one.number, _ANSWER, rule)

    def _served_prefixes(self, node: Node, words: list[str]) -> list[str]:
        """Return words that are addresses behind a router, whole, as the service tells them."""
        if not node.routes:
            return []
        targets = self.meeting.targets
        forms = self.meeting.forms(
            [w for w in words if w not in ("*", DANGER_ALL) and not targets.names_nodes(w)]
        )
        return [
            str(network)
            for form in forms
            if overlap([form], node.route_spans)
            for network in networks_of(form)
        ]

    def _own_prefixes(self, node: Node, forms: list[str] | tuple[str, ...]) -> list[str]:
        pairs = zip(node.prefixes, node.spans, strict=True)
        return [prefix for prefix, span in pairs if overlap(forms, [span])]


def companions(grant: Grant) -> list[str]:
    """Return the capabilities that the sources of a grant are told of, for its own."""
    return [_COMPANIONS[name] for name in _COMPANIONS if name in grant.app]


def _capabilities(sources: list[str], ends: list[str], app: dict[str, Any]) -> FilterRule:
    return FilterRule(src_ips=sources, cap_grant=[CapGrant(dsts=ends, cap_map=app)])
