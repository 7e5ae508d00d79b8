"""The audit log: who changed what, from where, and what was there before and after; pure.

Entries are made from the delta itself, so that no way of changing something can forget them,
and are written in the transaction that makes the change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import msgspec

from warren.coordinator.delta import Delta
from warren.coordinator.records import AuditRecord, PendingRecord, PolicyRecord
from warren.coordinator.snapshot import Snapshot
from warren.keys import PublicKey

KEPT_ENTRIES = 200_000
"""Older ones go, so that the database does not grow for ever."""

# Of these it is told that there is another, and never what it is.
_SECRET = {"digest", "secret"}
_HIDDEN, _ANOTHER = "(hidden)", "(another)"
# What machines report of themselves every few seconds, and what nobody may read.
_UNTOLD = {
    *_SECRET,
    "password",  # `password_set` says that there is another
    "hostinfo",
    "endpoints",
    "last_seen",
    "online",
    "disco_key",
    "version",
}
_UNTOLD_SETTINGS = ("last_id", "last_ipv4", "webhooks.looked")

Told = dict[str, Any]


class Actor(msgspec.Struct, frozen=True):
    """Who changes something. kind: `user`, `client`, `machine`, `local` or `server`.

    A `local` one is an account of the server's own machine. Only users' names have no space in
    them: machines and programs choose theirs themselves. origin: from where, an address or in
    words; empty for what the server does by itself.
    """

    kind: str
    name: str
    origin: str = ""


SERVER = Actor("server", "warren server")
"""What the program does by itself, such as removing ephemeral machines."""


def entries(
    before: Snapshot, delta: Delta, actor: Actor, wall: datetime
) -> tuple[AuditRecord, ...]:
    """Return one entry for each thing that `delta` makes, changes or removes."""
    found: list[AuditRecord] = []

    def note(kind: str, target: str, name: str, old: Told | None, new: Told | None) -> None:
        if old == new:
            return
        if old is not None and new is not None:
            differing = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
            old = {key: value for key, value in old.items() if key in differing}
            new = {key: value for key, value in new.items() if key in differing}
        found.append(
            AuditRecord(
                wall=wall,
                actor_kind=actor.kind,
                actor=actor.name,
                origin=actor.origin,
                action="delete" if new is None else "create" if old is None else "update",
                target_kind=kind,
                target=target,
                target_name=name,
                before=old,
                after=new,
            )
        )

    for kind, known, records, removed in (
        ("user", before.users, delta.users, delta.removed_users),
        ("machine", before.nodes, delta.nodes, delta.removed_nodes),
        ("auth key", before.auth_keys, delta.auth_keys, delta.removed_auth_keys),
        ("webhook", before.webhooks, delta.webhooks, delta.removed_webhooks),
        ("credential", before.credentials, delta.credentials, delta.removed_credentials),
        ("invite", before.invites, delta.invites, delta.removed_invites),
    ):
        for key, old, new in _pairs(known, records, removed):
            named = (getattr(new or old, field, "") for field in ("name", "description", "url"))
            name = str(next(filter(None, named), ""))
            one, other = _told(old), _told(new)
            if one is not None and other is not None:
                for field in _replaced(old, new):
                    one[field], other[field] = _HIDDEN, _ANOTHER
            note(kind, key, name, one, other)
    for asking in delta.pending:
        # That it asks to join is no change yet, and strangers may do so as often as they like.
        if asking.rejected:
            was_asking = _asking(before.pending.get(asking.id, asking))
            name = asking.hostinfo.hostname
            note("machine request", asking.id, name, was_asking, _asking(asking))
    for record in delta.policies:
        old = None if before.policy is None else _policy(before.policy)
        note("policy", str(record.id), "", old, _policy(record))
    for name, value in delta.settings.items():
        if not name.startswith(_UNTOLD_SETTINGS):
            was = before.settings.get(name)
            note("setting", name, name, None if was is None else {name: was}, {name: value})
    return tuple(found)


def _pairs(
    known: Mapping[Any, Any], records: Iterable[Any], removed: Iterable[Any]
) -> Iterable[tuple[str, Any, Any]]:
    for record in records:
        yield str(record.id), known.get(record.id), record
    for key in removed:
        if key in known:
            yield str(key), known[key], None


def _replaced(old: msgspec.Struct, new: msgspec.Struct) -> set[str]:
    """Return the names of secrets that are others now."""
    return {f for f in _SECRET if getattr(old, f, None) != getattr(new, f, None)}


def _told(record: msgspec.Struct | None) -> Told | None:
    if record is None:
        return None
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    told = {name: value for name, value in fields.items() if name not in _UNTOLD}
    return dict(msgspec.to_builtins(told, enc_hook=_plain))


def _asking(record: PendingRecord) -> Told:
    return {"node_key": str(record.node_key), "rejected": record.rejected}


def _policy(record: PolicyRecord) -> Told:
    # The texts themselves are kept as versions of the policy.
    return {"version": record.id, "etag": record.etag}


def _plain(value: object) -> object:
    if isinstance(value, PublicKey | IPv4Address | IPv6Address):
        return str(value)
    raise NotImplementedError(f"cannot show a {type(value).__name__} in the audit log")
