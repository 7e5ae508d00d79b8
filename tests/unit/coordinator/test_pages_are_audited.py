"""What people change on the pages of the log-in is in the audit log: every form of the site."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from coordinator_world import World
from login_office import PASSWORD, Office
from starlette.routing import Route
from structlog.testing import capture_logs
from web_browser import Page

from warren.coordinator import members
from warren.coordinator.store import AuditQuestion

NEW = "another " * 3


@pytest.fixture
async def office(tmp_path: Path, world: World) -> AsyncIterator[Office]:
    made = Office(tmp_path, world)
    await made.user("root")
    yield made
    made.store.close()


async def join(office: Office) -> Page:
    browser, _ = await office.logged_in("ann")
    way = await office.waiting()
    return await browser.submit(await browser.get(way), way)


async def log_in(office: Office) -> Page:
    await office.logged_in("ann")
    office.world.clock.advance(1)
    browser = office.browser()
    page = await browser.get("/login")
    return await browser.submit(page, "/login", name="ann", password=PASSWORD)


async def accept(office: Office) -> Page:
    return (await office.logged_in("ann"))[1]


async def make_token(office: Office) -> Page:
    browser, _ = await office.logged_in("ann")
    ann = office.known("ann")
    await office.registry.commit(lambda now: (members.set_role(now, ann, "auditor"), None))
    page = await browser.get("/account")
    return await browser.submit(page, "/account/token", days="7", description="CI")


async def revoke_token(office: Office) -> Page:
    made = await make_token(office)
    browser = office.browser()
    page = await browser.get("/login")
    page = await browser.submit(page, "/login", name="ann", password=PASSWORD)
    del made
    return await browser.submit(page, "/account/revoke")


async def change_password(office: Office) -> Page:
    browser, page = await office.logged_in("ann")
    return await browser.submit(page, "/account/password", password=PASSWORD, new=NEW)


async def log_out(office: Office) -> Page:
    browser, page = await office.logged_in("ann")
    return await browser.submit(page, "/logout")


async def a_link_of_ssh(office: Office) -> Page:
    browser, _ = await office.logged_in("ann")
    return await browser.post("/ssh/nosuch", {})


# What does it, what is noted last, and of what: action, kind, and a field that is told.
FORMS: dict[str, tuple[Callable[[Office], Awaitable[Page]], tuple[str, str, str]]] = {
    "/register/{pending}": (join, ("create", "machine", "name")),
    "/login": (log_in, ("update", "user", "last_login")),
    "/invite/{text}": (accept, ("delete", "invite", "user_id")),
    "/account/token": (make_token, ("create", "credential", "description")),
    "/account/revoke": (revoke_token, ("delete", "credential", "description")),
    "/account/password": (change_password, ("update", "user", "password_set")),
}
# A session is in its cookie; how a check of SSH is noted, `test_ssh_checks` asks.
NOTHING_OF_THESE = {"/logout": log_out, "/ssh/{check}": a_link_of_ssh}


def test_every_form_is_here(office: Office) -> None:
    forms = {
        route.path
        for route in office.app.routes
        if isinstance(route, Route) and "POST" in (route.methods or ())
    }
    assert forms == FORMS.keys() | NOTHING_OF_THESE.keys()


@pytest.mark.parametrize("path", FORMS)
async def test_what_a_form_changes_is_noted(office: Office, path: str) -> None:
    work, (action, kind, field) = FORMS[path]
    with capture_logs() as told:
        page = await work(office)
    assert page.status == 200, page.text
    newest, *older = await office.registry.history(AuditQuestion())
    if newest.action != action:
        newest = older[0]  # a form may change two things
    assert (newest.action, newest.target_kind) == (action, kind)
    assert (newest.actor_kind, newest.actor, newest.origin) == ("user", "ann", "192.0.2.7")
    assert field in ((newest.after if newest.before is None else newest.before) or {})
    entries = str(await office.registry.history(AuditQuestion(limit=1000)))
    for secret in (PASSWORD, NEW, "$argon2", office.known("ann").password):
        assert secret not in entries and secret not in str(told)


@pytest.mark.parametrize("path", NOTHING_OF_THESE)
async def test_what_changes_nothing_is_not(office: Office, path: str) -> None:
    await office.user("eve")
    before = len(await office.registry.history(AuditQuestion(limit=1000)))
    await office.logged_in("bob")
    made = len(await office.registry.history(AuditQuestion(limit=1000))) - before
    await NOTHING_OF_THESE[path](office)
    after = len(await office.registry.history(AuditQuestion(limit=1000)))
    assert after - before == 2 * made, "that Ann was made and has come in is all"
