"""What opens the HTTP API: users' tokens, OAuth clients, and clients' short-lived access tokens.

`warren-api-<id>-<secret>` and `warren-client-<id>-<secret>` are random, and only their SHA-256 is
kept. An access token says itself for whom, for what and until when it is, under our MAC: none is
stored, and all of a client's end with the client.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from warren.coordinator.auth.authkeys import random_text
from warren.coordinator.auth.sealed import BrokenSeal, Seal
from warren.coordinator.names import is_tag
from warren.coordinator.records import CredentialRecord
from warren.coordinator.refusal import Refused
from warren.coordinator.roles import ROLES, allows, common, unknown
from warren.coordinator.snapshot import Snapshot
from warren.edge.entropy import Entropy

API, CLIENT = "api", "client"
PREFIXES = {API: "warren-api-", CLIENT: "warren-client-"}
ACCESS_PREFIX = "warren-access-"
ACCESS_LIFE = timedelta(hours=1)
_ID_LENGTH = 12
_SECRET_LENGTH = 33


class NotAllowed(Exception):
    """The credential is not known, or its time is over. The text is one sentence."""


class Principal(NamedTuple):
    """Who uses the API. kind: `user` or `client`; user_id: whose token or client it is."""

    kind: str
    name: str
    user_id: int
    scopes: frozenset[str]
    tags: tuple[str, ...] = ()
    """A client's: what it makes bears these."""
    credential: str = ""
    """The credential's id, never its secret: a principal may be shown."""


class _Access(msgspec.Struct, array_like=True, frozen=True):
    client: str
    ends: int
    scopes: list[str]


def mint(
    kind: str,
    *,
    user_id: int,
    wall: datetime,
    entropy: Entropy,
    life: timedelta | None,
    scopes: Collection[str] = (),
    tags: Collection[str] = (),
    description: str = "",
) -> tuple[str, CredentialRecord]:
    """Return a new credential's text, shown once, and its record. Raises Refused."""
    _check(scopes, tags)
    key_id, secret = random_text(_ID_LENGTH, entropy), random_text(_SECRET_LENGTH, entropy)
    record = CredentialRecord(
        id=key_id,
        kind=kind,
        user_id=user_id,
        digest=_digest(secret),
        scopes=tuple(sorted(set(scopes))),
        tags=tuple(sorted(set(tags))),
        created=wall,
        expiry=None if life is None else wall + life,
        description=description[:254],
    )
    return f"{PREFIXES[kind]}{key_id}-{secret}", record


def changed(
    record: CredentialRecord, scopes: Collection[str], tags: Collection[str], description: str
) -> CredentialRecord:
    """Return a client's record with other rights; its secret stays. Raises Refused."""
    _check(scopes, tags)
    return replace(
        record,
        scopes=tuple(sorted(set(scopes))),
        tags=tuple(sorted(set(tags))),
        description=description[:254],
    )


def _check(scopes: Collection[str], tags: Collection[str]) -> None:
    if strange := unknown(scopes):
        raise Refused(f"{strange[0]!r} is not a scope")
    for tag in tags:
        if not is_tag(tag):
            raise Refused(f"{tag!r} is not a tag; write it like tag:server")


class Gate:
    """Tells who a credential's bearer is. secret: what access tokens are made under."""

    def __init__(self, secret: bytes) -> None:
        self._seal = Seal(secret)

    def principal(self, text: str, snapshot: Snapshot, wall: datetime) -> Principal:
        """Return who bears a token. Raises NotAllowed."""
        if text.startswith(ACCESS_PREFIX):
            return self._by_access(text, snapshot, wall)
        record = _known(text, API, snapshot, wall)
        user = snapshot.users[record.user_id]
        return Principal(
            "user", user.name, user.id, ROLES.get(user.role, frozenset()), (), record.id
        )

    def grant(
        self, client: str, secret: str, scopes: Collection[str], snapshot: Snapshot, wall: datetime
    ) -> tuple[str, list[str]]:
        """Return an access token for a client, and what it allows (RFC 6749 §4.4).

        scopes: those that are wished for; none: all that the client has. Raises NotAllowed for
        another secret, Refused for scopes that the client does not have.
        """
        record = _known(secret, CLIENT, snapshot, wall)
        if record.id != client:
            raise NotAllowed("the client's id and secret do not belong together")
        wished = sorted(set(scopes) or record.scopes)
        for scope in wished:
            if not allows(record.scopes, scope):
                raise Refused(f"this client may not have the scope {scope!r}")
        access = _Access(record.id, int((wall + ACCESS_LIFE).timestamp()), wished)
        return ACCESS_PREFIX + self._seal.close(access), wished

    def _by_access(self, text: str, snapshot: Snapshot, wall: datetime) -> Principal:
        try:
            access = self._seal.open_untrusted(text.removeprefix(ACCESS_PREFIX), _Access)
        except BrokenSeal:
            raise NotAllowed("the access token is not known here") from None
        record = snapshot.credentials.get(access.client)
        if (
            record is None
            or not record.usable(wall)
            or not snapshot.users[record.user_id].is_active
        ):
            raise NotAllowed("the OAuth client of this access token is gone")
        if access.ends <= wall.timestamp():
            raise NotAllowed("the access token has expired; get a new one")
        # Descriptions are no names: several clients, or a user, may have the same.
        name = f"{record.description or 'client'} ({record.id})"
        # What was taken from the client since counts at once.
        scopes = common(access.scopes, record.scopes)
        return Principal("client", name, record.user_id, scopes, record.tags, record.id)


def _known(text: str, kind: str, snapshot: Snapshot, wall: datetime) -> CredentialRecord:
    """Return the record of a token or a client's secret. Raises NotAllowed."""
    key_id, _, secret = text.strip().removeprefix(PREFIXES[kind]).partition("-")
    record = snapshot.credentials.get(key_id)
    if (
        not text.startswith(PREFIXES[kind])
        or record is None
        or record.kind != kind
        or not hmac.compare_digest(record.digest, _digest(secret))
    ):
        raise NotAllowed("the API key is not known here")
    if not record.usable(wall):
        raise NotAllowed("the API key has expired; make a new one")
    if not snapshot.users[record.user_id].is_active:
        raise NotAllowed("the user of this API key is suspended, or not approved")
    return record


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
