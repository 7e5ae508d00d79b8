"""The audit log: nothing that changes is left out, nothing secret is put in."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from coordinator_world import START, World
from msgspec.structs import replace

from warren.coordinator import audit, members
from warren.coordinator.audit import Actor
from warren.coordinator.change import Facet
from warren.coordinator.delta import Delta
from warren.coordinator.refusal import Conflict, Refused
from warren.coordinator.registry import Registry
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import AuditQuestion, Store
from warren.coordinator.store import writing as store_module

ANN = Actor("user", "ann", "192.0.2.7")


def test_a_change_shows_only_what_differs(world: World) -> None:
    alice = world.user("alice")
    world.register("m", "n", auth_key=world.auth_key(alice)[0], hostname="one")
    (node,) = world.snapshot.nodes.values()
    delta = members.changed_node(node, Facet.NAME, "renamed", name="two", renamed=True)
    (entry,) = audit.entries(world.snapshot, delta, ANN, START)
    assert (entry.actor, entry.origin, entry.action) == ("ann", "192.0.2.7", "update")
    assert (entry.target_kind, entry.target) == ("machine", str(node.id))
    assert entry.before == {"name": "one", "renamed": False}
    assert entry.after == {"name": "two", "renamed": True}


def test_what_machines_report_is_no_entry(world: World) -> None:
    alice = world.user("alice")
    world.register("m", "n", auth_key=world.auth_key(alice)[0], hostname="one")
    (node,) = world.snapshot.nodes.values()
    reported = replace(node, endpoints=("192.0.2.1:5",), last_seen=START, online=True)
    assert audit.entries(world.snapshot, Delta(nodes=(reported,)), ANN, START) == ()


def test_no_secret_is_told(world: World) -> None:
    alice = world.user("alice")
    text, record = world.auth_key(alice)
    (entry,) = audit.entries(Snapshot(), Delta(auth_keys=(record,)), ANN, START)
    assert entry.before is None
    assert entry.after is not None and "digest" not in entry.after
    assert text.rpartition("-")[2] not in str(entry)


async def test_it_is_kept_with_the_change_and_read_newest_first(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'warren.db'}")
    registry = Registry(store, store.load(), world.clock)
    for name in ("ann", "bob", "eve" * 60):
        await registry.commit(
            lambda now, name=name: (members.create_user(now, name, "", START), None), ANN
        )
        world.clock.advance(60)
    newest, *older = await registry.history(AuditQuestion())
    assert newest.target_name == "eve" * 60 and newest.after is not None
    assert [entry.target_name for entry in older] == ["bob", "ann"]
    assert newest.wall == START + timedelta(minutes=2)
    page = await registry.history(AuditQuestion(limit=1, before_id=newest.id))
    assert [entry.target_name for entry in page] == ["bob"]
    since = await registry.history(AuditQuestion(since=START + timedelta(seconds=30)))
    assert len(since) == 2
    until = await registry.history(AuditQuestion(until=START + timedelta(seconds=30)))
    assert [entry.target_name for entry in until] == ["ann"]

    monkeypatch.setattr(store_module, "KEPT_ENTRIES", 2)
    await registry.commit(lambda now: (members.delete_user(now, "bob"), None), ANN)
    kept = await registry.history(AuditQuestion())
    assert [(entry.action, entry.target_name) for entry in kept] == [
        ("delete", "bob"),
        ("create", "eve" * 60),
    ]
    store.close()


async def test_a_refused_decision_leaves_no_entry(tmp_path: Path, world: World) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'warren.db'}")
    registry = Registry(store, store.load(), world.clock)
    with pytest.raises(Refused):
        await registry.commit(lambda now: (members.create_user(now, "a b", "", START), None))
    assert await registry.history(AuditQuestion()) == []
    store.close()


def test_there_is_always_an_owner(world: World) -> None:
    world.user("ann")
    ann = members.find_user(world.snapshot, "ann")
    assert ann.role == "owner"
    with pytest.raises(Conflict, match="only owner"):
        members.set_role(world.snapshot, ann, "member")
    world.user("bob")
    bob = members.find_user(world.snapshot, "bob")
    with pytest.raises(Refused, match="no role"):
        members.set_role(world.snapshot, bob, "boss")
    world.apply(members.set_role(world.snapshot, bob, "owner"))
    world.apply(members.set_role(world.snapshot, ann, "member"))
    assert members.find_user(world.snapshot, "ann").role == "member"
