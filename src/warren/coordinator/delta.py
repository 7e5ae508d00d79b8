"""One decision's effect: what the store writes in one transaction and the snapshot then shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from warren.coordinator.change import NO_CHANGE, Change
from warren.coordinator.records import (
    AuditRecord,
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

KINDS = (
    "users",
    "auth_keys",
    "nodes",
    "pending",
    "policies",
    "credentials",
    "webhooks",
    "deliveries",
    "invites",
    "ssh_passes",
)
"""Kinds of records, as a Delta and a Snapshot name them; what others refer to comes first."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """Records to insert or replace, ids to remove, and the change that others are told."""

    users: tuple[UserRecord, ...] = ()
    nodes: tuple[NodeRecord, ...] = ()
    auth_keys: tuple[AuthKeyRecord, ...] = ()
    pending: tuple[PendingRecord, ...] = ()
    policies: tuple[PolicyRecord, ...] = ()
    credentials: tuple[CredentialRecord, ...] = ()
    webhooks: tuple[WebhookRecord, ...] = ()
    deliveries: tuple[DeliveryRecord, ...] = ()
    invites: tuple[InviteRecord, ...] = ()
    ssh_passes: tuple[SshPassRecord, ...] = ()
    audit: tuple[AuditRecord, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    removed_users: tuple[int, ...] = ()
    removed_nodes: tuple[int, ...] = ()
    removed_auth_keys: tuple[str, ...] = ()
    removed_pending: tuple[str, ...] = ()
    removed_policies: tuple[int, ...] = ()
    removed_credentials: tuple[str, ...] = ()
    removed_webhooks: tuple[str, ...] = ()
    removed_deliveries: tuple[int, ...] = ()
    removed_invites: tuple[str, ...] = ()
    removed_ssh_passes: tuple[str, ...] = ()
    change: Change = NO_CHANGE

    def removed(self, kind: str) -> tuple[Any, ...]:
        """Return the ids of a kind that are to be removed."""
        ids: tuple[Any, ...] = getattr(self, f"removed_{kind}")
        return ids
