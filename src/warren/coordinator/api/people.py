"""Operations on people."""

from __future__ import annotations

from warren.coordinator import members
from warren.coordinator.api import shapes
from warren.coordinator.api.operation import (
    PAGES,
    Call,
    NotPermitted,
    Operation,
    Page,
    numbered,
    page,
)
from warren.coordinator.delta import Delta
from warren.coordinator.records import NodeRecord, UserRecord
from warren.coordinator.refusal import NotFound
from warren.coordinator.roles import OWNER, covers
from warren.coordinator.snapshot import Snapshot

_ANY = "all"


async def listed(call: Call) -> Page:
    """List people, with `role=` only those of a role; `all` is everyone, as is `type=all`.

    `limit`: no more than so many; the answer's `Link` then leads to the next ones.
    """
    role, kind = call.query.get("role", _ANY), call.query.get("type", _ANY)
    users = sorted(call.snapshot.users.values(), key=lambda user: user.id)
    # Nobody comes from another network: all are members of this one.
    found = [user for user in users if role in (_ANY, user.role) and kind in (_ANY, "member")]
    found, after = page(call.query, found, lambda user: numbered(user.id))
    return Page(shapes.Users(users=[_show(call, user) for user in found]), after)


async def one(call: Call) -> shapes.User:
    """Return a person."""
    return _show(call, _find(call.snapshot, call.path["user"]))


async def set_role(call: Call) -> object:
    """Give a person another role. Only an owner makes or unmakes owners."""

    def decide(snapshot: Snapshot) -> tuple[Delta, None]:
        user = _find(snapshot, call.path["user"])
        _check_other(call, user)
        if OWNER in (user.role, call.body.role) and not _is_owner(call, snapshot):
            raise NotPermitted("only an owner makes another user owner, or a member again")
        for role in (user.role, call.body.role):
            # Who may not do something must not give it away, nor take it from who may.
            if not covers(call.who.scopes, role):
                raise NotPermitted(f"the role {role!r} may do more than you")
        return members.set_role(snapshot, user, call.body.role), None

    await call.commit(decide)
    return {}


async def delete(call: Call) -> object:
    """Remove a person who owns no machines, with their keys."""

    def decide(snapshot: Snapshot) -> tuple[Delta, None]:
        user = _find(snapshot, call.path["user"])
        _check_other(call, user)
        if user.role == OWNER:
            raise NotPermitted("an owner cannot be removed; give them another role first")
        return members.delete_user(snapshot, user.name), None

    await call.commit(decide)
    return {}


async def suspend(call: Call) -> object:
    """Shut a person out: their machines' keys end, and none of theirs gets in again."""
    wall = call.context.clock.wall()

    def decide(snapshot: Snapshot) -> tuple[Delta, None]:
        user = _manageable(call, snapshot)
        _check_other(call, user)
        return members.suspend(snapshot, user, wall), None

    await call.commit(decide)
    return {}


async def restore(call: Call) -> object:
    """Let a suspended person in again; their machines have to log in."""

    def decide(snapshot: Snapshot) -> tuple[Delta, None]:
        return members.restore(_manageable(call, snapshot)), None

    await call.commit(decide)
    return {}


async def approve(call: Call) -> object:
    """Let a person in who waits for it; one who is in already stays so."""

    def decide(snapshot: Snapshot) -> tuple[Delta | None, None]:
        user = _manageable(call, snapshot)
        return (None if user.approved else members.approve_user(user)), None

    await call.commit(decide)
    return {}


def _manageable(call: Call, snapshot: Snapshot) -> UserRecord:
    """Return the user that the path names, who may do no more than who asks."""
    user = _find(snapshot, call.path["user"])
    check_manageable(call, snapshot, user)
    return user


def check_manageable(call: Call, snapshot: Snapshot, user: UserRecord) -> None:
    """Go on only if a user may do no more than who asks. Raises NotPermitted."""
    if user.role == OWNER and not _is_owner(call, snapshot):
        raise NotPermitted("only an owner approves, suspends, restores or invites another")
    if not covers(call.who.scopes, user.role):
        raise NotPermitted(f"the role {user.role!r} may do more than you")


def _check_other(call: Call, user: UserRecord) -> None:
    """Go on only if it is another: nobody shuts themselves out by mistake."""
    if call.who.kind == "user" and user.id == call.who.user_id:
        raise NotPermitted("you cannot do this to yourself; another administrator can")


def _is_owner(call: Call, snapshot: Snapshot) -> bool:
    return call.who.kind == "user" and snapshot.users[call.who.user_id].role == OWNER


def _find(snapshot: Snapshot, wanted: str) -> UserRecord:
    user = snapshot.users.get(int(wanted[:18])) if wanted.isascii() and wanted.isdecimal() else None
    if user is None:
        raise NotFound(f"there is no user {wanted[:80]!r}")
    return user


def _show(call: Call, user: UserRecord) -> shapes.User:
    owned = [
        node for node in call.snapshot.nodes.values() if node.user_id == user.id and not node.tags
    ]
    connected = any(node.online for node in owned)
    seen = [node.last_seen for node in owned if node.last_seen is not None]
    return shapes.User(
        id=str(user.id),
        display_name=user.display_name,
        login_name=user.name,
        tailnet_id=call.context.settings.domain,
        created=user.created,
        role=user.role,
        status=_status(user, owned),
        device_count=len(owned),
        last_seen=max(seen, default=None),
        currently_connected=connected,
        last_login=user.last_login,
        logs_in_by=user.issuer or ("password" if user.password else ""),
        groups=list(user.groups),
    )


def _status(user: UserRecord, owned: list[NodeRecord]) -> str:
    if user.suspended:
        return "suspended"
    if not user.approved:
        return "needs-approval"
    return "active" if owned else "idle"


OPERATIONS = (
    Operation(
        "GET",
        "/tailnet/{tailnet}/users",
        "users:read",
        "List people",
        listed,
        gives=shapes.Users,
        query=("role", "type", *PAGES),
    ),
    Operation("GET", "/users/{user}", "users:read", "Return a person", one, gives=shapes.User),
    Operation("POST", "/users/{user}/role", "users", "Give another role", set_role, shapes.Role),
    Operation("POST", "/users/{user}/approve", "users", "Let a waiting person in", approve),
    Operation("POST", "/users/{user}/suspend", "users", "Shut a person out", suspend),
    Operation("POST", "/users/{user}/restore", "users", "Let a person in again", restore),
    Operation("POST", "/users/{user}/delete", "users", "Remove a person", delete),
)
