"""The whole state at one moment, immutable; a new one replaces it at each change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import IPv4Address
from typing import Any, Self, TypeVar

from warren.coordinator.delta import KINDS, Delta
from warren.coordinator.records import (
    AuthKeyRecord,
    CredentialRecord,
    DeliveryRecord,
    InviteRecord,
    NodeRecord,
    PendingRecord,
    PolicyRecord,
    SshPassRecord,
    UserRecord,
    WebhookRecord,
)
from warren.keys import MachinePublic, NodePublic
from warren.policy.logins import login_key

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True)
class Snapshot:
    """Records by id. Never changed in place."""

    users: Mapping[int, UserRecord] = field(default_factory=dict)
    nodes: Mapping[int, NodeRecord] = field(default_factory=dict)
    auth_keys: Mapping[str, AuthKeyRecord] = field(default_factory=dict)
    pending: Mapping[str, PendingRecord] = field(default_factory=dict)
    policies: Mapping[int, PolicyRecord] = field(default_factory=dict)
    credentials: Mapping[str, CredentialRecord] = field(default_factory=dict)
    webhooks: Mapping[str, WebhookRecord] = field(default_factory=dict)
    deliveries: Mapping[int, DeliveryRecord] = field(default_factory=dict)
    invites: Mapping[str, InviteRecord] = field(default_factory=dict)
    ssh_passes: Mapping[str, SshPassRecord] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def policy(self) -> PolicyRecord | None:
        """Return the policy in force; None: everyone reaches everyone."""
        return self.policies[max(self.policies)] if self.policies else None

    @cached_property
    def _index(self) -> _Index:
        return _Index.of(self.nodes.values())

    def node_with_key(self, key: NodePublic) -> NodeRecord | None:
        """Return the node that has this node key now."""
        found = self._index.by_node_key.get(key)
        return None if found is None else self.nodes[found]

    def nodes_of_machine(self, key: MachinePublic) -> Iterator[NodeRecord]:
        """Return the nodes of one machine: several log-ins may share its key."""
        return (self.nodes[number] for number in self._index.by_machine.get(key, ()))

    def node_named(self, name: str) -> NodeRecord | None:
        """Return the node of this name."""
        found = self._index.by_name.get(name)
        return None if found is None else self.nodes[found]

    @property
    def addresses(self) -> Collection[IPv4Address]:
        """Return the IPv4 addresses of all nodes."""
        return self._index.by_ipv4.keys()

    def user_named(self, name: str) -> UserRecord | None:
        """Return the user with this login name, whatever its case and its domain's form."""
        wanted = login_key(name).casefold()
        users = self.users.values()
        return next((u for u in users if login_key(u.name).casefold() == wanted), None)

    def after(self, delta: Delta) -> Snapshot:
        """Return the state once `delta` is in force."""
        changed: dict[str, Any] = {}
        for kind in KINDS:
            records, removed = getattr(delta, kind), delta.removed(kind)
            if records or removed:
                changed[kind] = _patched(getattr(self, kind), records, removed)
        if delta.settings:
            changed["settings"] = {**self.settings, **delta.settings}
        new = replace(self, **changed)
        # The index is costly on large networks, and most changes leave it as it was.
        if "_index" in self.__dict__:
            gone = [self.nodes[number] for number in delta.removed_nodes if number in self.nodes]
            new.__dict__["_index"] = self._index.after(self.nodes, delta.nodes, gone)
        return new


@dataclass(frozen=True)
class _Index:
    """Ids of nodes by what nodes are looked for by."""

    by_node_key: dict[NodePublic, int]
    by_machine: dict[MachinePublic, tuple[int, ...]]
    by_name: dict[str, int]
    by_ipv4: dict[IPv4Address, int]

    @classmethod
    def of(cls, nodes: Iterable[NodeRecord]) -> Self:
        """Make the index of all nodes."""
        made = cls({}, {}, {}, {})
        for node in nodes:
            made._enter(node)
        return made

    def after(
        self, known: Mapping[int, NodeRecord], changed: Iterable[NodeRecord], gone: list[NodeRecord]
    ) -> _Index:
        """Return the index once nodes changed or went; the same where it does not matter."""
        moved = [node for node in changed if _looked_for(known.get(node.id)) != _looked_for(node)]
        if not (moved or gone):
            return self
        new = _Index(
            dict(self.by_node_key), dict(self.by_machine), dict(self.by_name), dict(self.by_ipv4)
        )
        for node in moved:
            if node.id in known:
                new._leave(known[node.id])
        for node in gone:
            new._leave(node)
        for node in moved:
            new._enter(node)
        return new

    def _enter(self, node: NodeRecord) -> None:
        self.by_node_key[node.node_key] = node.id
        others = self.by_machine.get(node.machine_key, ())
        self.by_machine[node.machine_key] = tuple(sorted((*others, node.id)))
        self.by_name[node.name] = node.id
        self.by_ipv4[node.ipv4] = node.id

    def _leave(self, node: NodeRecord) -> None:
        left = tuple(n for n in self.by_machine.get(node.machine_key, ()) if n != node.id)
        if left:
            self.by_machine[node.machine_key] = left
        else:
            self.by_machine.pop(node.machine_key, None)
        for part, key in (
            (self.by_node_key, node.node_key),
            (self.by_name, node.name),
            (self.by_ipv4, node.ipv4),
        ):
            _drop(part, key, node.id)


def _looked_for(node: NodeRecord | None) -> Any:
    return node and (node.node_key, node.machine_key, node.name, node.ipv4)


def _drop(part: dict[Any, int], key: Any, number: int) -> None:
    if part.get(key) == number:
        del part[key]


def _patched(old: Mapping[_K, _V], records: Any, removed: tuple[Any, ...]) -> dict[_K, _V]:
    # Of a dict of which something went, its own copy is far quicker than a new one.
    new = old.copy() if isinstance(old, dict) else dict(old)
    for key in removed:
        new.pop(key, None)
    for record in records:
        new[record.id] = record
    return new
