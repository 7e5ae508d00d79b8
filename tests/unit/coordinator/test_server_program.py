"""`warren server` and `warren admin` as programs: what a person meets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from warren.lab.ports import free_port

MAIN = [sys.executable, "-c", "import sys; from warren.cli import main; sys.exit(main())"]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}
    source = str(Path(__file__).parents[3] / "src")
    return {**kept, "PYTHONPATH": source, "COLUMNS": "200", "TERM": "dumb"}


def warren(*args: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MAIN, *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment(), **extra},
        check=False,
    )


def flags(state: Path) -> list[str]:
    http, tls = free_port(), free_port()
    return [
        "--state", str(state), "--listen", f"127.0.0.1:{tls}", "--http", f"127.0.0.1:{http}",
        "--stun", f"127.0.0.1:{free_port()}", "--url", f"http://127.0.0.1:{http}",
    ]  # fmt: skip


class Program:
    """A running `warren server`."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [*MAIN, "server", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(15)
        return self.process.returncode, time.monotonic() - began

    def rest(self) -> tuple[str, str]:
        assert self.process.stdout is not None and self.process.stderr is not None
        return self.process.stdout.read(), self.process.stderr.read()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def server(state: Path) -> Iterator[Program]:
    program = Program(*flags(state))
    yield program
    if program.process.poll() is None:
        program.end(signal.SIGKILL)


def admin(state: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return warren("admin", *args, "--state", str(state))


def test_first_start_and_graceful_stop(server: Program, state: Path) -> None:
    assert server.said.startswith("Warren serves http://127.0.0.1:")
    code, taken_s = server.end()
    out, err = server.rest()
    assert code == 0 and taken_s < 5
    assert "warren up --server http://127.0.0.1:" in out and "--auth-key warren-auth-" in out
    assert "warren-auth-" not in err and "Traceback" not in err
    for file in state.rglob("*"):
        assert file.stat().st_mode & 0o077 == 0, file
    again = Program(*flags(state))
    again.end()
    out, err = again.rest()
    assert "auth-key" not in out, "the key is made at the first start only"
    command = f"warren admin users invite admin --state {state}"
    assert f"owner yet (another link: {command})." in err
    assert "/invite/" not in out + err


def test_administration(server: Program, state: Path) -> None:
    assert admin(state, "users", "create", "alice").stdout == "User alice is there.\n"
    unsaid = admin(state, "keys", "create")
    assert unsaid.returncode == 1 and "--user NAME" in unsaid.stderr
    made = admin(state, "keys", "create", "--user", "alice", "--tag", "tag:a", "--json")
    key = json.loads(made.stdout)
    assert key["key"].startswith("warren-auth-") and key["tags"] == ["tag:a"]
    listed = json.loads(admin(state, "keys", "list", "--json").stdout)
    assert {entry["key"] for entry in listed} == {None}
    assert "one-off, pre-approved" in admin(state, "keys", "list").stdout
    assert json.loads(admin(state, "nodes", "list", "--json").stdout) == {
        "nodes": [],
        "pending": [],
    }
    refused = admin(state, "users", "create", "alice")
    assert refused.returncode == 1
    assert refused.stderr == "warren: there is a user 'alice' already\n"
    nobody = admin(state, "nodes", "approve", "nosuch").stderr
    assert "no machine waits under 'nosuch'" in nobody and "nodes list" in nobody
    assert "2" in admin(state, "status").stdout
    told = json.loads(admin(state, "audit", "--json").stdout)
    assert "alice" in {entry["target_name"] for entry in told}
    assert admin(state, "users", "delete", "alice").returncode == 0
    assert "warren-auth-" in admin(state, "keys", "create").stdout  # of the only user
    assert admin(state, "keys", "create", "--user", "alice").returncode == 1
    assert (
        "length of time"
        in admin(state, "keys", "create", "--user", "admin", "--expires", "x").stderr
    )


def test_the_policy(server: Program, state: Path, tmp_path: Path) -> None:
    before = json.loads(admin(state, "policy", "get", "--json").stdout)
    file = tmp_path / "policy.hujson"
    file.write_text('{"acls": [], // nobody\n}')
    done = admin(state, "policy", "set", str(file), "--etag", before["etag"], "--author", "alice")
    assert done.stdout == "Version 1 of the policy is in force.\n"
    assert admin(state, "policy", "get").stdout == file.read_text() + "\n"
    stale = admin(state, "policy", "set", str(file), "--etag", before["etag"])
    assert stale.returncode == 1 and "alice changed the policy" in stale.stderr
    file.write_text('{\n  "alcs": [],\n}')
    wrong = admin(state, "policy", "check", str(file))
    assert wrong.returncode == 1
    assert wrong.stderr.startswith(
        'warren: line 2, column 3: unknown field "alcs" (did you mean "acls"'
    )
    assert "alice" in admin(state, "policy", "history").stdout


def test_kill_and_restart_keeps_everything(server: Program, state: Path) -> None:
    admin(state, "users", "create", "alice")
    before = json.loads(admin(state, "status", "--json").stdout)
    server.end(signal.SIGKILL)
    again = Program(*flags(state))
    after = json.loads(admin(state, "status", "--json").stdout)
    again.end()
    assert after["noise_key"] == before["noise_key"] and after["users"] == 2


def test_second_server_on_the_same_state(server: Program, state: Path) -> None:
    second = warren("server", *flags(state))
    assert second.returncode == 1 and "another warren server uses" in second.stderr
    assert len(second.stderr.splitlines()) == 1


def test_busy_port(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        for flag in ("--listen", "--http"):
            args = [*flags(tmp_path / "s"), flag, f"127.0.0.1:{port}"]
            found = warren("server", *args)
            assert found.returncode == 1
            assert f"port {port} is in use" in found.stderr and flag in found.stderr
            assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("noise.key", "nonsense", "does not hold a key"),
        ("relay.key", "privkey:00", "does not hold a key"),
        ("warren.db", "garbage" * 1000, "damaged"),
        ("tls/self-signed.pem", "garbage", None),
    ],
)
def test_corrupt_state(state: Path, file: str, content: str, words: str | None) -> None:
    (state / file).parent.mkdir(parents=True)
    (state / file).write_text(content)
    if words is None:
        Program(*flags(state)).end()  # made anew
        return
    found = warren("server", *flags(state))
    assert found.returncode == 1 and words in found.stderr
    assert len(found.stderr.splitlines()) == 1 and "Traceback" not in found.stderr


def test_state_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = warren("server", *flags(tmp_path / "file"))
    assert found.returncode == 1 and "cannot use the directory" in found.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("listn = ':1'", "did you mean 'listen'?"),
        ("listen = 443", "wrong type"),
        ("listen = 'here:443'", "listen is 'here:443'"),
        ("listen = ':99999'", "listen is"),
        ("tls = 'maybe'", "acme, self-signed, files, off"),
        ("tls = 'files'", "tls-cert"),
        ("tls = 'off'", "give http"),
        ("domain = 'nodots'", "name with a dot"),
        ("domain = 'x.ts.net'", "that is yours"),
        ("key-expiry = 'soon'", "key-expiry"),
        ("region-id = 70000", "65535"),
        ("url = 'vpn.example.com'", "write it like https://"),
        ("url = 'https://x/path'", "write it like https://"),
        ("= =", "is not TOML"),
        ("log-level = 'loud'", "log-level"),
        ("database = 'nonsense'", "SQLAlchemy"),
        ("database = 'mysql://x/y'", "postgresql:// or sqlite://"),
        ("database = 'sqlite:////nope/x.db'", "no such directory"),
        ("relay-port = 99999", "relay-port"),
        ("stun-port = -5", "stun-port"),
        ("relay-host = 'a b'", "relay-host"),
        ("url = 'https://ex ample.com'", "write it like https://"),
        ("tls = 'acme'\nurl = 'https://192.0.2.7'", "is an address"),
        ("tls = 'acme'\nurl = 'https://a.example.com'\nacme-ca = '/nope'", "no such file"),
        ("region-code = ' '", "region-code"),
    ],
)
def test_config_errors(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    found = warren("server", "--config", str(file), "--state", str(tmp_path / "s"), "--check")
    assert found.returncode == 1 and words in found.stderr, found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "s").exists(), "a check writes nothing"


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('url = "http://from.file"\nhttp = "127.0.0.1:8080"\n')
    args = ["server", "--config", str(file), "--state", str(tmp_path / "s"), "--check"]
    assert "http://from.file" in warren(*args).stdout
    variable = {"WARREN_SERVER_URL": "http://from.environment"}
    assert "http://from.environment" in warren(*args, **variable).stdout
    assert "http://from.flag" in warren(*args, "--url", "http://from.flag", **variable).stdout


def test_admin_without_a_server(tmp_path: Path) -> None:
    found = admin(tmp_path, "nodes", "list")
    assert found.returncode == 1 and "no server runs with the state directory" in found.stderr


def test_help_names_every_setting() -> None:
    from msgspec.structs import fields

    from warren.coordinator.config import Config

    text = warren("server", "--help").stdout
    for field in fields(Config):
        assert f"--{field.encode_name}" in text, "every setting is a flag"
