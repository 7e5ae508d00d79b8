"""Operations on the network as a whole: its settings, and the log of what was changed."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

import msgspec

from warren.coordinator.api import shapes
from warren.coordinator.api.operation import Call, Operation
from warren.coordinator.delta import Delta
from warren.coordinator.records import AuditRecord
from warren.coordinator.refusal import Refused
from warren.coordinator.settings import (
    APPROVE_MACHINES,
    APPROVE_USERS,
    KEY_EXPIRY_DAYS,
    POLICY_ELSEWHERE,
    POLICY_LINK,
    approves_users,
    in_force,
)
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import AuditQuestion

MAX_ENTRIES = 1000
_KEY_DAYS = range(1, 181)
_NO_EXPIRY = 0
_LINK = re.compile(r"(https?://[!-~]{1,490})?")


async def settings(call: Call) -> shapes.TailnetSettings:
    """Return the settings. What this server does not have is off."""
    now = in_force(call.context.settings, call.snapshot.settings)
    days = now.key_expiry.days if now.key_expiry else _NO_EXPIRY
    return shapes.TailnetSettings(
        acls_externally_managed_on=call.snapshot.settings.get(POLICY_ELSEWHERE) == "true",
        acls_external_link=call.snapshot.settings.get(POLICY_LINK, ""),
        devices_approval_on=now.approve_machines,
        devices_key_duration_days=days,
        users_approval_on=approves_users(call.snapshot.settings),
    )


async def change_settings(call: Call) -> shapes.TailnetSettings:
    """Change settings; what is left out stays. What this server does not have stays off."""
    wish: shapes.SettingsPatch = call.body
    before = await settings(call)
    chosen: dict[str, str] = {}
    for name in wish.__struct_fields__:
        value = getattr(wish, name)
        if value is None or value == getattr(before, name):
            continue
        if name == "devices_approval_on":
            chosen[APPROVE_MACHINES] = "true" if value else "false"
        elif name == "users_approval_on":
            chosen[APPROVE_USERS] = "true" if value else "false"
        elif name == "acls_externally_managed_on":
            chosen[POLICY_ELSEWHERE] = "true" if value else "false"
        elif name == "acls_external_link":
            if not _LINK.fullmatch(value):
                raise Refused("aclsExternalLink is an https:// URL of at most 500 characters")
            chosen[POLICY_LINK] = value
        elif name == "devices_key_duration_days":
            if value not in _KEY_DAYS:
                raise Refused("devicesKeyDurationDays is between 1 and 180")
            chosen[KEY_EXPIRY_DAYS] = str(value)
        else:
            wire = msgspec.structs.fields(shapes.SettingsPatch)
            named = next(field.encode_name for field in wire if field.name == name)
            raise Refused(f"this server does not offer {named}")

    def decide(snapshot: Snapshot) -> tuple[Delta | None, None]:
        return (Delta(settings=chosen) if chosen else None), None

    await call.commit(decide)
    return await settings(call)


class _Period(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_ENTRIES)] = MAX_ENTRIES
    before: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    start: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    end: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


async def configuration_log(call: Call) -> shapes.Logs:
    """Return what was changed from `start` to `end`, oldest first: the newest 1000 of it.

    `limit` for fewer; `before`: only entries older than the one with that `eventGroupID`, so that
    all can be read in parts.
    """
    try:
        period = msgspec.convert(dict(call.query), _Period, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(
            f"start and end are times like 2026-01-31T00:00:00Z, limit and before numbers: {error}"
        ) from None
    question = AuditQuestion(period.limit, period.before, period.start, period.end)
    found = await call.context.registry.history(question)
    return shapes.Logs(
        tailnet_id=call.context.settings.domain, logs=[_entry(entry) for entry in reversed(found)]
    )


def _entry(entry: AuditRecord) -> shapes.LogEntry:
    def told(value: dict[str, Any] | None) -> Any:
        return value if value is not None else ""

    return shapes.LogEntry(
        event_group_id=str(entry.id),
        event_time=entry.wall,
        origin=entry.origin,
        action=entry.action.upper(),
        actor=shapes.LogActor(
            id=entry.actor,
            type=entry.actor_kind.upper(),
            login_name=entry.actor,
            display_name=entry.actor,
        ),
        target=shapes.LogTarget(
            id=entry.target,
            name=entry.target_name,
            type=entry.target_kind.upper().replace(" ", "_"),
        ),
        old=told(entry.before),
        new=told(entry.after),
    )


_SETTINGS = "/tailnet/{tailnet}/settings"
OPERATIONS = (
    Operation(
        "GET",
        _SETTINGS,
        "feature_settings:read",
        "Return settings",
        settings,
        gives=shapes.TailnetSettings,
    ),
    Operation(
        "PATCH",
        _SETTINGS,
        "feature_settings",
        "Change settings",
        change_settings,
        shapes.SettingsPatch,
        shapes.TailnetSettings,
    ),
    Operation(
        "GET",
        "/tailnet/{tailnet}/logging/configuration",
        "logs:configuration:read",
        "Return what was changed",
        configuration_log,
        gives=shapes.Logs,
        query=("start", "end", "limit", "before"),
    ),
)
