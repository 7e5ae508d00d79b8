"""What takes long of a change is done in a thread, in order, and for the state that is shown."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from api_office import Office
from coordinator_network import TAGS, Network
from coordinator_world import node_key
from msgspec import structs

from warren.coordinator import compiled, enforcement, members, policies
from warren.coordinator.api import policy_file
from warren.coordinator.audit import SERVER
from warren.coordinator.change import Change, Facet
from warren.coordinator.delta import Delta
from warren.coordinator.policy_edits import Questions, edit_policy
from warren.coordinator.snapshot import Snapshot

ADMINS = {"action": "accept", "src": ["autogroup:admin"], "dst": ["tag:web:80"]}
GIVE_UP_S = 10


class Watched:
    """Stands where policies are compiled: notes the threads, and holds them if told to."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.began, self.go = threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, *words: Any, **named: Any) -> compiled.Compiled:
        self.threads.append(threading.current_thread())
        self.began.set()
        # On the loop this would wait for itself.
        assert self.go.wait(GIVE_UP_S), "nobody let it go on"
        return compiled.compile_policy(*words, **named)

    def hold(self) -> None:
        self.began.clear()
        self.go.clear()

    async def holding(self) -> None:
        async with asyncio.timeout(GIVE_UP_S):
            while not self.began.is_set():
                await asyncio.sleep(0.005)

    def was_beside(self) -> bool:
        return bool(self.threads) and threading.main_thread() not in self.threads


@pytest.fixture
def following(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Compiling of what follows a change."""
    made = Watched()
    monkeypatch.setattr(enforcement, "compile_policy", made)
    return made


@pytest.fixture
def editing(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Compiling of what somebody wants to put in force."""
    made = Watched()
    monkeypatch.setattr(policies, "compile_policy", made)
    return made


def role(name: str) -> Callable[[Snapshot], tuple[Delta, None]]:
    def decide(snapshot: Snapshot) -> tuple[Delta, None]:
        user = structs.replace(snapshot.users[1], role=name)
        return Delta(users=(user,), change=Change(everything=True)), None

    return decide


def tagged(numbers: list[int], *tags: str) -> Callable[[Snapshot], tuple[Delta, None]]:
    def decide(snapshot: Snapshot) -> tuple[Delta, None]:
        nodes = tuple(structs.replace(snapshot.nodes[n], tags=tags) for n in numbers)
        return Delta(nodes=nodes, change=Change(dict.fromkeys(numbers, Facet.OWNER))), None

    return decide


async def crowd(network: Network, count: int) -> list[int]:
    """Let many machines more be there; they hang on no poll."""
    first = max(network.registry.snapshot.nodes) + 1

    def decide(snapshot: Snapshot) -> tuple[Delta, None]:
        one = members.find_node(snapshot, "r1")
        nodes = tuple(
            structs.replace(
                one,
                id=n,
                name=f"crowd-{n}",
                stable_id=f"c{n}",
                node_key=node_key(f"crowd-{n}").public(),
                ipv4=one.ipv4 + n,
                ipv6=one.ipv6 + n,
                tags=("tag:db",),
            )
            for n in range(first, first + count)
        )
        change = Change(dict.fromkeys((node.id for node in nodes), Facet.MEMBERSHIP))
        return Delta(nodes=nodes, change=change), None

    await network.registry.commit(decide)
    return list(range(first, first + count))


async def edit(network: Network, **policy: Any) -> None:
    text = json.dumps(TAGS | policy)
    await edit_policy(network.registry, text, "ann", network.clock.wall(), None, SERVER)


async def test_a_users_new_role(network: Network, following: Watched) -> None:
    await network.put(acls=[ADMINS])
    following.threads.clear()
    assert network.fakes["web"].peers() == set()
    assert "pc" in await network.change(role("admin"))
    assert network.fakes["web"].peers() == {"pc"}
    assert following.was_beside()


async def test_many_machines_at_once(network: Network, following: Watched) -> None:
    await network.put(acls=[{"action": "accept", "src": ["tag:web"], "dst": ["tag:db:5432"]}])
    following.threads.clear()
    many = await crowd(network, 60)
    await network.heard()
    assert len(network.fakes["web"].peers()) == 61 and following.was_beside()
    following.threads.clear()
    await network.change(tagged(many, "tag:router"))
    assert network.fakes["web"].peers() == {"db"} and following.was_beside()


async def test_the_loop_goes_on_and_changes_keep_their_order(
    network: Network, following: Watched
) -> None:
    await network.put(acls=[ADMINS])
    shown = list[str]()
    network.registry.listen(lambda change: shown.append(",".join(sorted(change.why))))
    following.hold()
    first = asyncio.get_running_loop().create_task(network.registry.commit(role("admin")))
    await following.holding()
    later = asyncio.get_running_loop().create_task(network.tell("db", endpoints=("192.0.2.9:1",)))
    await asyncio.sleep(0.1)
    assert not (first.done() or later.done() or shown), "what waits is not shown"
    assert network.registry.snapshot.users[1].role != "admin"
    following.go.set()
    await asyncio.gather(first, later)
    assert shown == ["", "test"]
    await network.heard()
    assert network.fakes["web"].peers() == {"pc"}
    assert following.was_beside()


async def test_what_was_compiled_for_people_of_before_is_not_put_in_force(
    network: Network, following: Watched, editing: Watched
) -> None:
    await network.put(acls=[])
    editing.hold()
    edited = asyncio.get_running_loop().create_task(edit(network, acls=[ADMINS]))
    await editing.holding()
    await network.registry.commit(role("admin"))
    following.threads.clear()
    editing.go.set()
    await edited
    await network.heard()
    assert network.fakes["web"].peers() == {"pc"}, "as of the newer role"
    assert following.was_beside() and editing.was_beside()


async def test_what_was_compiled_before_many_joined_is_not_put_in_force(
    network: Network, following: Watched, editing: Watched
) -> None:
    await network.put(acls=[])
    editing.hold()
    rule = {"action": "accept", "src": ["tag:web"], "dst": ["tag:db:1"]}
    edited = asyncio.get_running_loop().create_task(edit(network, acls=[rule]))
    await editing.holding()
    await crowd(network, 60)
    following.threads.clear()
    editing.go.set()
    await edited
    await network.heard()
    assert len(network.fakes["web"].peers()) == 61
    assert following.was_beside()


async def test_of_two_edits_the_one_that_is_kept_is_in_force(
    network: Network, editing: Watched
) -> None:
    await network.put(acls=[])
    await network.registry.commit(role("admin"))
    editing.hold()
    slow = asyncio.get_running_loop().create_task(edit(network, acls=[ADMINS]))
    await editing.holding()
    rule = {"action": "accept", "src": ["tag:web"], "dst": ["tag:db:1"]}
    await network.put(acls=[rule])
    assert network.fakes["web"].peers() == {"db"}
    editing.go.set()
    await slow
    await network.heard()
    assert json.loads(policies.policy_text(network.registry.snapshot))["acls"] == [ADMINS]
    assert network.fakes["web"].peers() == {"pc"}


async def test_an_edit_of_ports_alone_makes_no_map_anew(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rules(port: int) -> dict[str, Any]:
        return {
            "grants": [
                {"src": ["ann@"], "dst": ["tag:web"], "ip": [f"tcp:{port}"]},
                {"src": ["tag:web"], "dst": ["tag:db", "tag:router"], "ip": ["tcp:5432"]},
            ]
        }

    def not_now(*words: Any) -> None:
        raise AssertionError("a whole map was made")

    await edit(network, **rules(80))
    await network.heard()
    before = {name: fake.frames for name, fake in network.fakes.items()}
    with monkeypatch.context() as patched:
        patched.setattr(network.maps._mapper, "view", not_now)
        await edit(network, **rules(443))
        await network.heard()
    heard = {name for name, fake in network.fakes.items() if fake.frames > before[name]}
    assert heard == {"web"}, "only whom the rule is about"
    [rule] = network.fakes["web"].view.rules()
    assert {end.ports.first for end in rule.dst_ports} == {443}
    for number in network.registry.snapshot.nodes:
        fake = network.fakes[network.registry.snapshot.nodes[number].name]
        assert network.maps.whole(number) == fake.session._view
    # One that shows somebody to somebody is told whole.
    await edit(network, grants=[*rules(443)["grants"], {"src": ["ann@"], "dst": ["tag:db"],
                                                        "ip": ["*"]}])  # fmt: skip
    await network.heard()
    assert network.fakes["pc"].peers() == {"web", "db"}


async def test_a_fault_in_the_thread_loses_no_change(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    await network.put(acls=[ADMINS])

    def broken(*words: Any) -> compiled.Compiled:
        if threading.current_thread() is not threading.main_thread():
            raise ZeroDivisionError
        return compiled.compile_policy(*words)

    monkeypatch.setattr(enforcement, "compile_policy", broken)
    await network.change(role("admin"))
    assert network.fakes["web"].peers() == {"pc"}


@pytest.mark.parametrize("what", ["validate", "preview?type=user&previewFor=ann"])
async def test_checks_over_the_api(
    office: Office, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    threads = list[threading.Thread]()
    for module, name in ((policies, "read"), (policy_file, "read_policy")):
        reads = getattr(module, name)

        def noted(*words: Any, reads: Any = reads) -> Any:
            threads.append(threading.current_thread())
            return reads(*words)

        monkeypatch.setattr(module, name, noted)
    answer = await office.ask("POST", f"/tailnet/-/acl/{what}", content=b'{"acls": []}')
    assert answer.status_code == 200
    assert threads and threading.main_thread() not in threads


async def test_questions_about_policies(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, reads = list[threading.Thread](), policies.read

    def noted(*words: Any) -> Any:
        threads.append(threading.current_thread())
        return reads(*words)

    monkeypatch.setattr(policies, "read", noted)
    questions, snapshot = Questions(), network.registry.snapshot
    await questions.answer(partial(policies.check_policy, snapshot, '{"acls": []}'))
    with pytest.raises(policies.PolicyRefused):
        await questions.answer(partial(policies.check_policy, snapshot, '{"acls": 1}'))
    assert len(threads) == 2 and threading.main_thread() not in threads
