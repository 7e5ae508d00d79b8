"""Operations on auth keys, API tokens and OAuth clients: one list, as the wire has it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, timedelta

from warren.coordinator.api import shapes
from warren.coordinator.api.operation import PAGES, Call, NotPermitted, Operation, Page, page
from warren.coordinator.auth import authkeys, credentials
from warren.coordinator.delta import Delta
from warren.coordinator.policies import not_owned
from warren.coordinator.records import AuthKeyRecord, CredentialRecord
from warren.coordinator.refusal import NotFound, Refused
from warren.coordinator.roles import allows
from warren.coordinator.snapshot import Snapshot

DEFAULT_LIFE = timedelta(days=90)
MAX_LIFE_S = 90 * 86400
"""Auth keys live no longer, as with the service."""

_SCOPES = {"auth": "auth_keys", "client": "oauth_keys", "api": "api_access_tokens"}


async def listed(call: Call) -> Page:
    """List keys: the caller's own, with `all=true` everybody's.

    `limit`: no more than so many; the answer's `Link` then leads to the next ones.
    """
    everybody = call.query.get("all") == "true" or call.who.kind == "client"
    records: list[AuthKeyRecord | CredentialRecord] = [
        *call.snapshot.auth_keys.values(),
        *call.snapshot.credentials.values(),
    ]
    keys = [
        _show(call, record)
        for record in records
        if (everybody or record.user_id == call.who.user_id)
        and allows(call.who.scopes, f"{_SCOPES[_kind(record)]}:read")
    ]
    shown, after = page(call.query, sorted(keys, key=_place), _place)
    return Page(shapes.Keys(keys=shown), after)


def _place(key: shapes.Key) -> str:
    return f"{key.created.astimezone(UTC).isoformat()} {key.id}"


async def one(call: Call) -> shapes.Key:
    """Return a key, without its secret."""
    record = _find(call.snapshot, call.path["key"])
    call.need(f"{_SCOPES[_kind(record)]}:read")
    return _show(call, record)


async def create(call: Call) -> shapes.Key:
    """Make an auth key or an OAuth client; the answer is the only one that holds its text."""
    new: shapes.NewKey = call.body
    if new.key_type not in ("auth", "client"):
        raise Refused(f"keyType is {new.key_type[:40]!r}; it can be auth or client")
    call.need(_SCOPES[new.key_type])
    if not 0 <= new.expiry_seconds <= MAX_LIFE_S:
        raise Refused(f"expirySeconds is between 1 and {MAX_LIFE_S}")
    life = timedelta(seconds=new.expiry_seconds) if new.expiry_seconds else DEFAULT_LIFE
    return await (_auth_key(call, new, life) if new.key_type == "auth" else _client(call, new))


async def delete(call: Call) -> object:
    """Remove a key. Machines that joined with it stay; a client's access tokens end."""

    def decide(snapshot: Snapshot) -> tuple[Delta, None]:
        record = _find(snapshot, call.path["key"])
        call.need(_SCOPES[_kind(record)])
        if isinstance(record, AuthKeyRecord):
            return Delta(removed_auth_keys=(record.id,)), None
        return Delta(removed_credentials=(record.id,)), None

    await call.commit(decide)
    return {}


async def change(call: Call) -> shapes.Key:
    """Replace what an OAuth client may do, its tags and its description; its secret stays."""
    wish: shapes.NewOAuthClient = call.body
    _may_give(call, wish.scopes, wish.tags or [])

    def decide(snapshot: Snapshot) -> tuple[Delta, CredentialRecord]:
        record = _find(snapshot, call.path["key"])
        call.need(_SCOPES[_kind(record)])
        if not isinstance(record, CredentialRecord) or record.kind != wish.key_type:
            raise Refused("only an OAuth client can be changed; make another key instead")
        new = credentials.changed(record, wish.scopes, wish.tags or [], wish.description)
        return Delta(credentials=(new,)), new

    return _show(call, await call.commit(decide))


def _may_give(call: Call, scopes: Collection[str], tags: Collection[str]) -> None:
    """Go on only if who asks may give an OAuth client all of this."""
    if not scopes:
        raise Refused("an OAuth client needs scopes")
    for scope in scopes:
        if not allows(call.who.scopes, scope):
            raise NotPermitted(f"you cannot give the scope {scope[:80]!r}, as you do not have it")
    if call.who.kind == "client":
        _may_tag(call, tags)


def _may_tag(call: Call, tags: Collection[str]) -> None:
    """Go on only if a client has these tags, or the policy lets its own tags own them."""
    if strange := not_owned(call.snapshot, tags, call.who.tags):
        raise NotPermitted(f"this client may not give out {strange[0][:80]}")


async def _auth_key(call: Call, new: shapes.NewKey, life: timedelta) -> shapes.Key:
    wish, wall = new.capabilities.devices.create, call.context.clock.wall()
    tags = wish.tags or new.tags or []
    if call.who.kind == "client":
        if not tags:
            raise Refused("an OAuth client's auth keys need tags")
        _may_tag(call, tags)

    def decide(snapshot: Snapshot) -> tuple[Delta, tuple[str, AuthKeyRecord]]:
        text, record = authkeys.mint(
            user_id=call.who.user_id,
            wall=wall,
            entropy=call.context.entropy,
            life=life,
            reusable=wish.reusable,
            ephemeral=wish.ephemeral,
            pre_approved=wish.preauthorized,
            tags=tags,
            description=new.description,
        )
        return Delta(auth_keys=(record,)), (text, record)

    text, record = await call.commit(decide)
    shown = _show(call, record)
    shown.key = text
    return shown


async def _client(call: Call, new: shapes.NewKey) -> shapes.Key:
    scopes = new.scopes or []
    _may_give(call, scopes, new.tags or [])
    wall = call.context.clock.wall()

    def decide(snapshot: Snapshot) -> tuple[Delta, tuple[str, CredentialRecord]]:
        text, record = credentials.mint(
            credentials.CLIENT,
            user_id=call.who.user_id,
            wall=wall,
            entropy=call.context.entropy,
            life=None,
            scopes=scopes,
            tags=new.tags or [],
            description=new.description,
        )
        return Delta(credentials=(record,)), (text, record)

    text, record = await call.commit(decide)
    shown = _show(call, record)
    shown.key = text
    return shown


def _find(snapshot: Snapshot, key_id: str) -> AuthKeyRecord | CredentialRecord:
    record = snapshot.auth_keys.get(key_id) or snapshot.credentials.get(key_id)
    if record is None:
        raise NotFound(f"there is no key {key_id[:80]!r}")
    return record


def _kind(record: AuthKeyRecord | CredentialRecord) -> str:
    return "auth" if isinstance(record, AuthKeyRecord) else record.kind


def _show(call: Call, record: AuthKeyRecord | CredentialRecord) -> shapes.Key:
    shown = shapes.Key(
        id=record.id,
        key_type=_kind(record),
        description=record.description,
        created=record.created,
        expires=record.expiry or shapes.NEVER,
        invalid=not record.usable(call.context.clock.wall()),
        user_id=str(record.user_id),
        tags=list(record.tags),
    )
    if record.expiry is not None:
        shown.expiry_seconds = round((record.expiry - record.created).total_seconds())
    if isinstance(record, AuthKeyRecord):
        made = shapes.CreateDevices(
            reusable=record.reusable,
            ephemeral=record.ephemeral,
            preauthorized=record.pre_approved,
            tags=list(record.tags),
        )
        shown.capabilities = shapes.Capabilities(devices=shapes.DeviceCapabilities(create=made))
    else:
        shown.scopes = list(record.scopes)
    return shown


_ONE = "/tailnet/{tailnet}/keys/{key}"
# Each looks itself at the kind of key, and at the scope for that.
OPERATIONS = (
    Operation(
        "GET",
        "/tailnet/{tailnet}/keys",
        "",
        "List keys",
        listed,
        gives=shapes.Keys,
        query=("all", *PAGES),
    ),
    Operation(
        "POST", "/tailnet/{tailnet}/keys", "", "Make a key", create, shapes.NewKey, shapes.Key
    ),
    Operation("GET", _ONE, "", "Return a key", one, gives=shapes.Key),
    Operation("PUT", _ONE, "", "Change an OAuth client", change, shapes.NewOAuthClient, shapes.Key),
    Operation("DELETE", _ONE, "", "Remove a key", delete),
)
