"""Whoever guesses is slowed, by address and by account, and logged: auth keys, log-in names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from coordinator_world import World, machine_key, request
from login_office import PASSWORD, Office
from structlog.testing import capture_logs

from warren.coordinator.auth import authkeys
from warren.coordinator.delta import Delta
from warren.coordinator.login import visits


@pytest.fixture
async def office(tmp_path: Path, world: World) -> AsyncIterator[Office]:
    made = Office(tmp_path, world)
    await made.user("root")
    yield made
    made.store.close()


async def test_auth_keys_are_not_guessed_for_ever(office: Office) -> None:
    wall, entropy = office.world.clock.wall(), office.world.entropy
    text, record = authkeys.mint(
        user_id=office.known("root").id, wall=wall, entropy=entropy, life=None, reusable=True
    )
    await office.registry.commit(lambda now: (Delta(auth_keys=(record,)), None))

    async def join(name: str, key: str, origin: str) -> str:
        asked = request(name, auth_key=key, hostname=name)
        return (await office.registration.register(machine_key(name).public(), asked, origin)).error

    assert await join("first", text, "192.0.2.7") == ""
    guess = f"warren-auth-{record.id}-guess"
    with capture_logs() as told:
        errors = [await join(f"m{n}", guess, "192.0.2.7") for n in range(30)]
        assert all("not known here" in error for error in errors)
        assert "too many wrong auth keys" in await join("m30", guess, "192.0.2.7")
    lines = [line for line in told if line["event"] == "an auth key was refused"]
    assert len(lines) == 30 and lines[0]["address"] == "192.0.2.7"
    assert "guess" not in str(lines)
    assert "too many" in await join("second", text, "192.0.2.7"), "also a good one"
    assert await join("first", text, "192.0.2.7") == "", "a machine that is known needs none"
    assert await join("second", text, "192.0.2.8") == ""
    office.world.clock.advance(6)
    assert await join("third", text, "192.0.2.7") == ""

    for number in range(30):
        await join(f"v{number}", guess, f"2001:db8::{number}")
    assert "too many" in await join("v30", guess, "2001:db8::ffff"), "of one network"


async def test_keys_that_were_good_once_are_no_guesses(office: Office) -> None:
    text, record = authkeys.mint(
        user_id=office.known("root").id, wall=office.world.clock.wall(),
        entropy=office.world.entropy, life=None,
    )  # fmt: skip
    await office.registry.commit(lambda now: (Delta(auth_keys=(record,)), None))
    for number in range(40):
        asked = request(f"n{number}", auth_key=text)
        answer = await office.registration.register(
            machine_key(f"m{number}").public(), asked, "192.0.2.7"
        )
        assert "too many" not in answer.error


async def test_a_user_is_one_in_whichever_way_their_name_is_written(office: Office) -> None:
    await office.logged_in("ann@bücher.example")
    spelled = (
        "ann@bücher.example", "ANN@bücher.example", "ann@xn--bcher-kva.example",
        "Ann@XN--BCHER-KVA.example", " ann@BÜCHER.example",
    )  # fmt: skip
    statuses = []
    for number in range(12):
        browser = office.browser(f"198.51.100.{number}")
        page = await browser.get("/login")
        name = spelled[number % len(spelled)]
        answer = await browser.submit(page, "/login", name=name, password="guess")
        statuses.append(answer.status)
    assert statuses == [403] * 10 + [429] * 2


async def test_many_made_up_names_do_not_have_a_user_forgotten(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await office.logged_in("ann")
    monkeypatch.setattr("warren.coordinator.api.throttle.MAX_KNOWN", 20)

    async def tries(names: list[str], net: int) -> int:
        """Return the last answer's status; each comes from another address."""
        for number, name in enumerate(names):
            browser = office.browser(f"198.51.{net}.{number}")
            page = await browser.get("/login")
            answer = await browser.submit(page, "/login", name=name, password="guess")
        return answer.status

    assert await tries(["ann"] * 11, 1) == 429
    assert await tries([f"nobody{n}" for n in range(30)], 2) == 403
    assert await tries(["ann"], 3) == 429
    office.world.clock.advance(1 / visits._USER_PER_S)
    browser = office.browser("198.51.4.1")
    page = await browser.get("/login")
    assert "You are ann" in await browser.submit(page, "/login", name="ann", password=PASSWORD)
