"""The database: its schema, what it keeps, and how it fails."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from coordinator_world import World
from msgspec.structs import replace
from sqlalchemy import create_engine

from warren.coordinator.delta import Delta
from warren.coordinator.store import Store, StoreProblem
from warren.coordinator.store.tables import metadata


def url(path: Path) -> str:
    return f"sqlite:///{path / 'warren.db'}"


def filled(world: World) -> World:
    alice = world.user("alice")
    text, _ = world.auth_key(alice, reusable=True, tags=["tag:a"], description="for tests")
    world.auth_key(alice, life=None)
    world.register("m", "n", auth_key=text, hostname="one")
    world.register("m2", "n2", hostname="two")
    node = next(iter(world.snapshot.nodes.values()))
    world.apply(
        Delta(nodes=(replace(node, endpoints=("192.0.2.1:5",), last_seen=world.clock.wall()),))
    )
    return world


def everything(world: World) -> Delta:
    snapshot = world.snapshot
    return Delta(
        users=tuple(snapshot.users.values()),
        nodes=tuple(snapshot.nodes.values()),
        auth_keys=tuple(snapshot.auth_keys.values()),
        pending=tuple(snapshot.pending.values()),
        settings=snapshot.settings,
    )


def test_migrations_make_the_tables(tmp_path: Path) -> None:
    Store.open(url(tmp_path)).close()
    engine = create_engine(url(tmp_path))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_round_trip(tmp_path: Path, world: World) -> None:
    filled(world)
    store = Store.open(url(tmp_path))
    store.write_now(everything(world))
    store.write_now(everything(world))
    store.close()
    again = Store.open(url(tmp_path))
    assert again.load() == world.snapshot
    again.close()


def test_online_is_not_kept(tmp_path: Path, world: World) -> None:
    filled(world)
    store = Store.open(url(tmp_path))
    store.write_now(everything(world))
    node = replace(next(iter(world.snapshot.nodes.values())), online=True)
    store.write_now(Delta(nodes=(node,)))
    assert not any(node.online for node in store.load().nodes.values())
    store.close()


def test_removal(tmp_path: Path, world: World) -> None:
    filled(world)
    store = Store.open(url(tmp_path))
    store.write_now(everything(world))
    snapshot = world.snapshot
    store.write_now(
        Delta(
            removed_nodes=tuple(snapshot.nodes),
            removed_auth_keys=tuple(snapshot.auth_keys),
            removed_pending=tuple(snapshot.pending),
            removed_users=tuple(snapshot.users),
        )
    )
    left = store.load()
    assert not (left.nodes or left.users or left.auth_keys or left.pending)
    assert left.settings == snapshot.settings, "ids are never given out twice"
    store.close()


def test_all_or_nothing(tmp_path: Path, world: World) -> None:
    filled(world)
    store = Store.open(url(tmp_path))
    store.write_now(everything(world))
    node = next(iter(world.snapshot.nodes.values()))
    other = replace(node, id=99, stable_id="other")  # the same addresses
    with pytest.raises(StoreProblem):
        store.write_now(Delta(nodes=(replace(node, name="changed"), other)))
    assert store.load() == world.snapshot
    store.close()


def test_full_disk(tmp_path: Path, world: World) -> None:
    filled(world)
    store = Store.open(url(tmp_path))
    store.write_now(everything(world))
    with store._engine.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    node = next(iter(world.snapshot.nodes.values()))
    host = replace(node.hostinfo, hostname="x" * 2_000_000)
    with pytest.raises(StoreProblem, match="disk that holds the database is full"):
        store.write_now(Delta(nodes=(replace(node, hostinfo=host),)))
    assert store.load() == world.snapshot
    store.write_now(Delta(nodes=(replace(node, name="small"),)))
    store.close()


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "warren.db").write_bytes(content)
    with pytest.raises(StoreProblem, match=r"damaged.*(backup|move it away)"):
        Store.open(url(tmp_path))


def test_written_by_a_newer_version(tmp_path: Path) -> None:
    Store.open(url(tmp_path)).close()
    with sqlite3.connect(tmp_path / "warren.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreProblem, match="newer version"):
        Store.open(url(tmp_path))


@pytest.mark.parametrize(
    "bad", ["", "nonsense", "sqlite:////nowhere/at/all/x.db", "postgresql+nothing://x/y"]
)
def test_bad_urls(bad: str) -> None:
    with pytest.raises(StoreProblem):
        Store.open(bad).load()


def test_killed_while_writing_keeps_what_was_committed(tmp_path: Path, world: World) -> None:
    """A copy of the files without closing is what `kill -9` leaves."""
    filled(world)
    store = Store.open(url(tmp_path))
    store.write_now(everything(world))
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for file in tmp_path.glob("warren.db*"):
        (crashed / file.name).write_bytes(file.read_bytes())
    again = Store.open(url(crashed))
    assert again.load() == world.snapshot
    again.close()
    store.close()


def test_times_keep_their_zone(tmp_path: Path, world: World) -> None:
    filled(world)
    store = Store.open(url(tmp_path))
    store.write_now(everything(world))
    (user,) = store.load().users.values()
    assert user.created.utcoffset() == timedelta(0)
    store.close()
