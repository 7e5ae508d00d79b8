"""`warren admin` over the HTTP API: it says what the socket says, and what it cannot do."""

from __future__ import annotations

import asyncio
import json
import re
from os import getuid
from pathlib import Path

import pytest
from coordinator_server import Running, joined
from msgspec.structs import replace
from typer import Typer
from typer.testing import CliRunner

from warren.cli.admin import app
from warren.cli.policy import app as policy_app
from warren.coordinator.admin import shapes
from warren.coordinator.api import shapes as wire
from warren.coordinator.api_client import ApiClient
from warren.coordinator.client import AdminClient, AdminError
from warren.coordinator.delta import Delta
from warren.edge.linux.local_socket import account_name


async def far_client(running: Running) -> ApiClient:
    made = await running.admin(lambda near: near.create_token(shapes.NewToken(user="admin")))
    return ApiClient(f"http://127.0.0.1:{running.http}", str(made.text))


async def test_it_says_what_the_socket_says(running: Running) -> None:
    async with joined(running, "one", "two"):
        far, registry = await far_client(running), running.server._registry
        known = next(iter(registry.snapshot.users.values()))
        logged_in = replace(known, last_login=known.created, password="…", groups=("group:a@b.c",))
        await registry.commit(lambda now: (Delta(users=(logged_in,)), None))

        def compare(near: AdminClient) -> None:
            assert far.users() == near.users()
            assert far.users()[0].last_login and far.users()[0].logs_in == "password"
            assert far.tokens() == [replace(t, role="its user") for t in near.tokens()]
            untold = {"capability_version": 0, "home_region": 0, "disco_key": "", "last_seen": None}
            assert far.nodes().nodes == [replace(node, **untold) for node in near.nodes().nodes]
            one = far.node("one")
            for name in ("one.warren.internal.", str(one.id), one.stable_id, one.addresses[1]):
                assert far.node(name) == one
            near_keys, far_keys = near.keys(), far.keys()
            uses = {key.id: key.uses for key in far_keys}
            assert far_keys == [replace(key, uses=uses[key.id]) for key in near_keys]
            text, etag = near.policy().text, near.policy().etag
            assert (far.policy().text, far.policy().etag) == (text, etag)
            whole = near.audit(100)
            assert far.audit(100) == whole
            assert far.audit(2) == whole[:2] and far.audit(2, before=whole[1].id) == whole[2:4]
            assert far.audit(9, since=whole[0].time) == [
                e for e in whole if e.time >= whole[0].time
            ]

        await running.admin(compare)


async def test_it_does_what_the_socket_does(running: Running) -> None:
    async with joined(running, "one"):
        far = await far_client(running)

        def work(near: AdminClient) -> None:
            assert far.rename("one", "first").fqdn == "first.warren.internal"
            assert far.tag("first", ["tag:a"]).tags == ["tag:a"] == near.node("first").tags
            assert far.approve("first").authorized
            assert far.expire("first").expired and near.node("first").state == "expired"
            assert far.delete_node("first").name == "first" and near.nodes().nodes == []
            made = far.create_key(shapes.NewAuthKey(reusable=True, tags=["tag:a"], expires="30d"))
            assert made.key and made.user == "admin"
            known = near.keys()
            assert replace(made, key=None) in known
            assert far.revoke_key(made.key).id == made.id
            assert len(near.keys()) == len(known) - 1
            client = far.create_token(shapes.NewToken(scopes=["dns:read"]))
            assert client.text and client.kind == "client"
            program = ApiClient(far._where, client.text)
            assert program.dns() == near.dns()
            with pytest.raises(AdminError, match="users:read"):
                program.users()
            assert far.revoke_token(client.id).scopes == ["dns:read"]
            link = far.invite("bob", shapes.NewInvite(role="auditor", display_name="Bob"))
            assert link.url.startswith(f"{far._where}/invite/") and link.user == "bob"
            (bob,) = (user for user in near.users() if user.name == "bob")
            assert (bob.role, bob.display_name) == ("auditor", "Bob")
            assert far.set_role("Bob", "auditor").role == "auditor"
            assert far.suspend("bob").suspended and not far.restore("bob").suspended
            assert far.approve_user("bob").approved
            assert far.delete_user("bob").name == "bob"
            edited = far.policy().etag
            far.set_policy('{"grants": []}', "", edited)
            with pytest.raises(AdminError, match="precondition failed"):
                far.set_policy('{"grants": []}', "", edited)
            assert near.policy().author == "admin"
            assert far.policy_history() == near.policy_history()
            assert far.topology() == near.topology()
            assert far.policy_version(1).text == near.policy_version(1).text
            assert far.check_policy('{"acls": []}').message == near.check_policy("{}").message
            with pytest.raises(AdminError, match="line 1"):
                far.check_policy('{"acls": 1}')

        await running.admin(work)


async def test_names_and_webhooks_from_both(running: Running) -> None:
    far = await far_client(running)

    def work(near: AdminClient) -> None:
        for one, other, address in ((near, far, "9.9.9.9"), (far, near, "1.1.1.1")):
            choice = wire.DnsConfiguration(nameservers=[wire.Resolver(address=address)])
            assert one.set_dns(choice) == other.dns()
            new = wire.NewWebhook(endpoint_url="https://x.invalid/", subscriptions=["nodeCreated"])
            made = one.create_webhook(new)
            assert made.secret and made.creator_login_name in (
                f"administrator {account_name(getuid())}",
                "admin",
            )
            (shown,) = other.webhooks()
            assert shown.endpoint_id == made.endpoint_id and not shown.secret
            assert other.rotate_webhook(made.endpoint_id).secret not in ("", made.secret)
            other.subscribe_webhook(made.endpoint_id, ["userCreated"])
            assert one.test_webhook(made.endpoint_id).subscriptions == ["userCreated"]
            assert one.delete_webhook(made.endpoint_id).endpoint_url == "https://x.invalid/"
            assert other.webhooks() == []
        actors = {entry.actor for entry in near.audit(100) if entry.target_kind == "webhook"}
        assert actors == {f"administrator {account_name(getuid())}", "admin"}

    await running.admin(work)


async def test_the_log_is_exported_a_line_an_entry(running: Running) -> None:
    """Whatever names have in them: nobody adds a line, a column or a header to it."""
    hostile = 'Ann\r\n{"id": 1, "actor": "root"}\u2028\x1b[31m","x'
    await running.admin(lambda client: client.create_user("ann", hostile))
    await running.admin(lambda client: client.create_user("bob"))
    told = (await run("audit", "--export", "--state", str(running.state))).rstrip("\n").split("\n")
    entries = [json.loads(line) for line in told]
    assert [entry["id"] for entry in entries] == list(range(len(entries), 0, -1))
    (made,) = (e for e in entries if e["target_name"] == "ann" and e["action"] == "create")
    assert made["after"]["display_name"] == hostile
    for words in (("audit",), ("users", "list")):
        shown = await run(*words, "--state", str(running.state))
        assert "\x1b" not in shown and "\u2028" not in shown and '\n{"id"' not in shown


async def test_what_it_cannot_do_it_says(running: Running) -> None:
    far = await far_client(running)

    def work(near: AdminClient) -> None:
        for call in (
            far.status,
            lambda: far.why("a", "b"),
        ):
            with pytest.raises(AdminError, match="on the server's own machine"):
                call()
        for call, said in (
            (lambda: far.create_user("x"), "users invite x"),
            (lambda: far.invite("admin", shapes.NewInvite(must_exist=True)), "nobody's password"),
            (lambda: far.invite("admin", shapes.NewInvite(role="boss")), "is no role"),
            (lambda: far.invite("x", shapes.NewInvite(expires="never")), "at most 90 days"),
            (lambda: far.create_token(shapes.NewToken(user="admin")), "only a client"),
            (lambda: far.create_key(shapes.NewAuthKey(user="admin")), "leave --user out"),
            (lambda: far.create_key(shapes.NewAuthKey(expires="never")), "at most 90 days"),
            (lambda: far.reject("nosuch"), "no machine waits"),
            (lambda: far.approve("nosuch"), "there is no node"),
            (lambda: far.policy_version(9), "is not kept"),
            (lambda: far.node("nosuch"), "there is no node"),
            (lambda: far.delete_user("nosuch"), "there is no user"),
            (lambda: far.delete_user("nosuch", with_nodes=True), "delete those first"),
            (lambda: far.revoke_key("nosuch"), "there is no key"),
            (lambda: ApiClient(far._where, "wrong").users(), "is not known here"),
            (lambda: ApiClient(far._where, "warren-client-x-y").users(), "is not known here"),
            (lambda: ApiClient("http://127.0.0.1:9", "k").users(), "does not answer"),
            (lambda: ApiClient(f"https://127.0.0.1:{running.tls}", "k").users(), "not trusted"),
            (lambda: ApiClient("http://203.0.113.9", "k"), "readable on the way"),
            (lambda: ApiClient("vpn.example.com", "k"), "is not a server's URL"),
            (lambda: ApiClient("https://[x", "k"), "is not a server's URL"),
            (lambda: ApiClient("https://x", "a\nb"), "cannot be one"),
        ):
            with pytest.raises(AdminError, match=said):
                call()
        for host in ("localhost", "[::1]", "100.64.0.1", "[fd7a:115c:a1e0::1]"):
            ApiClient(f"http://{host}:8080/", "k")

    await running.admin(work)


async def run(*args: str, of: Typer = app) -> str:
    """Run a command; return what it prints, without what the server here logs meanwhile."""
    result = await asyncio.to_thread(CliRunner().invoke, of, list(args))
    assert result.exit_code == 0, (args, result.output, result.exception)
    lines = result.output.splitlines(keepends=True)
    return "".join(line for line in lines if not re.search(r" \[(info|warning) ", line))


async def test_commands_for_machines_and_the_network(running: Running, tmp_path: Path) -> None:
    policy = tmp_path / "policy.hujson"
    policy.write_text('{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["443"]}]}')
    everyone = tmp_path / "everyone.hujson"
    everyone.write_text('{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}')
    async with joined(running, "one", "two"):
        far = await far_client(running)
        (tmp_path / "key").write_text(far._key)
        away = ["--server", far._where, "--key-file", str(tmp_path / "key")]
        for place, ipv4 in ((["--state", str(running.state)], "100.99.0.1"), (away, "100.99.0.2")):
            nodes = ("nodes", "routes", "one")
            assert "10.0.0.0/8  no       yes" in await run(*nodes, "10.0.0.0/8", *place)
            told = json.loads(await run(*nodes, "--none", "--json", *place))
            assert told == {"advertisedRoutes": [], "enabledRoutes": []}
            assert json.loads(await run(*nodes, "--all", "--json", *place)) == told
            nodes = ("nodes", "attributes", "one")
            assert "gold" in await run(*nodes, "custom:tier", "gold", *place)
            assert "3.5" in await run(*nodes, "custom:n", "3.5", *place)
            told = json.loads(await run(*nodes, "custom:yes", "true", "--json", *place))
            assert told["attributes"]["custom:yes"] is True
            assert "custom:tier" not in await run(*nodes, "custom:tier", "--remove", *place)
            assert "not expire" in await run("nodes", "key-expiry", "one", "off", *place)
            assert "expires on" in await run("nodes", "key-expiry", "one", "on", *place)
            assert f"{ipv4} and fd7a:" in await run("nodes", "address", "one", ipv4, *place)
            told = await run("settings", "set", "--approve-machines", "--key-days", "9", *place)
            assert "yes" in told and "after 9 days" in told
            assert "no" in await run("settings", "set", "--no-approve-machines", *place)
            assert "after 9 days" in await run("settings", "show", *place)
            link = "https://git.example.com/acl"
            elsewhere = ("settings", "set", "--policy-elsewhere", "--policy-link", link)
            assert link in await run(*elsewhere, *place)
            refused = await asyncio.to_thread(
                CliRunner().invoke, app, ["policy", "set", str(everyone), *place]
            )
            assert refused.exit_code == 1 and link in refused.output
            assert "in force" in await run("policy", "set", str(everyone), "--anyway", *place)
            told = await run("settings", "set", "--no-policy-elsewhere", *place)
            assert "policy is kept           here" in told
            told = await run("settings", "set", "--approve-users", *place)
            assert "new users need approval  yes" in told
            assert "may log in" in await run("users", "approve", "1", *place)
            assert "a@b.example" in await run("contacts", "support", "a@b.example", *place)
            assert "a@b.example" in await run("contacts", *place)
            told = await run("policy", "preview", str(policy), "--port", f"{ipv4}:443", *place)
            assert told == "line     1  * → *:443\n"
            (way,) = json.loads(await run("who-can", f"{ipv4}:22", "--json", *place, of=policy_app))
            assert way["source"] == "two", way
            told = await run("policy", "preview", str(policy), "--port", f"{ipv4}:80", *place)
            assert told == f"No rule meets {ipv4}:80.\n"


async def test_the_commands(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = await far_client(running)
    file = tmp_path / "key"
    file.write_text(far._key + "\n")
    away = ["--server", far._where, "--key-file", str(file)]

    for place in (["--state", str(running.state)], away):
        assert json.loads(await run("users", "list", "--json", *place))[0]["name"] == "admin"
        told = await run("dns", "nameservers", "9.9.9.9", "10.0.0.1:5353", "--override", *place)
        assert "9.9.9.9, 10.0.0.1:5353, instead of machines' own" in told
        assert "for corp.example" in await run("dns", "split", "Corp.example.", "10.0.0.2", *place)
        assert "for corp.example" not in await run("dns", "split", "corp.example", *place)
        assert "a.example, b.example" in await run(
            "dns", "search", "a.example", "b.example", *place
        )
        assert "off" in await run("dns", "magic", "off", *place)
        chosen = json.loads(await run("dns", "show", "--json", *place))
        assert chosen["preferences"] == {"overrideLocalDNS": True, "magicDNS": False}
        await run("dns", "nameservers", "--no-override", *place)
        made = await run("webhooks", "create", "https://x.invalid/", *place)
        hook = made.split()[1]
        assert hook in await run("webhooks", "list", *place)
        await run("webhooks", "subscribe", hook, "--event", "nodeCreated", *place)
        assert (await run("webhooks", "rotate", hook, *place)).startswith("warren-webhook-")
        assert "on its way" in await run("webhooks", "test", hook, *place)
        assert "told of nothing" in await run("webhooks", "delete", hook, *place)
        lines = (await run("audit", "--export", *place)).splitlines()
        assert len(lines) > 5 and json.loads(lines[-1])["id"] == 1
    monkeypatch.setenv("WARREN_ADMIN_SERVER", far._where)
    monkeypatch.setenv("WARREN_ADMIN_KEY", far._key)
    assert json.loads(await run("users", "list", "--json"))[0]["name"] == "admin"
    monkeypatch.delenv("WARREN_ADMIN_KEY")
    file.write_text("two\nlines")
    for args, said in (
        ([], "needs an API key"),
        (["--key-file", str(file)], "not hold an API key on one line"),
        (["--key-file", str(tmp_path / "none")], "no such file"),
    ):
        result = await asyncio.to_thread(CliRunner().invoke, app, ["users", "list", *args])
        assert isinstance(result.exception, AdminError) and said in str(result.exception)
