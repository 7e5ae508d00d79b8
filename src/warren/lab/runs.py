"""Which runs of the lab are alive, and how to remove what dead ones left behind.

A run holds a lock on its directory for as long as its process lives. The kernel frees the lock
with the process, however it ended, so a lock that can be taken means leftovers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from warren.lab.sandbox import SYSTEM_PATH, LabUnavailable

RUNS = Path("/run/warren-lab")
NETNS = Path("/run/netns")
PREFIX = "wl-"
OPEN = "open"
"""A file that a run has while it is kept up for people to go in."""
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def environment() -> dict[str, str]:
    """The environment for every program of the lab: this one's, with the system's paths."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"}


def command(argv: list[str], stdin: str | None = None) -> str:
    """Run a system program and return its output. Raises LabUnavailable with its words.

    It ends before a signal is heard, by it or by us: a namespace that is half made or half
    removed when an interrupted run cleans up would stay for ever.
    """
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    try:
        done = subprocess.run(  # noqa: S603
            argv, input=stdin, capture_output=True, text=True, check=False, env=environment()
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
    if done.returncode != 0:
        raise LabUnavailable(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


class RunDirectory:
    """The directory and lock of one living run."""

    def __init__(self, run: str) -> None:
        # Locked before it has its name: `clean` of another process must not take it for dead.
        self.path = RUNS / run
        fresh = RUNS / f".{run}"
        fresh.mkdir(parents=True)
        self._lock = os.open(fresh / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(self._lock, str(os.getpid()).encode())
        fresh.rename(self.path)

    def remove(self) -> None:
        """Delete the directory and free the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def of_process(pid: int) -> set[str]:
    """The namespaces of the runs that a process holds."""
    held = set()
    for lock in RUNS.glob("[!.]*/lock"):
        with contextlib.suppress(OSError):
            if lock.read_text() == str(pid):
                held |= {path.name for path in NETNS.glob(f"{PREFIX}{lock.parent.name}-*")}
    return held


def kept_open() -> list[str]:
    """The runs that `warren lab up` keeps for people."""
    return sorted(path.parent.name for path in RUNS.glob(f"*/{OPEN}")) if RUNS.is_dir() else []


def clean() -> list[str]:
    """Remove the namespaces, processes and files of dead runs; their names, for a report."""
    removed = []
    # A run has its directory before its first namespace, and until after its last one.
    for run in sorted(_with_namespaces()):
        if not (RUNS / run).exists():
            remove_namespaces(run)
            removed.append(run)
    for path in sorted(RUNS.glob("[!.]*")):
        with contextlib.suppress(OSError):
            lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_namespaces(path.name)
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path.name)
            finally:
                os.close(lock)
    return removed


def _with_namespaces() -> set[str]:
    """The runs, alive or dead, that namespaces are called after."""
    names = [path.name for path in NETNS.glob(f"{PREFIX}*-*")] if NETNS.is_dir() else []
    return {name.removeprefix(PREFIX).partition("-")[0] for name in names}


def remove_namespaces(run: str) -> None:
    """Kill what still runs in the namespaces of a run, then delete them."""
    names = [path.name for path in NETNS.glob(f"{PREFIX}{run}-*")] if NETNS.is_dir() else []
    for name in names:
        _kill_inside(name)
    for name in names:
        with contextlib.suppress(LabUnavailable):
            command(["ip", "netns", "delete", name])


def _kill_inside(name: str) -> None:
    """SIGKILL every process of a namespace that only the lab can have put there."""
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        try:
            pids = [int(word) for word in command(["ip", "netns", "pids", name]).split()]
        except LabUnavailable:
            return
        pids = [pid for pid in pids if pid != os.getpid() and not _is_zombie(pid)]
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
