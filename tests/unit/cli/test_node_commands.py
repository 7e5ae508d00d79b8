"""The node's commands in a terminal: against a daemon that says what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from warren.cli import main
from warren.cli.groups import GROUPS
from warren.cli.quick import quick_daemon, quick_status
from warren.edge.linux.local_socket import listen_local
from warren.node.localapi import LocalApi, RequestFailed
from warren.node.schema import (
    NatReport,
    NetcheckReport,
    PathStatus,
    PeerStatus,
    PingReply,
    PingRequest,
    RegionLatency,
    SelfStatus,
    Status,
    UpRequest,
)

ME = SelfStatus(
    id=1,
    name="me",
    fqdn="me.example.",
    addresses=["100.64.0.1", "fd7a:115c:a1e0::1"],
    key="nodekey:00",
    user="alice",
    home_region=900,
    home_region_code="home",
)
YOU = PeerStatus(
    id=2,
    name="you",
    fqdn="you.example.",
    addresses=["100.64.0.2"],
    key="nodekey:01",
    online=True,
    user="bob",
    path=PathStatus(kind="direct", address="198.51.100.7:41641", latency_ms=1.25),
    active=True,
    rx_bytes=2_500_000,
    tx_bytes=999,
)
RUNNING = Status(
    version="1",
    state="running",
    seq=1,
    attempt=1,
    connected=True,
    server_url="http://s",
    self_node=ME,
    peers=[YOU],
    port=41641,
    tun="warren0",
    mode="tun",
)


class Daemon:
    """Actions whose answers a test sets; `script` is what follows an `up`."""

    def __init__(self) -> None:
        self.now = RUNNING
        self.script: list[Status] = []
        self.pongs: list[PingReply] = []
        self.asked: list[object] = []

    def status(self, peers: bool = True) -> Status:
        return self.now

    async def watch(self, seq: int, wait_s: float) -> Status:
        if self.script:
            self.now = self.script.pop(0)
        else:
            await asyncio.sleep(min(wait_s, 0.05))
        return self.now

    async def up(self, request: UpRequest) -> Status:
        self.asked.append(request)
        return await self.watch(0, 0)

    async def down(self) -> Status:
        raise RequestFailed(409, "It is busy.")

    async def log_out(self) -> Status:
        return self.now

    async def ping(self, request: PingRequest) -> PingReply:
        self.asked.append(request)
        return self.pongs.pop(0) if len(self.pongs) > 1 else self.pongs[0]

    async def netcheck(self) -> NetcheckReport:
        region = RegionLatency(region=900, code="home", name="Home", latency_ms=1.5)
        nat = NatReport(
            udp=True,
            name="symmetric NAT",
            difficulty="hard",
            translated=True,
            mapping="address-dependent",
            filtering="address-and-port-dependent",
            ports_text="sequential, step 2",
            hairpin=False,
            mtu_bytes=1492,
            liars={"192.0.2.1:3478": "192.0.2.66:1"},
            meaning=["It is hard."],
        )
        return NetcheckReport(udp=True, ipv4="203.0.113.1:1", regions=[region], nat4=nat)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    actions = Daemon()
    path = tmp_path / "s"
    monkeypatch.setenv("WARREN_SOCKET", str(path))
    api = LocalApi(actions, os.geteuid())
    listener = listen_local(path, mode=0o600)
    loop = asyncio.new_event_loop()
    server = loop.create_task(api.run(listener))

    def serve() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(server)

    thread = threading.Thread(target=serve)
    thread.start()
    yield actions
    loop.call_soon_threadsafe(server.cancel)
    thread.join()
    loop.close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("WARREN_STATE", "WARREN_SERVER", "WARREN_AUTH_KEY", "WARREN_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["warren", *args])
        try:
            code = main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_status(daemon: Daemon, run: Run) -> None:
    code, out, _ = run("status")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["100.64.0.1", "me", "alice", "this", "one", "(tun", "warren0)"]
    assert "direct 198.51.100.7:41641 1.2 ms, rx 2.5 MB tx 999 B" in lines[1]
    assert "connected to http://s, home relay home, UDP port 41641" in out
    code, out, _ = run("status", "--json")
    told = json.loads(out)
    assert told["self"]["name"] == "me"
    assert told["peers"][0]["path"]["kind"] == "direct"


@pytest.mark.parametrize(
    ("state", "said"),
    [("stopped", "Stopped."), ("needs-login", "Not logged in."), ("expired", "--force-login")],
)
def test_status_when_not_running(daemon: Daemon, run: Run, state: str, said: str) -> None:
    daemon.now = Status(version="1", state=state, error="Why.", auth_url="http://s/r/1")  # type: ignore[arg-type]
    code, out, _ = run("status")
    assert code == 1
    assert said in out
    assert "Why." in out
    assert "http://s/r/1" in out


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "100.64.0.1\nfd7a:115c:a1e0::1\n"),
        (["-4"], "100.64.0.1\n"),
        (["-6"], "fd7a:115c:a1e0::1\n"),
        (["you"], "100.64.0.2\n"),
        (["YOU.example"], "100.64.0.2\n"),
        (["100.64.0.2"], "100.64.0.2\n"),
    ],
)
def test_ip(daemon: Daemon, run: Run, args: list[str], expected: str) -> None:
    assert run("ip", *args)[:2] == (0, expected)


def test_ip_of_nobody(daemon: Daemon, run: Run) -> None:
    code, out, err = run("ip", "nobody")
    assert (code, out) == (1, "")
    assert err == "warren: There is no machine 'nobody' in this network.\n"
    assert run("ip", "-6", "you")[0] == 1


RELAYED = PingReply(
    ok=True,
    kind="disco",
    peer="you",
    address="100.64.0.2",
    via="relay",
    region=900,
    region_code="home",
    ms=3.2,
)
DIRECT = PingReply(
    ok=True,
    kind="disco",
    peer="you",
    address="100.64.0.2",
    via="direct",
    path="198.51.100.7:41641",
    ms=0.52,
)
LOST = PingReply(ok=False, kind="disco", peer="you", address="100.64.0.2", error="no answer")


def test_ping_shows_the_path(daemon: Daemon, run: Run) -> None:
    daemon.pongs = [RELAYED, DIRECT]
    code, out, _ = run("ping", "--until-direct", "you")
    assert code == 0
    assert out.splitlines() == [
        "pong from you (100.64.0.2) via relay home(900) in 3 ms",
        "pong from you (100.64.0.2) via 198.51.100.7:41641 in 0.5 ms",
    ]


def test_ping_as_json(daemon: Daemon, run: Run) -> None:
    daemon.pongs = [RELAYED]
    code, out, _ = run("ping", "--json", "-c", "1", "--kind", "tsmp", "you")
    assert code == 0
    assert json.loads(out)["via"] == "relay"
    assert daemon.asked == [PingRequest(peer="you", kind="tsmp", timeout_s=pytest.approx(5.0))]


@pytest.mark.parametrize(
    ("pongs", "args", "said"),
    [
        ([LOST], ["-c", "1"], "No pong from you."),
        ([RELAYED], ["--until-direct", "--timeout", "0.3"], "No direct path to you within 0.3 s"),
    ],
)
def test_ping_that_fails(
    daemon: Daemon, run: Run, pongs: list[PingReply], args: list[str], said: str
) -> None:
    daemon.pongs = pongs
    code, _, err = run("ping", "you", *args)
    assert code == 1
    assert said in err


def test_up(daemon: Daemon, run: Run, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    daemon.script = [
        Status(version="1", state="starting", attempt=1),
        Status(version="1", state="starting", attempt=1, error="A hiccup."),
        RUNNING,
    ]
    code, out, err = run(
        "up", "--server", "http://s", "--auth-key", f"file:{tmp_path / 'key'}", "--hostname", "h"
    )
    assert code == 0
    assert "me.example is up: 100.64.0.1, fd7a:115c:a1e0::1" in out
    assert "Still trying: A hiccup." in err
    assert daemon.asked == [UpRequest(server_url="http://s", auth_key="secret", hostname="h")]


def test_up_at_a_browser(daemon: Daemon, run: Run) -> None:
    url = "http://s/register/x"
    daemon.script = [
        Status(version="1", state="needs-login", attempt=1, auth_url=url),
        Status(version="1", state="needs-approval", attempt=1),
        RUNNING,
    ]
    script = list(daemon.script)
    code, _, err = run("up")
    assert code == 0
    assert url in err
    assert "█" in err
    assert "administrator's approval" in err
    daemon.script = script
    code, out, _ = run("up", "--json", "--no-qr")
    first, last = out.splitlines()
    assert json.loads(first) == {"state": "needs-login", "auth_url": url}
    assert json.loads(last)["state"] == "running"


@pytest.mark.parametrize(
    ("script", "args", "said"),
    [
        (
            [Status(version="1", state="needs-login", attempt=1, error="It refused.")],
            [],
            "It refused.",
        ),
        (
            [
                Status(version="1", state="starting", attempt=1),
                Status(version="1", state="stopped", attempt=2),
            ],
            [],
            "has taken over",
        ),
        (
            [Status(version="1", state="starting", attempt=1, error="Nobody there.")],
            ["--timeout", "0.1"],
            "Nobody there.",
        ),
        ([Status(version="1", state="starting", attempt=1)], ["--timeout", "0.1"], "Not up after"),
    ],
)
def test_up_that_fails(
    daemon: Daemon, run: Run, script: list[Status], args: list[str], said: str
) -> None:
    daemon.script = script
    code, out, err = run("up", *args)
    assert (code, out) == (1, "")
    assert said in err.splitlines()[-1]


def test_what_the_daemon_refuses(daemon: Daemon, run: Run) -> None:
    assert run("down") == (1, "", "warren: It is busy.\n")


def test_status_names_the_regions_the_nearest_first(daemon: Daemon, run: Run) -> None:
    far = RegionLatency(region=900, code="home", name="Home", latency_ms=31.25)
    near = RegionLatency(region=901, code="fra", name="", latency_ms=2)
    dead = RegionLatency(region=902, code="x", name="Nowhere")
    daemon.now = msgspec.structs.replace(RUNNING, regions=[far, dead, near])
    _, out, _ = run("status")
    line = "relays: fra (901) 2.0 ms, Home (home, 900) 31.2 ms, Nowhere (x, 902) no answer"
    assert line in out.splitlines()


def test_netcheck(daemon: Daemon, run: Run) -> None:
    code, out, _ = run("netcheck")
    assert code == 0
    assert "relay Home (home, 900)" in out
    assert "1.5 ms" in out
    for words in ("symmetric NAT (hard)", "sequential, step 2", "1492 bytes", "captive portal"):
        assert words in out
    assert "192.0.2.1:3478 says 192.0.2.66:1" in out
    assert out.endswith("IPv4: It is hard.\n")
    assert json.loads(run("netcheck", "--json")[1])["udp"] is True


@pytest.mark.parametrize(
    "args",
    [["status"], ["ip"], ["down"], ["logout"], ["netcheck"], ["ping", "x"]],
)
def test_without_a_daemon(run: Run, tmp_path: Path, args: list[str]) -> None:
    code, out, err = run(*args, "--socket", str(tmp_path / "none"))
    assert (code, out) == (1, "")
    assert err.startswith("warren: No warren daemon listens on ")
    assert err.count("\n") == 1


def test_help_names_everything_and_has_examples(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    commands = ("up", "down", "logout", "status", "ip", "ping", "netcheck", "version", "daemon")
    for name in (*commands, *GROUPS):
        assert f" {name} " in out
    for name in commands:
        code, out, _ = run(name, "--help")
        assert code == 0
        assert "Example: " in out


@pytest.mark.parametrize(
    "args", [["nonsense"], ["up", "--nonsense"], ["ping"], ["ping", "x", "--kind", "y"]]
)
def test_usage_errors(run: Run, args: list[str]) -> None:
    code, _, err = run(*args)
    assert code == 2
    assert "Traceback" not in err


def test_version(run: Run) -> None:
    assert run("version")[0] == 0
    assert "version" in json.loads(run("version", "--json")[1])


def test_unit(run: Run) -> None:
    code, out, _ = run("daemon", "--print-unit", "--state", "/srv/n 2", "--port", "5")
    assert code == 0
    assert '--state "/srv/n 2" --port 5' in out
    _, out, _ = run("daemon", "--print-unit", "--threads", "2")
    assert "daemon --threads 2\n" in out
    _, out, _ = run("daemon", "--print-unit", "--state", "/srv/100%", "--proxy", "none")
    assert "--state /srv/100%% --proxy none" in out and "ReadWritePaths=-/srv/100%%" in out
    assert "\n[Install]\n" in out


def test_completion_knows_the_groups() -> None:
    words = {"_WARREN_COMPLETE": "complete_bash", "COMP_WORDS": "warren ", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "warren"],
        env={**os.environ, **words},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert {"up", "status", "server", "admin"} <= set(done.stdout.split())


def test_a_reader_that_leaves_is_no_error(daemon: Daemon) -> None:
    command = f"{sys.executable} -m warren status --json | true"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == ""


@pytest.mark.parametrize("args", [[], ["--json"], ["--no-peers"], ["--json", "--no-peers"]])
def test_the_quick_way_says_the_same(daemon: Daemon, run: Run, args: list[str]) -> None:
    assert quick_status(args) is not None
    # `--peers` is the default, and not one of the words of the quick way.
    slow = [*args] if "--no-peers" in args else [*args, "--peers"]
    slow += ["--socket=" + os.environ["WARREN_SOCKET"]]
    assert quick_status(slow) is None
    assert run("status", *args) == run("status", *slow)
    assert quick_status(["--socket", "/x"]) is not None


def test_status_imports_no_more_than_it_needs() -> None:
    code = (
        "import sys; sys.argv = ['warren', 'status', '--socket', '/nonexistent/s'];"
        "import warren.cli; warren.cli.main(); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    loaded = set(done.stdout.split())
    for heavy in (
        "rich",
        "asyncio",
        "structlog",
        "cryptography",
        "h2",
        "sqlalchemy",
        "pyroute2",
        "pydantic",
    ):
        assert heavy not in loaded, f"{heavy} would slow every command down"


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "--print-unit",
        "--port",
        "--port x",
        "--port 65536",
        "--threads 17",
        "--state=/x",
        "--tun -x",
        "x",
    ],
)
def test_what_the_quick_daemon_does_not_know_takes_the_full_way(words: str) -> None:
    assert quick_daemon(words.split()) is None


def test_the_quick_daemon_hands_on_options_and_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[object] = []
    monkeypatch.setattr(
        "warren.node.daemon.run_daemon", lambda where, **options: told.append((where, options))
    )
    monkeypatch.setenv("WARREN_SOCKET", str(tmp_path / "sock"))
    monkeypatch.setenv("WARREN_PORT", "7")
    monkeypatch.setenv("WARREN_TUN", "")
    run = quick_daemon(["--state", str(tmp_path), "--port", "9"])
    assert run is not None
    assert run() == 0
    options = {"tun": None, "port": 9, "proxy": None, "threads": 0}
    assert told == [((tmp_path, tmp_path / "sock"), options)]
    monkeypatch.setenv("WARREN_THREADS", "3")
    run = quick_daemon(["--state", str(tmp_path)])
    assert run is not None
    assert run() == 0
    assert told[1] == ((tmp_path, tmp_path / "sock"), {**options, "port": 7, "threads": 3})


def test_the_daemon_imports_no_more_than_it_needs() -> None:
    code = (
        "import sys; sys.argv = ['warren', 'daemon', '--state', '/dev/null/x'];"
        "import warren.cli; warren.cli.main();"
        "import warren.edge.linux.routes, warren.engine.native; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr.startswith("warren: "), "it got as far as its state"
    loaded = set(done.stdout.split())
    assert {"warren.node.service", "pyroute2.netlink"} <= loaded
    for heavy in ("typer", "pydantic", "rich", "sqlalchemy", "starlette", "pyroute2.ndb"):
        assert heavy not in loaded, f"{heavy} would take room for as long as the daemon lives"


def test_the_version_is_told_in_both_usual_ways(run: Run) -> None:
    from warren import __version__

    assert run("version")[:2] == run("--version")[:2] == (0, f"{__version__}\n")
