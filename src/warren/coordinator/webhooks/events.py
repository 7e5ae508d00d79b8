"""What happened, as webhooks tell it: made from a change's delta, and from the time; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from warren.coordinator.delta import Delta
from warren.coordinator.policies import policy_text
from warren.coordinator.records import NodeRecord, UserRecord
from warren.coordinator.snapshot import Snapshot

MANAGEMENT: Final = "categoryTailnetManagement"
MISCONFIGURATIONS: Final = "categoryDeviceMisconfigurations"
TEST: Final = "test"

CATEGORIES: Final[dict[str, frozenset[str]]] = {
    MANAGEMENT: frozenset(
        {
            "nodeCreated",
            "nodeNeedsApproval",
            "nodeApproved",
            "nodeKeyExpiringInOneDay",
            "nodeKeyExpired",
            "nodeDeleted",
            "nodeSigned",
            "nodeNeedsSignature",
            "policyUpdate",
            "userCreated",
            "userNeedsApproval",
            "userSuspended",
            "userRestored",
            "userDeleted",
            "userApproved",
            "userRoleUpdated",
        }
    ),
    MISCONFIGURATIONS: frozenset(
        {"subnetIPForwardingNotEnabled", "exitNodeIPForwardingNotEnabled"}
    ),
}
KINDS: Final = frozenset().union(*CATEGORIES.values())
"""All that may be subscribed to; some of it never happens on this server."""

SOON: Final = timedelta(days=1)
_MAX_POLICY_CHARACTERS = 1 << 16


class Event(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One event. `data` has what its kind tells beside the sentence."""

    type: str
    timestamp: datetime
    message: str
    data: Mapping[str, Any] = {}


def subscribed(subscriptions: tuple[str, ...], kind: str) -> bool:
    """Whether who subscribed to these is told of an event of that kind."""
    return kind == TEST or any(
        kind == one or kind in CATEGORIES.get(one, ()) for one in subscriptions
    )


def events_of(before: Snapshot, delta: Delta, actor: str, wall: datetime) -> Iterator[Event]:
    """Return what a change is told as. actor: whose change it is."""

    def event(kind: str, message: str, data: Mapping[str, Any]) -> Event:
        return Event(kind, wall, message, {**data, "actor": actor})

    users = before.users
    if delta.users:
        users = {**users, **{user.id: user for user in delta.users}}
    for node in delta.nodes:
        old = before.nodes.get(node.id)
        for kind, what in _of_node(old, node):
            yield event(kind, f"Node {node.name} {what}", _node(node, users))
    for node_id in delta.removed_nodes:
        if gone := before.nodes.get(node_id):
            yield event("nodeDeleted", f"Node {gone.name} deleted", _node(gone, users))
    for pending in delta.pending:
        if pending.id not in before.pending and not pending.rejected:
            name = pending.hostinfo.hostname
            data = {"nodeID": pending.id, "deviceName": name, "managedBy": ""}
            yield event("nodeNeedsApproval", f"Node {name} waits for approval", data)
    for policy in delta.policies:
        data = {"newPolicy": policy.text, "oldPolicy": policy_text(before)}
        if sum(map(len, data.values())) > _MAX_POLICY_CHARACTERS:
            data = {}  # they can be read over the API
        yield event("policyUpdate", "Tailnet policy file updated", data)
    for user in delta.users:
        known = before.users.get(user.id)
        if known is None:
            yield event("userCreated", f"User {user.name} created", _user(user))
            if not user.approved:
                yield event("userNeedsApproval", f"User {user.name} needs approval", _user(user))
            continue
        if user.approved and not known.approved:
            yield event("userApproved", f"User {user.name} approved", _user(user))
        if known.suspended != user.suspended:
            kind, what = (
                ("userSuspended", "suspended") if user.suspended else ("userRestored", "restored")
            )
            yield event(kind, f"User {user.name} {what}", _user(user))
        if known.role != user.role:
            roles = {"oldRoles": [known.role], "newRoles": [user.role]}
            told = {**_user(user), **roles}
            yield event("userRoleUpdated", f"Role of user {user.name} updated", told)
    for user_id in delta.removed_users:
        if left := before.users.get(user_id):
            yield event("userDeleted", f"User {left.name} deleted", _user(left))


def expiries(snapshot: Snapshot, since: datetime, until: datetime) -> Iterator[Event]:
    """Return the events of keys whose time came after `since`, up to `until`, or does in a day."""
    for node in snapshot.nodes.values():
        if node.key_expiry is None:
            continue
        for kind, when, what in (
            ("nodeKeyExpiringInOneDay", node.key_expiry - SOON, "expires in one day"),
            ("nodeKeyExpired", node.key_expiry, "has expired"),
        ):
            if since < when <= until:
                message = f"The key of node {node.name} {what}"
                yield Event(kind, until, message, _node(node, snapshot.users))


def _of_node(old: NodeRecord | None, new: NodeRecord) -> Iterator[tuple[str, str]]:
    if old is None:
        yield "nodeCreated", "created"
        if not new.authorized:
            yield "nodeNeedsApproval", "needs approval"
        return
    if new.authorized is not old.authorized:
        if new.authorized:
            yield "nodeApproved", "approved"
        else:
            yield "nodeNeedsApproval", "needs approval"


def _node(node: NodeRecord, users: Mapping[int, UserRecord]) -> dict[str, str]:
    owner = users.get(node.user_id)
    data = {
        "nodeID": node.stable_id,
        "deviceName": node.name,
        "managedBy": ", ".join(node.tags) or (owner.name if owner else ""),
    }
    if node.key_expiry is not None:
        data["expiration"] = node.key_expiry.strftime("%Y-%m-%dT%H:%M:%SZ")
    return data


def _user(user: UserRecord) -> dict[str, Any]:
    return {"user": user.name}
