"""Every operation that changes something leaves entries in the audit log: who, from where, what was
before and what is after. The operations are the API's own table and the admin socket's own routes,
so that a new one is in here or fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from api_office import Office
from coordinator_world import machine_key, request
from msgspec.structs import replace
from starlette.routing import Route

from warren.coordinator.admin import shapes
from warren.coordinator.admin.api import application
from warren.coordinator.admin.office import Office as AdminOffice
from warren.coordinator.api import not_offered
from warren.coordinator.api.application import OPERATIONS
from warren.coordinator.audit import Actor
from warren.coordinator.auth import credentials
from warren.coordinator.delta import Delta
from warren.coordinator.members import create_user
from warren.coordinator.records import AuditRecord
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import AuditQuestion
from warren.netmap.derpmap import DERPMap

Prepare = Callable[[Office], Awaitable[dict[str, str]]]
READS = ("GET", "HEAD")
POLICY = '{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["443"]}]}'


class Example(NamedTuple):
    """body: of the request, as JSON or bytes. prepare: makes what is changed, and names it."""

    kind: str
    action: str
    body: Any = None
    prepare: Prepare | None = None


async def waiting(office: Office) -> dict[str, str]:
    """Let a machine wait."""
    key = machine_key("two").public()
    await office.registration.register(key, request("two", hostname="two"))
    (name,) = office.registry.snapshot.pending
    return {"request": name, "node": name}


async def unapproved_machine(office: Office) -> dict[str, str]:
    await change(office, "nodes", office.node, authorized=False)
    return {}


async def attribute(office: Office) -> dict[str, str]:
    await change(office, "nodes", office.node, attributes={"custom:x": 1})
    return {}


async def auth_key(office: Office) -> dict[str, str]:
    made = await office.told("POST", "/tailnet/-/keys", json={})
    return {"key": made["id"]}


async def client(office: Office) -> dict[str, str]:
    wish = {"keyType": "client", "scopes": ["dns"], "tags": ["tag:ci"]}
    made = await office.told("POST", "/tailnet/-/keys", json=wish)
    return {"key": made["id"], "token": made["id"]}


async def person(office: Office, **fields: Any) -> dict[str, str]:
    """Make a user who owns nothing."""
    wall = office.world.clock.wall()

    def decide(now: Snapshot) -> tuple[Delta, int]:
        made = create_user(now, "bob", "", wall)
        return Delta(users=(replace(made.users[0], **fields),), settings=made.settings), 0

    await office.registry.commit(decide)
    return {"user": str(number_of(office, "bob")), "name": "bob"}


async def unapproved(office: Office) -> dict[str, str]:
    return await person(office, approved=False)


async def suspended(office: Office) -> dict[str, str]:
    return await person(office, suspended=True)


async def invited(office: Office) -> dict[str, str]:
    await office.told("POST", "/tailnet/-/user-invites", json=[{"email": "eve"}])
    (name,) = office.registry.snapshot.invites
    return {"invite": name}


async def hook(office: Office) -> dict[str, str]:
    wish = {"endpointUrl": "https://x.invalid/", "subscriptions": ["nodeCreated"]}
    made = await office.told("POST", "/tailnet/-/webhooks", json=wish)
    return {"webhook": made["endpointId"]}


def number_of(office: Office, name: str) -> int:
    user = office.registry.snapshot.user_named(name)
    assert user is not None
    return user.id


async def change(office: Office, kind: str, name: str, **fields: Any) -> None:
    record = getattr(office.registry.snapshot, kind)[int(name)]
    await office.registry.commit(lambda now: (Delta(**{kind: (replace(record, **fields),)}), 0))


TAILNET, DEVICE, DNS = "/tailnet/{tailnet}", "/device/{device}", "/tailnet/{tailnet}/dns"
MACHINE, SETTING = ("machine", "update"), ("setting", "create")
API: dict[str, Example] = {
    f"DELETE {DEVICE}": Example("machine", "delete"),
    f"POST {DEVICE}/authorized": Example(*MACHINE, {"authorized": False}),
    f"POST {DEVICE}/name": Example(*MACHINE, {"name": "two"}),
    f"POST {DEVICE}/tags": Example(*MACHINE, {"tags": ["tag:a"]}),
    f"POST {DEVICE}/key": Example(*MACHINE, {"keyExpiryDisabled": True}),
    f"POST {DEVICE}/expire": Example(*MACHINE),
    f"POST {DEVICE}/ip": Example(*MACHINE, {"ipv4": "100.80.0.1"}),
    f"POST {DEVICE}/routes": Example(*MACHINE, {"routes": ["10.0.0.0/8"]}),
    f"POST {DEVICE}/attributes/{{attribute}}": Example(*MACHINE, {"value": 1}),
    f"DELETE {DEVICE}/attributes/{{attribute}}": Example(*MACHINE, None, attribute),
    f"PATCH {TAILNET}/device-attributes": Example(
        *MACHINE, {"nodes": {"{device}": {"custom:x": {"value": 1}}}}
    ),
    f"POST {TAILNET}/device-requests/{{request}}/approve": Example(
        "machine", "create", {"user": "ann"}, waiting
    ),
    f"POST {TAILNET}/device-requests/{{request}}/reject": Example(
        "machine request", "update", None, waiting
    ),
    f"POST {TAILNET}/keys": Example("auth key", "create", {}),
    f"PUT {TAILNET}/keys/{{key}}": Example(
        "credential", "update", {"keyType": "client", "scopes": ["users"]}, client
    ),
    f"DELETE {TAILNET}/keys/{{key}}": Example("auth key", "delete", None, auth_key),
    "POST /users/{user}/role": Example("user", "update", {"role": "auditor"}, person),
    "POST /users/{user}/approve": Example("user", "update", None, unapproved),
    "POST /users/{user}/suspend": Example("user", "update", None, person),
    "POST /users/{user}/restore": Example("user", "update", None, suspended),
    "POST /users/{user}/delete": Example("user", "delete", None, person),
    f"POST {TAILNET}/user-invites": Example("invite", "create", [{"email": "eve"}]),
    "DELETE /user-invites/{invite}": Example("invite", "delete", None, invited),
    f"POST {TAILNET}/acl": Example("policy", "create", POLICY.encode()),
    f"POST {DNS}/nameservers": Example(*SETTING, {"dns": ["9.9.9.9"]}),
    f"POST {DNS}/preferences": Example(*SETTING, {"magicDNS": False}),
    f"POST {DNS}/searchpaths": Example(*SETTING, {"searchPaths": ["a.example"]}),
    f"POST {DNS}/configuration": Example(*SETTING, {"searchPaths": ["a.example"]}),
    f"PATCH {DNS}/split-dns": Example(*SETTING, {"a.example": ["9.9.9.9"]}),
    f"PUT {DNS}/split-dns": Example(*SETTING, {"a.example": ["9.9.9.9"]}),
    f"PATCH {TAILNET}/settings": Example(*SETTING, {"devicesApprovalOn": True}),
    f"PATCH {TAILNET}/contacts/{{contact}}": Example(*SETTING, {"email": "help@a.example"}),
    f"POST {TAILNET}/webhooks": Example(
        "webhook", "create",
        {"endpointUrl": "https://x.invalid/", "subscriptions": ["policyUpdate"]},
    ),
    "PATCH /webhooks/{webhook}": Example(
        "webhook", "update", {"subscriptions": ["policyUpdate"]}, hook
    ),
    "POST /webhooks/{webhook}/rotate": Example("webhook", "update", None, hook),
    "DELETE /webhooks/{webhook}": Example("webhook", "delete", None, hook),
}  # fmt: skip
CHANGE_NOTHING: dict[str, Example] = {
    f"POST {TAILNET}/acl/validate": Example("", "", POLICY.encode()),
    f"POST {TAILNET}/acl/preview": Example("", "", POLICY.encode()),
    "POST /webhooks/{webhook}/test": Example("", "", None, hook),
    "POST /user-invites/{invite}/resend": Example("", "", None, invited),
    **{f"{o.method} {o.path}": Example("", "", {}) for o in not_offered.OPERATIONS},
}
SOCKET: dict[str, Example] = {
    "POST /v1/users": Example("user", "create", {"name": "eve"}),
    "DELETE /v1/users/{name}": Example("user", "delete", None, person),
    "PUT /v1/users/{name}/role": Example("user", "update", {"role": "admin"}, person),
    "POST /v1/users/{name}/invite": Example("invite", "create", {}, person),
    "POST /v1/users/{name}/suspend": Example("user", "update", None, person),
    "POST /v1/users/{name}/approve": Example("user", "update", None, unapproved),
    "POST /v1/users/{name}/restore": Example("user", "update", None, suspended),
    "POST /v1/tokens": Example("credential", "create", {"user": "ann", "scopes": ["dns"]}),
    "DELETE /v1/tokens/{token}": Example("credential", "delete", None, client),
    "POST /v1/keys": Example("auth key", "create", {"user": "ann"}),
    "DELETE /v1/keys/{key}": Example("auth key", "delete", None, auth_key),
    "DELETE /v1/nodes/{node}": Example("machine", "delete"),
    "POST /v1/nodes/{node}/approve": Example(*MACHINE, {}, unapproved_machine),
    "POST /v1/nodes/{node}/reject": Example("machine request", "update", None, waiting),
    "POST /v1/nodes/{node}/rename": Example(*MACHINE, {"name": "two"}),
    "POST /v1/nodes/{node}/tags": Example(*MACHINE, {"tags": ["tag:a"]}),
    "POST /v1/nodes/{node}/expire": Example(*MACHINE),
    "PUT /v1/policy": Example("policy", "create", {"text": POLICY, "author": "x"}),
}
SOCKET_CHANGES_NOTHING = {"POST /v1/policy/check": Example("", "", {"text": POLICY})}


def admin_socket(office: Office) -> Any:
    """The socket's application, beside the API of the same server."""
    regions = shapes.RelayRegions(derp_map=DERPMap(), sources={}, homes={}, problems=[])
    return application(
        AdminOffice(
            office.registry, office.registration, office.world.settings, office.world.clock,
            office.world.entropy, lambda: pytest.fail("unasked"), None,  # type: ignore[arg-type]
            lambda: regions,
        )
    )  # fmt: skip


def test_each_is_here(office: Office) -> None:
    asked = {f"{o.method} {o.path}" for o in OPERATIONS if o.method not in READS}
    asked |= {f"{o.method} {o.path}" for o in not_offered.OPERATIONS}
    assert asked == API.keys() | CHANGE_NOTHING.keys()
    routes = {
        f"{method} {route.path}"
        for route in admin_socket(office).routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - set(READS)
    }
    assert routes == SOCKET.keys() | SOCKET_CHANGES_NOTHING.keys()


async def ask(
    office: Office, http: httpx.AsyncClient | None, line: str, example: Example
) -> tuple[Snapshot, list[AuditRecord], httpx.Response]:
    """Ask for it; return what was before, what the log says of it, and the answer."""
    names = {
        "tailnet": "-", "device": office.node, "node": office.node, "attribute": "custom:x",
        "contact": "support", **(await example.prepare(office) if example.prepare else {}),
    }  # fmt: skip
    before = office.registry.snapshot
    noted = await office.registry.history(AuditQuestion(limit=1000))
    newest = max((entry.id for entry in noted), default=0)
    method, _, path = line.partition(" ")
    path = path.format_map({**{"svc": "x"}, **dict.fromkeys(_names(path), "x"), **names})
    body = example.body
    if body is not None and not isinstance(body, bytes):
        body = msgspec.json.encode(body).replace(b"{device}", office.node.encode())
    if "preview" in line:
        path += "?type=user&previewFor=ann"
    if http is None:
        answer = await office.ask(method, path, content=body or b"")
    else:
        answer = await http.request(method, path, content=body or b"")
    entries = await office.registry.history(AuditQuestion(limit=1000))
    return before, [entry for entry in entries if entry.id > newest], answer


def _names(path: str) -> list[str]:
    return [part.partition("}")[0] for part in path.split("{")[1:]]


@pytest.mark.parametrize("line", API)
async def test_of_the_api(line: str, office: Office) -> None:
    before, entries, answer = await ask(office, None, line, API[line])
    check(office, before, entries, answer, API[line], Actor("user", "owner", "192.0.2.7"))


@pytest.mark.parametrize("line", SOCKET)
async def test_of_the_socket(line: str, office: Office) -> None:
    transport = httpx.ASGITransport(admin_socket(office))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        before, entries, answer = await ask(office, http, line, SOCKET[line])
    actor = Actor("local", "administrator", "on the server's own machine")
    check(office, before, entries, answer, SOCKET[line], actor)


@pytest.mark.parametrize("line", [*CHANGE_NOTHING, *SOCKET_CHANGES_NOTHING])
async def test_what_changes_nothing_is_not_in_it(line: str, office: Office) -> None:
    example = {**CHANGE_NOTHING, **SOCKET_CHANGES_NOTHING}[line]
    transport = httpx.ASGITransport(admin_socket(office))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        near = http if line in SOCKET_CHANGES_NOTHING else None
        before, entries, answer = await ask(office, near, line, example)
    offered = line not in {f"{o.method} {o.path}" for o in not_offered.OPERATIONS}
    assert answer.status_code in ((200, 202) if offered else (200, 404, 501)) or "resend" in line
    assert entries == [] and list(differing(before, office.registry.snapshot)) == []


def check(
    office: Office, before: Snapshot, entries: list[AuditRecord], answer: httpx.Response,
    example: Example, actor: Actor,
) -> None:  # fmt: skip
    assert answer.status_code == 200, answer.text
    assert example.action in {e.action for e in entries if e.target_kind == example.kind}
    for entry in entries:
        assert (entry.actor_kind, entry.actor, entry.origin) == (
            actor.kind, actor.name, actor.origin,
        )  # fmt: skip
        assert entry.wall == office.world.clock.wall()
        assert (entry.before is None) == (entry.action == "create")
        assert (entry.after is None) == (entry.action == "delete")
        assert entry.before != entry.after
    # Whatever differs in what the server knows is told, with what was and what is.
    told = {(entry.target_kind, entry.target): entry for entry in entries}
    found = list(differing(before, office.registry.snapshot))
    assert found
    for kind, name, old, new in found:
        entry = told[kind, name]
        for field in old.keys() | new.keys():
            if old.get(field) != new.get(field):
                assert (entry.before or {}).get(field) == old.get(field), field
                assert (entry.after or {}).get(field) == new.get(field), field
    secrets = [text for text in _texts(answer.json()) if len(text) > 40 and "-" in text]
    for secret in secrets:
        assert secret.rpartition("-")[2] not in str(entries)


KINDS = {
    "users": "user", "nodes": "machine", "auth_keys": "auth key", "webhooks": "webhook",
    "credentials": "credential", "invites": "invite", "policies": "policy",
}  # fmt: skip
# Secrets, the policy's text (of which the versions are kept), and what machines report.
UNTOLD = {"digest", "secret", "password", "text", "author", "created", "id"}
REPORTED = {"hostinfo", "endpoints", "last_seen", "online", "disco_key", "version"}


def differing(before: Snapshot, after: Snapshot) -> Iterator[tuple[str, str, Any, Any]]:
    """Tell what two states differ in, without the help of what makes the log."""
    for field, kind in KINDS.items():
        old, new = getattr(before, field), getattr(after, field)
        for name in old.keys() | new.keys():
            if old.get(name) != new.get(name):
                yield kind, str(name), _fields(old.get(name)), _fields(new.get(name))
    for name in before.settings.keys() | after.settings.keys():
        was, now = before.settings.get(name), after.settings.get(name)
        if was != now and not name.startswith(("last_", "webhooks.looked")):
            yield "setting", name, {} if was is None else {name: was}, {name: now}
    for name, asking in before.pending.items():
        if name in after.pending and after.pending[name] != asking:
            yield "machine request", name, {"rejected": False}, {"rejected": True}


def _fields(record: Any) -> dict[str, Any]:
    if record is None:
        return {}
    told = {name: getattr(record, name) for name in record.__struct_fields__}
    kept = {name: told[name] for name in told.keys() - UNTOLD - REPORTED}
    return dict(msgspec.json.decode(msgspec.json.encode(kept, enc_hook=str)))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


async def test_a_programs_change_is_under_its_own_name(office: Office) -> None:
    text = office.credential(
        credentials.CLIENT, office.owner, scopes=["devices:core"], description="CI"
    )
    record = next(iter(r for r in office.world.snapshot.credentials.values() if r.scopes))
    await office.registry.commit(lambda now: (Delta(credentials=(record,)), None))
    form = {"client_id": record.id, "client_secret": text}
    token = (await office.http.post("/oauth/token", data=form)).json()["access_token"]
    await office.ask("POST", f"/device/{office.node}/name", token, json={"name": "two"})
    (entry, *_) = await office.registry.history(AuditQuestion())
    assert (entry.actor_kind, entry.actor) == ("client", f"CI ({record.id})")


async def test_a_machines_change_has_its_address(office: Office) -> None:
    made = await office.told("POST", "/tailnet/-/keys", json={})
    asked = request("two", hostname="two", auth_key=made["key"])
    await office.registration.register(machine_key("two").public(), asked, "2001:db8::5")
    entries = await office.registry.history(AuditQuestion(limit=2))
    assert {(e.actor_kind, e.actor, e.origin) for e in entries} == {
        ("machine", "machine two", "2001:db8::5")
    }
    assert {(e.action, e.target_kind) for e in entries} == {
        ("create", "machine"), ("update", "auth key"),
    }  # fmt: skip
