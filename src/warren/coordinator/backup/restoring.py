"""Restores a backup into an empty state directory and an empty database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from warren.coordinator.backup.archive import (
    Archive,
    MalformedArchive,
    Manifest,
    open_archive_untrusted,
)
from warren.coordinator.backup.making import BackupProblem, Tell, default_database, telling
from warren.coordinator.identity import load_identity
from warren.coordinator.store import schema
from warren.coordinator.store.dump import Filling, MalformedDump, filling
from warren.edge.entropy import system_entropy
from warren.edge.files import (
    FileLock,
    FileProblem,
    owner_only_from_now_on,
    private_directory,
    write_private,
)

_LOCK, _STAGE = "server.lock", ".restoring"


def restore_backup(state: Path, database: str, file: Path, tell: Tell) -> Manifest:
    """Restore `file`; database: an URL, or empty for SQLite in the state directory.

    Whatever fails, nothing stays behind: the files come to their places only when the
    database's transaction is through. Raises BackupProblem, StoreProblem, FileProblem.
    """
    try:
        with file.open("rb") as handle:
            archive = open_archive_untrusted(handle)
            _check_schema(archive.manifest)
            owner_only_from_now_on()
            with _empty_directory(state):
                _restore(archive, state, database, tell)
            return archive.manifest
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BackupProblem(f"cannot restore {file}: {reason}") from error
    except (MalformedArchive, MalformedDump) as problem:
        raise BackupProblem(f"{file} cannot be restored: {problem}") from problem


def _check_schema(manifest: Manifest) -> None:
    if manifest.schema not in schema.revisions():
        raise MalformedArchive(
            f"it is of warren {manifest.version[:40]} with the schema {manifest.schema[:40]!r}, "
            "which is newer than this version; use that one"
        )


@contextmanager
def _empty_directory(state: Path) -> Iterator[None]:
    """Hold the lock of a state directory that is empty or not there; leave it so on failure."""
    is_new = not state.exists()
    private_directory(state)
    lock = FileLock(state / _LOCK)
    if not lock.acquire():
        raise BackupProblem(f"a warren server uses {state}; restore into another --state")
    try:
        # A stage is of a restore that was killed; what is in it was not yet in force.
        if {entry.name for entry in state.iterdir()} - {_LOCK, _STAGE}:
            raise BackupProblem(
                f"{state} is not empty; restore into an empty --state, and move it there"
            )
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(state)
        raise
    finally:
        lock.release()


def _restore(archive: Archive, state: Path, database: str, tell: Tell) -> None:
    stage = state / _STAGE
    shutil.rmtree(stage, ignore_errors=True)
    private_directory(stage)
    try:
        for name, member in archive.manifest.files().items():
            private_directory((stage / name).parent)
            write_private(stage / name, archive.read_untrusted(member))
        try:
            load_identity(stage, system_entropy)
        except FileProblem as problem:
            raise MalformedArchive("a key in it is none") from problem
        with filling(database or default_database(stage), archive.manifest.schema) as tables:
            _fill(archive, tables, tell)
        for entry in stage.iterdir():
            entry.replace(state / entry.name)
    finally:
        shutil.rmtree(stage)


def _fill(archive: Archive, tables: Filling, tell: Tell) -> None:
    members = archive.manifest.tables()
    if members.keys() != set(tables.names):
        raise MalformedArchive("it has other tables than its schema")
    told = telling(tell, sum(member.rows for member in members.values()))
    for name in tables.names:
        tables.add_untrusted(name, told(archive.lines_untrusted(members[name])))
