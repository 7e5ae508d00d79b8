"""Keys are one list of three kinds, each with a scope of its own: every operation on every kind,
for every role and for a client of every scope."""

from __future__ import annotations

import pytest
from api_office import Office
from test_api import EVERY_SCOPE, client_with

from warren.coordinator.api import keys
from warren.coordinator.auth.credentials import API
from warren.coordinator.roles import READ, ROLES, allows

SCOPES = {"auth": "auth_keys", "client": "oauth_keys", "api": "api_access_tokens"}
CREATE = {
    "auth": {"capabilities": {"devices": {"create": {"tags": ["tag:ci"]}}}},
    "client": {"keyType": "client", "scopes": ["dns:read"], "tags": ["tag:ci"]},
}
KEYS = "/tailnet/-/keys"


async def made(office: Office) -> dict[str, str]:
    """Return the ids of one key of each kind."""
    ids = {
        kind: (await office.told("POST", KEYS, json=body))["id"] for kind, body in CREATE.items()
    }
    found = (await office.told("GET", f"{KEYS}?all=true"))["keys"]
    return {**ids, "api": next(key["id"] for key in found if key["keyType"] == API)}


async def bearers(office: Office) -> list[tuple[str, frozenset[str]]]:
    """Return tokens of every role, and of clients with each scope, with what they may do."""
    roles = [(office.tokens[role], scopes) for role, scopes in ROLES.items()]
    # Beside the scope itself, that of what they give on: nobody gives what they do not have.
    clients = [
        (await client_with(office, [scope, "dns:read"]), frozenset({scope, "dns:read"}))
        for scope in EVERY_SCOPE
        if scope.removesuffix(READ) in (*SCOPES.values(), "devices:core", "users")
    ]
    return roles + clients


def test_each_kind_has_its_scope() -> None:
    assert keys._SCOPES == SCOPES
    assert {(o.method, o.path.rpartition("/tailnet/{tailnet}")[2]) for o in keys.OPERATIONS} == {
        ("GET", "/keys"), ("POST", "/keys"), ("GET", "/keys/{key}"), ("PUT", "/keys/{key}"),
        ("DELETE", "/keys/{key}"),
    }  # fmt: skip
    assert all(not o.scope for o in keys.OPERATIONS), "else they are in the table of scopes"


@pytest.mark.parametrize("kind", SCOPES)
async def test_what_is_read(office: Office, kind: str) -> None:
    ids = await made(office)
    for token, held in await bearers(office):
        may = allows(held, SCOPES[kind] + READ)
        answer = await office.ask("GET", f"{KEYS}/{ids[kind]}", token)
        assert answer.status_code == (200 if may else 403), (kind, held)
        listed = (await office.ask("GET", f"{KEYS}?all=true", token)).json()["keys"]
        assert any(key["id"] == ids[kind] for key in listed) == may, (kind, held)


@pytest.mark.parametrize("kind", CREATE)
async def test_what_is_made(office: Office, kind: str) -> None:
    for token, held in await bearers(office):
        answer = await office.ask("POST", KEYS, token, json=CREATE[kind])
        assert (answer.status_code == 200) == allows(held, SCOPES[kind]), (kind, held, answer.text)
        assert answer.status_code in (200, 403)
    for api in ({"keyType": "api"}, {"keyType": "api", "scopes": ["all"]}):
        assert (await office.ask("POST", KEYS, json=api)).status_code == 400, "none by the API"


@pytest.mark.parametrize("kind", SCOPES)
async def test_what_is_removed(office: Office, kind: str) -> None:
    ids = await made(office)
    before = office.registry.snapshot
    may_not = [t for t, held in await bearers(office) if not allows(held, SCOPES[kind])]
    assert len(may_not) > 3
    for token in may_not:
        assert (await office.ask("DELETE", f"{KEYS}/{ids[kind]}", token)).status_code == 403
    now = office.registry.snapshot
    assert before.auth_keys.keys() == now.auth_keys.keys()
    assert before.credentials.keys() <= now.credentials.keys()
    await office.told("DELETE", f"{KEYS}/{ids[kind]}", token=office.tokens["admin"])


async def test_what_is_changed(office: Office) -> None:
    ids, wish = await made(office), {**CREATE["client"], "description": "changed"}
    for token, held in await bearers(office):
        answer = await office.ask("PUT", f"{KEYS}/{ids['client']}", token, json=wish)
        assert (answer.status_code == 200) == allows(held, "oauth_keys"), (held, answer.text)
        assert answer.status_code in (200, 403)


async def test_what_is_taken_from_a_client_counts_at_once(office: Office) -> None:
    wish = {"keyType": "client", "scopes": ["devices:core", "dns"], "tags": ["tag:ci"]}
    made = await office.told("POST", KEYS, json=wish)
    form = {"client_id": made["id"], "client_secret": made["key"]}
    token = (await office.http.post("/oauth/token", data=form)).json()["access_token"]
    path, choice = "/tailnet/-/dns/preferences", {"magicDNS": False}
    await office.told("POST", path, token=token, json=choice)
    narrower = {**wish, "scopes": ["devices:core:read", "dns:read"]}
    await office.told("PUT", f"{KEYS}/{made['id']}", json=narrower)
    assert (await office.ask("POST", path, token, json=choice)).status_code == 403
    await office.told("GET", path, token=token)
    await office.told("PUT", f"{KEYS}/{made['id']}", json=wish)
    await office.told("POST", path, token=token, json=choice)
    office.world.clock.advance(3600)
    late = await office.ask("GET", path, token)
    assert late.status_code == 401 and "has expired" in late.json()["message"]
