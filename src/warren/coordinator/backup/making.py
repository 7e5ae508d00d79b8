"""Makes a backup while the server runs, or while it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from warren import __version__
from warren.coordinator.backup.archive import (
    STATE_FILES,
    ArchiveWriter,
    MalformedArchive,
    Manifest,
)
from warren.coordinator.store.dump import reading
from warren.edge.files import read_private, replacing

Tell = Callable[[int, int], None]
"""Is told of progress: rows done, and rows in all."""


class BackupProblem(Exception):
    """A backup cannot be made or restored. The text is a sentence for a person."""


def default_database(state: Path) -> str:
    """Return the URL of the database that a server without `--database` has."""
    return f"sqlite:///{state / 'warren.db'}"


def telling(tell: Tell, total: int) -> Callable[[Iterator[bytes]], Iterator[bytes]]:
    """Return what passes rows on and tells of each that went through."""
    done = 0

    def told(rows: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal done
        for row in rows:
            yield row
            done += 1
            tell(done, total)

    return told


def make_backup(state: Path, database: str, file: Path, wall: datetime, tell: Tell) -> Manifest:
    """Write a backup of a state directory and a database (its URL) to `file`, mode 0600.

    Raises BackupProblem, StoreProblem, FileProblem; then there is no file.
    """
    if file.exists():
        raise BackupProblem(f"{file} is there already; give the backup another name")
    kept = {name: read_private(state / name) for name in STATE_FILES}
    if kept["noise.key"] is None or kept["relay.key"] is None:
        raise BackupProblem(
            f"no server has run with the state directory {state}; name its directory with --state"
        )
    with (
        reading(database or default_database(state)) as contents,
        replacing(file) as out,
        ArchiveWriter(out) as writer,
    ):
        counts = contents.counts()
        told = telling(tell, sum(counts.values()))
        try:
            for name, data in kept.items():
                if data is not None:
                    writer.add_file(name, data)
            for name in counts:
                writer.add_table(name, told(contents.lines(name)))
            return writer.finish(__version__, contents.revision, wall)
        except MalformedArchive as problem:
            raise BackupProblem(f"no backup can be made: {problem}") from problem
