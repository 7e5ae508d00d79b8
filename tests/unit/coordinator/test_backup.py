"""Backups: what goes in comes out, an older schema too, and bad archives are refused whole."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import resource
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coordinator_world import START, CountedEntropy
from msgspec.structs import replace
from sqlalchemy import text
from stored_examples import AUDIT, EVERYTHING, LONG_POLICY, NODE, SNAPSHOT

from warren.cli import server_backup
from warren.coordinator.backup.archive import (
    ArchiveWriter,
    MalformedArchive,
    Manifest,
    open_archive_untrusted,
)
from warren.coordinator.backup.making import BackupProblem, make_backup
from warren.coordinator.backup.restoring import restore_backup
from warren.coordinator.delta import Delta
from warren.coordinator.identity import load_identity
from warren.coordinator.store import AuditQuestion, Store, StoreProblem, schema
from warren.coordinator.store.connecting import connect
from warren.edge.files import FileLock, FileProblem, private_directory

Files = dict[str, bytes]


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with every kind of file and record."""
    state = private_directory(tmp_path / "state")
    load_identity(state, CountedEntropy())
    private_directory(state / "tls")
    (state / "tls/self-signed.pem").write_bytes(b"chain and key")
    (state / "server.lock").write_text("123")
    (state / "unknown").write_text("not of ours")
    store = Store.open(f"sqlite:///{state / 'warren.db'}")
    store.write_now(EVERYTHING)
    store.close()
    return state


@pytest.fixture
def backup(state: Path, tmp_path: Path) -> Path:
    file = tmp_path / "backup.zip"
    make_backup(state, "", file, START, quiet)
    return file


def test_all_of_it_comes_back(state: Path, backup: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert not list(tmp_path.glob(".backup*"))
    other = tmp_path / "deep" / "other"
    manifest = restore_backup(other, "", backup, quiet)
    assert manifest.schema == schema.revisions()[-1] and manifest.created == START
    assert load_identity(other, CountedEntropy("x")) == load_identity(state, CountedEntropy("y"))
    found = {str(path.relative_to(other)) for path in other.rglob("*") if path.is_file()}
    assert found == {"noise.key", "relay.key", "tls/self-signed.pem", "warren.db", "server.lock"}
    assert not any(path.stat().st_mode & 0o077 for path in other.rglob("*"))
    store = Store.open(f"sqlite:///{other / 'warren.db'}")
    assert store.load() == SNAPSHOT
    store.write_now(EVERYTHING)
    entries = asyncio.run(store.read_audit(AuditQuestion()))
    assert [entry.id for entry in entries] == [4, 3, 2, 1], "counting goes on"
    assert entries[-1].after == AUDIT.after and entries[-1].wall == AUDIT.wall
    store.close()


@pytest.mark.parametrize("revision", schema.revisions())
def test_from_every_schema(state: Path, tmp_path: Path, revision: str) -> None:
    engine = schema.migrating(connect(f"sqlite:///{state / 'warren.db'}").engine)
    with engine.begin() as connection:
        schema.migrate(connection, revision)
    engine.dispose()
    assert make_backup(state, "", tmp_path / "old.zip", START, quiet).schema == revision
    restore_backup(tmp_path / "new", "", tmp_path / "old.zip", quiet)
    store = Store.open(f"sqlite:///{tmp_path / 'new/warren.db'}")
    assert store.load().nodes[2].hostinfo == NODE.hostinfo
    assert store.load().auth_keys == SNAPSHOT.auth_keys
    store.close()


def test_what_is_there_is_not_overwritten(state: Path, backup: Path, tmp_path: Path) -> None:
    before = backup.read_bytes()
    with pytest.raises(BackupProblem, match="is there already"):
        make_backup(state, "", backup, START, quiet)
    assert backup.read_bytes() == before
    with pytest.raises(BackupProblem, match="is not empty"):
        restore_backup(state, "", backup, quiet)
    database = f"sqlite:///{state / 'warren.db'}"
    with pytest.raises(StoreProblem, match="is not empty"):
        restore_backup(tmp_path / "new", database, backup, quiet)
    assert not (tmp_path / "new").exists()
    lock = FileLock(private_directory(tmp_path / "used") / "server.lock")
    assert lock.acquire()
    with pytest.raises(BackupProblem, match="a warren server uses"):
        restore_backup(tmp_path / "used", "", backup, quiet)
    lock.release()


def test_nothing_to_back_up(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.zip"
    with pytest.raises(BackupProblem, match="no server has run"):
        make_backup(tmp_path / "nowhere", "", file, START, quiet)
    with pytest.raises(StoreProblem, match="there is no database"):
        make_backup(state, f"sqlite:///{tmp_path}/none.db", file, START, quiet)
    with pytest.raises(StoreProblem, match="holds nothing of a warren server"):
        (tmp_path / "empty.db").touch()
        make_backup(state, f"sqlite:///{tmp_path}/empty.db", file, START, quiet)
    engine, _ = connect(f"sqlite:///{state / 'warren.db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreProblem, match="newer version"):
        make_backup(state, "", file, START, quiet)
    engine.dispose()
    assert not list(tmp_path.glob("*b.zip*"))


@pytest.mark.filterwarnings("error")
def test_a_backup_that_breaks_off(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that no restore would take, and a disk that is full: there is no file then."""
    file = tmp_path / "b.zip"
    with monkeypatch.context() as patch:
        patch.setattr("warren.coordinator.backup.archive.MAX_LINE_BYTES", 100_000)
        with pytest.raises(BackupProblem, match="no backup can be made: a row of tables/policies"):
            make_backup(state, "", file, START, quiet)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(_done: int, _total: int) -> None:
        # Only once the database is open: it writes beside itself, too.
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))

    try:
        with pytest.raises(FileProblem, match="cannot write"):
            make_backup(state, "", file, START, full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    gc.collect()
    assert not list(tmp_path.glob("*b.zip*"))


def test_progress_is_told_after_a_second(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(server_backup.time, "monotonic", lambda: now[0])
    with server_backup._progress("backing up") as tell:
        for done in range(1, 2001):
            now[0] += 0.01
            tell(done, 2000)
    said = capsys.readouterr()
    assert not said.out
    assert said.err.splitlines() == [
        "backing up: 100 of 2,000 rows", "backing up: 1,101 of 2,000 rows",
    ]  # fmt: skip


# --- bad archives ---


def written(change: Callable[[Files, dict[str, Any]], None], backup: Path) -> bytes:
    """Unpack a good backup, change it, make checksums and sizes right again, and pack it."""
    with zipfile.ZipFile(backup) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    fields: dict[str, Any] = {"version": "0.1.0", "schema": schema.revisions()[-1]}
    files.pop("manifest.json")
    change(files, fields)
    out = io.BytesIO()
    writer = ArchiveWriter(out)
    for name, data in files.items():
        writer._add(name, data.splitlines(keepends=True), rows=name.startswith("tables/"))
    writer.finish(created=START, **fields)
    return out.getvalue()


def row(table: str, **values: Any) -> Callable[[Files, dict[str, Any]], None]:
    """Change the first row of a table."""

    def change(files: Files, _: dict[str, Any]) -> None:
        name = f"tables/{table}.jsonl"
        first, *others = files[name].splitlines(keepends=True)
        new = json.dumps({**json.loads(first), **values}).encode() + b"\n"
        files[name] = b"".join([new, *others])

    return change


def put(name: str, data: bytes) -> Callable[[Files, dict[str, Any]], None]:
    return lambda files, _: files.update({name: data})


BAD = {
    "a newer schema": (lambda _, f: f.update(schema="9999", version="7.5"), "of warren 7.5.*newer"),
    "out of the directory": (put("state/../../x", b""), "which no backup has"),
    "an absolute name": (put("/etc/passwd", b""), "which no backup has"),
    "another file": (put("state/server.toml", b""), "which no backup has"),
    "another table": (put("tables/others.jsonl", b"{}\n"), "other tables than its schema"),
    "no table": (lambda files, _: files.pop("tables/nodes.jsonl"), "other tables"),
    "no key": (lambda files, _: files.pop("state/noise.key"), "noise.key is missing"),
    "a key that is none": (put("state/relay.key", b"privkey:00\n"), "a key in it is none"),
    "no JSON": (put("tables/users.jsonl", b"nonsense\n"), "line 1 of users is no row"),
    "deep JSON": (put("tables/users.jsonl", b"[" * 100_000), "line 1 of users is no row"),
    "an empty line": (put("tables/users.jsonl", b"\n"), "line 1 of users is no row"),
    "a wrong type": (row("users", id="one"), "line 1 of users is no row"),
    "a huge number": (row("users", id=2**70), "line 1 of users is no row"),
    "a long text": (row("users", role="x" * 33), "line 1 of users is no row"),
    "another column": (row("users", extra=1), "line 1 of users is no row"),
    "nothing where something is": (row("nodes", name=None), "line 1 of nodes is no row"),
    "a user who is not there": (row("nodes", user_id=77), "would point to nothing"),
    "twice the same": (row("nodes", id=3), r"(?i)unique"),
    "no machine key": (row("nodes", machine_key="mkey:1"), "a row of it cannot be read"),
    "no list": (row("nodes", tags="{"), "a row of it cannot be read"),
    "no address": (row("nodes", ipv4="1.2.3"), "a row of it cannot be read"),
    "a bomb": (
        put("tables/users.jsonl", b"\0" * (64 << 20)),
        "a line of tables/users.jsonl is larger",
    ),
    "a bomb as a key": (put("state/noise.key", b"\0" * (2 << 20)), "would unpack to"),
    "a long line": (
        put("tables/users.jsonl", b"".join(b"%x" % n for n in range(3 << 20))),
        "larger than 16 MiB",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_archives(
    what: str, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, words = BAD[what]
    with monkeypatch.context() as patch:
        patch.setattr("warren.coordinator.backup.archive.MAX_LINE_BYTES", 1 << 30)
        backup.write_bytes(written(change, backup))
    with pytest.raises((BackupProblem, StoreProblem), match=words) as told:
        restore_backup(tmp_path / "new", "", backup, lambda done, total: None)
    assert not (tmp_path / "new").exists(), "nothing stays behind"
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("limit", "words"),
    [("MAX_TABLE_BYTES", "would unpack to"), ("MAX_ROWS", "has more than 1 row")],
)
def test_too_much_to_unpack(
    limit: str, words: str, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"warren.coordinator.backup.archive.{limit}", 1)
    with pytest.raises(BackupProblem, match=words):
        restore_backup(tmp_path / "new", "", backup, quiet)
    assert not (tmp_path / "new").exists()


def test_a_policy_that_packs_well_comes_back(state: Path, tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{state / 'warren.db'}")
    policies = tuple(replace(LONG_POLICY, id=n) for n in range(3, 20))
    store.write_now(Delta(policies=policies))
    store.close()
    make_backup(state, "", tmp_path / "b.zip", START, quiet)
    manifest = restore_backup(tmp_path / "new", "", tmp_path / "b.zip", quiet)
    assert manifest.tables()["policies"].rows == 19


def test_archives_of_other_kinds(backup: Path, tmp_path: Path) -> None:
    good = backup.read_bytes()
    foreign = io.BytesIO()
    with zipfile.ZipFile(foreign, "w") as packed:
        packed.writestr("a.txt", b"")
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as packed:
        for n in range(100):
            packed.writestr(f"{n}.txt", b"")
    for data in (b"", b"x", b"\0" * 1000, good + b"x", foreign.getvalue(), many.getvalue()):
        with pytest.raises(MalformedArchive):
            open_archive_untrusted(io.BytesIO(data))
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(BackupProblem, match="cannot restore"):
            restore_backup(tmp_path / "new", "", place, quiet)


def test_cut_short_anywhere(backup: Path) -> None:
    good = backup.read_bytes()
    for size in range(0, len(good), 37):
        with pytest.raises(MalformedArchive, match="not whole"):
            open_archive_untrusted(io.BytesIO(good[:size]))


def test_a_changed_byte_anywhere_is_found(backup: Path) -> None:
    """CRC, checksum or manifest tells; a change of what nobody reads does no harm."""
    good = bytearray(backup.read_bytes())
    original = contents(bytes(good))
    found = 0
    for place in range(0, len(good), 11):
        good[place] ^= 0x55
        try:
            assert contents(bytes(good))[1] == original[1]
        except MalformedArchive:
            found += 1
        good[place] ^= 0x55
    assert found > len(good) / 11 * 0.8


def contents(data: bytes) -> tuple[Manifest, list[list[bytes]]]:
    archive = open_archive_untrusted(io.BytesIO(data))
    members = archive.manifest.tables()
    return archive.manifest, [list(archive.lines_untrusted(members[name])) for name in members]


def test_rows_that_the_manifest_does_not_count(backup: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(backup) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    manifest = json.loads(files["manifest.json"])
    for member in manifest["members"]:
        member["rows"] += member["name"] == "tables/users.jsonl"
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as packed:
        for name, data in files.items():
            if name == "manifest.json":
                data = json.dumps(manifest).encode()
            packed.writestr(name, data)
    with pytest.raises(BackupProblem, match="has 1 rows instead of 2"):
        restore_backup(tmp_path / "new", "", tmp_path / "other.zip", quiet)
