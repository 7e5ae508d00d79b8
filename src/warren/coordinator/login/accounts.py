"""Log-ins as decisions: who someone is here, and what is noted of it; pure."""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from warren.coordinator import members
from warren.coordinator.change import NO_CHANGE, Change
from warren.coordinator.delta import Delta
from warren.coordinator.login.claims import Identity
from warren.coordinator.login.invites import links_of
from warren.coordinator.records import InviteRecord, UserRecord
from warren.coordinator.refusal import Refused
from warren.coordinator.roles import MEMBER
from warren.coordinator.settings import approves_users
from warren.coordinator.snapshot import Snapshot


def by_provider(snapshot: Snapshot, identity: Identity, wall: datetime) -> tuple[Delta, int]:
    """Log a person in whom a provider has identified; the first time makes a user of them.

    Where the settings say so, a new user waits for an administrator's approval.

    One who was created here before under the same e-mail address, and has never logged in, is
    taken to be them if the provider vouches for the address. Raises Refused.
    """
    user = known(snapshot, identity)
    if user is not None:
        return _logged_in(snapshot, _renamed(snapshot, user, identity), identity, wall)
    namesake = snapshot.user_named(identity.name)
    if namesake is None:
        made = members.create_user(snapshot, identity.name, identity.display_name, wall)
        # Owners are made by a link or by another owner, never by being the first to come.
        waits = approves_users(snapshot.settings)
        new = replace(made.users[0], role=MEMBER, approved=not waits)
        delta, user_id = _logged_in(snapshot, new, identity, wall)
        return Delta(users=delta.users, settings=made.settings), user_id
    if namesake.issuer or namesake.password or not identity.is_verified_email:
        raise Refused(
            f"there is a user {namesake.name} here already who logs in another way; an "
            "administrator can send them a link: warren admin users invite NAME"
        )
    return _logged_in(snapshot, namesake, identity, wall)


def invited_by_provider(
    snapshot: Snapshot, invite: InviteRecord, identity: Identity, wall: datetime
) -> tuple[Delta, int]:
    """Use a link up: from now on its user is whom the provider has identified. Raises Refused."""
    other = known(snapshot, identity)
    if other is not None and other.id != invite.user_id:
        raise Refused(f"you are {other.name} here already; log out at the provider to be another")
    user = snapshot.users[invite.user_id]
    if invite.renames:
        user = _renamed(snapshot, user, identity)
    return _logged_in(snapshot, user, identity, wall, links_of(snapshot, user.id))


def invited_by_password(
    snapshot: Snapshot, invite: InviteRecord, password: str, wall: datetime
) -> tuple[Delta, int]:
    """Use a link up: its user has this password (its hash) from now on."""
    user = snapshot.users[invite.user_id]
    new = replace(user, password=password, password_set=wall, last_login=wall)
    return Delta(users=(new,), removed_invites=links_of(snapshot, user.id)), user.id


def by_password(
    snapshot: Snapshot, user_id: int, wall: datetime, checked: str, renewed: str
) -> tuple[Delta, int]:
    """Note a log-in whose password was right. Raises Refused.

    checked: the hash that it was the password of. renewed: the hash to keep from now on.
    """
    user = snapshot.users.get(user_id)
    if user is None:
        raise Refused("this user has just been removed")
    if user.password != checked:
        raise Refused("this user has just got another password; log in with that")
    members.check_active(snapshot, user_id)
    return Delta(users=(replace(user, password=renewed, last_login=wall),)), user_id


def with_password(snapshot: Snapshot, user_id: int, password: str, wall: datetime) -> Delta:
    """Give a user another password (its hash). Sessions from before end by it."""
    members.check_active(snapshot, user_id)
    return Delta(
        users=(replace(snapshot.users[user_id], password=password, password_set=wall),),
        removed_invites=links_of(snapshot, user_id),
    )


def known(snapshot: Snapshot, identity: Identity) -> UserRecord | None:
    """Return the user who logs in as this person of this provider, if there is one."""
    wanted = (identity.issuer, identity.subject)
    return next((u for u in snapshot.users.values() if (u.issuer, u.subject) == wanted), None)


def _renamed(snapshot: Snapshot, user: UserRecord, identity: Identity) -> UserRecord:
    """Follow a name that the provider changed, unless another has it here."""
    namesake = snapshot.user_named(identity.name)
    taken = namesake is not None and namesake.id != user.id
    return user if taken else replace(user, name=identity.name)


def _logged_in(
    snapshot: Snapshot,
    user: UserRecord,
    identity: Identity,
    wall: datetime,
    used: tuple[str, ...] = (),
) -> tuple[Delta, int]:
    if user.suspended:
        members.check_active(snapshot, user.id)
    new = replace(
        user,
        issuer=identity.issuer,
        subject=identity.subject,
        groups=identity.groups,
        display_name=identity.display_name or user.display_name,
        last_login=wall,
    )
    old = snapshot.users.get(user.id)
    told = old is not None and (old.name, old.display_name, old.groups) != (
        new.name,
        new.display_name,
        new.groups,
    )
    change = Change(everything=True, why=frozenset({"log-in"})) if told else NO_CHANGE
    return Delta(users=(new,), removed_invites=used, change=change), user.id
