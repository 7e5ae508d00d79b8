"""Log-ins by SSH where the policy says `check`: what the machine, and what its user is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from coordinator_server import Running, joined
from coordinator_world import World, machine_key, request
from login_office import PASSWORD, Office
from web_browser import Browser

from warren.coordinator import members, ssh_checks
from warren.coordinator.presence import Presence
from warren.coordinator.refusal import NotFound
from warren.coordinator.store import AuditQuestion
from warren.policy.ssh import MAX_CHECK_S


@pytest.fixture
async def office(tmp_path: Path, world: World) -> AsyncIterator[Office]:
    made = Office(tmp_path, world)
    await made.user("root")
    yield made
    made.store.close()


async def machine(office: Office, browser: Browser, name: str) -> int:
    """Let a machine of a user's in; return its id."""
    answer = await office.registration.register(
        machine_key(name).public(), request(name, hostname=name)
    )
    way = answer.auth_url.removeprefix("http://warren.test")
    await browser.submit(await browser.get(way), way)
    return next(n.id for n in office.registry.snapshot.nodes.values() if n.name == name)


async def ask(office: Office, target: str, by: str = "web") -> dict[str, Any]:
    return await office.checks.action(machine_key(by).public(), target)


def link_of(action: dict[str, Any]) -> str:
    return urlsplit(action["message"].split("Visit: ")[1].strip()).path


def next_of(action: dict[str, Any]) -> str:
    return action["holdAndDelegate"].removeprefix("https://unused")


async def test_a_log_in_is_held_until_its_user_has_logged_in_anew(office: Office) -> None:
    browser, _ = await office.logged_in("ann")
    pc, web = await machine(office, browser, "pc"), await machine(office, browser, "web")
    target = f"{ssh_checks.PATH}{pc}/to/{web}?local_user=dev"
    office.world.clock.advance(60)
    first = await ask(office, target)
    assert first["message"].isascii() and "accept" not in first
    link = link_of(first)
    held = asyncio.get_running_loop().create_task(ask(office, next_of(first)))
    old = await browser.get(link)
    assert "Log in anew" in old and "let me in" not in old, "a session from before is not enough"
    other, _ = await office.logged_in("bob")
    assert (await other.get(link)).status == 403, "only who owns the machine that comes"
    question = await browser.submit(old, "/login", name="ann", password=PASSWORD)
    assert question.url.endswith(link) and "pc" in question
    assert not held.done()
    done = await browser.submit(question, link, answer="yes")
    assert "goes on" in done and (await held)["accept"] is True
    # For the time that the policy says, for this user of that machine alone.
    assert (await ask(office, target))["accept"] is True
    assert "holdAndDelegate" in await ask(office, target.replace("dev", "root"))
    office.world.clock.advance(3601)
    again = await ask(office, target)
    assert link_of(again) != link
    page = await browser.get(link_of(again))
    question = await browser.submit(page, "/login", name="ann", password=PASSWORD)
    await browser.submit(question, link_of(again), answer="no")
    assert (await ask(office, next_of(again)))["reject"] is True
    assert (await browser.get(link_of(again))).status == 404
    # Both answers are in the audit log: who, from where, to where and as whom.
    entries = await office.registry.history(AuditQuestion())
    told = [e for e in entries if e.target_kind == "ssh login"]
    assert [(e.action, e.actor, e.origin, e.target_name) for e in told] == [
        ("reject", "ann", "192.0.2.7", "web"), ("approve", "ann", "192.0.2.7", "web"),
    ]  # fmt: skip
    stable = {node.name: node.stable_id for node in office.registry.snapshot.nodes.values()}
    assert told[0].target == stable["web"]
    assert told[0].after == {"source": stable["pc"], "source_name": "pc", "local_user": "dev"}


async def passed(office: Office, browser: Browser, target: str) -> None:
    link = link_of(await ask(office, target))
    page = await browser.get(link)
    if "Log in anew" in page:
        page = await browser.submit(page, "/login", name="ann", password=PASSWORD)
    await browser.submit(page, link, answer="yes")


async def test_what_was_passed_outlives_a_restart_until_its_time_is_over(
    office: Office, tmp_path: Path, world: World
) -> None:
    browser, _ = await office.logged_in("ann")
    pc, web = await machine(office, browser, "pc"), await machine(office, browser, "web")
    target = f"{ssh_checks.PATH}{pc}/to/{web}?local_user=dev"
    await passed(office, browser, target)
    office.store.close()
    again = Office(tmp_path, world)
    try:
        assert (await ask(again, target))["accept"] is True
        assert "holdAndDelegate" in await ask(again, target.replace("dev", "root"))
        again.check_s = 10.0
        world.clock.advance(10)
        assert "holdAndDelegate" in await ask(again, target), "the policy's time, not a stored one"
        again.check_s = None
        assert (await ask(again, target))["reject"] is True
    finally:
        again.store.close()


async def test_what_was_passed_is_forgotten(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is older than any rule may say, when there are too many, with its user or machine."""
    browser, _ = await office.logged_in("ann")
    pc, web = await machine(office, browser, "pc"), await machine(office, browser, "web")
    target = f"{ssh_checks.PATH}{pc}/to/{web}?local_user="
    monkeypatch.setattr(ssh_checks, "MAX_PASSED", 2)
    registry, clock = office.registry, office.world.clock
    for user in ("a", "b", "b", "c"):
        await passed(office, browser, target + user)
        clock.advance(3601)
    kept = registry.snapshot.ssh_passes
    assert sorted(one.local_user for one in kept.values()) == ["b", "c"]
    assert ssh_checks.outdated(registry.snapshot, clock.wall()) == []
    clock.advance(MAX_CHECK_S - 3601)
    presence = Presence(registry, None, office.world.settings, clock)  # type: ignore[arg-type]
    await presence._forget_ssh_passes()
    assert not registry.snapshot.ssh_passes and not office.store.load().ssh_passes
    await passed(office, browser, target + "d")
    ann = office.known("ann")
    await registry.commit(lambda now: (members.suspend(now, ann, clock.wall()), None))
    assert not registry.snapshot.ssh_passes and not office.store.load().ssh_passes


async def test_nobody_is_let_in_who_cannot_be_written_down(office: Office) -> None:
    browser, _ = await office.logged_in("ann")
    pc, web = await machine(office, browser, "pc"), await machine(office, browser, "web")
    target = f"{ssh_checks.PATH}{pc}/to/{web}?local_user=dev"
    link = link_of(await ask(office, target))
    page = await browser.get(link)
    with office.store._transaction() as connection:
        connection.exec_driver_sql("DROP TABLE audit")
    assert (await browser.submit(page, link, answer="yes")).status == 503
    assert "holdAndDelegate" in await ask(office, target)
    assert not office.registry.snapshot.ssh_passes


async def test_what_may_not_be_asked(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    browser, _ = await office.logged_in("ann")
    pc, web = await machine(office, browser, "pc"), await machine(office, browser, "web")
    target = f"{ssh_checks.PATH}{pc}/to/{web}?local_user=dev"
    odd = (f"{pc}/to/{web}", f"{pc}/to/", "x", f"999/to/{web}?local_user=dev", f"-1/to/{web}",
           f"{pc}/to/{web}?local_user=" + "x" * 65, f"{pc}/to/{web}?" + "a&" * 20,
           "9" * 5000 + f"/to/{web}?local_user=dev", f"²/to/{web}?local_user=dev")  # fmt: skip
    for text in odd:
        with pytest.raises(NotFound):
            await ask(office, ssh_checks.PATH + text)
    with pytest.raises(NotFound):
        await ask(office, target, by="pc")
    monkeypatch.setattr(ssh_checks, "WAIT_S", 0.01)
    first = await ask(office, target)
    assert await ask(office, next_of(first)) == {"holdAndDelegate": first["holdAndDelegate"]}
    for _ in range(ssh_checks.MAX_WAITING_OF_ONE):
        last = await ask(office, target)
    assert last["reject"] is True and "Too many" in last["message"]
    office.world.clock.advance(ssh_checks.LIFE_S - 0.001)
    assert "Nobody has answered" in (await ask(office, next_of(first)))["message"]
    office.check_s = None
    assert (await ask(office, target))["reject"] is True


async def test_over_noise_by_the_policy_in_force(tmp_path: Path) -> None:
    running = Running(tmp_path)
    await running.start()
    try:
        async with joined(running, "pc", "web") as (pc, web):
            ids = {node.name: node.id for node in running.server._registry.snapshot.nodes.values()}
            target = f"{ssh_checks.PATH}{ids['pc']}/to/{ids['web']}?local_user="
            rule = {"action": "check", "src": ["autogroup:member"], "dst": ["autogroup:self"],
                    "users": ["autogroup:nonroot"], "checkPeriod": "1h"}  # fmt: skip
            policy = json.dumps({"ssh": [rule], "grants": []})
            await running.admin(lambda client: client.set_policy(policy, "ann", None))
            status, body = await web.call("GET", target + "dev")
            assert status == 200 and "holdAndDelegate" in json.loads(body)
            assert json.loads((await web.call("GET", target + "root"))[1])["reject"] is True
            assert (await pc.call("GET", target + "dev"))[0] == 404
            async with httpx.AsyncClient() as client:
                link = link_of(json.loads(body))
                page = await client.get(f"http://127.0.0.1:{running.http}{link}")
                assert page.status_code == 200 and "Log in anew" in page.text
    finally:
        await running.stop()
