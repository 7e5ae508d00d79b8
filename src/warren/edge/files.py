"""Files that survive `kill -9` and that nobody else can read."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


class FileProblem(Exception):
    """A file or directory cannot be used. The text is one sentence for a person."""


class AlreadyRunning(Exception):
    """Another program uses the state directory. The text is a sentence for a person."""


def owner_only_from_now_on() -> None:
    """Let every file that this process makes, also in libraries, be its owner's alone."""
    os.umask(0o077)


def private_directory(path: Path) -> Path:
    """Make `path` a directory that only this user may enter (0700), parents included.

    An existing directory keeps its mode unless others could write to it. Raises FileProblem.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = path.stat().st_mode
        if mode & 0o022:
            path.chmod(mode & 0o7755)
    except OSError as error:
        raise FileProblem(f"cannot use the directory {path}: {_reason(error)}") from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise FileProblem(f"cannot use the directory {path}: it is not writable by this user")
    return path


def write_private(path: Path, data: bytes) -> None:
    """Replace the content of `path` as a whole, mode 0600.

    A crash at any moment leaves the old content or the new one. Raises FileProblem.
    """
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, mode 0600, that takes the place of `path` once the block has ended.

    After an exception, or a crash at any moment, the old content is still there. Raises
    FileProblem for what the system refuses, also inside the block.
    """
    try:
        # 0600 from the start: a later chmod would leave a gap. As tempfile does it, which would
        # take 0.7 MB of every daemon.
        temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise FileProblem(f"cannot write {path}: {_reason(error)}") from error


def read_private(path: Path, limit_bytes: int = 1 << 20) -> bytes | None:
    """Return the content of `path`, or None where there is no such file.

    Raises FileProblem when it cannot be read or is longer than `limit_bytes`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileProblem(f"cannot read {path}: {_reason(error)}") from error
    if len(data) > limit_bytes:
        raise FileProblem(f"{path} is longer than {limit_bytes} bytes; it is not a file of ours")
    return data


class FileLock:
    """An exclusive lock on a file, held until `release` or until the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Take the lock and return True, or return False if another process holds it.

        Raises FileProblem when the file itself cannot be used.
        """
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FileProblem(f"cannot use {self._path}: {_reason(error)}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise FileProblem(f"cannot lock {self._path}: {_reason(error)}") from error
        self._handle = handle
        # Best effort, for a person who looks: on a full disk the lock alone is enough.
        with suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        return True

    def release(self) -> None:
        """Give the lock back; the file stays."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@contextmanager
def only_program(name: str, directory: Path, lock_name: str) -> Iterator[None]:
    """Be the only `warren NAME` that keeps its files in a directory, which is made if need be.

    From then on what is written is the owner's alone. Raises AlreadyRunning, FileProblem.
    """
    owner_only_from_now_on()
    private_directory(directory)
    lock = FileLock(directory / lock_name)
    if not lock.acquire():
        raise AlreadyRunning(
            f"another warren {name} uses {directory}; stop it, or give this one another --state"
        )
    try:
        yield
    finally:
        lock.release()


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
