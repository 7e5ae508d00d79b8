"""The pages of the log-in, asked without a socket: passwords, invites, and what abuse comes to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from coordinator_world import World, machine_key, request
from login_office import PASSWORD, Office
from structlog.testing import capture_logs
from web_browser import Page

from warren.coordinator import members
from warren.coordinator.audit import SERVER
from warren.coordinator.login import invites
from warren.coordinator.login.forms import HOME, way_untrusted
from warren.coordinator.policies import set_policy
from warren.coordinator.store import AuditQuestion


@pytest.fixture
async def office(tmp_path: Path, world: World) -> AsyncIterator[Office]:
    made = Office(tmp_path, world)
    await made.user("root")
    yield made
    made.store.close()


async def test_a_link_makes_a_password_and_works_once(office: Office) -> None:
    link, browser = await office.user("ann"), office.browser()
    page = await browser.get(link)
    assert page.status == 200 and "You are ann (member)" in page
    short = await browser.submit(page, link, new="short")
    assert short.status == 400 and "at least 10" in short and not office.known("ann").password
    same = await browser.submit(page, link, new="x" * 2000)
    assert same.status == 400
    account = await browser.submit(page, link, new=PASSWORD)
    assert account.url.endswith("/account") and "You are ann" in account
    assert office.known("ann").password.startswith("$argon2id$")
    again = await office.browser().get(link)
    assert again.status == 403 and "has been used" in again
    assert (await office.browser().get(link[:-1] + "x")).text == again.text, "no hint"

    await browser.submit(account, "/logout")
    assert (await browser.get("/account")).url.endswith("/login")
    page = await browser.get("/login")
    wrong = await browser.submit(page, "/login", name="ann", password="guess")
    nobody = await browser.submit(page, "/login", name="nobody", password="guess")
    assert (wrong.status, nobody.status) == (403, 403)
    assert wrong.text.replace("ann", "nobody") == nobody.text
    assert "You are ann" in await browser.submit(page, "/login", name="Ann", password=PASSWORD)


async def test_links_expire_and_newer_ones_replace_them(office: Office) -> None:
    link = await office.user("ann")
    world = office.world
    newer = await office.registry.commit(
        lambda now: invites.make(
            now,
            office.known("ann"),
            wall=world.clock.wall(),
            life=timedelta(hours=1),
            entropy=world.entropy,
        )
    )
    assert (await office.browser().get(link)).status == 403
    assert (await office.browser().get(invites.PATH + newer)).status == 200
    world.clock.advance(3601)
    assert (await office.browser().get(invites.PATH + newer)).status == 403


async def test_a_user_lets_a_machine_in(office: Office) -> None:
    browser, _ = await office.logged_in("ann")
    way = await office.waiting("Ann's <b>laptop</b>", request_tags=[])
    stranger = await office.browser().get(way)
    assert "Ann's <b>laptop</b>" in stranger and "<b>laptop" not in stranger.text
    assert "warren admin nodes approve" in stranger
    page = await browser.get(way)
    assert "as a machine of ann" in page
    done = await browser.submit(page, way)
    assert done.status == 200 and "is in the network" in done
    (node,) = office.registry.snapshot.nodes.values()
    assert (node.user_id, node.authorized) == (office.known("ann").id, True)
    assert (await browser.get(way)).status == 404
    (entry, *_) = await office.registry.history(AuditQuestion())
    assert (entry.actor_kind, entry.actor, entry.origin) == ("user", "ann", "192.0.2.7")
    assert (entry.action, entry.target_kind) == ("create", "machine")


async def test_where_administrators_approve_a_log_in_is_not_enough(
    tmp_path: Path, world: World
) -> None:
    world.settings = replace(world.settings, approve_machines=True)
    office = Office(tmp_path, world)
    await office.user("root")
    browser, _ = await office.logged_in("ann")
    way = await office.waiting()
    page = await browser.submit(await browser.get(way), way)
    assert "Nearly there" in page and "warren admin nodes approve" in page
    (node,) = office.registry.snapshot.nodes.values()
    assert not node.authorized and node.user_id == office.known("ann").id
    office.store.close()


async def test_tags_that_the_policy_does_not_give_are_refused(office: Office) -> None:
    browser, _ = await office.logged_in("ann")
    way = await office.waiting(request_tags=["tag:server"])
    refused = await browser.submit(await browser.get(way), way)
    assert refused.status == 403 and "tag:server" in refused
    policy = '{"tagOwners": {"tag:server": ["ann@"]}}'
    await office.registry.commit(
        lambda now: (set_policy(now, policy, "", office.world.clock.wall()), None)
    )
    await browser.submit(await browser.get(way), way)
    (node,) = office.registry.snapshot.nodes.values()
    assert node.tags == ("tag:server",)


async def test_somebody_elses_machine_becomes_another(office: Office) -> None:
    """Ann's machine with Bob's log-in is a machine of Bob's, not Ann's with her address."""
    for number, name in enumerate(("ann", "bob")):
        browser, _ = await office.logged_in(name)
        asked = request(f"n{number}", old=f"n{number - 1}" if number else "")
        answer = await office.registration.register(machine_key("m").public(), asked)
        way = answer.auth_url.removeprefix("http://warren.test")
        await browser.submit(await browser.get(way), way)
    owners = {node.user_id: node for node in office.registry.snapshot.nodes.values()}
    assert owners.keys() == {office.known("ann").id, office.known("bob").id}
    first = owners[office.known("ann").id]
    browser, _ = await office.logged_in("eve")
    page = await browser.get("/login")
    await browser.submit(page, "/login", name="ann", password=PASSWORD)
    answer = await office.registration.register(machine_key("m").public(), request("n9", old="n0"))
    way = answer.auth_url.removeprefix("http://warren.test")
    await browser.submit(await browser.get(way), way)
    again = office.registry.snapshot.nodes[first.id]
    assert (again.ipv4, again.name) == (first.ipv4, first.name)
    assert again.node_key != first.node_key and len(office.registry.snapshot.nodes) == 2


async def test_forms_of_other_sites_do_nothing(office: Office) -> None:
    browser, account = await office.logged_in("ann")
    way = await office.waiting()
    token = account.fields("/logout")["token"]
    eve, _ = await office.logged_in("eve")
    others = (await eve.get("/account")).fields("/logout")["token"]
    posts = [way, "/logout", "/login", "/account/token", "/account/password", "/account/revoke"]
    for target in posts:
        for forged in ("", "x", "é", others):
            answer = await browser.post(target, {"token": forged, "name": "ann"})
            assert answer.status == 403 and "another site" in answer, target
        # A right token is worth nothing without the session that it belongs to.
        assert (await office.browser().post(target, {"token": token})).status == 403
    assert not office.registry.snapshot.nodes
    assert (await browser.get("/account")).status == 200


async def test_a_log_in_never_keeps_the_session_from_before(office: Office) -> None:
    """Whoever planted a session in a browser is not let in by its log-in (fixation)."""
    await office.logged_in("ann")
    victim = office.browser()
    page = await victim.get("/login")
    planted = dict(victim.client.cookies)
    token = page.fields("/login")["token"]
    await victim.submit(page, "/login", name="ann", password=PASSWORD)
    assert dict(victim.client.cookies) != planted
    attacker = office.browser()
    attacker.client.cookies.update(planted)
    assert (await attacker.get("/account")).url.endswith("/login")
    mine = (await victim.get("/account")).fields("/logout")["token"]
    assert mine != token, "forms of before are worth nothing either"


async def test_sessions_end(office: Office) -> None:
    browser, account = await office.logged_in("ann")
    copied = office.browser()
    copied.client.cookies.update(browser.client.cookies)
    assert (await copied.get("/account")).status == 200
    await browser.submit(account, "/logout")
    assert (await copied.get("/account")).url.endswith("/login"), "for both"

    eve, _ = await office.logged_in("eve")
    copied.client.cookies.update(eve.client.cookies)
    page = await eve.get("/login")
    await eve.submit(page, "/login", name="ann", password=PASSWORD)
    assert (await copied.get("/account")).url.endswith("/login"), "it is somebody else's now"

    sessions = [office.browser() for _ in range(3)]
    for one in sessions:
        page = await one.get("/login")
        await one.submit(page, "/login", name="ann", password=PASSWORD)
    office.world.clock.advance(1)
    first, second, third = sessions
    page = await first.get("/account")
    wrong = await first.submit(page, "/account/password", password="guess", new="x" * 12)
    assert wrong.status == 403 and "not your password" in wrong
    page = await first.submit(page, "/account/password", password=PASSWORD, new="new " * 4)
    assert "another password now" in page
    assert (await first.get("/account")).url.endswith("/account")
    assert (await second.get("/account")).url.endswith("/login"), "it had the old password"

    wall = office.world.clock.wall()
    await office.registry.commit(
        lambda now: (members.suspend(now, office.known("ann"), wall), None)
    )
    assert (await first.get("/account")).url.endswith("/login")
    page = await third.get("/login")
    refused = await third.submit(page, "/login", name="ann", password="new " * 4)
    assert refused.status == 403 and "suspended" in refused
    office.world.clock.advance(3601)
    stale = await third.submit(page, "/login", name="ann", password="new " * 4)
    assert "too old" in stale


async def test_a_damaged_cookie_is_none(office: Office) -> None:
    browser, _ = await office.logged_in("ann")
    kept = browser.client.cookies["warren"]
    for bad in (kept[:-1], kept[:-2] + "AA", kept.replace(".", ""), "x" * 5000, "", ".", "é"):
        other = office.browser()
        answer = await other.client.get("/account", headers={"cookie": f"warren={bad}".encode()})
        assert answer.headers["location"] == "/login"


async def test_cookies_are_kept_from_scripts_and_other_sites(tmp_path: Path, world: World) -> None:
    office = Office(tmp_path, world, "https://warren.test")
    answer = (await office.browser().get("/login")).answer
    (cookie,) = answer.headers.get_list("set-cookie")
    assert cookie.startswith("__Host-warren=")
    for part in ("HttpOnly", "Secure", "SameSite=lax", "Path=/"):
        assert part in cookie
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy
    assert "frame-ancestors 'none'" in policy and "form-action 'self'" in policy
    office.store.close()


ELSEWHERE = [
    "https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "/%2f/evil",
    "javascript:alert(1)", "/register/../../x", "/register/a\r\nset-cookie:x=y", "/account?x=//e",
    "/register/a\n", "/account/", "", "/register/é", "/register/" + "a" * 65, "account",
]  # fmt: skip


async def test_a_log_in_leads_only_to_pages_of_ours(office: Office) -> None:
    await office.logged_in("ann")
    for target in ELSEWHERE:
        assert way_untrusted(target) == HOME
        office.world.clock.advance(30)
        browser = office.browser()
        shown = Page(await browser.client.get("/login", params={"to": target}))
        assert shown.fields("/login")["to"] == HOME, target
        answer = await browser.submit(
            shown, "/login", name="ann", password=PASSWORD, to=target, follow=False
        )
        assert (answer.status, answer.answer.headers["location"]) == (303, HOME), target
        assert answer.answer.headers.get_list("set-cookie")[0].startswith("warren=")


async def test_a_log_in_leads_to_the_machine_that_waits(office: Office) -> None:
    await office.logged_in("ann")
    way, browser = await office.waiting(), office.browser()
    page = await browser.get(way)
    page = await browser.submit(page, "/login", name="ann", password=PASSWORD)
    assert page.url.endswith(way) and "Is this your machine?" in page


async def test_odd_names_are_nobodys(office: Office) -> None:
    await office.logged_in("ann")
    browser = office.browser()
    page = await browser.get("/login")
    for name in ("' OR 1=1 --", "x'; DROP TABLE users; --", "<script>", "x" * 3000, "\0", "%s{0}"):
        answer = await browser.submit(page, "/login", name=name, password=PASSWORD)
        assert answer.status == 403 and "are not right" in answer
        assert "<script>" not in answer.text
    assert len(office.registry.snapshot.users) == 2


async def test_guessing_is_slowed_by_address_and_by_user(office: Office) -> None:
    await office.logged_in("ann")
    statuses = []
    with capture_logs() as told:
        for number in range(12):
            browser = office.browser(f"198.51.100.{number}")
            page = await browser.get("/login")
            answer = await browser.submit(page, "/login", name="ann", password="guess")
            statuses.append(answer.status)
    lines = [(line["event"], line["user"], line["address"]) for line in told]
    assert lines.count(("a log-in failed", "'ann'", "198.51.100.3")) == 1 and len(lines) == 12
    assert lines[-1] == ("too many tries", "'ann'", "198.51.100.11")
    assert "guess" not in str(told)
    assert statuses == [403] * 10 + [429] * 2, "for one user, from anywhere"
    assert int(answer.answer.headers["retry-after"]) > 0
    office.world.clock.advance(25)
    assert "You are ann" in await browser.submit(page, "/login", name="ann", password=PASSWORD)

    one = office.browser("2001:db8::1")
    page = await one.get("/login")
    answers = [
        (await one.submit(page, "/login", name=f"user{n}", password="guess")).status
        for n in range(31)
    ]
    assert answers[-1] == 429 and set(answers[:30]) == {403}, "for one address, whoever it tries"
    near = office.browser("2001:db8::ffff")
    assert (await near.get("/invite/guess-guess")).status == 429, "of one network"


async def test_an_api_token_is_made_shown_once_and_revoked(office: Office) -> None:
    browser, account = await office.logged_in("ann")
    assert not any(at == "/account/token" for at, _ in account.forms), "members may do nothing"
    await office.registry.commit(
        lambda now: (members.set_role(now, office.known("ann"), "auditor"), None), SERVER
    )
    page = await browser.get("/account")
    page = await browser.submit(page, "/account/token", description="<i>CI", days="7")
    (record,) = office.registry.snapshot.credentials.values()
    assert f"warren-api-{record.id}-" in page and "<i>CI" in page and "<i>" not in page.text
    assert f"warren-api-{record.id}-" not in await browser.get("/account")
    for days in ("", "1000000", "-1", "7e3"):
        odd = await browser.submit(page, "/account/token", days=days)
        assert odd.status == 403
    eve, _ = await office.logged_in("eve")
    hers = (await eve.get("/account")).fields("/logout")["token"]
    stolen = await eve.post("/account/revoke", {"token": hers, "id": record.id})
    assert stolen.status == 404 and office.registry.snapshot.credentials
    await browser.submit(page, "/account/revoke", id=record.id)
    assert not office.registry.snapshot.credentials


async def test_odd_forms_are_refused_in_a_sentence(office: Office) -> None:
    browser = office.browser()
    await browser.get("/login")
    bodies = [b"\xff\xfe", b"&" * 100, b"a=b&" * 30, b"x" * 20_000, b"token=%ff%fe", b"token=%00"]
    for body in bodies:
        answer = await browser.client.post("/login", content=body)
        assert answer.status_code == 403 and "That did not work" in answer.text, body


async def test_the_log_of_changes_tells_of_log_ins_and_of_no_secret(office: Office) -> None:
    browser, account = await office.logged_in("ann")
    office.world.clock.advance(60)
    await browser.submit(account, "/account/password", password=PASSWORD, new="another password")
    entries = await office.registry.history(AuditQuestion())
    told = str(entries)
    assert "argon2" not in told and PASSWORD not in told and "digest" not in told
    changed = entries[0]
    assert (changed.actor, changed.origin, changed.target_kind) == ("ann", "192.0.2.7", "user")
    assert changed.after is not None and set(changed.after) == {"password_set"}
    login = next(e for e in entries if e.after and "last_login" in e.after and e.action == "update")
    assert login.actor == "ann"
