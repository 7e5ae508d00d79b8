"""A running server under changes, backed up and restored elsewhere, into the other database."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql_server import PostgresServer
from server_program import Program, warren

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "coordinator"))

from coordinator_machine import Machine
from stored_examples import EVERYTHING, SNAPSHOT

from warren.coordinator.admin.shapes import AuditEntry
from warren.coordinator.store import Store

pytestmark = pytest.mark.interop

POLICY = '{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:22"]}]} // žluť'


@pytest.fixture(params=["from-sqlite", "from-postgresql"])
def databases(
    request: pytest.FixtureRequest, postgresql_server: PostgresServer, tmp_path: Path
) -> tuple[str, str]:
    """URLs of the database to back up and of the one to restore into."""
    urls = f"sqlite:///{tmp_path / 'other.db'}", postgresql_server.fresh()
    return urls if request.param == "from-sqlite" else urls[::-1]


@pytest.fixture
def source(databases: tuple[str, str], tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path / "state", databases[0])
    yield program
    program.end()


class Changes(threading.Thread):
    """Makes users, one after the other, until it is stopped."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program, self.made, self.over = program, 0, threading.Event()
        self.begun = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            self.program.admin.create_user(f"user{self.made}")
            self.made += 1
            if self.made == 10:
                self.begun.set()
            time.sleep(0.01)


async def test_a_running_server_under_changes(
    source: Program, databases: tuple[str, str], tmp_path: Path
) -> None:
    machine = await Machine(source.http, "laptop").connect()
    assert (await machine.register(auth_key=source.key())).machine_authorized
    await machine.close()
    source.admin.set_policy(POLICY, "ann", None)
    changes = Changes(source)
    changes.start()
    assert changes.begun.wait(60)
    file = tmp_path / "backup.zip"
    place = ("--state", str(tmp_path / "state"), "--database", databases[0], "--json")
    made = warren("server", "backup", str(file), *place)
    changes.over.set()
    changes.join()
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert told["rows"]["nodes"] == 1 and file.stat().st_mode & 0o077 == 0

    other = tmp_path / "other" / "state"
    restored = warren(
        "server", "restore", str(file), "--state", str(other), "--database", databases[1]
    )
    assert restored.returncode == 0, restored.stderr
    assert "1 machine," in restored.stdout
    # How far it has come is said where it takes long.
    assert all(line.startswith("restoring: ") for line in restored.stderr.splitlines())
    again = warren(
        "server", "restore", str(file), "--state", str(other), "--database", databases[1]
    )
    assert again.returncode == 1 and "is not empty" in again.stderr

    program = Program(other, databases[1])
    try:
        compare(source, program, told["rows"])
        reached = await Machine(program.http, "laptop").connect()
        reached.poll()  # without registering
        view = await reached.until(lambda view: view.node is not None, 60)
        assert view.node is not None and view.node.name.startswith("laptop")
        await reached.close()
        program.admin.create_user("after")  # ids and the audit log count on
    finally:
        program.end()


def log_of(program: Program) -> list[AuditEntry]:
    """The whole audit log, newest first."""
    entries = page = program.admin.audit(1000)
    while page:
        page = program.admin.audit(1000, before=page[-1].id)
        entries += page
    return entries


def compare(source: Program, restored: Program, rows: dict[str, int]) -> None:
    assert restored.admin.status().noise_key == source.admin.status().noise_key
    assert restored.admin.policy().text == POLICY
    assert restored.admin.keys() == source.admin.keys()
    users = [user.name for user in restored.admin.users()]
    # One moment: the users are a beginning of all that were made, and the audit log has just them.
    assert users == [user.name for user in source.admin.users()][: len(users)]
    assert len(users) == rows["users"] >= 11
    entries = log_of(restored)
    noted = [e.target_name for e in reversed(entries) if e.target_kind == "user"]
    assert noted == users
    ours = {entry.id: entry for entry in entries}
    theirs = {entry.id: entry for entry in log_of(source)}
    assert all(theirs.get(number, entry) == entry for number, entry in ours.items())
    (node,), (there,) = restored.admin.nodes().nodes, source.admin.nodes().nodes
    assert (node.id, node.addresses, node.name) == (there.id, there.addresses, there.name)


def test_every_record_there_and_back(databases: tuple[str, str], tmp_path: Path) -> None:
    from coordinator_world import START, CountedEntropy

    from warren.coordinator.backup.making import make_backup
    from warren.coordinator.backup.restoring import restore_backup
    from warren.coordinator.identity import load_identity
    from warren.edge.files import private_directory

    def quiet(done: int, total: int) -> None:
        assert done <= total

    state = private_directory(tmp_path / "state")
    load_identity(state, CountedEntropy())
    store = Store.open(databases[0])
    store.write_now(EVERYTHING)
    make_backup(state, databases[0], tmp_path / "b.zip", START, quiet)  # the store is open
    store.close()
    restore_backup(tmp_path / "other", databases[1], tmp_path / "b.zip", quiet)
    again = Store.open(databases[1])
    assert again.load() == SNAPSHOT
    again.write_now(EVERYTHING)
    again.close()
