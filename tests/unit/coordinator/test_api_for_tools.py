"""Operations of the API that tools of others call beside the everyday ones."""

from __future__ import annotations

import base64
from collections import defaultdict

import pytest
from api_office import Office
from coordinator_world import machine_key, request

from warren.coordinator.api.application import OPERATIONS
from warren.coordinator.auth.credentials import CLIENT


async def test_which_rules_meet_someone(office: Office) -> None:
    policy = b"""{
      "groups": {"group:ops": ["ann@"], "group:eyes": ["auditor@"]},
      "hosts": {"web": "100.64.0.1"},
      "grants": [
        {"src": ["group:ops"], "dst": ["web"], "ip": ["tcp:80-90", "443"]},
        {"src": ["group:eyes"], "dst": ["autogroup:self"], "ip": ["22"]},
        {"src": ["*"], "dst": ["10.0.0.0/8"], "ip": ["53"]},
      ],
    }"""

    async def lines(kind: str, subject: str) -> list[int]:
        query = {"type": kind, "previewFor": subject}
        told = await office.told("POST", "/tailnet/-/acl/preview", params=query, content=policy)
        assert (told["type"], told["previewFor"]) == (kind, subject)
        return [match["lineNumber"] for match in told["matches"]]

    assert await lines("user", "ann") == [5, 7]
    assert await lines("user", "auditor") == [6, 7]
    (node,) = office.registry.snapshot.nodes.values()
    policy = policy.replace(b"100.64.0.1", str(node.ipv4).encode()).replace(b"auditor@", b"ann@")
    assert await lines("ipport", f"{node.ipv4}:85") == [5]
    assert await lines("ipport", f"{node.ipv4}:22") == [6], "ann's own machine"
    assert await lines("ipport", "10.9.9.9:53") == [7]
    assert await lines("ipport", "[2001:db8::1]:53") == []
    query = {"type": "user", "previewFor": "ann"}
    told = await office.told("POST", "/tailnet/-/acl/preview", params=query, content=policy)
    assert told["matches"][0]["users"] == ["group:ops"]
    assert told["matches"][0]["ports"] == ["web:80-90", "web:443"]
    for kind, subject in (("user", "nobody"), ("ipport", "x:1"), ("group", "x"), ("", "")):
        query = {"type": kind, "previewFor": subject}
        answer = await office.ask("POST", "/tailnet/-/acl/preview", params=query, content=policy)
        assert answer.status_code == 400, kind
    answer = await office.ask("POST", "/tailnet/-/acl/preview", params=query, content=b"{")
    assert answer.status_code == 400


async def test_devices_are_told_apart(office: Office) -> None:
    async def count(query: str) -> int:
        return len((await office.told("GET", f"/tailnet/-/devices?{query}"))["devices"])

    await office.told("POST", f"/device/{office.node}/tags", json={"tags": ["tag:a", "tag:b"]})
    assert await count("tags=tag:a&os=linux&isEphemeral=false") == 1
    assert await count("tags=tag:x&tags=tag:b") == 1
    assert await count("tags=tag:x") == await count("os=linux&authorized=false") == 0
    answer = await office.ask("GET", "/tailnet/-/devices?colour=red")
    assert answer.status_code == 400 and "colour" in answer.json()["message"]


async def test_attributes_of_several_machines(office: Office) -> None:
    at, path = f"/device/{office.node}/attributes", "/tailnet/-/device-attributes"
    given = {"custom:tier": {"value": 1}, "custom:x": {"value": True}}
    await office.told("PATCH", path, json={"nodes": {office.node: given}})
    await office.told("PATCH", path, json={"nodes": {office.node: {"custom:x": None}}})
    told = (await office.told("GET", at))["attributes"]
    assert told["custom:tier"] == 1 and "custom:x" not in told
    stable = office.registry.snapshot.nodes[int(office.node)].stable_id
    for bad in (
        {office.node: {"node:os": {"value": 1}}},
        {office.node: given, stable: given},
        {office.node: {"custom:x": {"value": 1, "expiry": "2026-03-01T12:00:00Z"}}},
        {office.node: {"custom:x": {"value": 1, "expiry": "2030-01-01T00:00:00"}}},
    ):
        assert (await office.ask("PATCH", path, json={"nodes": bad})).status_code == 400
    answer = await office.ask("PATCH", path, json={"nodes": {"nosuch": given}})
    assert answer.status_code == 404
    never = {"value": 2, "expiry": "0001-01-01T00:00:00Z"}
    await office.told("POST", f"{at}/custom:tier", json=never)


async def test_an_oauth_client_is_changed(office: Office) -> None:
    keys = "/tailnet/-/keys"
    wish = {"keyType": "client", "scopes": ["devices:core", "oauth_keys"], "tags": ["tag:ci"]}
    made = await office.told("POST", keys, json=wish)
    form = {"client_id": made["id"], "client_secret": made["key"]}
    granted = (await office.http.post("/oauth/token", data=form)).json()["access_token"]

    async def put(token: str | None = None, key: str = made["id"], **more: object) -> int:
        body = {"keyType": "client", **more}
        return (await office.ask("PUT", f"{keys}/{key}", token, json=body)).status_code

    # A client gives on only what it has.
    assert await put(granted, scopes=["all"]) == 403
    assert await put(granted, scopes=["devices:core"], tags=["tag:prod"]) == 403
    answer = await office.ask("POST", keys, granted, json={**wish, "tags": ["tag:prod"]})
    assert answer.status_code == 403
    assert await put(office.tokens["auditor"], scopes=["devices:core:read"]) == 403
    assert await put(scopes=["nosuch"]) == 400 and await put(scopes=[]) == 400
    assert await put(key="nosuch", scopes=["dns"]) == 404
    assert await put(scopes=["dns:read"], tags=["tag:ci"], description="names") == 200
    # Its secret stays; a new access token has the new rights.
    granted = (await office.http.post("/oauth/token", data=form)).json()["access_token"]
    assert (await office.ask("GET", "/tailnet/-/dns/nameservers", granted)).status_code == 200
    assert (await office.ask("GET", "/tailnet/-/devices", granted)).status_code == 403
    auth_key = await office.told("POST", keys, json={})
    assert await put(key=auth_key["id"], scopes=["dns"]) == 400


async def test_contacts(office: Office) -> None:
    path = "/tailnet/-/contacts"
    assert (await office.told("GET", path))["support"]["email"] == "ann"
    await office.told("PATCH", f"{path}/support", json={"email": "help@corp.example"})
    await office.told("PATCH", f"{path}/support", json={})
    told = await office.told("GET", path)
    assert (told["support"]["email"], told["account"]["email"]) == ("help@corp.example", "ann")
    for kind, email, status in (("billing", "a@b.c", 404), ("support", "no address", 400)):
        answer = await office.ask("PATCH", f"{path}/{kind}", json={"email": email})
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "posture/integrations", 200),
        ("POST", "posture/integrations", 501),
        ("GET", "vip-services", 200),
        ("PUT", "vip-services/svc:x", 501),
        ("PUT", "logging/configuration/stream", 501),
        ("GET", "logging/network", 501),
    ],
)
async def test_what_is_not_offered(office: Office, method: str, path: str, status: int) -> None:
    answer = await office.ask(method, f"/tailnet/-/{path}", json={})
    assert answer.status_code == status
    if status == 501:
        assert answer.json()["title"] == "Not Implemented" and answer.json()["message"]


async def test_a_wrong_basic_is_no_client(office: Office) -> None:
    secret = office.credential(CLIENT, office.owner, scopes=["all"])
    text = base64.b64encode(f":{secret}".encode()).decode()
    answer = await office.http.get("/tailnet/-/devices", headers={"authorization": f"Basic {text}"})
    assert answer.status_code == 401


async def test_machines_that_wait(office: Office) -> None:
    path = "/tailnet/-/device-requests"
    for name in ("two", "three", "four"):
        key = machine_key(name).public()
        await office.registration.register(key, request(name, hostname=name))
    listed = (await office.told("GET", path))["requests"]
    assert [one["hostname"] for one in listed] == ["two", "three", "four"]
    two, three, four = (f"{path}/{one['id']}" for one in listed)
    auditor = office.tokens["auditor"]
    assert (await office.ask("POST", f"{two}/approve", auditor, json={})).status_code == 403
    answer = await office.ask("POST", f"{two}/approve", json={})
    assert answer.status_code == 400 and "which user" in answer.json()["message"]
    # Nobody makes a machine of whom may do more than they.
    for by, user in (("it-admin", "ann"), ("it-admin", "admin"), ("it-admin", "network-admin")):
        answer = await office.ask("POST", f"{two}/approve", office.tokens[by], json={"user": user})
        assert answer.status_code == 403 and "more than you" in answer.json()["message"], user
    joined = await office.told("POST", f"{two}/approve", json={"user": "ann"})
    assert (await office.told("GET", f"/device/{joined['nodeId']}"))["user"] == "ann"
    key = machine_key("five").public()
    await office.registration.register(key, request("five", hostname="five"))
    (*_, five) = (await office.told("GET", path))["requests"]
    await office.told("POST", f"{path}/{five['id']}/approve", token=office.tokens["it-admin"],
                      json={"user": "member"})  # fmt: skip
    # A client lets machines in with its tags, and only with those.
    wish = {"keyType": "client", "scopes": ["devices:core"], "tags": ["tag:ci"]}
    made = await office.told("POST", "/tailnet/-/keys", json=wish)
    form = {"client_id": made["id"], "client_secret": made["key"]}
    granted = (await office.http.post("/oauth/token", data=form)).json()["access_token"]
    for tags in (None, [], ["tag:prod"], ["tag:ci", "tag:prod"]):
        body = {"user": "ann", "tags": tags}
        answer = await office.ask("POST", f"{three}/approve", granted, json=body)
        assert answer.status_code == 403
    answer = await office.ask("POST", f"{three}/approve", granted, json={"tags": ["tag:ci"]})
    assert answer.status_code == 200
    assert (await office.told("GET", f"/device/{answer.json()['id']}"))["tags"] == ["tag:ci"]
    await office.told("POST", f"{four}/reject")
    last = (await office.told("GET", "/tailnet/-/logging/configuration"))["logs"][-1]
    assert last["target"]["type"] == "MACHINE_REQUEST" and last["new"] == {"rejected": True}
    assert (await office.told("GET", path))["requests"] == []
    for gone in (two, f"{path}/nosuch"):
        assert (
            await office.ask("POST", f"{gone}/approve", json={"user": "ann"})
        ).status_code == 404
    log = (await office.told("GET", "/tailnet/-/logging/configuration"))["logs"]
    assert {entry["actor"]["loginName"] for entry in log if entry["action"] == "CREATE"} >= {
        "owner"
    }


HOSTILE = (
    "' OR 1=1 --", "%00", "%0d%0ax:%20y", "..%2f..%2f", "\u2028\u202e", "9" * 400, "-1", "{x}",
)  # fmt: skip


async def test_hostile_names(office: Office) -> None:
    """In any place of any path, and in any query: refused or not found, and never said raw."""
    tried = 0
    for operation in OPERATIONS:
        if "{" not in operation.path.replace("{tailnet}", "") and not operation.query:
            continue
        content = b"" if operation.takes is None else b"{}"
        for value in HOSTILE:
            office.world.clock.advance(1)
            names = defaultdict(lambda value=value: value, {"tailnet": "-"})
            query = "&".join(f"{name}={value}" for name in operation.query)
            path = f"{operation.path.format_map(names)}?{query}"
            answer = await office.ask(operation.method, path, content=content)
            assert answer.status_code < 500 or answer.status_code == 501, (path, answer.text)
            assert "x" not in answer.headers and "\r" not in answer.text
            tried += 1
    assert tried > 300
