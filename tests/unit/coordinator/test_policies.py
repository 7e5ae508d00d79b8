"""The policy as it is kept: versions, the guard against lost updates, refusals, migrations."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from coordinator_world import World
from sqlalchemy import create_engine

from warren.coordinator import policies
from warren.coordinator.delta import Delta
from warren.coordinator.policies import PolicyChanged, PolicyRefused, policy_etag, policy_text
from warren.coordinator.store import Store

COMMENTED = """// ours
{
  "groups": {"group:dev": ["alice"]}, // one
  "acls": [{"action": "accept", "src": ["group:dev"], "dst": ["*:22"]}],
}
"""


def put(world: World, text: str, edited: str | None = None) -> Delta:
    delta = policies.set_policy(world.snapshot, text, "alice", world.clock.wall(), edited)
    world.apply(delta)
    return delta


def test_a_policy_is_kept_as_it_was_written(world: World, tmp_path: Path) -> None:
    assert policy_text(world.snapshot) == policies.DEFAULT_TEXT
    delta = put(world, COMMENTED)
    assert policy_text(world.snapshot) == COMMENTED and delta.change.everything
    store = Store.open(f"sqlite:///{tmp_path / 'warren.db'}")
    store.write_now(delta)
    loaded = store.load().policy
    store.close()
    assert loaded is not None and (loaded.text, loaded.author, loaded.id) == (COMMENTED, "alice", 1)


def test_nobody_overwrites_what_they_have_not_seen(world: World) -> None:
    read = policy_etag(world.snapshot)
    put(world, COMMENTED, read)
    with pytest.raises(PolicyChanged, match="alice changed the policy since you read it"):
        put(world, "{}", read)
    assert policy_text(world.snapshot) == COMMENTED
    put(world, "{}", policy_etag(world.snapshot))
    put(world, COMMENTED)
    assert [record.id for record in world.snapshot.policies.values()] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "line 1, column 2: expected a name in double quotes"),
        ('{\n "gruops": {}}', 'line 2, column 2: unknown field "gruops" (did you mean "groups"?)'),
        (
            '{"acls": [],\n "tests": [{"src": "alice@", "accept": ["100.64.0.9:22"]}]}',
            "test(s) failed: line 2, column 41: alice@ → 100.64.0.9:22: expected accept",
        ),
    ],
)
def test_what_is_wrong_is_refused_and_the_old_one_stays(
    world: World, text: str, sentence: str
) -> None:
    world.user("alice")
    put(world, COMMENTED)
    with pytest.raises(PolicyRefused, match=re.escape(sentence)):
        put(world, text)
    assert policy_text(world.snapshot) == COMMENTED


def test_tags_are_given_by_those_who_own_them(world: World) -> None:
    boss, bob = world.user("ann@x.org"), world.user("bob@x.org")
    owners = (
        '{"tagOwners": {"tag:web": ["group:ops"], "tag:db": []}, "groups": {"group:ops": ["%s"]}}'
    )
    put(world, owners % "bob@x.org")
    his, _ = world.auth_key(bob, reusable=True)
    refused = world.register("m1", "n1", auth_key=his, request_tags=["tag:db"])
    assert refused.response.error == "the auth key does not allow tag:db"
    world.register("m1", "n1", auth_key=his, request_tags=["tag:web"])
    (node,) = world.snapshot.nodes.values()
    assert node.tags == ("tag:web",) and node.key_expiry is None
    hers, _ = world.auth_key(boss)
    assert not world.register("m2", "n2", auth_key=hers, request_tags=["tag:db"]).response.error
    put(world, owners % "nobody@x.org")
    refused = world.register("m3", "n3", auth_key=his, request_tags=["tag:web"])
    assert "tag:web" in refused.response.error


def test_old_versions_go_one_day(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "KEPT_VERSIONS", 3)
    for _ in range(5):
        put(world, "{}")
    assert sorted(world.snapshot.policies) == [3, 4, 5]


def test_the_first_user_is_the_owner(world: World) -> None:
    world.user("alice")
    world.user("bob")
    assert [user.role for user in world.snapshot.users.values()] == ["owner", "member"]


def test_a_database_of_the_first_version_is_brought_up_and_back(tmp_path: Path) -> None:
    file = tmp_path / "warren.db"
    engine = create_engine(f"sqlite:///{file}")
    config = Config()
    config.set_main_option("script_location", "warren.coordinator.store:migrations")

    def migrate(revision: str, to: object) -> None:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            to(config, revision)  # type: ignore[operator]

    migrate("0001", command.upgrade)
    with sqlite3.connect(file) as old:
        for number, name in ((3, "bob"), (2, "alice")):
            old.execute(
                "INSERT INTO users VALUES (?, ?, '', '2026-01-01 00:00:00.000000')", (number, name)
            )
    store = Store.open(f"sqlite:///{file}")
    roles = {user.name: user.role for user in store.load().users.values()}
    store.close()
    assert roles == {"alice": "owner", "bob": "member"}
    migrate("0001", command.downgrade)
    with sqlite3.connect(file) as old:
        names = [row[1] for row in old.execute("PRAGMA table_info(users)")]
    assert names == ["id", "name", "display_name", "created"]
    engine.dispose()
