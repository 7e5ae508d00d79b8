"""What goes wrong on a machine is said in one sentence, with exit code not 0 and no traceback."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from warren.lab.mesh import Node, Server, command_environment
from warren.lab.plan import Host, Plan
from warren.lab.program import LabTimeout, Program, ProgramFailed
from warren.lab.world import Part, World

pytestmark = pytest.mark.netlab

PLAN = Plan(
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("alice", address="203.0.113.10"),
        Host("bob", address="203.0.113.20"),
    )
)
WARREN = [sys.executable, "-m", "warren"]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(PLAN) as built:
        yield built


@pytest.fixture(scope="module")
def server(world: World) -> Server:
    made = Server(world["server"], world.scratch / "server")
    made.start()
    made.create_user("tester")
    return made


def refused(part: Part, *words: str, timeout_s: float = 25.0) -> str:
    """Run a warren command that must fail; what it said, which must be short and no traceback."""
    program = part.spawn([*WARREN, *words], f"refused-{len(words)}-{id(words)}", env=environment())
    try:
        code = program.wait(timeout_s)
    except LabTimeout:
        program.kill()
        raise
    said = program.output()
    assert code not in (0, None) and code > 0, said
    assert "Traceback" not in said and "panicked" not in said, said
    assert "Something failed inside" not in said, said
    lines = [line for line in said.splitlines() if line.strip()]
    assert 1 <= len(lines) <= 6, said
    assert lines[-1].rstrip().endswith((".", "?", "!", ")", ":")) or len(lines[-1]) < 300, said
    return said


def environment() -> dict[str, str]:
    return dict(command_environment())


def node(world: World, name: str, state: str) -> Node:
    made = Node(world[name], name, world.scratch / state, tun=False, port=0)
    made.start()
    made.wait_daemon()
    return made


def up_fails(made: Node, server: Server | str, key: str | None, timeout_s: float = 8.0) -> str:
    url = server if isinstance(server, str) else server.url
    command = made.begin_up(url, key, timeout_s)
    assert command.wait(timeout_s + 8) != 0
    said = command.output()
    assert "Traceback" not in said, said
    return said


def test_keys_that_do_not_open(world: World, server: Server) -> None:
    """Unknown, used-up, expired and revoked keys; afterwards a good one works."""
    alice = node(world, "alice", "keys-alice")
    assert "key" in up_fails(alice, server, "warren-auth-nothing").lower()
    once = server.create_key("tester")
    bob = node(world, "bob", "keys-bob")
    bob.up(server.url, once)
    assert "used" in up_fails(alice, server, once).lower()
    brief = server.admin("keys", "create", "--user", "tester", "--expires", "1s")
    expired = world.wait(
        lambda: (
            next(
                (k for k in server.admin("keys", "list") if k["id"] == brief["id"]), {"state": ""}
            )["state"]
            == "expired"
        ),
        10,
        "the key expires",
    )
    assert expired
    assert "expired" in up_fails(alice, server, str(brief["key"])).lower()
    alice.up(server.url, server.create_key("tester"))
    for made in (alice, bob):
        made.run("logout")
        made.stop()


def test_a_server_that_is_not_there(world: World) -> None:
    alice = node(world, "alice", "absent")
    said = up_fails(alice, "http://192.0.2.99", "warren-auth-x", 4)
    assert "192.0.2.99" in said
    said = up_fails(alice, "ftp://server", None, 4)
    assert "ftp" in said or "http" in said
    alice.stop()


def test_no_daemon(world: World) -> None:
    missing = str(world.scratch / "nothing.sock")
    for words in (["status"], ["ping", "bob"], ["down"], ["logout"], ["ip"], ["netcheck"]):
        assert "warren up" in refused(world["alice"], *words, "--socket", missing)


def test_a_second_daemon_and_a_busy_port(world: World) -> None:
    first = node(world, "alice", "first")
    state, sock = str(world.scratch / "first"), str(world.scratch / "first" / "warrend.sock")
    common = ["daemon", "--tun", "none", "--state", state]
    assert "already" in refused(world["alice"], *common, "--socket", sock, "--port", "0")
    other = str(world.scratch / "other.sock")
    refused(world["alice"], *common, "--socket", other, "--port", "0")
    with world["alice"].socket(socket.SOCK_DGRAM) as busy:
        busy.bind(("0.0.0.0", 45678))
        said = refused(
            world["alice"],
            *("daemon", "--tun", "none", "--state", str(world.scratch / "second")),
            *("--socket", other, "--port", "45678"),
        )
        assert "45678" in said
    first.stop()


def test_state_that_cannot_be_used(world: World) -> None:
    alice = world["alice"]
    sock = str(world.scratch / "bad.sock")
    tail = ["--socket", sock, "--tun", "none", "--port", "0"]
    assert "/proc/nowhere" in refused(alice, "daemon", "--state", "/proc/nowhere", *tail)
    corrupt = world.scratch / "corrupt"
    made = node(world, "alice", "corrupt")
    made.stop()
    files = [path for path in corrupt.iterdir() if path.is_file() and path.suffix != ".log"]
    assert files, "the daemon keeps its state in files"
    for path in files:
        if path.suffix not in (".sock", ".lock"):
            path.write_bytes(b"\x00garbage\xff" * 10)
    assert str(corrupt) in refused(alice, "daemon", "--state", str(corrupt), *tail)


def test_private_keys_are_private(world: World) -> None:
    made = node(world, "bob", "private")
    made.stop()
    for path in (world.scratch / "private").rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path
    text = made.program.output()
    assert "privkey:" not in text


def test_a_server_that_cannot_start(world: World, server: Server) -> None:
    part = world["server"]
    base = ["server", "--url", "http://198.51.100.10", "--tls", "self-signed", "--stun", "off"]
    state = ["--state", str(world.scratch / "server2")]
    said = refused(part, *base, *state, "--listen", "198.51.100.10:443")
    assert "443" in said
    said = refused(part, *base, "--state", str(server.state), "--listen", "198.51.100.10:8443")
    assert str(server.state) in said or "already" in said
    assert "/proc/nowhere" in refused(
        part, *base, "--state", "/proc/nowhere", "--listen", "198.51.100.10:8443"
    )
    broken = world.scratch / "broken"
    copy_state(server.state, broken)
    for path in broken.glob("*.sqlite*"):
        path.write_bytes(b"not a database at all" * 100)
    for path in broken.glob("*.db*"):
        path.write_bytes(b"not a database at all" * 100)
    refused(part, *base, "--state", str(broken), "--listen", "198.51.100.10:8443")
    refused(part, *base, *state, "--listen", "nonsense")
    refused(part, "admin", "users", "list", "--state", str(world.scratch / "no-server"))


def copy_state(source: Path, target: Path) -> None:
    target.mkdir(mode=0o700)
    for path in source.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
            (target / path.name).chmod(0o600)


def test_requests_of_other_clients(world: World, server: Server) -> None:
    """Several requests on one connection, targets in absolute form (RFC 9112 §3.2.2)."""
    with world["alice"].socket(socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        sock.connect((str(world["server"].address), 80))
        for target in ("/key?v=130", f"{server.url}/key?v=130", f"{server.url}/derp/probe", "/key"):
            sock.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert b" 200 " in sock.recv(4096).splitlines()[0], target


def test_ping_of_nobody(world: World, server: Server) -> None:
    alice = node(world, "alice", "pinger")
    alice.up(server.url, server.create_key("tester"))
    with pytest.raises(ProgramFailed, match="nobody"):
        alice.ping("nobody")
    with pytest.raises(ProgramFailed):
        alice.ping("203.0.113.77")
    alice.run("logout")
    alice.stop()


def test_a_killed_daemon_leaves_a_socket_that_does_no_harm(world: World) -> None:
    alice = node(world, "alice", "killed")
    alice.kill()
    refused(world["alice"], "status", "--socket", str(world.scratch / "killed" / "warrend.sock"))
    alice.start()
    alice.wait_daemon()
    alice.stop()


def test_logs_of_this_module_show_no_traceback(world: World) -> None:
    for program in world.programs:
        assert isinstance(program, Program)
        assert "Traceback" not in program.output(), program.tail(60)
