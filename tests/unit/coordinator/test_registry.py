from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from coordinator_world import START, CountedEntropy, World
from msgspec.structs import replace

from allow_all import AllowAll
from warren.coordinator import members
from warren.coordinator.change import Change, Facet
from warren.coordinator.delta import Delta
from warren.coordinator.mapper import Mapper
from warren.coordinator.presence import Presence
from warren.coordinator.refusal import Conflict
from warren.coordinator.registry import Registry
from warren.coordinator.session import Maps
from warren.coordinator.settings import Settings
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import Store, StoreAway, StoreProblem
from warren.edge.clock import SystemClock
from warren.netmap.derpmap import DERPMap


class SlowStore:
    """A store whose writes wait until they are let go."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.written: list[Delta] = []
        self.transactions = 0
        self.fails = False
        self.refuses = ""

    async def write(self, *deltas: Delta) -> None:
        await self.gate.wait()
        if self.fails:
            raise StoreProblem("the disk is full")
        if any(user.name == self.refuses for delta in deltas for user in delta.users):
            raise StoreProblem("not this one")
        self.transactions += 1
        self.written += deltas


def add_user(name: str):  # type: ignore[no-untyped-def]
    def decide(snapshot: Snapshot) -> tuple[Delta, str]:
        return members.create_user(snapshot, name, "", START), name

    return decide


@pytest.fixture
def slow() -> SlowStore:
    return SlowStore()


@pytest.fixture
def registry(slow: SlowStore) -> Registry:
    return Registry(slow, Snapshot(), SystemClock())  # type: ignore[arg-type]


async def test_nothing_is_shown_before_it_is_stored(registry: Registry, slow: SlowStore) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(registry.commit(add_user("a")))
        await asyncio.sleep(0.01)
        assert not registry.snapshot.users
        slow.gate.set()
    assert [user.name for user in registry.snapshot.users.values()] == ["a"]


async def test_who_asked_may_go_away(registry: Registry, slow: SlowStore) -> None:
    asked = asyncio.get_running_loop().create_task(registry.commit(add_user("a")))
    await asyncio.sleep(0.01)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    slow.gate.set()
    await registry.settle()
    assert len(slow.written) == len(registry.snapshot.users) == 1


async def test_decisions_see_each_other(registry: Registry, slow: SlowStore) -> None:
    slow.gate.set()
    results = await asyncio.gather(
        *(registry.commit(add_user("a")) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(result, Conflict) for result in results) == 4


async def test_what_waits_is_written_together(registry: Registry, slow: SlowStore) -> None:
    asked = [
        asyncio.get_running_loop().create_task(registry.commit(add_user(f"u{n}"))) for n in range(6)
    ]
    await asyncio.sleep(0.01)
    slow.gate.set()
    assert await asyncio.gather(*asked) == [f"u{n}" for n in range(6)]
    assert len(slow.written) == 6
    assert slow.transactions == 1


async def test_one_that_is_refused_takes_no_other_with_it(
    registry: Registry, slow: SlowStore
) -> None:
    slow.refuses = "u1"
    slow.gate.set()
    results = await asyncio.gather(
        *(registry.commit(add_user(name)) for name in ("u0", "u1", "u1", "u2")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [str, StoreProblem, StoreProblem, str]
    assert [user.name for user in registry.snapshot.users.values()] == ["u0", "u2"]


async def test_refused_by_the_store(registry: Registry, slow: SlowStore) -> None:
    slow.fails = True
    slow.gate.set()
    heard: list[Change] = []
    registry.listen(heard.append)
    with pytest.raises(StoreProblem):
        await registry.commit(add_user("a"))
    assert not registry.snapshot.users and not heard
    await registry.observe(lambda snapshot: add_user("b")(snapshot)[0])
    assert registry.snapshot.users, "what is reported counts all the same"


class Watch:
    """A presence with a fake clock, run one look at a time."""

    def __init__(self, world: World, store: Store) -> None:
        self.clock = world.clock
        self.registry = Registry(store, world.snapshot, world.clock)
        settings = Settings(url="http://x")
        mapper = Mapper(settings, DERPMap(regions={}))
        maps = Maps(self.registry, mapper, AllowAll(), self.clock, CountedEntropy())
        self.presence = Presence(self.registry, maps, settings, self.clock)

    async def look(self) -> None:
        await self.presence._tell_absent()
        await self.presence._expire()
        await self.presence._remove_ephemeral()
        await self.presence._expire_attributes()


@pytest.fixture
def watch(world: World, tmp_path: Path) -> Watch:
    user = world.user("alice")
    text, _ = world.auth_key(user, ephemeral=True)
    world.register("m", "n", auth_key=text, hostname="brief")
    text, _ = world.auth_key(user)
    world.register("m2", "n2", auth_key=text, hostname="lasting")
    store = Store.open(f"sqlite:///{tmp_path / 'warren.db'}")
    store.write_now(Delta(users=tuple(world.snapshot.users.values())))
    return Watch(world, store)


def names(watch: Watch) -> list[str]:
    return sorted(node.name for node in watch.registry.snapshot.nodes.values())


async def test_ephemeral_nodes_have_time_to_come_back_after_a_start(watch: Watch) -> None:
    watch.clock.advance(59)
    await watch.look()
    assert names(watch) == ["brief", "lasting"]
    watch.clock.advance(2)
    await watch.look()
    assert names(watch) == ["lasting"]


async def test_online_keeps_an_ephemeral_node(watch: Watch) -> None:
    brief = members.find_node(watch.registry.snapshot, "brief")
    watch.presence.arrived(brief.id)
    wall = watch.clock.wall()
    here = members.observed(watch.registry.snapshot, brief, wall, {"online": True})
    await watch.registry.observe(lambda _: here)
    watch.clock.advance(3600)
    await watch.look()
    assert members.find_node(watch.registry.snapshot, "brief").online
    watch.presence.left(brief.id)
    watch.clock.advance(5)
    await watch.look()
    assert members.find_node(watch.registry.snapshot, "brief").online, "the grace"
    watch.clock.advance(4)
    await watch.look()
    gone = members.find_node(watch.registry.snapshot, "brief")
    assert not gone.online and gone.last_seen == watch.clock.wall()
    watch.clock.advance(61)
    await watch.look()
    assert names(watch) == ["lasting"]


async def test_attributes_whose_time_is_over_go(watch: Watch) -> None:
    wall = watch.clock.wall()
    lasting = members.find_node(watch.registry.snapshot, "lasting")
    dated = members.changed_node(
        lasting,
        Facet.OWNER,
        "test",
        attributes={"custom:a": 1, "custom:b": 2},
        attribute_expiries={"custom:a": wall + timedelta(seconds=9)},
    )
    await watch.registry.commit(lambda _: (dated, None))
    assert watch.presence._sleep_s() == pytest.approx(9)
    watch.clock.advance(8)
    await watch.look()
    assert members.find_node(watch.registry.snapshot, "lasting").attributes["custom:a"] == 1
    watch.clock.advance(1)
    await watch.look()
    left = members.find_node(watch.registry.snapshot, "lasting")
    assert (left.attributes, left.attribute_expiries) == ({"custom:b": 2}, {})


async def test_expiry_is_told_once(watch: Watch) -> None:
    heard: list[Change] = []
    watch.registry.listen(heard.append)
    lasting = members.find_node(watch.registry.snapshot, "lasting")
    watch.clock.advance(180 * 86400 - 1)
    await watch.look()
    assert not any(lasting.id in change.nodes for change in heard)
    watch.clock.advance(2)
    await watch.look()
    await watch.look()
    assert sum(lasting.id in change.nodes for change in heard) == 1
    assert lasting.expired(watch.clock.wall())


async def test_a_key_that_ends_just_after_a_look_is_not_forgotten(watch: Watch) -> None:
    lasting = members.find_node(watch.registry.snapshot, "lasting")
    watch.clock.advance(180 * 86400 - 0.00001)
    await watch.look()
    watch.clock.advance(0.00002)
    assert watch.presence._sleep_s() < 1
    await watch.look()
    assert lasting.expired(watch.clock.wall())


class MovingStore:
    """A store that is away, or refuses a number of deltas at once, as a test likes."""

    def __init__(self) -> None:
        self.away = False
        self.most = 9
        self.written: list[tuple[Delta, ...]] = []

    async def write(self, *deltas: Delta) -> None:
        if self.away:
            raise StoreAway("the database does not answer")
        if len(deltas) > self.most:
            raise StoreProblem("the disk is full")
        self.written.append(deltas)


async def test_what_the_database_missed_comes_before_the_next_change() -> None:
    store = MovingStore()
    registry = Registry(store, Snapshot(), SystemClock())  # type: ignore[arg-type]
    await registry.commit(add_user("a"))
    (ann,) = registry.snapshot.users.values()
    store.away = True
    await registry.observe(lambda _: Delta(users=(replace(ann, display_name="reported"),)))
    with pytest.raises(StoreAway):
        await registry.commit(add_user("b"))
    store.away = False
    await registry.commit(add_user("c"))
    repair, change = store.written[-1]
    assert [user.display_name for user in repair.users] == ["reported"]
    assert repair.removed_users == (2,), "perhaps it was written when the connection broke"
    assert [user.name for user in change.users] == ["c"]
    await registry.commit(add_user("d"))
    assert len(store.written[-1]) == 1, "once is enough"


async def test_reports_that_cannot_be_stored_do_not_keep_changes_out() -> None:
    store = MovingStore()
    registry = Registry(store, Snapshot(), SystemClock())  # type: ignore[arg-type]
    store.away = True
    with pytest.raises(StoreAway):
        await registry.commit(add_user("a"))
    store.away, store.most = False, 1
    await registry.commit(add_user("b"))
    assert [user.name for user in store.written[-1][0].users] == ["b"]
