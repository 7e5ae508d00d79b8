"""Every page of the log-in, for whoever asks: made from the site's own routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from coordinator_world import World
from login_office import PASSWORD, Office
from msgspec.structs import replace
from starlette.routing import Route
from web_browser import Browser

from warren.coordinator.delta import Delta
from warren.coordinator.login.sessions import Flow
from warren.coordinator.roles import ROLES


class Provider:
    config = SimpleNamespace(name="company", label="Company")

    async def begin(self, to: str, ends: int, *, anew: bool = False) -> tuple[str, Flow]:
        return f"https://a.example/?anew={anew}", Flow(
            "company", "s", "n", "v", to, ends, float(anew)
        )


@pytest.fixture
async def office(tmp_path: Path, world: World) -> AsyncIterator[Office]:
    made = Office(tmp_path, world, providers={"company": Provider()})
    await made.user("root")
    yield made
    made.store.close()


def places(office: Office, method: str) -> list[str]:
    """Return the pages of a method, with what is nowhere in their places."""
    found = [
        route.path.replace("{provider}", "nobody").format(pending="no", text="no", check="no")
        for route in office.app.routes
        if isinstance(route, Route) and method in (route.methods or ())
    ]
    assert len(found) > 5
    return found


async def visitors(office: Office, world: World) -> dict[str, Browser]:
    """Return a browser of nobody, of every role, and of one who was suspended afterwards."""
    found = {"nobody": office.browser("192.0.2.1")}
    for number, name in enumerate([*ROLES, "suspended"]):
        link, browser = await office.user(name), office.browser(f"192.0.2.{number + 10}")
        await browser.submit(await browser.get(link), link, new=PASSWORD)
        role = "member" if name == "suspended" else name
        user = replace(office.known(name), role=role, suspended=name == "suspended")
        await office.registry.commit(lambda now, user=user: (Delta(users=(user,)), None))
        found[name] = browser
    return found


async def test_no_form_does_anything_without_its_token(office: Office, world: World) -> None:
    browsers = await visitors(office, world)
    before = office.registry.snapshot
    for path in places(office, "POST"):
        for name, browser in browsers.items():
            for fields in ({}, {"token": "wrong", "answer": "yes", "new": PASSWORD, "days": "7"}):
                page = await browser.post(path, fields, follow=False)
                assert page.status == 403, (path, name)
                assert "another site" in page, (path, name)
    assert office.registry.snapshot is before


async def test_pages_show_people_what_is_theirs_alone(office: Office, world: World) -> None:
    for name, browser in (await visitors(office, world)).items():
        known = name not in ("nobody", "suspended")
        for path in places(office, "GET"):
            page = await browser.get(path, follow=False)
            assert page.status in (200, 303, 403, 404), (path, name)
            if path == "/account":
                assert page.status == (200 if known else 303), name
                assert not known or ("Make a token" in page) is bool(ROLES[name]), name
            elif path == "/ssh/no":
                assert page.status == (404 if known else 200), name


async def test_a_provider_asks_anew_for_a_log_in_by_ssh(office: Office) -> None:
    for to, anew in (("/ssh/abc", True), ("/account", False), ("//ssh/abc", False)):
        answer = await office.browser().client.get("/login/company", params={"to": to})
        assert answer.headers["location"] == f"https://a.example/?anew={anew}"
