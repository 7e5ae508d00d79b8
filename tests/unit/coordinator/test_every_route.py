"""Every route that a running server has, asked by a stranger: the list is its own, so that a new
one is either in the tables of who may do what, or is named here as everybody's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from coordinator_server import Running
from starlette.routing import Route

from warren.coordinator.api.application import OPERATIONS, PREFIX

EVERYBODYS = {
    "GET /": 200, "GET /robots.txt": 200, "POST /verify": 400,
    f"POST {PREFIX}/oauth/token": 401, f"GET {PREFIX}/openapi.json": 200, f"GET {PREFIX}/docs": 200,
    **{f"{method} {PREFIX}/{{rest:path}}": 404
       for method in ("GET", "POST", "PUT", "PATCH", "DELETE")},
    # Pages of the log-in, of which `test_login_table` makes its own table.
    "GET /login": 200, "GET /login/{provider}": 404, "GET /login/{provider}/callback": 404,
    "GET /register/{pending}": 404, "GET /invite/{text}": 403, "GET /account": 303,
    "GET /ssh/{check}": 200,
    **{f"POST {path}": 403 for path in (
        "/login", "/logout", "/register/{pending}", "/invite/{text}", "/account/token",
        "/account/revoke", "/account/password", "/ssh/{check}",
    )},
}  # fmt: skip
AT_THE_DOOR = {
    "/key", "/health", "/healthz", "/bootstrap-dns", "/ts2021", "/derp", "/derp/probe",
    "/derp/latency-check", "/generate_204",
}  # fmt: skip


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    server = Running(tmp_path)
    await server.start()
    yield server
    await server.stop()


async def test_each_asks_for_a_credential_or_is_everybodys(running: Running) -> None:
    app = running.server._site(running.server._api())
    asked, by_table = set(), {f"{o.method} {PREFIX}{o.path}" for o in OPERATIONS}
    before = running.server._registry.snapshot
    for route in app.routes:
        assert isinstance(route, Route), "an application below it would have routes of its own"
        for method in sorted((route.methods or set()) - {"HEAD"}):
            line = f"{method} {route.path}"
            path = route.path.replace(":path", "")
            for name in route.param_convertors:
                path = path.replace(f"{{{name}}}", "-" if name == "tailnet" else "none")
            # Each from elsewhere: who asks often is slowed.
            transport = httpx.ASGITransport(app, client=(f"192.0.2.{len(asked)}", 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
                status = (await http.request(method, path)).status_code
            assert route.path.startswith(PREFIX) or line in EVERYBODYS, line
            assert status == EVERYBODYS.get(line, 401 if line in by_table else 405), line
            asked.add(line)
    assert by_table | EVERYBODYS.keys() <= asked
    assert running.server._registry.snapshot == before


async def test_what_the_door_answers_by_itself(running: Running) -> None:
    routes = running.server._routes(running.server._api())
    assert routes.answers.keys() | routes.takers.keys() == AT_THE_DOOR
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.http}") as http:
        for path in sorted(AT_THE_DOOR):
            for method in ("GET", "POST", "DELETE"):
                answer = await http.request(method, path, content=b"x")
                assert answer.status_code < 500, (method, path)


async def test_what_cannot_be_asked_so(running: Running) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.http}") as http:
        answer = await http.delete("/account")
    assert answer.status_code == 405 and "GET" in answer.headers["allow"]
    assert "cannot be asked with DELETE" in answer.text


@pytest.mark.parametrize(
    "path",
    ["/account/", "//account", "//evil.example/account/", "/login//", "/%2faccount/", "/nowhere",
     "/\\evil.example/", "/account%0d%0ax:y"],
)  # fmt: skip
async def test_what_is_not_there_leads_nowhere(running: Running, path: str) -> None:
    base = f"http://127.0.0.1:{running.http}"
    async with httpx.AsyncClient() as http:
        answer = await http.get(base + path, headers={"host": "evil.example"})
    assert answer.status_code == 404 and "location" not in answer.headers
    assert "There is no such page here" in answer.text
    assert "evil" not in answer.text and "x" not in answer.headers
