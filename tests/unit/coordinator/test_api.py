"""The HTTP API v2 on a database of its own, asked without a socket."""

from __future__ import annotations

import base64
from collections import defaultdict

import pytest
from api_office import Office
from coordinator_world import START
from msgspec.structs import replace
from structlog.testing import capture_logs

from warren.coordinator import members
from warren.coordinator.api.application import OPERATIONS
from warren.coordinator.api.operation import Operation
from warren.coordinator.api.throttle import MAX_KNOWN, Throttle, place_of
from warren.coordinator.delta import Delta
from warren.coordinator.login import invites
from warren.coordinator.roles import READ, ROLES, SCOPES, allows
from warren.netmap.node import NetInfo


def path_of(operation: Operation, office: Office) -> str:
    names = {"tailnet": "-", "device": office.node, "user": "999", "attribute": "custom:x"}
    return operation.path.format_map(defaultdict(lambda: "nosuch", names))


def body_of(operation: Operation) -> bytes:
    return b"" if operation.takes is None else b"{}"


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: f"{o.method} {o.path}")
async def test_who_may_do_what(operation: Operation, office: Office) -> None:
    """Every operation without, with a wrong, and with every role's credential."""
    path, content = path_of(operation, office), body_of(operation)
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Digest x"},
        {"authorization": "Basic %%%"},
    ):
        answer = await office.http.request(operation.method, path, headers=headers, content=content)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.json()) == {"title", "status", "detail", "message"}
    if not operation.scope:
        return  # looks itself at the key's kind: test_keys
    # Those who may do nothing first: what the last one does may remove what is asked for.
    for role in sorted(ROLES, key=lambda role: allows(ROLES[role], operation.scope)):
        answer = await office.ask(operation.method, path, office.tokens[role], content=content)
        may = allows(ROLES[role], operation.scope)
        assert (answer.status_code != 403) == may, (role, answer.text)
        if not may:
            assert "scope" in answer.json()["message"]


EVERY_SCOPE = sorted(SCOPES | {scope + READ for scope in SCOPES})
BY_SCOPE = [operation for operation in OPERATIONS if operation.scope]


async def client_with(office: Office, scopes: list[str]) -> str:
    """Return the access token of a new OAuth client."""
    wish = {"keyType": "client", "scopes": scopes, "tags": ["tag:ci"]}
    made = await office.told("POST", "/tailnet/-/keys", json=wish)
    form = {"client_id": made["id"], "client_secret": made["key"]}
    return str((await office.http.post("/oauth/token", data=form)).json()["access_token"])


@pytest.mark.parametrize("operation", BY_SCOPE, ids=lambda o: f"{o.method} {o.path}")
async def test_what_a_client_may_do(operation: Operation, office: Office) -> None:
    """Every operation with the scope that it needs alone, and with all that do not allow it."""
    path, content = path_of(operation, office), body_of(operation)
    others = [scope for scope in EVERY_SCOPE if not allows([scope], operation.scope)]
    assert 0 < len(others) < len(EVERY_SCOPE)
    refused = f"this needs the scope {operation.scope!r}"
    for scopes, may in ((others, False), ([operation.scope], True)):
        token = await client_with(office, scopes)
        answer = await office.ask(operation.method, path, token, content=content)
        assert (answer.status_code == 403 and refused in answer.text) != may, answer.text


WITH_JSON = [operation for operation in OPERATIONS if operation.takes not in (None, bytes)]


@pytest.mark.parametrize("operation", WITH_JSON, ids=lambda o: f"{o.method} {o.path}")
async def test_bad_bodies(operation: Operation, office: Office) -> None:
    path = path_of(operation, office)
    for content in (b"", b"{", b"[]", b"\xff", b'"x"', b"[" * 10_000):
        answer = await office.ask(operation.method, path, content=content)
        assert answer.status_code == 400, content[:10]


async def test_the_path_names_this_network(office: Office) -> None:
    assert (await office.ask("GET", "/tailnet/other.example/devices")).status_code == 404
    await office.told("GET", "/tailnet/warren.internal/devices")
    assert (await office.ask("GET", "/tailnet/-/nothing")).status_code == 404
    answer = await office.ask("PUT", "/tailnet/-/devices")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


async def test_basic_is_a_credential_too(office: Office) -> None:
    text = base64.b64encode(f"{office.tokens['owner']}:".encode()).decode()
    answer = await office.http.get("/tailnet/-/devices", headers={"authorization": f"Basic {text}"})
    assert answer.status_code == 200


async def test_a_device(office: Office) -> None:
    (device,) = (await office.told("GET", "/tailnet/-/devices?fields=all"))["devices"]
    assert device["name"] == "one.warren.internal" and device["user"] == "ann"
    assert device["advertisedRoutes"] == [] and "tags" not in device
    for name in (device["id"], device["nodeId"]):
        assert (await office.told("GET", f"/device/{name}"))["hostname"] == "one"
    at = f"/device/{device['nodeId']}"
    await office.told("POST", f"{at}/name", json={"name": "two.warren.internal"})
    await office.told("POST", f"{at}/tags", json={"tags": ["tag:b", "tag:a"]})
    await office.told("POST", f"{at}/ip", json={"ipv4": "100.80.0.1"})
    await office.told("POST", f"{at}/authorized", json={"authorized": False})
    now = await office.told("GET", at)
    assert (now["name"], now["tags"]) == ("two.warren.internal", ["tag:a", "tag:b"])
    assert now["addresses"] == ["100.80.0.1", "fd7a:115c:a1e0::6450:1"]
    assert not now["authorized"] and now["keyExpiryDisabled"]
    await office.told("POST", f"{at}/tags", json={"tags": []})
    await office.told("POST", f"{at}/key", json={"keyExpiryDisabled": True})
    assert (await office.told("GET", at))["keyExpiryDisabled"]
    await office.told("POST", f"{at}/key", json={"keyExpiryDisabled": False})
    assert not (await office.told("GET", at))["keyExpiryDisabled"]
    await office.told("POST", f"{at}/expire")
    for bad in ("8.8.8.8", "100.64.0.0", "100.100.100.100", "x"):
        assert (await office.ask("POST", f"{at}/ip", json={"ipv4": bad})).status_code == 400
    assert (await office.ask("POST", f"{at}/tags", json={"tags": ["b"]})).status_code == 400
    await office.told("DELETE", at)
    assert (await office.ask("GET", at)).status_code == 404


async def test_what_a_device_measured(office: Office) -> None:
    (node,) = office.registry.snapshot.nodes.values()
    info = NetInfo(
        preferred_derp=900,
        derp_latency={"900-v4": 0.0123, "900-v6": 0.02, "7-v4": 0.5, "x": 1.0, "-v4": 1.0},
    )
    hostinfo = replace(node.hostinfo, net_info=info, distro="debian", distro_version="13")
    await office.registry.commit(
        lambda now: (Delta(nodes=(replace(node, hostinfo=hostinfo),)), None)
    )
    told = await office.told("GET", f"/device/{office.node}?fields=all")
    assert told["distro"] == {"name": "debian", "version": "13", "codeName": ""}
    assert told["clientConnectivity"]["latency"] == {
        "region 900": {"latencyMs": 12.3, "preferred": True},
        "region 7": {"latencyMs": 500.0},
    }
    assert "distro" not in await office.told("GET", f"/device/{office.node}")


async def test_routes_and_attributes(office: Office) -> None:
    at = f"/device/{office.node}"
    told = await office.told("POST", f"{at}/routes", json={"routes": ["10.0.0.0/8", "::/0"]})
    assert told == {"advertisedRoutes": [], "enabledRoutes": ["10.0.0.0/8", "::/0"]}
    assert await office.told("GET", f"{at}/routes") == told
    answer = await office.ask("POST", f"{at}/routes", json={"routes": ["10.0.0.1/8"]})
    assert answer.status_code == 400 and "host bits" in answer.json()["message"]
    await office.told("POST", f"{at}/attributes/custom:tier", json={"value": 3})
    told = await office.told("GET", f"{at}/attributes")
    assert told["attributes"]["custom:tier"] == 3
    for name, value in (
        ("node:os", "x"),
        ("custom:", 1),
        ("custom:a b", 1),
        ("custom:x", "y" * 99),
    ):
        answer = await office.ask("POST", f"{at}/attributes/{name}", json={"value": value})
        assert answer.status_code == 400, name
    await office.told("DELETE", f"{at}/attributes/custom:tier")
    assert (await office.ask("DELETE", f"{at}/attributes/custom:tier")).status_code == 404


async def test_keys(office: Office) -> None:
    wish = {"devices": {"create": {"reusable": True, "tags": ["tag:ci"]}}}
    made = await office.told(
        "POST", "/tailnet/-/keys", json={"capabilities": wish, "expirySeconds": 3600}
    )
    assert made["key"].startswith("warren-auth-") and made["expirySeconds"] == 3600
    assert made["capabilities"]["devices"]["create"]["tags"] == ["tag:ci"]
    shown = await office.told("GET", f"/tailnet/-/keys/{made['id']}")
    assert "key" not in shown and shown["keyType"] == "auth"
    listed = await office.told("GET", "/tailnet/-/keys?all=true")
    assert {key["keyType"] for key in listed["keys"]} == {"auth", "api"}
    entry = (await office.told("GET", "/tailnet/-/logging/configuration"))["logs"][-1]
    assert (entry["action"], entry["actor"]["loginName"]) == ("CREATE", "owner")
    assert entry["origin"] == "192.0.2.7" and entry["target"]["type"] == "AUTH_KEY"
    await office.told("DELETE", f"/tailnet/-/keys/{made['id']}")
    assert (await office.ask("GET", f"/tailnet/-/keys/{made['id']}")).status_code == 404
    for role in ("auditor", "member", "network-admin"):
        answer = await office.ask("POST", "/tailnet/-/keys", office.tokens[role], json={})
        assert answer.status_code == 403
    own = await office.ask("GET", "/tailnet/-/keys", office.tokens["member"])
    assert own.json() == {"keys": []}
    for bad in ({"keyType": "federated"}, {"expirySeconds": -1}, {"expirySeconds": 10**9}):
        assert (await office.ask("POST", "/tailnet/-/keys", json=bad)).status_code == 400


async def test_an_oauth_client(office: Office) -> None:
    wish = {"keyType": "client", "scopes": ["auth_keys", "devices:core:read"], "tags": ["tag:ci"]}
    made = await office.told("POST", "/tailnet/-/keys", json=wish)
    form = {"client_id": made["id"], "client_secret": made["key"]}
    answer = await office.http.post("/oauth/token", data=form)
    told = answer.json()
    assert (told["token_type"], told["expires_in"]) == ("Bearer", 3600)
    token = told["access_token"]
    assert (await office.ask("GET", "/tailnet/-/devices", token)).status_code == 200
    assert (await office.ask("GET", "/tailnet/-/acl", token)).status_code == 403
    create = {"capabilities": {"devices": {"create": {"tags": ["tag:ci"]}}}}
    assert (await office.ask("POST", "/tailnet/-/keys", token, json=create)).status_code == 200
    assert (await office.ask("POST", "/tailnet/-/keys", token, json={})).status_code == 400
    create["capabilities"]["devices"]["create"]["tags"] = ["tag:prod"]
    assert (await office.ask("POST", "/tailnet/-/keys", token, json=create)).status_code == 403
    # What the policy says its tags own, it may give, too.
    owned = '{"tagOwners": {"tag:ci": [], "tag:prod": ["tag:ci"], "tag:web": ["tag:prod"]}}'
    await office.told("POST", "/tailnet/-/acl", content=owned)
    assert (await office.ask("POST", "/tailnet/-/keys", token, json=create)).status_code == 200
    create["capabilities"]["devices"]["create"]["tags"] = ["tag:web"]
    assert (await office.ask("POST", "/tailnet/-/keys", token, json=create)).status_code == 403
    for scope, status in (("devices:core:read", 200), ("policy_file", 400)):
        narrow = await office.http.post("/oauth/token", data={**form, "scope": scope})
        assert narrow.status_code == status
    wrong = await office.http.post("/oauth/token", data={**form, "client_secret": "x"})
    assert wrong.status_code == 401
    assert (await office.http.post("/oauth/token", content=b"\xff")).status_code == 400
    more = {"keyType": "client", "scopes": ["dns"]}
    assert (await office.ask("POST", "/tailnet/-/keys", token, json=more)).status_code == 403


async def test_people(office: Office) -> None:
    users = (await office.told("GET", "/tailnet/-/users"))["users"]
    for query, count in (("role=all&type=all", len(users)), ("role=member", 1), ("type=shared", 0)):
        told = await office.told("GET", f"/tailnet/-/users?{query}")
        assert len(told["users"]) == count, query
    ids = {user["loginName"]: user["id"] for user in users}
    assert set(ids) == {"ann", *ROLES}
    assert (await office.told("GET", f"/users/{ids['auditor']}"))["role"] == "auditor"

    async def role(of: str, to: str, by: str) -> int:
        path = f"/users/{ids[of]}/role"
        return (await office.ask("POST", path, office.tokens[by], json={"role": to})).status_code

    assert await role("member", "auditor", "it-admin") == 200
    assert await role("member", "admin", "it-admin") == 403
    assert await role("admin", "member", "it-admin") == 403
    assert await role("member", "owner", "admin") == 403
    assert await role("owner", "member", "admin") == 403
    assert await role("member", "admin", "owner") == 200
    assert await role("member", "boss", "owner") == 400
    path = f"/users/{ids['ann']}/delete"
    assert (await office.ask("POST", path)).status_code == 403
    await office.told("POST", f"/users/{ids['billing-admin']}/delete")
    assert (await office.ask("GET", f"/users/{ids['billing-admin']}")).status_code == 404


async def test_people_are_invited(office: Office) -> None:
    path = "/tailnet/-/user-invites"

    async def invite(by: str, *wishes: dict[str, object]) -> tuple[int, object]:
        answer = await office.ask("POST", path, office.tokens[by], json=list(wishes))
        return answer.status_code, answer.json()

    status, made = await invite(
        "it-admin", {"email": "eve@example.com"}, {"email": "joe", "role": "auditor"}
    )
    assert status == 200 and isinstance(made, list)
    assert [(one["email"], one["role"]) for one in made] == [
        ("eve@example.com", "member"),
        ("joe", "auditor"),
    ]
    eve, joe = made
    snapshot = office.registry.snapshot
    text = eve["inviteUrl"].rpartition("/")[2]
    user = snapshot.user_named("eve@example.com")
    assert user is not None
    assert invites.find(snapshot, text, office.world.clock.wall()).user_id == user.id
    listed = await office.told("GET", path)
    assert {one["id"] for one in listed} == {eve["id"], joe["id"]}
    assert all("inviteUrl" not in one for one in listed)
    at = f"/user-invites/{eve['id']}"
    assert (await office.told("GET", at))["email"] == "eve@example.com"
    resent = await office.ask("POST", f"{at}/resend")
    assert resent.status_code == 501 and "no mail" in resent.json()["message"]
    status, again = await invite("owner", {"email": "eve@example.com"})
    assert status == 200 and isinstance(again, list)
    assert (await office.ask("GET", at)).status_code == 404, "the newer link is in its place"
    await office.told("DELETE", f"/user-invites/{again[0]['id']}", token=office.tokens["it-admin"])
    assert [one["id"] for one in await office.told("GET", path)] == [joe["id"]]

    await office.registry.commit(
        lambda now: (Delta(users=(replace(now.user_named("joe"), last_login=START),)), None)
    )
    known = len(office.registry.snapshot.users)
    for by, wish, expected in (
        ("it-admin", {"email": "x", "role": "admin"}, 403),
        ("it-admin", {"email": "admin"}, 403),
        ("admin", {"email": "ann"}, 403),
        ("owner", {"email": "x", "role": "owner"}, 403),
        ("owner", {"email": "x", "role": "boss"}, 400),
        ("owner", {"email": "x y\r\nSet-Cookie: a"}, 400),
        ("owner", {}, 400),
        ("owner", {"email": "x", "expirySeconds": -1}, 400),
        ("owner", {"email": "joe"}, 409),
    ):
        assert (await invite(by, {"email": "good"}, wish))[0] == expected, wish
    assert (await invite("owner"))[0] == (await invite("owner", *[{"email": "x"}] * 101))[0] == 400
    assert len(office.registry.snapshot.users) == known, "all of them, or none"


async def test_the_policy(office: Office) -> None:
    read = await office.ask("GET", "/tailnet/-/acl", headers={"accept": "application/hujson"})
    assert read.headers["content-type"].startswith("application/hujson") and "//" in read.text
    etag = read.headers["etag"]
    text = '{\n  // Only web.\n  "grants": [{"src": ["*"], "dst": ["*"], "ip": ["443"]}],\n}\n'
    write = {"content": text.encode(), "headers": {"accept": "application/hujson"}}
    write["headers"]["if-match"] = '"ts-default"'
    assert (await office.ask("POST", "/tailnet/-/acl", **write)).status_code == 200
    assert (await office.ask("POST", "/tailnet/-/acl", **write)).status_code == 412
    write["headers"]["if-match"] = etag
    stale = await office.ask("POST", "/tailnet/-/acl", **write)
    assert stale.status_code == 412 and "precondition failed" in stale.json()["message"]
    back = await office.ask("GET", "/tailnet/-/acl", headers={"accept": "application/hujson"})
    assert back.text == text
    plain = await office.told("GET", "/tailnet/-/acl", headers={"accept": "application/json"})
    assert plain["grants"][0]["ip"] == ["443"]
    bad = await office.ask("POST", "/tailnet/-/acl", content=b'{"grants": [{"src": ["group:x"]}]}')
    assert bad.status_code == 400 and office.registry.snapshot.policy is not None
    failing = b'{"grants": [], "tests": [{"src": "100.64.0.1", "accept": ["100.64.0.1:22"]}]}'
    refused = await office.ask("POST", "/tailnet/-/acl", content=failing)
    assert refused.status_code == 400 and refused.json()["data"]
    said = await office.told("POST", "/tailnet/-/acl/validate", content=failing)
    assert said["message"].startswith("test(s) failed") and said["data"]
    assert await office.told("POST", "/tailnet/-/acl/validate", content=text.encode()) == {}
    tests = b'[{"src": "100.64.0.1", "accept": ["100.64.0.1:443"]}]'
    assert await office.told("POST", "/tailnet/-/acl/validate", content=tests) == {}
    # Also where the one in force has tests of its own, of whatever spelling.
    cased = b'{"Grants": [{"src": ["*"], "dst": ["*"], "ip": ["443"]}], "Tests": []}'
    assert (await office.ask("POST", "/tailnet/-/acl", content=cased)).status_code == 200
    assert await office.told("POST", "/tailnet/-/acl/validate", content=tests) == {}
    for content in (b"\xff", b"{", b"x" * (1 << 20) + b"x"):
        assert (await office.ask("POST", "/tailnet/-/acl", content=content)).status_code == 400


async def test_settings_take_effect(office: Office) -> None:
    before = await office.told("GET", "/tailnet/-/settings")
    assert (before["devicesApprovalOn"], before["devicesKeyDurationDays"]) == (False, 180)
    after = await office.told(
        "PATCH",
        "/tailnet/-/settings",
        json={"devicesApprovalOn": True, "devicesKeyDurationDays": 30, "httpsEnabled": False},
    )
    assert (after["devicesApprovalOn"], after["devicesKeyDurationDays"]) == (True, 30)
    link = "https://git.example.com/acl"
    wish = {"aclsExternallyManagedOn": True, "aclsExternalLink": link}
    after = await office.told("PATCH", "/tailnet/-/settings", json=wish)
    assert after["aclsExternallyManagedOn"] and after["aclsExternalLink"] == link
    after = await office.told("PATCH", "/tailnet/-/settings", json={"aclsExternalLink": ""})
    assert after["aclsExternallyManagedOn"] and not after["aclsExternalLink"]
    for bad in ("javascript:alert(1)", "https://x y", "https://x/\r\na: b", "https://" + "x" * 500):
        wrong = await office.ask("PATCH", "/tailnet/-/settings", json={"aclsExternalLink": bad})
        assert wrong.status_code == 400, bad
    for bad in ({"devicesKeyDurationDays": 0}, {"devicesKeyDurationDays": 181}):
        assert (await office.ask("PATCH", "/tailnet/-/settings", json=bad)).status_code == 400
    answer = await office.ask("PATCH", "/tailnet/-/settings", json={"httpsEnabled": True})
    assert answer.status_code == 400 and "httpsEnabled" in answer.json()["message"]


async def test_the_log_is_asked_by_time(office: Office) -> None:
    answer = await office.ask("GET", "/tailnet/-/logging/configuration?start=yesterday")
    assert answer.status_code == 400
    await office.told("POST", f"/device/{office.node}/name", json={"name": "x"})
    path = "/tailnet/-/logging/configuration?start=2020-01-01T00:00:00Z&end=2020-01-02T00:00:00Z"
    assert (await office.told("GET", path))["logs"] == []


async def test_guessing_is_slowed_and_logged(office: Office) -> None:
    with capture_logs() as told:
        for _ in range(10):
            assert (await office.ask("GET", "/tailnet/-/devices", "guess")).status_code == 401
    lines = [line for line in told if line["event"] == "a credential was refused"]
    assert len(lines) == 10 and lines[0]["address"] == "192.0.2.7"
    assert "guess" not in str(lines), "what was tried may be nearly right"
    answer = await office.ask("GET", "/tailnet/-/devices", "guess")
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
    assert (await office.ask("GET", "/tailnet/-/devices")).status_code == 429, "also a good one"
    assert (await office.http.post("/oauth/token", data={"client_id": "x"})).status_code == 429
    office.world.clock.advance(11)
    assert (await office.ask("GET", "/tailnet/-/devices")).status_code == 200


async def test_how_often_one_may_ask_is_told(office: Office) -> None:
    for left, path in ((499, "/users/1"), (498, "/users/999"), (497, "/tailnet/-/devices")):
        answer = await office.ask("GET", path)
        assert answer.headers["ratelimit-policy"] == '"requests";q=500;w=10'
        assert answer.headers["ratelimit"] == f'"requests";r={left};t=0'
    assert "ratelimit" not in (await office.ask("GET", "/users/1", "wrong")).headers


@pytest.mark.parametrize("what", ["users", "keys?all=true", "devices?os=linux&fields=all"])
async def test_lists_come_in_pages(office: Office, what: str) -> None:
    for number in range(4):
        key = office.world.auth_key(office.owner)[0]
        office.world.register(f"m{number}", f"n{number}", auth_key=key, hostname=f"h{number}")
    nodes = tuple(office.world.snapshot.nodes.values())[-4:]
    made = Delta(nodes=tuple(replace(node, id=node.id + 1000) for node in nodes))
    await office.registry.commit(lambda now: (made, None))
    name, _, query = what.partition("?")
    path = f"/tailnet/-/{name}"
    whole = (await office.told("GET", f"{path}?{query}"))[name]
    assert len(whole) >= 4
    parts, at = [], f"{path}?{query}&limit=2"
    while at:
        answer = await office.ask("GET", at)
        parts.append(answer.json()[name])
        link = answer.headers.get("link", "")
        assert not link or link.endswith('>; rel="next"')
        at = link[1:].partition(">")[0].partition("/api/v2")[2]
    assert [one for part in parts for one in part] == whole
    assert {len(part) for part in parts[:-1]} == {2}
    for bad in ("0", "-1", "x", "1001", "٣"):
        answer = await office.ask("GET", f"{path}?limit={bad}")
        assert answer.status_code == 400 and "limit" in answer.json()["message"]
    assert (await office.told("GET", f"{path}?{query}&after=zzz"))[name] == []


async def test_many_requests_are_slowed(office: Office) -> None:
    statuses = [(await office.ask("GET", "/users/1")).status_code for _ in range(501)]
    assert set(statuses[:500]) == {200} and statuses[500] == 429
    office.world.clock.advance(1)
    assert (await office.ask("GET", "/users/1")).status_code == 200


def test_one_machine_has_a_whole_network_of_ipv6() -> None:
    assert place_of("2001:db8::1") == place_of("2001:db8::ffff:2") != place_of("2001:db8:0:1::1")
    assert place_of("192.0.2.1") == "192.0.2.1" and place_of("local") == "local"


def test_a_throttle_forgets_the_longest_unseen() -> None:
    throttle = Throttle(1, 1)
    for number in range(MAX_KNOWN + 10):
        throttle.take(str(number), 0)
    assert throttle.wait_s("0", 0) == 0 and throttle.wait_s(str(MAX_KNOWN), 0) == 1


async def test_large_bodies_are_refused(office: Office) -> None:
    answer = await office.ask("POST", "/tailnet/-/acl", content=b" " * ((4 << 20) + 1))
    assert answer.status_code == 413


async def test_it_describes_itself(office: Office) -> None:
    described = (await office.http.get("/openapi.json")).json()
    assert described["openapi"] == "3.1.0"
    listed = {
        (method.upper(), path) for path, methods in described["paths"].items() for method in methods
    }
    assert listed == {(o.method, o.path) for o in OPERATIONS} | {("POST", "/oauth/token")}
    docs = await office.http.get("/docs")
    assert docs.status_code == 200 and "/device/{device}/routes" in docs.text


async def test_a_user_that_is_gone_opens_nothing(office: Office) -> None:
    await office.registry.commit(lambda now: (members.delete_user(now, "admin"), None))
    answer = await office.ask("GET", "/tailnet/-/devices", office.tokens["admin"])
    assert answer.status_code == 401


async def test_a_clients_secret_is_no_token(office: Office) -> None:
    wish = {"keyType": "client", "scopes": ["all"], "tags": ["tag:ci"]}
    made = await office.told("POST", "/tailnet/-/keys", json=wish)
    form = {"client_id": made["id"], "client_secret": made["key"]}
    assert (await office.http.post("/oauth/token", data=form)).status_code == 200
    assert (await office.ask("GET", "/tailnet/-/devices", made["key"])).status_code == 401


async def test_people_are_shut_out_and_let_in_again(office: Office) -> None:
    users = (await office.told("GET", "/tailnet/-/users"))["users"]
    ids = {user["loginName"]: user["id"] for user in users}
    for what, body in (("role", {"role": "member"}), ("suspend", {}), ("delete", {})):
        path, token = f"/users/{ids['admin']}/{what}", office.tokens["admin"]
        oneself = await office.ask("POST", path, token, json=body)
        assert oneself.status_code == 403 and "yourself" in oneself.json()["message"], what
    member, admin = f"/users/{ids['member']}", office.tokens["admin"]
    await office.told("POST", f"{member}/suspend", token=admin)
    assert (await office.told("GET", member))["status"] == "suspended"
    shut_out = await office.ask("GET", "/users/1", office.tokens["member"])
    assert shut_out.status_code == 401 and "suspended" in shut_out.json()["message"]
    await office.told("POST", f"{member}/restore", token=admin)
    assert (await office.ask("GET", "/users/1", office.tokens["member"])).status_code == 403
    it_admin = office.tokens["it-admin"]
    above = await office.ask("POST", f"/users/{ids['admin']}/suspend", it_admin)
    assert above.status_code == 403 and "more than you" in above.json()["message"]
    owner = await office.ask("POST", f"/users/{ids['ann']}/suspend", admin)
    assert owner.status_code == 403 and "only an owner" in owner.json()["message"]
