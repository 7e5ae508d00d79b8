"""From rules to the packet filter of each node, in the form and order of the wire (§12.5)."""

from __future__ import annotations

from dataclasses import dataclass, field
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


@dataclass(slots=True)
class _End:
    """One destination in the wire's form, with its ports and what it covers."""

    ip: str
    ports: list[Ports]
    spans: tuple[Span, ...]
    internet: bool = False


@dataclass(slots=True)
class _Ready:
    """A grant with its words resolved."""

    grant: Grant
    sources: tuple[str, ...]
    source_spans: list[Span]
    ends: dict[tuple[int, ...], list[_End]]
    self_users: set[str]
    target_spans: list[Span]
    anything: bool


@dataclass(slots=True)
class _Filter:
    """A node's filter in the making: port rules merge by key, capabilities stand alone."""

    slots: list[FilterRule | _Key] = field(default_factory=list)
    ports: dict[_Key, list[NetPortRange]] = field(default_factory=dict)

    def add(self, key: _Key, ends: list[NetPortRange]) -> None:
        if key not in self.ports:
            self.slots.append(key)
            self.ports[key] = []
        self.ports[key].extend(ends)

    def rules(self) -> list[FilterRule]:
        made = []
        for slot in self.slots:
            if isinstance(slot, FilterRule):
                made.append(slot)
            elif ends := self.ports[slot]:
                made.append(
                    FilterRule(src_ips=list(slot[0]), ip_proto=list(slot[1]), dst_ports=ends)
                )
        return made


def _net_ports(ip: str, ports: Ports) -> NetPortRange:
    return NetPortRange(ip=ip, ports=PortRange(first=ports.first, last=ports.last))


def covers(spans: tuple[Span, ...] | list[Span], others: list[Span]) -> bool:
    """Whether any address is in both."""
    return any(one.overlaps(other) for one in spans for other in others)


class Compiler:
    """Makes filters for nodes; what rules have in common is resolved once."""

    def __init__(self, grants: list[Grant], targets: Targets) -> None:
        self.targets = targets
        self.ready = [self._resolve(grant) for grant in grants]

    def _resolve(self, grant: Grant) -> _Ready:
        targets = self.targets
        sources = tuple(sorted({s for word in grant.sources for s in targets.source(word)}))
        users = {user.login for word in grant.sources for user in targets.users(word)}
        ends = {
            protocol: [
                _End(ip, ports, parse_spans(ip))
                for word, ports in sorted(by_target.items(), key=lambda pair: self._rank(pair[0]))
                if word not in (SELF, INTERNET)
                for ip in targets.destination(word)
            ]
            for protocol, by_target in grant.ports.items()
        }
        words = [word for word in grant.targets if word not in (SELF, INTERNET)]
        return _Ready(
            grant,
            sources,
            [span for source in sources for span in parse_spans(source)],
            ends,
            users,
            [
                span
                for word in words
                for ip in targets.destination(word)
                for span in parse_spans(ip)
            ],
            "*" in words,
        )

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
        made = _Filter()
        routes = node.route_spans
        mine = node.spans + routes
        for ready in self.ready:
            if ready.grant.via:
                self._via(ready, node, routes, made)
                continue
            for protocol, ends in ready.ends.items():
                if ready.sources:
                    covered = [
                        _net_ports(end.ip, ports)
                        for end in ends
                        if end.ip == "*" or covers(end.spans, mine)
                        for ports in end.ports
                    ]
                    made.add((ready.sources, protocol), covered)
            self._self(ready, node, made)
            if ready.grant.app:
                self._app(ready, node, made)
        return made.rules()

    def _via(self, ready: _Ready, node: Node, routes: list[Span], made: _Filter) -> None:
        """Give the rule to routers of these tags that serve a route in it, to no one else."""
        if not ready.sources or not set(ready.grant.via) & set(node.tags):
            return
        for protocol, ends in ready.ends.items():
            covered = [
                _net_ports(end.ip, ports)
                for end in ends
                if covers(end.spans, routes)
                for ports in end.ports
            ]
            made.add((ready.sources, protocol), covered)

    def _owner(self, ready: _Ready, node: Node) -> User | None:
        if SELF not in ready.grant.targets or node.user is None:
            return None
        return node.user if node.user.login in ready.self_users else None

    def _self(self, ready: _Ready, node: Node, made: _Filter) -> None:
        owner = self._owner(ready, node)
        if owner is None:
            return
        sources = tuple(sorted(a for own in self.targets.owned(owner) for a in own.addresses))
        for protocol, by_target in ready.grant.ports.items():
            ends = [_net_ports(a, ports) for a in node.addresses for ports in by_target[SELF]]
            made.add((sources, protocol), ends)

    def _app(self, ready: _Ready, node: Node, made: _Filter) -> None:
        app = ready.grant.app
        companions = [_COMPANIONS[name] for name in _COMPANIONS if name in app]
        if (owner := self._owner(ready, node)) is not None:
            sources = sorted(a for own in self.targets.owned(owner) for a in own.addresses)
            made.slots.append(_capabilities(sources, node.prefixes, app))
            made.slots.extend(
                _capabilities(sources, node.prefixes, {name: None}) for name in companions
            )
        ends = [
            prefix
            for prefix, span in zip(node.prefixes, node.spans, strict=True)
            if ready.anything or covers([span], ready.target_spans)
        ]
        if ends:
            made.slots.append(_capabilities(list(ready.sources), ends, app))
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
            made.slots.extend(_capabilities(back, mine, {name: None}) for name in names)


def _capabilities(sources: list[str], ends: list[str], app: dict[str, Any]) -> FilterRule:
    return FilterRule(src_ips=sources, cap_grant=[CapGrant(dsts=ends, cap_map=app)])
