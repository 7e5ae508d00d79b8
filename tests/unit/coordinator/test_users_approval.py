"""Users who come by a provider, and wait until an administrator lets them in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from api_office import Office
from coordinator_world import World
from msgspec.structs import replace

from warren.coordinator import members
from warren.coordinator.auth import credentials, registration
from warren.coordinator.auth.credentials import Gate, NotAllowed
from warren.coordinator.delta import Delta
from warren.coordinator.login import accounts, invites
from warren.coordinator.login.claims import Identity
from warren.coordinator.records import UserRecord
from warren.coordinator.refusal import Conflict, Refused
from warren.coordinator.settings import APPROVE_USERS
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import AuditQuestion
from warren.coordinator.webhooks.events import events_of

BOB = Identity("https://login.example", "1", "bob@example.com", "Bob", (), True)


@pytest.fixture
async def office(tmp_path: Path, world: World) -> AsyncIterator[Office]:
    made = Office(tmp_path, world)
    yield made
    made.store.close()


def logged_in(world: World) -> UserRecord:
    delta, user_id = accounts.by_provider(world.snapshot, BOB, world.clock.wall())
    world.apply(delta)
    return world.snapshot.users[user_id]


@pytest.fixture
def bob(world: World) -> UserRecord:
    world.user("owner")
    assert logged_in(world).approved, "unless the settings say otherwise"
    world.apply(members.delete_user(world.snapshot, BOB.name))
    world.apply(Delta(settings={APPROVE_USERS: "true"}))
    return logged_in(world)


def test_nothing_of_theirs_opens_anything_until_then(world: World, bob: UserRecord) -> None:
    assert [event.type for event in events_of(
        Snapshot(), Delta(users=(bob,)), "server", world.clock.wall()
    )] == ["userCreated", "userNeedsApproval"]  # fmt: skip
    assert (bob.approved, bob.role, bob.last_login) == (False, "member", world.clock.wall())
    key, _ = world.auth_key(bob.id)
    assert "waits for" in world.register("m", "n", auth_key=key).response.error
    pending = world.register("m", "n").response.auth_url.rpartition("/")[2]
    for admit in (
        lambda: registration.approve(world.desk(), pending, bob.id, None),
        lambda: registration.join(world.desk(), pending, bob.id),
        lambda: accounts.by_password(world.snapshot, bob.id, world.clock.wall(), "", ""),
        lambda: invites.make(world.snapshot, bob, wall=world.clock.wall(),
                             life=timedelta(days=1), entropy=world.entropy),
    ):  # fmt: skip
        with pytest.raises(Refused, match="waits for"):
            admit()
    text, record = credentials.mint(
        credentials.API, user_id=bob.id, wall=world.clock.wall(), entropy=world.entropy,
        life=timedelta(days=1),
    )  # fmt: skip
    world.apply(Delta(credentials=(record,)))
    with pytest.raises(NotAllowed, match="not approved"):
        Gate(b"secret").principal(text, world.snapshot, world.clock.wall())

    world.apply(members.approve_user(bob))
    assert logged_in(world).approved, "coming again changes nothing of it"
    Gate(b"secret").principal(text, world.snapshot, world.clock.wall())
    registration.join(world.desk(), pending, bob.id)


def test_who_waits_is_no_owner_that_is_left(world: World, bob: UserRecord) -> None:
    world.apply(members.set_role(world.snapshot, bob, "owner"))
    owner = world.snapshot.user_named("owner")
    assert owner is not None
    with pytest.raises(Conflict, match="only owner"):
        members.set_role(world.snapshot, owner, "member")


async def test_by_the_api(office: Office) -> None:
    admin = office.tokens["admin"]
    assert (await office.told("GET", "/tailnet/-/settings"))["usersApprovalOn"] is False
    changed = await office.told("PATCH", "/tailnet/-/settings", json={"usersApprovalOn": True})
    assert changed["usersApprovalOn"] is True
    wall = office.world.clock.wall()
    user_id = await office.registry.commit(lambda now: accounts.by_provider(now, BOB, wall))
    path = f"/users/{user_id}"
    before = office.registry.snapshot
    assert (await office.told("GET", path))["status"] == "needs-approval"
    weak = await office.ask("POST", f"{path}/approve", office.tokens["network-admin"])
    assert weak.status_code == 403
    for _ in range(2):
        await office.told("POST", f"{path}/approve", token=admin)
        assert (await office.told("GET", path))["status"] == "idle"
    entry, *_ = await office.registry.history(AuditQuestion())
    assert (entry.actor, entry.target, entry.after) == ("admin", str(user_id), {"approved": True})
    delta = members.approve_user(before.users[user_id])
    assert [e.type for e in events_of(before, delta, "admin", wall)] == ["userApproved"]
    assert (await office.ask("POST", "/users/999/approve", admin)).status_code == 404

    def owner_waits(now: object) -> tuple[Delta, None]:
        user = replace(office.registry.snapshot.users[user_id], role="owner", approved=False)
        return Delta(users=(user,)), None

    await office.registry.commit(owner_waits)
    above = await office.ask("POST", f"{path}/approve", admin)
    assert above.status_code == 403 and "only an owner" in above.json()["message"]
