"""Operations on contacts: whom to write to about the network."""

from __future__ import annotations

import re

from warren.coordinator.api import shapes
from warren.coordinator.api.operation import Call, Operation
from warren.coordinator.delta import Delta
from warren.coordinator.refusal import NotFound, Refused
from warren.coordinator.roles import OWNER
from warren.coordinator.snapshot import Snapshot

KINDS = ("account", "support", "security")
_ADDRESS = re.compile(r"[^\s@<>\"]{1,64}@[^\s@<>\"]{1,189}")


async def contacts(call: Call) -> shapes.Contacts:
    """Return whom to write to; until one is set, the first owner's log-in name."""
    return shapes.Contacts(**{kind: _contact(call.snapshot, kind) for kind in KINDS})


async def set_contact(call: Call) -> object:
    """Set whom to write to. Nothing is sent there."""
    kind, email = call.path["contact"], call.body.email
    if kind not in KINDS:
        raise NotFound(f"there is no contact {kind[:40]!r}; there are {', '.join(KINDS)}")
    if email is not None and not _ADDRESS.fullmatch(email):
        raise Refused(f"{email[:80]!r} is not an e-mail address")

    def decide(snapshot: Snapshot) -> tuple[Delta | None, None]:
        return (None if email is None else Delta(settings={_key(kind): email})), None

    await call.commit(decide)
    return {}


def _contact(snapshot: Snapshot, kind: str) -> shapes.Contact:
    owners = sorted(user.id for user in snapshot.users.values() if user.role == OWNER)
    fallback = snapshot.users[owners[0]].name if owners else ""
    return shapes.Contact(email=snapshot.settings.get(_key(kind), fallback))


def _key(kind: str) -> str:
    return f"contact.{kind}"


_PATH = "/tailnet/{tailnet}/contacts"
OPERATIONS = (
    Operation(
        "GET",
        _PATH,
        "account_settings:read",
        "Return contacts",
        contacts,
        gives=shapes.Contacts,
    ),
    Operation(
        "PATCH",
        f"{_PATH}/{{contact}}",
        "account_settings",
        "Set a contact",
        set_contact,
        shapes.NewContact,
    ),
)
