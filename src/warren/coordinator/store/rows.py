"""Records to rows and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import msgspec
from sqlalchemy import Integer, String, Table

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
from warren.keys import DiscoPublic, MachinePublic, NodePublic, PublicKey
from warren.netmap.codec import decode_json_untrusted, encode_json
from warren.netmap.node import Hostinfo

Row = Mapping[str, Any]

UNREADABLE = (ValueError, TypeError, msgspec.MsgspecError)
"""What reading a row raises that we cannot have written."""
INT4_MAX = 2**31 - 1

_JSON_COLUMNS = {
    "endpoints",
    "tags",
    "approved_routes",
    "attributes",
    "attribute_expiries",
    "scopes",
    "subscriptions",
    "groups",
    "before",
    "after",
}
_Record = (
    UserRecord
    | NodeRecord
    | AuthKeyRecord
    | PendingRecord
    | PolicyRecord
    | CredentialRecord
    | WebhookRecord
    | DeliveryRecord
    | InviteRecord
    | SshPassRecord
    | AuditRecord
)


def to_row(record: _Record) -> dict[str, Any]:
    """Return the columns of a record: keys and addresses as text, lists and host info as JSON."""
    row = {name: getattr(record, name) for name in record.__struct_fields__}
    row.pop("online", None)
    for name, value in row.items():
        if isinstance(value, PublicKey | IPv4Address | IPv6Address):
            row[name] = str(value)
        elif isinstance(value, Hostinfo):
            row[name] = encode_json(value).decode()
        elif name in _JSON_COLUMNS:
            row[name] = msgspec.json.encode(value).decode()
    return row


def user_from(row: Row) -> UserRecord:
    """Read a row of `users`."""
    groups = tuple(msgspec.json.decode(row["groups"], type=list[str]))
    return UserRecord(**{**row, "groups": groups})


def node_from(row: Row) -> NodeRecord:
    """Read a row of `nodes`. Raises ValueError for a row that we cannot have written."""
    return NodeRecord(
        **{
            **row,
            "machine_key": MachinePublic.parse(row["machine_key"]),
            "node_key": NodePublic.parse(row["node_key"]),
            "disco_key": DiscoPublic.parse(row["disco_key"]),
            "ipv4": IPv4Address(row["ipv4"]),
            "ipv6": IPv6Address(row["ipv6"]),
            "hostinfo": decode_json_untrusted(row["hostinfo"].encode(), Hostinfo),
            "endpoints": tuple(msgspec.json.decode(row["endpoints"], type=list[str])),
            "tags": tuple(msgspec.json.decode(row["tags"], type=list[str])),
            "approved_routes": tuple(msgspec.json.decode(row["approved_routes"], type=list[str])),
            "attributes": msgspec.json.decode(row["attributes"], type=dict[str, Any]),
            "attribute_expiries": msgspec.json.decode(
                row["attribute_expiries"], type=dict[str, datetime]
            ),
        }
    )


def auth_key_from(row: Row) -> AuthKeyRecord:
    """Read a row of `auth_keys`."""
    tags = tuple(msgspec.json.decode(row["tags"], type=list[str]))
    return AuthKeyRecord(**{**row, "tags": tags})


def pending_from(row: Row) -> PendingRecord:
    """Read a row of `pending_registrations`."""
    return PendingRecord(
        **{
            **row,
            "machine_key": MachinePublic.parse(row["machine_key"]),
            "node_key": NodePublic.parse(row["node_key"]),
            "old_node_key": NodePublic.parse(row["old_node_key"]),
            "hostinfo": decode_json_untrusted(row["hostinfo"].encode(), Hostinfo),
        }
    )


def policy_from(row: Row) -> PolicyRecord:
    """Read a row of `policies`."""
    return PolicyRecord(**row)


def credential_from(row: Row) -> CredentialRecord:
    """Read a row of `credentials`."""
    lists = {
        name: tuple(msgspec.json.decode(row[name], type=list[str])) for name in ("scopes", "tags")
    }
    return CredentialRecord(**{**row, **lists})


def webhook_from(row: Row) -> WebhookRecord:
    """Read a row of `webhooks`."""
    subscriptions = tuple(msgspec.json.decode(row["subscriptions"], type=list[str]))
    return WebhookRecord(**{**row, "subscriptions": subscriptions})


def delivery_from(row: Row) -> DeliveryRecord:
    """Read a row of `webhook_deliveries`."""
    return DeliveryRecord(**row)


def invite_from(row: Row) -> InviteRecord:
    """Read a row of `invites`."""
    return InviteRecord(**row)


def ssh_pass_from(row: Row) -> SshPassRecord:
    """Read a row of `ssh_passes`."""
    return SshPassRecord(**row)


def audit_from(row: Row) -> AuditRecord:
    """Read a row of `audit`."""
    told = {name: msgspec.json.decode(row[name]) for name in ("before", "after")}
    return AuditRecord(**{**row, **told})


def fitting(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """Cut what came from outside to what a column takes: SQLite would take all, others refuse."""
    for column in table.columns:
        value = row.get(column.name)
        if isinstance(value, str) and isinstance(column.type, String):
            row[column.name] = value.replace("\0", "\ufffd")[: column.type.length]
        elif isinstance(column.type, Integer) and isinstance(value, int):
            row[column.name] = max(-INT4_MAX, min(value, INT4_MAX))
    return row
