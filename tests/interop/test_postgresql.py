"""The store and whole servers on a PostgreSQL server; the migrations on SQLite beside it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from postgresql_server import PASSWORD, PostgresServer
from server_program import Program, flags, warren
from sqlalchemy import Connection, inspect, text

from warren.coordinator.audit import Actor
from warren.coordinator.client import AdminError
from warren.coordinator.delta import Delta
from warren.coordinator.members import create_user
from warren.coordinator.registry import Registry
from warren.coordinator.store import (
    AuditQuestion,
    Store,
    StoreAway,
    StoreProblem,
    postgresql,
    schema,
)
from warren.coordinator.store.connecting import connect
from warren.lab.ports import free_port

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "coordinator"))

from coordinator_machine import Machine
from coordinator_world import START, FakeClock
from stored_examples import AUDIT, EVERYTHING, NODE, SNAPSHOT, USER

pytestmark = pytest.mark.interop

PATIENCE_S = 60.0


@pytest.fixture(params=["postgresql", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'warren.db'}"
    running: PostgresServer = request.getfixturevalue("postgresql_server")
    return running.fresh()


def history(store: Store) -> list[Any]:
    return asyncio.run(store.read_audit(AuditQuestion()))


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return found


# --- the store ---


def test_every_kind_of_record_comes_back(url: str) -> None:
    store = Store.open(url)
    store.write_now(EVERYTHING)
    store.write_now(replace_audit(EVERYTHING))
    store.close()
    again = Store.open(url)
    assert again.load() == SNAPSHOT
    entries = history(again)
    assert [entry.id for entry in entries] == [2, 1]
    assert all(replace(entry, id=0) == AUDIT for entry in entries)
    kinds = ("users", "nodes", "auth_keys", "pending", "policies", "credentials", "invites",
             "ssh_passes")  # fmt: skip
    everyone = Delta(**{f"removed_{kind}": tuple(getattr(SNAPSHOT, kind)) for kind in kinds})
    again.write_now(everyone)
    left = again.load()
    assert not (left.users or left.nodes or left.policies) and left.settings == SNAPSHOT.settings
    again.close()


def replace_audit(delta: Delta) -> Delta:
    return Delta(**{**delta.__dict__, "audit": ()})


def test_what_no_column_takes_is_cut(url: str) -> None:
    """SQLite takes any text and number, PostgreSQL neither NUL nor what is too long."""
    store = Store.open(url)
    user = replace(USER, display_name="nul\0" + "x" * 500)
    store.write_now(Delta(users=(user,), nodes=(replace(NODE, version=2**40),)))
    stored = store.load()
    assert stored.users[1].display_name == ("nul\ufffd" + "x" * 500)[:254]
    assert stored.nodes[2].version == 2**31 - 1
    store.close()


def test_all_or_nothing(url: str) -> None:
    store = Store.open(url)
    store.write_now(EVERYTHING)
    twin = replace(NODE, id=99, stable_id="other")  # the same addresses
    with pytest.raises(StoreProblem, match="refused"):
        store.write_now(Delta(nodes=(replace(NODE, name="changed"), twin)))
    assert store.load() == SNAPSHOT
    store.close()


def test_migrations_both_ways_with_data_inside(url: str) -> None:
    """From nothing to the newest step by step, then down again and up: rows stay throughout."""
    engine = schema.migrating(connect(url).engine)
    steps = schema.revisions()
    assert steps[0] == "0001"
    with engine.begin() as connection:
        schema.migrate(connection, "0001")
        write_first_rows(connection)
    for step in [*steps, *reversed(steps[:-1]), *steps]:
        with engine.begin() as connection:
            schema.migrate(connection, step)
            assert schema.present(connection) == step
            assert connection.execute(text("SELECT count(*) FROM nodes")).scalar() == 1
            assert connection.execute(text("SELECT count(*) FROM auth_keys")).scalar() == 1
            broken = [text("INSERT INTO nodes SELECT * FROM nodes")]
        with pytest.raises(Exception, match=r"(?i)unique"), engine.begin() as connection:
            connection.execute(broken[0])
    engine.dispose()
    store = Store.open(url)
    (node,), (user,) = store.load().nodes.values(), store.load().users.values()
    assert (node.name, node.hostinfo.hostname, node.created) == ("one", "h", START)
    assert user.role == "owner", "the oldest user of the first schema"
    store.write_now(Delta(credentials=EVERYTHING.credentials, audit=EVERYTHING.audit))
    with pytest.raises(StoreProblem, match=r"(?i)foreign key"):
        store.write_now(Delta(removed_users=(1,)))
    store.close()
    engine = schema.migrating(connect(url).engine)
    with engine.begin() as connection:
        schema.migrate(connection, "base")
        assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
        assert schema.present(connection) is None
    engine.dispose()


def write_first_rows(connection: Connection) -> None:
    """Rows as the first schema has them, in plain SQL."""
    connection.execute(
        text("INSERT INTO users VALUES (1, 'ann', 'Ann', :at)"),
        {"at": "2026-03-01 12:00:00.000000"},
    )
    connection.execute(
        text(
            "INSERT INTO nodes (id, stable_id, user_id, machine_key, node_key, disco_key, ipv4, "
            "ipv6, name, renamed, hostinfo, endpoints, version, tags, created, authorized, "
            "ephemeral) VALUES (2, 's', 1, :machine, :node, :disco, '100.64.0.1', "
            "'fd7a:115c:a1e0::1', 'one', false, :host, '[]', 113, '[]', :at, true, false)"
        ),
        {
            "machine": str(NODE.machine_key),
            "node": str(NODE.node_key),
            "disco": str(NODE.disco_key),
            "host": '{"Hostname":"h"}',
            "at": "2026-03-01 12:00:00.000000",
        },
    )
    connection.execute(
        text(
            "INSERT INTO auth_keys VALUES ('k', 1, :digest, true, false, true, '[]', :at, NULL, "
            "0, 'of the first schema')"
        ),
        {"digest": b"\x00\xff" * 16, "at": "2026-03-01 12:00:00.000000"},
    )


def test_a_step_that_fails_leaves_the_old_schema(url: str) -> None:
    Store.open(url).close()
    engine = schema.migrating(connect(url).engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
    engine.dispose()
    with pytest.raises(StoreProblem, match=r"refused: .*already exists"):
        Store.open(url)
    with engine.begin() as connection:
        assert schema.present(connection) == "0002"
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StoreProblem, match="newer version"):
        Store.open(url)


# --- a server that is away ---


def test_nobody_else_on_the_same_database(
    postgresql_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_LOCK_TIMEOUT_MS", 200)
    url = postgresql_server.fresh()
    first = Store.open(url)
    with pytest.raises(StoreProblem, match="another warren server uses the database"):
        Store.open(url)
    first.close()
    second = Store.open(url)
    # The session that writes holds the lock: a session that was ended has to get it anew.
    name = url.rpartition("/")[2]
    ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    postgresql_server.query("postgres", ended)
    until(lambda: not postgresql_server.query("postgres", ended))
    third = Store.open(url)
    with pytest.raises(StoreAway, match="another warren server"):
        second.write_now(Delta(users=(USER,)))
    assert third.load().users == {}
    third.close()
    until(lambda: written(second))
    second.close()


def written(store: Store) -> bool:
    try:
        store.write_now(Delta(users=(USER,)))
    except StoreAway:
        return False
    return True


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("password", "does not let us in: password authentication failed"),
        ("database", 'does not let us in: database "nothing" does not exist'),
        ("port", "does not answer: .*[Cc]onnection refused"),
        ("kind", "not one that warren can use"),
    ],
)
def test_a_wrong_url_in_a_sentence(
    postgresql_server: PostgresServer, tmp_path: Path, wrong: str, words: str
) -> None:
    url = {
        "password": postgresql_server.url("postgres", "wrong-one"),
        "database": postgresql_server.url("nothing"),
        "port": f"postgresql://warren:{PASSWORD}@127.0.0.1:{free_port()}/x",
        "kind": "mysql://root:let%20me%20in@127.0.0.1/x",
    }[wrong]
    with pytest.raises(StoreProblem, match=words) as told:
        Store.open(url)
    assert "wrong-one" not in str(told.value) and "let" not in str(told.value).split("does")[0]
    if wrong != "port":
        return
    said = warren("server", *flags(tmp_path / "state", url))
    assert said.returncode == 1 and not said.stdout
    (line,) = [line for line in said.stderr.splitlines() if line]
    assert line.startswith("warren: the ") and "Traceback" not in line


async def test_what_was_missed_is_made_up_for(postgresql_server: PostgresServer) -> None:
    """Reports that came while the server was away, and a change of which nobody knows."""
    store = Store.open(postgresql_server.fresh())
    store.write_now(replace_audit(EVERYTHING))
    registry = Registry(store, store.load(), FakeClock())
    ann = Actor("user", "ann")
    postgresql_server.stop()
    try:
        with pytest.raises(StoreAway):
            await registry.commit(lambda now: (create_user(now, "bob", "", START), None), ann)
        assert registry.snapshot == SNAPSHOT, "refused: nothing changed"
        seen = replace(NODE, last_seen=START, endpoints=("192.0.2.77:1",))
        await registry.observe(lambda _: Delta(nodes=(seen,)))
        assert registry.snapshot.nodes[2] == seen, "reports stay in force"
    finally:
        postgresql_server.start()
    # As if the refused change had reached the database before the connection broke.
    other = create_user(SNAPSHOT, "bob", "", START)
    while not await asyncio.to_thread(written_delta, store, other):
        await asyncio.sleep(0.05)
    assert len(store.load().users) == 2
    await registry.commit(lambda now: (create_user(now, "eve", "", START), None), ann)
    assert store.load() == registry.snapshot
    assert [user.name for user in store.load().users.values()] == [USER.name, "eve"]
    store.close()


def written_delta(store: Store, delta: Delta) -> bool:
    try:
        store.write_now(delta)
    except StoreAway:
        return False
    return True


# --- whole servers ---


@pytest.fixture
def program(postgresql_server: PostgresServer, tmp_path: Path) -> Iterator[Callable[[], Program]]:
    """Starts a server on one state directory and one database, again and again."""
    url, running = postgresql_server.fresh(), []

    def start() -> Program:
        running.append(Program(tmp_path / "state", url))
        return running[-1]

    yield start
    for each in running:
        each.end()
    assert b"Traceback" not in (tmp_path / "server.log").read_bytes()


async def join(program: Program, name: str, key: str) -> Machine:
    machine = await Machine(program.http, name).connect()
    response = await machine.register(auth_key=key)
    assert response.machine_authorized, response.error
    machine.poll()
    await machine.until(lambda view: view.node is not None, PATIENCE_S)
    return machine


async def test_machines_join_and_outlive_a_killed_server(program: Callable[[], Program]) -> None:
    first = await asyncio.to_thread(program)
    assert first.said.startswith("Warren serves")
    key = await asyncio.to_thread(first.key)
    a, b = await join(first, "a", key), await join(first, "b", key)
    view = await a.until(lambda view: any(p.online for p in view.peers.values()), PATIENCE_S)
    assert view.node is not None
    address = view.node.addresses
    first.kill()
    await a.close()
    await b.close()
    second = await asyncio.to_thread(program)
    again = await Machine(second.http, "a").connect()
    again.poll()  # without registering: the server knows the machine
    view = await again.until(lambda view: view.node is not None, PATIENCE_S)
    assert view.node is not None and view.node.addresses == address and len(view.peers) == 1
    told = await asyncio.to_thread(second.admin.audit, 100)
    assert {"a", "b"} <= {entry.target_name for entry in told}
    await again.close()


async def test_a_database_that_goes_away_and_comes_back(
    program: Callable[[], Program], postgresql_server: PostgresServer
) -> None:
    running = await asyncio.to_thread(program)
    key = await asyncio.to_thread(running.key)
    a = await join(running, "a", key)
    await asyncio.to_thread(postgresql_server.stop)
    try:
        with pytest.raises(AdminError, match="does not answer"):
            await asyncio.to_thread(running.admin.create_user, "refused")
        c = await Machine(running.http, "c").connect()
        status, body = await c.call("POST", "/machine/register", b'{"Version":113}')
        assert status in (400, 503), body
        with pytest.raises(AssertionError, match="cannot store changes now"):
            await c.register(auth_key=key)
        # What is known is served, and what machines report reaches the others.
        b = await Machine(running.http, "a").connect()
        b.poll()
        await b.until(lambda view: view.node is not None, PATIENCE_S)
        assert (await b.update(endpoints=["192.0.2.55:1"]))[0] == 200
        listed = await asyncio.to_thread(running.admin.nodes)
        assert listed.nodes[0].endpoints == ["192.0.2.55:1"]
        assert running.process.poll() is None
    finally:
        await asyncio.to_thread(postgresql_server.start)

    def created() -> bool:
        try:
            running.admin.create_user("bob")
        except AdminError as error:
            assert "does not answer" in str(error) or "does not let us in" in str(error)
            return False
        return True

    await asyncio.to_thread(until, created)
    assert (await c.register(auth_key=key)).machine_authorized
    for machine in (a, b, c):
        await machine.close()
    # Killed, so that nothing is written at the end: the report of before is in the database.
    running.kill()
    again = await asyncio.to_thread(program)
    listed = await asyncio.to_thread(again.admin.nodes)
    found = {node.name: node.endpoints for node in listed.nodes}
    assert found == {"a": ["192.0.2.55:1"], "c": []}
    users = await asyncio.to_thread(again.admin.users)
    assert [user.name for user in users] == ["admin", "bob"]


async def test_two_server_processes_on_one_database(
    program: Callable[[], Program], postgresql_server: PostgresServer, tmp_path: Path
) -> None:
    running = await asyncio.to_thread(program)
    url = postgresql_server.url(f"test{postgresql_server._count}")
    second = await asyncio.to_thread(warren, "server", *flags(tmp_path / "other", url))
    assert second.returncode == 1 and running.process.poll() is None
    assert "another warren server uses the database postgresql://warren@" in second.stderr
    assert len(second.stderr.splitlines()) == 1
