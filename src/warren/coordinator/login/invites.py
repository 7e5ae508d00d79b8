"""One-time links: `<url>/invite/<id>-<secret>`. Only the SHA-256 of the secret is kept; pure.

Whoever opens one chooses a password, or logs in by a provider, and is that user from then on.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime, timedelta

from msgspec.structs import replace

from warren.coordinator import members
from warren.coordinator.auth.authkeys import random_text
from warren.coordinator.delta import Delta
from warren.coordinator.records import InviteRecord, UserRecord
from warren.coordinator.refusal import Refused
from warren.coordinator.roles import OWNER, ROLES
from warren.coordinator.snapshot import Snapshot
from warren.edge.entropy import Entropy

PATH = "/invite/"
OWNER_NAME = "admin"
"""A new server's owner: a stand-in, until they log in by a provider that knows their name."""
_ID_LENGTH = 10
_SECRET_LENGTH = 33


def make(
    snapshot: Snapshot,
    user: UserRecord,
    *,
    wall: datetime,
    life: timedelta,
    entropy: Entropy,
    renames: bool = False,
) -> tuple[Delta, str]:
    """Return what makes a link for a user, in place of older ones, and the link's last part."""
    if user.suspended:
        raise Refused(f"the user {user.name} is suspended; restore them first")
    if not user.approved:
        raise Refused(f"the user {user.name} waits for approval; approve them first")
    invite_id, secret = random_text(_ID_LENGTH, entropy), random_text(_SECRET_LENGTH, entropy)
    record = InviteRecord(
        id=invite_id,
        user_id=user.id,
        digest=_digest(secret),
        created=wall,
        expiry=wall + life,
        renames=renames,
    )
    return Delta(
        invites=(record,), removed_invites=links_of(snapshot, user.id)
    ), f"{invite_id}-{secret}"


def invite(
    snapshot: Snapshot,
    name: str,
    *,
    role: str,
    display_name: str,
    wall: datetime,
    life: timedelta,
    entropy: Entropy,
) -> tuple[Delta, UserRecord, str]:
    """Return what makes a link for a user, and them if need be; the user; the link's last part."""
    if role not in ROLES:
        raise Refused(f"{role[:40]!r} is no role; there are {', '.join(ROLES)}")
    user, made = snapshot.user_named(name), Delta()
    if user is None:
        made = members.create_user(snapshot, name, display_name, wall)
        user = replace(made.users[0], role=role)
    # Whoever has logged in keeps the name.
    renames = user.last_login is None and (user.name, user.role) == (OWNER_NAME, OWNER)
    delta, link = make(snapshot, user, wall=wall, life=life, entropy=entropy, renames=renames)
    users = (user,) if made.users else ()
    whole = Delta(**{**delta.__dict__, "users": users, "settings": made.settings})
    return whole, user, link


def find(snapshot: Snapshot, text: str, wall: datetime) -> InviteRecord:
    """Return the invite of a link's last part. Raises Refused, and says nothing of why."""
    invite_id, _, secret = text.partition("-")
    record = snapshot.invites.get(invite_id)
    if (
        record is None
        or not hmac.compare_digest(record.digest, _digest(secret))
        or record.expiry <= wall
    ):
        raise Refused(
            "this link has been used, has expired, or was never given out; ask an administrator "
            "for another"
        )
    members.check_active(snapshot, record.user_id)
    return record


def links_of(snapshot: Snapshot, user_id: int) -> tuple[str, ...]:
    """Return the ids of a user's links: none works any more once one was used."""
    return tuple(invite.id for invite in snapshot.invites.values() if invite.user_id == user_id)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
