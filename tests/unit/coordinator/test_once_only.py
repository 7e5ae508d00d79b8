"""What opens something once opens it once, also for two who come at the same moment; and passwords
whose hashes were made with other work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from argon2 import PasswordHasher, extract_parameters
from coordinator_world import World, machine_key, request
from login_office import PASSWORD, Office
from msgspec.structs import replace

from warren.coordinator import members
from warren.coordinator.auth import authkeys
from warren.coordinator.delta import Delta
from warren.coordinator.login import accounts, invites
from warren.coordinator.login.claims import Identity
from warren.coordinator.login.first import OWNER_NAME, first_start, unclaimed
from warren.coordinator.refusal import Conflict, Refused
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import AuditQuestion


@pytest.fixture
async def office(tmp_path: Path, world: World) -> AsyncIterator[Office]:
    made = Office(tmp_path, world)
    await made.user("root")
    yield made
    made.store.close()


async def test_a_link_that_several_use_at_once(office: Office) -> None:
    link = await office.user("ann")
    browsers = [office.browser(f"192.0.2.{n}") for n in range(6)]
    pages = [await browser.get(link) for browser in browsers]
    found = await asyncio.gather(
        *(
            browser.submit(page, link, new=f"{PASSWORD} {number}")
            for number, (browser, page) in enumerate(zip(browsers, pages, strict=True))
        )
    )
    assert sorted(page.status for page in found) == [200] + [403] * 5
    (winner,) = (number for number, page in enumerate(found) if page.status == 200)
    for number in range(6):
        browser = office.browser(f"198.51.100.{number}")
        page = await browser.get("/login")
        page = await browser.submit(page, "/login", name="ann", password=f"{PASSWORD} {number}")
        assert (page.status == 200) == (number == winner)


async def test_a_one_off_key_that_several_use_at_once(office: Office) -> None:
    text, record = authkeys.mint(
        user_id=office.known("root").id, wall=office.world.clock.wall(),
        entropy=office.world.entropy, life=timedelta(hours=1),
    )  # fmt: skip
    await office.registry.commit(lambda now: (Delta(auth_keys=(record,)), None))
    answers = await asyncio.gather(
        *(
            office.registration.register(
                machine_key(f"m{n}").public(), request(f"n{n}", auth_key=text, hostname=f"h{n}")
            )
            for n in range(20)
        )
    )
    assert sum(answer.machine_authorized for answer in answers) == 1
    assert sum("has been used" in answer.error for answer in answers) == 19
    assert len(office.registry.snapshot.nodes) == 1
    assert office.registry.snapshot.auth_keys[record.id].uses == 1


async def test_a_machine_that_two_people_let_in_at_once(office: Office) -> None:
    way = await office.waiting()
    people = [await office.logged_in(name) for name in ("ann", "bob")]
    pages = [await browser.get(way) for browser, _ in people]
    done = await asyncio.gather(
        *(browser.submit(page, way) for (browser, _), page in zip(people, pages, strict=True))
    )
    assert sorted(page.status for page in done) == [200, 404]
    assert len(office.registry.snapshot.nodes) == 1


@pytest.mark.parametrize("lost", ["unread", "expired", "taken back"])
def test_another_owners_link_for_one_that_was_lost(world: World, lost: str) -> None:
    delta, first = first_start(
        world.snapshot, "http://warren.test", world.clock.wall(), world.entropy
    )
    world.apply(delta)
    assert first is not None
    old = first.owner.rpartition("/")[2]
    again = first_start(world.snapshot, "http://warren.test", world.clock.wall(), world.entropy)
    assert again == (None, None), "nobody gets another by a restart"
    assert unclaimed(world.snapshot) == OWNER_NAME, "though the server says how to"
    if lost == "expired":
        world.clock.advance(86400)
        with pytest.raises(Refused, match="has expired"):
            invites.find(world.snapshot, old, world.clock.wall())
    elif lost == "taken back":
        world.apply(Delta(removed_invites=tuple(world.snapshot.invites)))
    delta, owner, new = invites.invite(
        world.snapshot, OWNER_NAME, role="member", display_name="",
        wall=world.clock.wall(), life=timedelta(hours=1), entropy=world.entropy,
    )  # fmt: skip
    world.apply(delta)
    assert owner.role == "owner", "whatever role a new user would have got"
    with pytest.raises(Refused, match="ask an administrator"):
        invites.find(world.snapshot, old, world.clock.wall())
    found = invites.find(world.snapshot, new, world.clock.wall())
    ann = Identity("https://login.example", "1", "ann@example.com", "Ann", (), True)
    delta, user_id = accounts.invited_by_provider(world.snapshot, found, ann, world.clock.wall())
    world.apply(delta)
    user = world.snapshot.users[user_id]
    assert (user.role, user.name) == ("owner", "ann@example.com")
    assert unclaimed(world.snapshot) is None
    with pytest.raises(Refused):
        invites.find(world.snapshot, new, world.clock.wall())


def test_the_only_owner_cannot_go(world: World) -> None:
    world.user("ann")
    with pytest.raises(Conflict, match="only owner"):
        members.delete_user(world.snapshot, "ann")
    world.user("bob")
    for refused in (
        lambda ann: members.delete_user(world.snapshot, "ann", with_nodes=True),
        lambda ann: members.suspend(world.snapshot, ann, world.clock.wall()),
        lambda ann: members.set_role(world.snapshot, ann, "admin"),
    ):
        with pytest.raises(Conflict, match="only owner"):
            refused(members.find_user(world.snapshot, "ann"))
    # One who waits for approval, or is suspended, is no owner to leave it to.
    bob = members.find_user(world.snapshot, "bob")
    for fields in ({"approved": False}, {"suspended": True}):
        world.apply(Delta(users=(replace(bob, role="owner", **fields),)))
        with pytest.raises(Conflict, match="only owner"):
            members.delete_user(world.snapshot, "ann")
    world.apply(Delta(users=(replace(bob, role="owner"),)))
    world.apply(members.delete_user(world.snapshot, "ann"))


async def test_two_owners_who_unmake_each_other_at_once(office: Office) -> None:
    await office.user("ann")
    ann = office.known("ann")
    await office.registry.commit(lambda now: (members.set_role(now, ann, "owner"), None))

    async def unmake(name: str) -> None:
        def decide(now: Snapshot) -> tuple[Delta, None]:
            return members.set_role(now, members.find_user(now, name), "member"), None

        await office.registry.commit(decide)

    done = await asyncio.gather(unmake("ann"), unmake("root"), return_exceptions=True)
    assert [type(one) for one in done] == [type(None), Conflict]
    assert [user.role for user in office.registry.snapshot.users.values()].count("owner") == 1


async def test_a_hash_of_other_work_is_made_anew_at_the_next_log_in(office: Office) -> None:
    browser, _ = await office.logged_in("ann")
    today = office.known("ann")
    old = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    dated = replace(today, password=old.hash(PASSWORD))
    await office.registry.commit(lambda now: (Delta(users=(dated,)), None))
    other = office.browser()
    page = await other.get("/login")
    await other.submit(page, "/login", name="ann", password="guess")
    assert office.known("ann").password == dated.password, "not by a wrong one"
    office.world.clock.advance(1)
    page = await other.get("/login")
    assert "You are ann" in await other.submit(page, "/login", name="ann", password=PASSWORD)
    kept = office.known("ann")
    assert extract_parameters(kept.password) == extract_parameters(today.password)
    assert kept.password not in (dated.password, today.password)
    assert kept.password_set == today.password_set
    assert (await browser.get("/account")).status == 200, "it is no other password"
    page = await other.get("/login")
    await other.submit(page, "/login", name="ann", password=PASSWORD)
    assert office.known("ann").password == kept.password, "once is enough"
    assert "$argon2" not in str(await office.registry.history(AuditQuestion()))


async def test_a_password_that_is_changed_during_a_log_in(office: Office) -> None:
    await office.logged_in("ann")
    ann, wall = office.known("ann"), office.world.clock.wall()
    checked = ann.password
    await office.registry.commit(
        lambda now: (accounts.with_password(now, ann.id, "another hash", wall), None)
    )
    with pytest.raises(Refused, match="another password"):
        accounts.by_password(office.registry.snapshot, ann.id, wall, checked, checked)
