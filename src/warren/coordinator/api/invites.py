"""Operations on invitations of people: one-time links with which they first log in."""

from __future__ import annotations

from datetime import timedelta

from warren.coordinator.api import shapes
from warren.coordinator.api.operation import Call, NotOffered, NotPermitted, Operation
from warren.coordinator.api.people import check_manageable
from warren.coordinator.delta import Delta
from warren.coordinator.login import invites
from warren.coordinator.names import is_user_name
from warren.coordinator.records import InviteRecord
from warren.coordinator.refusal import Conflict, NotFound, Refused
from warren.coordinator.roles import OWNER, ROLES, covers
from warren.coordinator.snapshot import Snapshot

DEFAULT_LIFE = timedelta(days=3)
MAX_LIFE_S = 90 * 86400
MAX_AT_ONCE = 100


async def listed(call: Call) -> list[shapes.UserInvite]:
    """List invitations that were not taken yet. Their links were told once, when they were made."""
    wall = call.context.clock.wall()
    found = [one for one in call.snapshot.invites.values() if one.expiry > wall]
    ordered = sorted(found, key=lambda one: (one.created, one.id))
    return [_show(call, call.snapshot, one) for one in ordered]


async def one(call: Call) -> shapes.UserInvite:
    """Return an invitation, without its link."""
    return _show(call, call.snapshot, _find(call.snapshot, call.path["invite"]))


async def create(call: Call) -> list[shapes.UserInvite]:
    """Invite people; each is made, with that role, and the answer has the link to give to them.

    `email` is whom they log in as. Nothing is sent there. One who has logged in is not invited.
    """
    wishes: list[shapes.NewUserInvite] = call.body
    if not 1 <= len(wishes) <= MAX_AT_ONCE:
        raise Refused(f"invite between 1 and {MAX_AT_ONCE} people at once")
    wall = call.context.clock.wall()

    async def invite(wish: shapes.NewUserInvite) -> shapes.UserInvite:
        life = timedelta(seconds=wish.expiry_seconds) if wish.expiry_seconds else DEFAULT_LIFE

        def decide(snapshot: Snapshot) -> tuple[Delta, tuple[Snapshot, str]]:
            _check(call, snapshot, wish)
            delta, _, link = invites.invite(
                snapshot,
                wish.email,
                role=wish.role,
                display_name=wish.display_name,
                wall=wall,
                life=life,
                entropy=call.context.entropy,
            )
            return delta, (snapshot, link)

        _, link = await call.commit(decide)
        record = call.snapshot.invites[link.partition("-")[0]]
        shown = _show(call, call.snapshot, record)
        shown.invite_url = f"{call.context.settings.url}{invites.PATH}{link}"
        return shown

    for wish in wishes:
        # Before any is made: what one is refused for, all are.
        _check(call, call.snapshot, wish)
    return [await invite(wish) for wish in wishes]


async def delete(call: Call) -> object:
    """Take an invitation back: its link opens nothing any more. The user stays."""

    def decide(snapshot: Snapshot) -> tuple[Delta, None]:
        record = _find(snapshot, call.path["invite"])
        check_manageable(call, snapshot, snapshot.users[record.user_id])
        return Delta(removed_invites=(record.id,)), None

    await call.commit(decide)
    return {}


async def resend(call: Call) -> object:
    """Refused: this server sends no mail."""
    _find(call.snapshot, call.path["invite"])
    raise NotOffered("this server sends no mail; invite them anew, and give the link to them")


def _check(call: Call, snapshot: Snapshot, wish: shapes.NewUserInvite) -> None:
    if not is_user_name(wish.email):
        raise Refused(
            f"`email` is {wish.email[:80]!r}; it is the name that they log in as, "
            "an e-mail address or a word"
        )
    if wish.role not in ROLES:
        raise Refused(f"{wish.role[:40]!r} is no role; there are {', '.join(ROLES)}")
    if not 0 <= wish.expiry_seconds <= MAX_LIFE_S:
        raise Refused(f"expirySeconds is between 1 and {MAX_LIFE_S}")
    if wish.role == OWNER:
        raise NotPermitted("nobody is invited as an owner; give them the role afterwards")
    if not covers(call.who.scopes, wish.role):
        raise NotPermitted(f"the role {wish.role[:40]!r} may do more than you")
    user = snapshot.user_named(wish.email)
    if user is not None:
        check_manageable(call, snapshot, user)
        # A link logs whoever opens it in as that user.
        if user.last_login is not None or user.issuer or user.password:
            raise Conflict(f"{user.name} has logged in already")


def _find(snapshot: Snapshot, wanted: str) -> InviteRecord:
    record = snapshot.invites.get(wanted)
    if record is None:
        raise NotFound(f"there is no invitation {wanted[:80]!r}")
    return record


def _show(call: Call, snapshot: Snapshot, record: InviteRecord) -> shapes.UserInvite:
    user = snapshot.users[record.user_id]
    return shapes.UserInvite(
        id=record.id,
        role=user.role,
        tailnet_id=call.context.settings.domain,
        email=user.name,
        expires=record.expiry,
    )


_ALL, _ONE = "/tailnet/{tailnet}/user-invites", "/user-invites/{invite}"
_GIVES = list[shapes.UserInvite]
OPERATIONS = (
    Operation("GET", _ALL, "users:read", "List invitations", listed, gives=_GIVES),
    Operation("POST", _ALL, "users", "Invite people", create, list[shapes.NewUserInvite], _GIVES),
    Operation("GET", _ONE, "users:read", "Return an invitation", one, gives=shapes.UserInvite),
    Operation("DELETE", _ONE, "users", "Take an invitation back", delete),
    Operation("POST", f"{_ONE}/resend", "users", "Not offered: sending it again", resend),
)
