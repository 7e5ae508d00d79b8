"""A network from Headscale: the columns are those of its public schema, the rows are ours."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from coordinator_world import (
    START,
    CountedEntropy,
    World,
    machine_key,
    node_key,
)
from typer.testing import CliRunner

from warren.cli.server import app
from warren.coordinator.auth import authkeys
from warren.coordinator.headscale.importing import (
    Imported,
    ImportProblem,
    PolicyChoice,
    import_headscale,
)
from warren.coordinator.headscale.source import read_source_untrusted
from warren.coordinator.login import accounts
from warren.coordinator.login.claims import Identity
from warren.coordinator.records import NodeRecord
from warren.coordinator.refusal import Refused
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import AuditQuestion, Store
from warren.edge.files import FileLock, private_directory

LATER, EARLIER = "2027-01-02 03:04:05.123456789+00:00", "2020-01-01 00:00:00+00:00"
ANN = {"id": 1, "name": "ann", "email": "ann@example.com", "created_at": EARLIER}
BOB = {"id": 2, "name": "bob", "created_at": "2024-05-06 07:08:09.5 +0200 CEST"}
GONE = {"id": 3, "name": "gone", "deleted_at": EARLIER}
SECRET = "0123456789abcdef" * 4
OLD_KEY = "fedcba9876543210" * 3
NEWER = {
    "users": "id, name, display_name, email, provider_identifier, provider, profile_pic_url, "
    "created_at, updated_at, deleted_at",
    "pre_auth_keys": "id, key, prefix, hash, user_id, description, reusable, ephemeral, used, "
    "tags, expiration, revoked, created_at",
    "nodes": "id, machine_key, node_key, disco_key, endpoints, host_info, ipv4, ipv6, hostname, "
    "given_name, user_id, register_method, tags, auth_key_id, last_seen, expiry, "
    "approved_routes, created_at, updated_at, deleted_at",
    "policies": "id, data, created_at, updated_at, deleted_at",
}
AS_IT_IS = PolicyChoice()
OLDER = NEWER | {
    "pre_auth_keys": "id, key, user_id, reusable, ephemeral, used, created_at, expiration",
    "pre_auth_key_acl_tags": "id, pre_auth_key_id, tag",
    "nodes": NEWER["nodes"].replace("tags", "forced_tags").replace("approved_routes, ", ""),
    "routes": "id, node_id, prefix, advertised, enabled, is_primary, deleted_at",
}


def node(number: int, name: str, **more: Any) -> dict[str, Any]:
    """A row of `nodes` as Headscale writes one."""
    return {
        "id": number,
        "machine_key": str(machine_key(name).public()),
        "node_key": str(node_key(name).public()),
        "disco_key": f"discokey:{number:064x}",
        "endpoints": '["192.0.2.1:41641"]',
        "host_info": json.dumps({"Hostname": name, "OS": "linux", "RoutableIPs": ["10.0.0.0/24"]}),
        "ipv4": f"100.64.0.{number}",
        "ipv6": f"fd7a:115c:a1e0::{number:x}",
        "hostname": name,
        "given_name": name,
        "user_id": 1,
        "tags": "null",
        "created_at": EARLIER,
        **more,
    }


def database(file: Path, schema: dict[str, str] = NEWER, **tables: list[dict[str, Any]]) -> Path:
    """Write a database with these rows; columns that a row does not name are NULL."""
    made = sqlite3.connect(file)
    for table, columns in schema.items():
        made.execute(f"CREATE TABLE {table} ({columns})")
    for table, rows in tables.items():
        for row in rows:
            marks = ", ".join("?" * len(row))
            made.execute(
                f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values())
            )
    made.commit()
    made.close()
    return file


def take(file: Path, state: Path, policy: PolicyChoice = AS_IT_IS) -> Imported:
    return import_headscale(state, "", file, policy, START, CountedEntropy(), lambda _: None)


def loaded(state: Path) -> Snapshot:
    store = Store.open(f"sqlite:///{state / 'warren.db'}")
    try:
        return store.load()
    finally:
        store.close()


def named(snapshot: Snapshot, name: str) -> NodeRecord:
    return next(found for found in snapshot.nodes.values() if found.name == name)


def test_machines_keep_what_others_know_of_them(tmp_path: Path) -> None:
    routes = '["10.0.0.0/24","not a route"]'
    file = database(
        tmp_path / "db.sqlite",
        users=[ANN, BOB, GONE],
        nodes=[
            node(1, "laptop", expiry=LATER, approved_routes=routes, last_seen=EARLIER),
            node(2, "server", user_id=None, tags='["tag:web"]', expiry=LATER),
            node(
                3, "phone", user_id=2, given_name="bobs-phone", expiry="0001-01-01 00:00:00+00:00"
            ),
            node(4, "deleted", deleted_at=EARLIER),
        ],
    )
    state = tmp_path / "state"
    assert take(file, state).machines == 3
    snapshot = loaded(state)
    assert {user.name: user.role for user in snapshot.users.values()} == {
        "ann@example.com": "owner",
        "bob": "member",
    }
    assert snapshot.user_named("bob").created == datetime(2024, 5, 6, 5, 8, 9, 500000, UTC)  # type: ignore[union-attr]
    laptop, server, phone = (named(snapshot, n) for n in ("laptop", "server", "bobs-phone"))
    assert laptop.machine_key == machine_key("laptop").public()
    assert laptop.node_key == node_key("laptop").public()
    assert (laptop.ipv4, laptop.ipv6) == (
        IPv4Address("100.64.0.1"),
        IPv6Address("fd7a:115c:a1e0::1"),
    )
    assert laptop.key_expiry == datetime(2027, 1, 2, 3, 4, 5, 123456, UTC)
    assert laptop.approved_routes == ("10.0.0.0/24",)
    assert laptop.endpoints == ("192.0.2.1:41641",) and laptop.hostinfo.os == "linux"
    assert laptop.in_force(START) and laptop.never_spoke and not laptop.renamed
    assert server.tags == ("tag:web",) and server.key_expiry is None
    assert snapshot.users[server.user_id].role == "owner"
    assert phone.renamed and phone.key_expiry is None
    assert snapshot.users[phone.user_id].name == "bob"


def test_older_versions_have_other_tables(tmp_path: Path) -> None:
    row = node(1, "router", forced_tags='["tag:edge"]')
    del row["tags"]
    file = database(
        tmp_path / "db.sqlite",
        OLDER,
        users=[BOB],
        nodes=[row],
        routes=[
            {"id": 1, "node_id": 1, "prefix": "10.1.0.0/16", "enabled": 1},
            {"id": 2, "node_id": 1, "prefix": "10.2.0.0/16", "enabled": 0},
        ],
        pre_auth_keys=[{"id": 5, "key": OLD_KEY, "user_id": 2, "reusable": 1, "expiration": LATER}],
        pre_auth_key_acl_tags=[{"id": 1, "pre_auth_key_id": 5, "tag": "tag:edge"}],
    )
    take(file, tmp_path / "state")
    snapshot = loaded(tmp_path / "state")
    router = named(snapshot, "router")
    assert router.tags == ("tag:edge",) and router.approved_routes == ("10.1.0.0/16",)
    key = authkeys.check(OLD_KEY, snapshot.auth_keys, START)
    assert key.tags == ("tag:edge",) and key.reusable
    with pytest.raises(authkeys.Refused):
        authkeys.check(OLD_KEY[:-1] + "x", snapshot.auth_keys, START)


def test_auth_keys_still_open(tmp_path: Path) -> None:
    digest = bcrypt.hashpw(SECRET.encode(), bcrypt.gensalt(4, b"2a"))
    key = {"prefix": "abcdef012345", "hash": digest, "user_id": 2, "expiration": LATER}
    file = database(
        tmp_path / "db.sqlite",
        users=[ANN, BOB],
        pre_auth_keys=[
            {"id": 1, **key, "ephemeral": 1, "used": 0},
            {"id": 2, **key, "prefix": "b" * 12, "used": 1},
            {"id": 3, **key, "prefix": "c" * 12, "expiration": EARLIER},
            {"id": 4, **key, "prefix": "d" * 12, "revoked": EARLIER},
            {"id": 5, "prefix": "e" * 12, "hash": b"?", "expiration": LATER},
        ],
    )
    imported = take(file, tmp_path / "state")
    assert imported.auth_keys == 1
    assert any("3 auth keys are left out" in note for note in imported.notes)
    assert any("auth key 5 is left out" in note for note in imported.notes)
    known = loaded(tmp_path / "state").auth_keys
    found = authkeys.check(f"hskey-auth-abcdef012345-{SECRET}", known, START)
    assert found.ephemeral and not found.reusable
    for wrong in (
        f"hskey-auth-abcdef012345-{SECRET[:-1]}",
        "hskey-auth-abcdef012345-",
        "hskey-auth-",
        f"hskey-auth-abcdef012345-{'x' * 100}",
        f"hskey-auth-abcdef012345-{chr(0) * 64}",
    ):
        with pytest.raises(authkeys.Refused, match="not known here"):
            authkeys.check(wrong, known, START)


def test_a_machine_moves_without_logging_in(tmp_path: Path) -> None:
    rows = [node(1, "laptop", expiry=LATER), node(2, "late", expiry=EARLIER)]
    take(database(tmp_path / "db.sqlite", users=[ANN], nodes=rows), tmp_path / "state")
    world = World()
    world.snapshot = loaded(tmp_path / "state")
    # Its name points here now: the client says what it said to the old server.
    assert world.register("laptop", "laptop", hostname="laptop").response.machine_authorized
    # Or it was told another URL, and made a node key for it: once, and for no longer.
    world.snapshot = loaded(tmp_path / "state")
    answer = world.register("laptop", "laptop's second", hostname="laptop")
    assert answer.response.machine_authorized and not answer.response.auth_url
    moved = named(world.snapshot, "laptop")
    assert moved.node_key == node_key("laptop's second").public()
    assert moved.ipv4 == IPv4Address("100.64.0.1") and moved.key_expiry.year == 2027  # type: ignore[union-attr]
    assert world.register("laptop", "laptop's third", hostname="laptop").response.auth_url
    # One whose key is over logs in as everywhere.
    assert world.register("late", "late's second", hostname="late").response.auth_url
    assert world.register("stranger", "stranger", hostname="stranger").response.auth_url


def test_who_logs_in_by_a_provider_is_who_was_imported(tmp_path: Path) -> None:
    rows = [node(1, "laptop")]
    take(database(tmp_path / "db.sqlite", users=[ANN, BOB], nodes=rows), tmp_path / "state")
    snapshot = loaded(tmp_path / "state")
    ann = Identity("https://a.example", "1", "ann@example.com", "Ann", (), is_verified_email=True)
    delta, user_id = accounts.by_provider(snapshot, ann, START)
    assert user_id == named(snapshot, "laptop").user_id
    assert [(user.name, user.role) for user in delta.users] == [("ann@example.com", "owner")]
    with pytest.raises(Refused, match="logs in another way"):
        accounts.by_provider(snapshot, ann._replace(is_verified_email=False), START)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    file = database(
        tmp_path / "db.sqlite",
        users=[ANN, {"id": 2, "name": "two words"}, {"id": 3, "name": "ann@example.com"}],
        nodes=[
            node(1, "a"),
            node(2, "b", node_key="nodekey:nonsense"),
            node(3, "c", node_key=str(node_key("a").public())),
            node(4, "d", ipv4="10.0.0.1", ipv6="fd7a:115c:a1e0::53", given_name="A"),
            node(
                5,
                "e",
                host_info="{",
                endpoints="{}",
                tags="7",
                disco_key=None,
                ipv4=None,
                ipv6=None,
            ),
            node(
                6,
                "f",
                hostname=b"\xff",
                host_info=b"\xff",
                given_name=None,
                user_id="x",
                expiry="yesterday",
            ),
        ],
    )
    imported = take(file, tmp_path / "state")
    told = "\n".join(imported.notes)
    for part in (
        "'two words' is called 'two-words'",
        "two users 'ann@example.com'",
        "'b' is left out",
        "'c' is left out: another has its node key",
        "'A' is called 'a-1'",
        "gets 100.64.0.2 instead of 10.0.0.1",
        "::53",
    ):
        assert part in told
    snapshot = loaded(tmp_path / "state")
    assert len(snapshot.nodes) == imported.machines == 4
    assert len({found.ipv4 for found in snapshot.nodes.values()}) == 4
    assert named(snapshot, "e").hostinfo.hostname == "e"


def test_the_policy(tmp_path: Path) -> None:
    rule = '{"action": "accept", "src": ["group:us"], "dst": ["*:22"]}'
    good = f'{{"groups": {{"group:us": ["bob@"]}}, "acls": [{rule}]}}'
    tables: dict[str, Any] = {"users": [ANN, BOB], "nodes": [node(1, "a")]}
    rows = [{"id": 1, "data": "old"}, {"id": 2, "data": good}]
    file = database(tmp_path / "good", policies=rows, **tables)
    assert take(file, tmp_path / "1").policy
    assert loaded(tmp_path / "1").policy.text == good  # type: ignore[union-attr]
    bad = database(
        tmp_path / "bad", policies=[{"id": 1, "data": '{"acls": [{"src": 1}]}'}], **tables
    )
    with pytest.raises(ImportProblem, match=r"line 1.*--policy FILE"):
        take(bad, tmp_path / "2")
    assert not loaded(tmp_path / "2").nodes, "all or nothing"
    take(bad, tmp_path / "3", PolicyChoice(good))
    assert loaded(tmp_path / "3").policy.text == good  # type: ignore[union-attr]
    assert not take(bad, tmp_path / "4", PolicyChoice(leave_out=True)).policy


def test_it_is_in_the_audit_log(tmp_path: Path) -> None:
    state = tmp_path / "state"
    take(database(tmp_path / "db", users=[ANN], nodes=[node(1, "a")]), state)
    store = Store.open(f"sqlite:///{state / 'warren.db'}")
    entries = asyncio.run(store.read_audit(AuditQuestion()))
    store.close()
    assert {(e.actor, e.target_kind) for e in entries} == {
        ("import from headscale", "user"),
        ("import from headscale", "machine"),
    }


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database")
    (tmp_path / "half").write_bytes(b"SQLite format 3\0" + bytes(200))
    old = database(tmp_path / "old", {"machines": "id", "namespaces": "id"})
    other = database(tmp_path / "other", {"users": "id", "nodes": "id"})
    for file, why in (
        (tmp_path / "nowhere", "there is no file"),
        (tmp_path / "text", "cannot be read"),
        (tmp_path / "half", "cannot be read|no table"),
        (tmp_path, "there is no file"),
        (old, "before 0.23"),
        (other, "no table pre_auth_keys"),
    ):
        with pytest.raises(ImportProblem, match=why):
            take(file, tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_only_into_a_network_without_machines(tmp_path: Path) -> None:
    file, state = database(tmp_path / "db", users=[ANN], nodes=[node(1, "a")]), tmp_path / "state"
    take(file, state)
    with pytest.raises(ImportProblem, match="is 1 machine here already"):
        take(file, state)
    lock = FileLock(private_directory(tmp_path / "used") / "server.lock")
    assert lock.acquire()
    with pytest.raises(ImportProblem, match="stop it while you import"):
        take(file, tmp_path / "used")
    lock.release()


def test_at_the_command_line(tmp_path: Path) -> None:
    file, state = database(tmp_path / "db", users=[ANN], nodes=[node(1, "a")]), tmp_path / "state"
    words = ["import", "headscale", str(file), "--state", str(state)]
    shown = CliRunner().invoke(app, [*words, "--dry-run"])
    assert shown.exit_code == 0 and "Would take over 1 user, 1 machine" in shown.stdout
    assert not state.exists()
    shown = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(shown.stdout)["machines"] == 1
    assert read_source_untrusted(file).nodes[0].hostname == "a"
    both = [*words, "--policy", str(file), "--without-policy"]
    assert CliRunner().invoke(app, both).exit_code == 2
