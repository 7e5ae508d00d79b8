"""Warren itself inside the lab: a server and nodes, driven by the real command line.

What is asked again and again (`status`, the list of machines) is asked over the sockets that the
commands use.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from warren.lab import runs, web
from warren.lab.local_http import ask
from warren.lab.program import Program, ProgramFailed, wait_until
from warren.lab.world import Part

SERVER_HTTP_PORT = 80
SERVER_TLS_PORT = 443
STUN_PORT = 3478
"""The ports that stock clients expect. One that has dialled the control plane in the last two
minutes does not try port 80 again but goes to 443, so both must be the coordinator's."""

_TALK_S, _PROBE_S, _PROBE_PAUSE_S = 20.0, 2.0, 0.2

_COMMAND = (sys.executable, "-m", "warren")


def command_environment() -> dict[str, str]:
    """Environment for warren's own commands: nothing that the caller's shell has set for them."""
    return {key: "" for key in runs.environment() if key.startswith("WARREN_")} | {
        "PYTHONDONTWRITEBYTECODE": "1"
    }


class Server:
    """`warren server` on one public host; everything it keeps is in `state`."""

    def __init__(
        self,
        part: Part,
        state: Path,
        tls: Sequence[str] = ("--tls", "self-signed"),
        stun_others: Sequence[str] = (),
        name: str | None = None,
        more: Sequence[str] = (),
        scheme: Literal["http", "https"] = "http",
    ) -> None:
        """tls: flags that choose its certificate. stun_others: further addresses of the host on
        which it is to serve STUN, IPv6 ones in brackets. name: what nodes are told to call it,
        for both families; without one it is its IPv4 address, and it serves only that. more:
        further flags. scheme: of its URL; for https, clients must trust the certificate."""
        self._admin_socket = state / "admin.sock"
        self._more = tuple(more)
        self._stun_others = tuple(stun_others)
        self.part = part
        self.state = state
        self._tls = tls
        self.url = f"{scheme}://{name or part.address}"
        self._place = "" if name else str(part.address)
        self._program: Program | None = None

    @property
    def program(self) -> Program:
        """The running server."""
        if self._program is None:
            raise ProgramFailed("the server was not started")
        return self._program

    def start(self, deadline_s: float = 20.0) -> float:
        """Start it and wait until it answers; the seconds that it took."""
        began = time.monotonic()
        address = self.part.address
        argv = [*_COMMAND, "server", "--state", str(self.state), "--url", self.url]
        argv += [
            "--http",
            f"{self._place}:{SERVER_HTTP_PORT}",
            "--listen",
            f"{self._place}:{SERVER_TLS_PORT}",
        ]
        stun = ",".join(f"{each}:{STUN_PORT}" for each in (address, *self._stun_others))
        argv += ["--stun", stun, *self._tls, *self._more]
        self._program = self.part.spawn(argv, "server", env=command_environment())
        wait_until(self._answers, deadline_s, "the server answers", self.program.tail)
        return time.monotonic() - began

    def _answers(self) -> bool:
        if not self.program.running():
            raise ProgramFailed(f"the server ended early\n{self.program.tail()}")
        try:
            page = web.get(
                web.Route(self.part), str(self.part.address), SERVER_HTTP_PORT, path="/key?v=130"
            )
        except (OSError, http.client.HTTPException):
            return False
        return page.status == 200 and self._admin_socket.exists()

    def admin(self, *words: str) -> Any:
        """Run `warren admin … --json` and return what it printed."""
        argv = [*_COMMAND, "admin", *words, "--state", str(self.state), "--json"]
        text = self.part.run(argv, env=command_environment())
        return json.loads(text) if text.strip() else None

    def create_user(self, name: str) -> None:
        """Make a user."""
        ask(self._admin_socket, "/v1/users", {"name": name})

    def create_key(self, user: str, *flags: str) -> str:
        """Make an auth key for a user and return its text."""
        made = self.admin("keys", "create", "--user", user, *flags)
        return str(made["key"])

    def nodes(self) -> list[dict[str, Any]]:
        """The machines that the coordinator knows."""
        return list(ask(self._admin_socket, "/v1/nodes")["nodes"])

    def node(self, name: str) -> dict[str, Any] | None:
        """The machine with this host name, if the coordinator knows it."""
        return next((node for node in self.nodes() if node["name"] == name), None)


class RelayServer:
    """`warren relay` on a public host; it asks the coordinator at `server` whom to serve."""

    def __init__(
        self,
        part: Part,
        state: Path,
        server: str,
        region: int,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """name: what nodes are told to call it, for both families; without one it is its IPv4
        address, and it serves only that. env: more environment, such as SSL_CERT_FILE."""
        self.part = part
        self._env = {**command_environment(), **(env or {})}
        address, place = str(part.address), "" if name else str(part.address)
        stun = [address, *([f"[{part.address_v6}]"] if name and part.address_v6 else ())]
        self._argv = [*_COMMAND, "relay", "--state", str(state), "--server", server]
        self._argv += ["--host", name or address, "--region-id", str(region)]
        self._argv += ["--region-code", part.name, "--region-name", f"Relay {part.name}"]
        self._argv += ["--listen", f"{place}:{SERVER_TLS_PORT}"]
        self._argv += ["--stun", ",".join(f"{each}:{STUN_PORT}" for each in stun)]
        self._program: Program | None = None

    @property
    def program(self) -> Program:
        """The running relay."""
        if self._program is None:
            raise ProgramFailed("the relay was not started")
        return self._program

    def start(self, deadline_s: float = 20.0) -> dict[str, Any]:
        """Start it and wait until it serves; its region as it prints it for --derp-map."""
        self._program = self.part.spawn(self._argv, "relay", env=self._env)
        self._program.wait_output("\n}\n", deadline_s)
        text = self._program.output()
        found: dict[str, Any] = json.loads(text[text.index("\n{") : text.index("\n}\n") + 2])
        return found


@dataclass(frozen=True)
class Pong:
    """One answered ping. path: the peer's address and port when it came directly."""

    via: str
    ms: float | None
    path: str | None
    region: str | None


class Node:
    """A Warren node on one host: `warren daemon` and the commands that talk to it."""

    def __init__(
        self,
        part: Part,
        name: str,
        state: Path,
        *,
        tun: bool,
        port: int = 41641,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """tun: with a TUN device; without one it also runs without any capability.

        env: more environment for the daemon, such as SSL_CERT_FILE.
        """
        self.part = part
        self.name = name
        self.state = state
        self.tun = tun
        self.address = ""
        """Its IPv4 address in the mesh, once it is up."""
        self._socks: tuple[str, int] | None = None
        self.socket = state / "warrend.sock"
        """Where its daemon listens to programs of this machine."""
        self._port = port
        self._env = {**command_environment(), **(env or {})}
        self._program: Program | None = None

    @property
    def program(self) -> Program:
        """The running daemon."""
        if self._program is None:
            raise ProgramFailed(f"{self.name} was not started")
        return self._program

    def start(self) -> None:
        """Start the daemon; it listens a moment later (`wait_daemon`)."""
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        argv = [*_COMMAND, "daemon", "--state", str(self.state), "--socket", str(self.socket)]
        argv += ["--tun", "warren0" if self.tun else "none", "--port", str(self._port)]
        self._program = self.part.spawn(argv, "daemon", env=self._env, unprivileged=not self.tun)

    def wait_daemon(self, deadline_s: float = 15.0) -> None:
        """Wait until the daemon answers on its socket."""

        def answers() -> bool:
            if not self.program.running():
                raise ProgramFailed(f"{self.name}'s daemon ended early\n{self.program.tail()}")
            try:
                ask(self.socket, "/warren/v0/status?peers=false")
            except ProgramFailed:
                return False
            return True

        wait_until(answers, deadline_s, f"{self.name}'s daemon answers", self.program.tail)

    def begin_up(
        self, server: str | None, auth_key: str | None, timeout_s: float = 20.0
    ) -> Program:
        """Start `warren up`, to be awaited with `finish_up`; several nodes can join at once."""
        argv = [*_COMMAND, "up", "--socket", str(self.socket), "--hostname", self.name]
        argv += ["--server", server] if server else []
        argv += ["--auth-key", auth_key] if auth_key else []
        argv += ["--timeout", str(timeout_s)]
        return self.part.spawn(argv, "up", env=command_environment())

    def finish_up(self, command: Program, deadline_s: float = 25.0) -> None:
        """Wait for `warren up` and learn the node's own address. Raises ProgramFailed."""
        if command.wait(deadline_s) != 0:
            said = " ".join(command.output().split())
            raise ProgramFailed(f"{self.name}: warren up: {said[-400:]}")
        self.learn()

    def up(
        self, server: str | None = None, auth_key: str | None = None, timeout_s: float = 20.0
    ) -> float:
        """`warren up` to its end; the seconds that it took."""
        began = time.monotonic()
        command = self.begin_up(server, auth_key, timeout_s)
        if command.wait(timeout_s + 5) != 0:
            self.finish_up(command)
        seconds = time.monotonic() - began
        self.learn()
        return seconds

    def learn(self) -> None:
        """Read this node's address and proxy from its status."""
        status = self.status()
        self.address = next(text for text in status["self"]["addresses"] if ":" not in text)
        if status.get("proxy"):
            host, _, port = str(status["proxy"]).rpartition(":")
            self._socks = (host, int(port))

    def run(self, *words: str, timeout_s: float = 15.0) -> str:
        """Run `warren WORDS --socket …` and return its output. Raises ProgramFailed."""
        argv = [*_COMMAND, *words, "--socket", str(self.socket)]
        return self.part.run(argv, timeout_s, env=command_environment())

    def begin(self, *words: str, name: str) -> Program:
        """Start `warren WORDS --socket …`; its output goes to a log called `name`."""
        argv = [*_COMMAND, *words, "--socket", str(self.socket)]
        return self.part.spawn(argv, name, env=command_environment())

    def status(self) -> dict[str, Any]:
        """What `warren status --json` prints. Raises ProgramFailed unless it runs."""
        found: dict[str, Any] = ask(self.socket, "/warren/v0/status")
        if found["state"] != "running":
            raise ProgramFailed(f"{self.name} is not running: {found['state']}")
        return found

    def peer(self, name: str) -> dict[str, Any] | None:
        """What the node knows of a peer, if it knows it."""
        return next((peer for peer in self.status()["peers"] if peer["name"] == name), None)

    def path_kind(self, peer: str) -> str:
        """How the node's packets to a peer travel: `direct`, `relay`, …; `none` without a path."""
        found = self.peer(peer)
        return str(found["path"]["kind"]) if found else "none"

    def talk(self, peer: str) -> None:
        """Send probes through the tunnel, whatever the path, until one is answered.

        Each may be lost, as any packet: while the path changes, or the tunnel's handshake is
        repeated. Raises ProgramFailed after 20 s.
        """
        end = time.monotonic() + _TALK_S
        while True:
            try:
                self._ping(peer, "tsmp", _PROBE_S)
                return
            except ProgramFailed:
                if time.monotonic() > end:
                    raise
                time.sleep(_PROBE_PAUSE_S)

    def ping(self, peer: str, timeout_s: float = 10.0) -> Pong:
        """One disco ping. Raises ProgramFailed if no pong came."""
        return _pong(self._ping(peer, "disco", timeout_s))

    def _ping(self, peer: str, kind: str, timeout_s: float) -> dict[str, Any]:
        # One ping of the command waits no longer either.
        new = {"peer": peer, "kind": kind, "timeout_s": min(timeout_s, 5.0)}
        reply: dict[str, Any] = ask(self.socket, "/warren/v0/ping", new, timeout_s + 5)
        if not reply["ok"]:
            raise ProgramFailed(reply["error"])
        return reply

    def ping_until_direct(self, peer: str, timeout_s: float = 15.0) -> Pong:
        """Ping until the answer comes directly. Raises ProgramFailed if it never did."""
        text = self.run(
            *("ping", "--json", "--until-direct", "--timeout", str(timeout_s), peer),
            timeout_s=timeout_s + 5,
        )
        return _pong(json.loads(text.strip().splitlines()[-1]))

    def route(self) -> web.Route:
        """How a client on this host reaches the mesh."""
        if not self.tun and self._socks is None:
            raise ProgramFailed(f"{self.name} runs in userspace but names no proxy")
        return web.Route(self.part, None if self.tun else self._socks)

    def stop(self) -> int:
        """End the daemon as a service manager would."""
        return self.program.stop()

    def kill(self) -> None:
        """End the daemon as a crash would."""
        self.program.kill()


def _pong(reply: dict[str, Any]) -> Pong:
    return Pong(reply["via"], reply.get("ms"), reply.get("path"), reply.get("region_code"))
