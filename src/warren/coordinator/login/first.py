"""What a new server begins with: its owner's user, their link, a key for a machine; pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from warren.coordinator import members
from warren.coordinator.auth import authkeys
from warren.coordinator.delta import Delta
from warren.coordinator.login import invites
from warren.coordinator.login.invites import OWNER_NAME
from warren.coordinator.roles import OWNER
from warren.coordinator.snapshot import Snapshot
from warren.edge.entropy import Entropy

_LIFE = timedelta(hours=24)


class FirstStart(NamedTuple):
    """join: how a first machine joins. owner: the link that makes who opens it the owner."""

    join: str
    owner: str


def first_start(
    snapshot: Snapshot, url: str, wall: datetime, entropy: Entropy
) -> tuple[Delta | None, FirstStart | None]:
    """Make them if this is the first start, and return what a person is told. url: the server's."""
    if snapshot.settings.get(members.LAST_ID):
        return None, None
    made = members.create_user(snapshot, OWNER_NAME, "", wall)
    (owner,) = made.users
    text, key = authkeys.mint(
        user_id=owner.id,
        wall=wall,
        entropy=entropy,
        life=_LIFE,
        pre_approved=True,
        description="made at the first start",
    )
    invited, link = invites.make(
        snapshot, owner, wall=wall, life=_LIFE, entropy=entropy, renames=True
    )
    delta = Delta(
        users=made.users, auth_keys=(key,), invites=invited.invites, settings=made.settings
    )
    join = f"warren up --server {url} --auth-key {text}"
    return delta, FirstStart(join=join, owner=f"{url}{invites.PATH}{link}")


def unclaimed(snapshot: Snapshot) -> str | None:
    """Return the name of the owner whom nobody has become yet; None where somebody has."""
    owners = [user for user in snapshot.users.values() if user.role == OWNER and user.is_active]
    if any(user.last_login or user.issuer or user.password for user in owners):
        return None
    return min(owners, key=lambda user: user.id).name if owners else None
