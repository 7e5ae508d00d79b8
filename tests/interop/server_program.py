"""`warren server` as a process on a database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from warren.coordinator.admin.shapes import NewAuthKey
from warren.coordinator.client import AdminClient
from warren.lab.ports import free_port

MAIN = [sys.executable, "-c", "import sys; from warren.cli import main; sys.exit(main())"]


def environment() -> dict[str, str]:
    """Without settings of this shell."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[2] / "src"), "COLUMNS": "200"}


def flags(state: Path, url: str, http: int = 0) -> list[str]:
    """Of a server with one HTTP port and no relay."""
    http = http or free_port()
    return ["--state", str(state), "--database", url, "--tls", "off", "--stun", "off",
            "--http", f"127.0.0.1:{http}", "--url", f"http://127.0.0.1:{http}"]  # fmt: skip


def warren(*args: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*MAIN, *args],
        capture_output=True, text=True, env=environment(), timeout=60, check=False,
    )  # fmt: skip


class Program:
    """A running server; `said` is its first line."""

    def __init__(self, state: Path, url: str, *more: str, http: int = 0) -> None:
        self.http = http or free_port()
        self.process = subprocess.Popen(
            [*MAIN, "server", *flags(state, url, self.http), *more],
            stdout=subprocess.PIPE, stderr=(state.parent / "server.log").open("ab"),
            text=True, env=environment(),
        )  # fmt: skip
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        self.admin = AdminClient(state)

    def kill(self) -> None:
        """As a crash does."""
        self.process.kill()
        self.process.wait(15)

    def end(self) -> None:
        """As a service manager does."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(15)

    def key(self) -> str:
        """A reusable auth key."""
        return str(self.admin.create_key(NewAuthKey(user="admin", reusable=True)).key)
