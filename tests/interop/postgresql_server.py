"""A PostgreSQL server of the tests' own: Debian's programs, a fresh cluster, one loopback port."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg

from warren.lab.ports import free_port

PASSWORD = "let me in"


def programs() -> Path | None:
    """Where the newest server's programs are; Debian keeps them off PATH."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(found, key=lambda path: int(path.parents[1].name), default=None)
    return newest.parent if newest else None


class PostgresServer:
    """Started at once; `stop` and `start` as a test likes; `remove` at the end."""

    def __init__(self, bin_directory: Path) -> None:
        self._bin = bin_directory
        self._directory = Path(tempfile.mkdtemp(prefix="warren-postgresql-"))
        self._data = self._directory / "data"
        self._count = 0
        self._user, self._prefix = _somebody()
        if self._user is not None:
            shutil.chown(self._directory, self._user)
        password = self._directory / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self.port = free_port()
        self._run(
            "initdb", "--pgdata", str(self._data), "--username", "warren", "--no-sync",
            "--auth", "scram-sha-256", "--pwfile", str(password), "--encoding", "UTF8",
            "--locale", "C",
        )  # fmt: skip
        self.start()

    def url(self, database: str, password: str = PASSWORD) -> str:
        """The URL of a database, as an operator writes it."""
        quoted = password.replace(" ", "%20")
        return f"postgresql://warren:{quoted}@127.0.0.1:{self.port}/{database}"

    def fresh(self) -> str:
        """Make an empty database; return its URL."""
        self._count += 1
        name = f"test{self._count}"
        self.query("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def query(self, database: str, statement: str) -> list[tuple[object, ...]]:
        """Run a statement with the stock driver; return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c fsync=off -k ''"
        self._run("pg_ctl", "start", "--wait", "--pgdata", str(self._data), "--options", options,
                  "--log", str(self._directory / "log"))  # fmt: skip

    def stop(self) -> None:
        """Stop at once, as a crash does."""
        self._run("pg_ctl", "stop", "--wait", "--mode", "immediate", "--pgdata", str(self._data))

    def remove(self) -> None:
        """Stop it if it runs, and remove what it wrote."""
        with contextlib.suppress(AssertionError):
            self.stop()
        shutil.rmtree(self._directory)

    def _run(self, program: str, *args: str) -> None:
        done = subprocess.run(
            [*self._prefix, str(self._bin / program), *args],
            # The server keeps what pg_ctl had: a pipe would stay open as long as it runs.
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            user=self._user, group=self._user, cwd=self._directory, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{program} ended with {done.returncode}"


def _somebody() -> tuple[str | None, list[str]]:
    """Whom the server is to run as, and what goes before its commands: it refuses to be root."""
    if os.geteuid() != 0:
        return None, []
    everyone = Path("/proc/self/uid_map").read_text().split()[2] == str(2**32 - 1)
    if everyone:
        return pwd.getpwnam("postgres").pw_name, []
    # Root of a user namespace with nobody else in it.
    return None, ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
