"""The whole state at one moment, immutable; a new one replaces it at each change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from warren.coordinator.delta import Delta
from warren.coordinator.records import (
    AuthKeyRecord,
    CredentialRecord,
    DeliveryRecord,
    InviteRecord,
    NodeRecord,
    PendingRecord,
    PolicyRecord,
    UserRecord,
    WebhookRecord,
)
from warren.keys import MachinePublic, NodePublic

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
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def policy(self) -> PolicyRecord | None:
        """Return the policy in force; None: everyone reaches everyone."""
        return self.policies[max(self.policies)] if self.policies else None

    @cached_property
    def _by_node_key(self) -> Mapping[NodePublic, int]:
        return {node.node_key: node.id for node in self.nodes.values()}

    def node_with_key(self, key: NodePublic) -> NodeRecord | None:
        """Return the node that has this node key now."""
        found = self._by_node_key.get(key)
        return None if found is None else self.nodes[found]

    def nodes_of_machine(self, key: MachinePublic) -> Iterator[NodeRecord]:
        """Return the nodes of one machine: several log-ins may share its key."""
        return (node for node in self.nodes.values() if node.machine_key == key)

    def user_named(self, name: str) -> UserRecord | None:
        """Return the user with this login name, whatever its case."""
        wanted = name.casefold()
        return next((u for u in self.users.values() if u.name.casefold() == wanted), None)

    def after(self, delta: Delta) -> Snapshot:
        """Return the state once `delta` is in force."""
        changed: dict[str, Any] = {}
        for name, records, removed in (
            ("users", delta.users, delta.removed_users),
            ("nodes", delta.nodes, delta.removed_nodes),
            ("auth_keys", delta.auth_keys, delta.removed_auth_keys),
            ("pending", delta.pending, delta.removed_pending),
            ("policies", delta.policies, delta.removed_policies),
            ("credentials", delta.credentials, delta.removed_credentials),
            ("webhooks", delta.webhooks, delta.removed_webhooks),
            ("deliveries", delta.deliveries, delta.removed_deliveries),
            ("invites", delta.invites, delta.removed_invites),
        ):
            if records or removed:
                changed[name] = _patched(getattr(self, name), records, removed)
        if delta.settings:
            changed["settings"] = {**self.settings, **delta.settings}
        new = replace(self, **changed)
        same_keys = not delta.removed_nodes and all(self._same_key(node) for node in delta.nodes)
        # The index is costly on large networks and most changes leave it as it was.
        if same_keys and "_by_node_key" in self.__dict__:
            new.__dict__["_by_node_key"] = self._by_node_key
        return new

    def _same_key(self, node: NodeRecord) -> bool:
        old = self.nodes.get(node.id)
        return old is not None and old.node_key == node.node_key


def _patched(old: Mapping[_K, _V], records: Any, removed: tuple[Any, ...]) -> dict[_K, _V]:
    new = dict(old)
    for key in removed:
        new.pop(key, None)
    for record in records:
        new[record.id] = record
    return new
