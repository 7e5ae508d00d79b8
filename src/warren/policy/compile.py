"""From rules to the packet filter of each node, in the form and order of the wire (§12.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from warren.netmap.filterrule import CapGrant, FilterRule, NetPortRange, PortRange
from warren.policy.grants import INTERNET, SELF, Grant
from warren.policy.ports import Ports
from warren.policy.ranges import Span, parse_spans
from warren.policy.targets import Targets
from warren.policy.topology import Node, User

_COMPANIONS = {
    "tailscale.com/cap/drive": "tailscale.com/cap/drive-sharer",
    "tailscale.com/cap/relay": "tailscale.com/cap/relay-target",
}
_Key = tuple[tuple[str, ...], tuple[int, ...]]


_Order = tuple[int, int, int]


@dataclass(slots=True)
class _End:
    """One destination of one rule: where it stands in the policy, and what it lets through."""

    order: _Order
    key: _Key
    ip: str
    ports: list[NetPortRange]

    def covers(self, others: list[Span]) -> bool:
        """Whether it has an address in common with `others`."""
        return self.ip == "*" or covers(parse_spans(self.ip), others)


@dataclass(slots=True)
class _Ready:
    """A grant with its sources resolved."""

    grant: Grant
    number: int
    sources: tuple[str, ...]
    self_users: set[str]
    source_spans: list[Span]
    target_spans: list[Span]


class _Filter:
    """A node's filter in the making: port rules merge by key, capabilities stand alone."""

    def __init__(self, claims: dict[_Key, _Order]) -> None:
        self.claims = claims
        self.ports: dict[_Key, list[tuple[_Order, list[NetPortRange]]]] = {}
        self.alone: list[tuple[_Order, FilterRule]] = []

    def add(self, order: _Order, key: _Key, ends: list[NetPortRange]) -> None:
        self.ports.setdefault(key, []).append((order, ends))

    def capability(self, number: int, rule: FilterRule) -> None:
        self.alone.append(((number, 2, len(self.alone)), rule))

    def rules(self) -> list[FilterRule]:
        """Return the rules, each where its key first stands in the policy."""
        made = list(self.alone)
        for key, parts in self.ports.items():
            parts.sort(key=lambda part: part[0])
            order = min(self.claims.get(key, parts[0][0]), parts[0][0])
            ends = [end for _, found in parts for end in found]
            rule = FilterRule(src_ips=list(key[0]), ip_proto=list(key[1]), dst_ports=ends)
            made.append((order, rule))
        return [rule for _, rule in sorted(made, key=lambda pair: pair[0])]


def _net_ports(ip: str, ports: Ports) -> NetPortRange:
    return NetPortRange(ip=ip, ports=PortRange(first=ports.first, last=ports.last))


def covers(spans: tuple[Span, ...] | list[Span], others: list[Span]) -> bool:
    """Whether any address is in both."""
    return any(one.overlaps(other) for one in spans for other in others)


class Compiler:
    """Makes filters for nodes; work for a node is in proportion to the rules that meet it."""

    def __init__(self, grants: list[Grant], targets: Targets) -> None:
        self.targets = targets
        self.claims: dict[_Key, _Order] = {}
        self.by_address: dict[str, list[_End]] = {}
        self.wide: list[_End] = []
        self.via: list[tuple[set[str], _End]] = []
        ready = [self._resolve(number, grant) for number, grant in enumerate(grants)]
        self.own = [one for one in ready if SELF in one.grant.targets]
        self.apps = [one for one in ready if one.grant.app and not one.grant.via]

    def _resolve(self, number: int, grant: Grant) -> _Ready:
        targets = self.targets
        sources = tuple(sorted({s for word in grant.sources for s in targets.source(word)}))
        if sources:
            self._index(number, grant, sources)
        ready = _Ready(grant, number, sources, set(), [], [])
        if SELF in grant.targets:
            ready.self_users |= {u.login for word in grant.sources for u in targets.users(word)}
        if grant.app:
            words = [word for word in grant.targets if word not in (SELF, INTERNET)]
            ready.source_spans += [s for source in sources for s in parse_spans(source)]
            ready.target_spans += [
                s for word in words for ip in targets.destination(word) for s in parse_spans(ip)
            ]
        return ready

    def _index(self, number: int, grant: Grant, sources: tuple[str, ...]) -> None:
        """Put a grant's destinations where the nodes that they meet find them."""
        position = 0
        for protocol, by_target in grant.ports.items():
            key = (sources, protocol)
            for word, ports in sorted(by_target.items(), key=lambda pair: self._rank(pair[0])):
                if word in (SELF, INTERNET):
                    continue
                if not grant.via:
                    self.claims.setdefault(key, (number, 0, position))
                for ip in self.targets.destination(word):
                    net = [_net_ports(ip, one) for one in ports]
                    end = _End((number, 0, position), key, ip, net)
                    position += 1
                    if grant.via:
                        self.via.append((set(grant.via), end))
                    elif "/" in ip or "-" in ip or ip == "*":
                        self.wide.append(end)
                    else:
                        self.by_address.setdefault(ip, []).append(end)

    def _rank(self, word: str) -> int:
        """Everything first, then addresses, users, groups, the rest: as the service orders."""
        if word == "*":
            return 0
        if "@" in word:
            return 2
        if word.startswith("group:"):
            return 3
        return 4 if self.targets.names_nodes(word) else 1

    def filters(self, node: Node) -> list[FilterRule]:
        """Return a node's rules."""
        made = _Filter(self.claims)
        routes = node.route_spans
        mine = node.spans + routes
        met = [end for address in node.addresses for end in self.by_address.get(address, ())]
        met += [end for end in self.wide if end.covers(mine)]
        if routes:
            met += [
                end
                for address, ends in self.by_address.items()
                if address not in node.addresses and covers(parse_spans(address), routes)
                for end in ends
            ]
            # A rule with `via` is for routers of these tags that serve a route in it.
            tags = set(node.tags)
            met += [end for via, end in self.via if via & tags and end.covers(routes)]
        for end in met:
            made.add(end.order, end.key, end.ports)
        for ready in self.own:
            if not ready.grant.via:
                self._self(ready, node, made)
        for ready in self.apps:
            self._app(ready, node, made)
        return made.rules()

    def _owner(self, ready: _Ready, node: Node) -> User | None:
        if SELF not in ready.grant.targets or node.user is None:
            return None
        return node.user if node.user.login in ready.self_users else None

    def _self(self, ready: _Ready, node: Node, made: _Filter) -> None:
        owner = self._owner(ready, node)
        if owner is None:
            return
        sources = tuple(sorted(a for own in self.targets.owned(owner) for a in own.addresses))
        for position, (protocol, by_target) in enumerate(ready.grant.ports.items()):
            ends = [_net_ports(a, ports) for a in node.addresses for ports in by_target[SELF]]
            made.add((ready.number, 1, position), (sources, protocol), ends)

    def _app(self, ready: _Ready, node: Node, made: _Filter) -> None:
        app = ready.grant.app
        companions = [_COMPANIONS[name] for name in _COMPANIONS if name in app]
        if (owner := self._owner(ready, node)) is not None:
            sources = sorted(a for own in self.targets.owned(owner) for a in own.addresses)
            made.capability(ready.number, _capabilities(sources, node.prefixes, app))
            for name in companions:
                rule = _capabilities(sources, node.prefixes, {name: None})
                made.capability(ready.number, rule)
        ends = [
            prefix
            for prefix, span in zip(node.prefixes, node.spans, strict=True)
            if covers([span], ready.target_spans)
        ]
        if ends:
            made.capability(ready.number, _capabilities(list(ready.sources), ends, app))
        if companions:
            self._companions(ready, node, companions, made)

    def _companions(self, ready: _Ready, node: Node, names: list[str], made: _Filter) -> None:
        """Tell the sources that the targets may answer them: the rule turned round."""
        mine = [
            prefix
            for prefix, span in zip(node.prefixes, node.spans, strict=True)
            if covers([span], ready.source_spans)
        ]
        words = [word for word in ready.grant.targets if word not in (SELF, INTERNET)]
        back = sorted({ip for word in words for ip in self.targets.source(word)})
        if mine and back:
            for name in names:
                made.capability(ready.number, _capabilities(back, mine, {name: None}))


def _capabilities(sources: list[str], ends: list[str], app: dict[str, Any]) -> FilterRule:
    return FilterRule(src_ips=sources, cap_grant=[CapGrant(dsts=ends, cap_map=app)])
