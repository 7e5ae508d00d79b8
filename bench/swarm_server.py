"""The server that a swarm hangs on: our own, started for it, or another one by its URL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from bench.machine import resident_mb
from warren.coordinator.admin.shapes import NewAuthKey
from warren.coordinator.client import AdminClient
from warren.keys import MachinePublic
from warren.lab.ports import free_port
from warren.netmap.codec import decode_json_untrusted
from warren.netmap.register import ServerKeys

USER = "swarm@example.com"
_TICKS = os.sysconf("SC_CLK_TCK")
_START_S = 60.0


def team_of(number: int, peers: int) -> str:
    """Return the tag of a machine's team."""
    return f"tag:team-{number // peers}"


def policy_text(nodes: int, peers: int, port: int = 22, attribute: str = "") -> str:
    """Return a policy that shows each machine its team of `peers`.

    port: one more that is open to all of it. attribute: what each machine has, if anything.
    """
    tags = [team_of(number, peers) for number in range(0, nodes, peers)]
    grants: list[dict[str, Any]] = [
        {"src": [tag], "dst": [tag], "ip": ["tcp:443", f"tcp:{port}"]} for tag in tags
    ]
    return _text(tags, grants, attribute)


def mesh_text(nodes: int, peers: int, port: int = 22, attribute: str = "") -> str:
    """Return a policy of which every machine sees every other."""
    tags = [team_of(number, peers) for number in range(0, nodes, peers)]
    grants = [{"src": ["*"], "dst": ["*"], "ip": ["tcp:443", f"tcp:{port}"]}]
    return _text(tags, grants, attribute)


def _text(tags: list[str], grants: list[dict[str, Any]], attribute: str) -> str:
    policy = {"tagOwners": {tag: [USER] for tag in tags}, "grants": grants}
    if attribute:
        policy["nodeAttrs"] = [{"target": ["*"], "attr": [attribute]}]
    return json.dumps(policy, indent=1)


class Target:
    """A server by its URL. pid: its process, or 0 where it is not on this machine."""

    def __init__(self, url: str, auth_key: str, pid: int = 0) -> None:
        self.url = url.rstrip("/")
        self.auth_key = auth_key
        self.pid = pid

    def credentials(self, number: int, peers: int) -> tuple[str, list[str]]:
        """Return the auth key of a machine, and the tags that it asks for."""
        keys = self.auth_key.split(",")
        if len(keys) == 1:
            return keys[0], [team_of(number, peers)]
        return keys[number // peers], []

    def key(self) -> MachinePublic:
        """Ask for the key of its Noise sessions. Raises OSError."""
        with urllib.request.urlopen(f"{self.url}/key?v=131", timeout=10) as answer:
            return decode_json_untrusted(answer.read(65536), ServerKeys).public_key

    def cpu_s(self) -> float:
        """CPU time that it has used so far, of all its threads; 0 where nobody can know."""
        if not self.pid:
            return 0.0
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / _TICKS

    def memory_mb(self) -> float:
        """Resident memory; 0 where nobody can know."""
        return resident_mb(self.pid) if self.pid else 0.0


class OwnServer(Target):
    """`warren server` with SQLite, plain HTTP on loopback and no relay, on one core."""

    def __init__(self, state: Path, policy: str, core: int | None) -> None:
        self._port = free_port()
        super().__init__(f"http://127.0.0.1:{self._port}", "")
        self._state = state
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        admin = AdminClient(state)
        admin.create_user(USER)
        admin.set_policy(policy, "swarm", None)
        made = admin.create_key(
            NewAuthKey(user=USER, reusable=True, pre_approved=True, expires="24h")
        )
        assert made.key is not None  # only lists leave it out
        self.auth_key = made.key

    def start(self) -> None:
        """Start it and wait until it answers. Raises RuntimeError."""
        self._state.mkdir(exist_ok=True)
        argv = [
            sys.executable, "-m", "warren", "server", "--state", str(self._state),
            "--url", self.url, "--http", f"127.0.0.1:{self._port}",
            "--tls", "off", "--no-relay", "--stun", "off",
        ]  # fmt: skip
        log = self._state.with_suffix(".log").open("ab")
        self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        log.close()
        self.pid = self._process.pid
        if self._core is not None:
            os.sched_setaffinity(self.pid, {self._core})
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self.key()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    tail = self._state.with_suffix(".log").read_text()[-500:]
                    raise RuntimeError(f"the server did not start: {tail}") from None
                time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def set_policy(self, text: str) -> None:
        """Put a policy in force. Blocks."""
        AdminClient(self._state, timeout_s=120.0).set_policy(text, "swarm", None)
