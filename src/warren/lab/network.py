"""A described network that is up: its nodes have joined, and it stays until it is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from warren.lab import runs, sandbox
from warren.lab.description import Description
from warren.lab.joining import NAMES, join, start_proxy, start_server
from warren.lab.mesh import Node
from warren.lab.plan import InvalidPlan
from warren.lab.world import World

_ENVIRONMENT = "environment.json"


@dataclass(frozen=True)
class Entrance:
    """A part of a network, for a person who wants in. socket: its node's, if it has one."""

    name: str
    namespace: str
    addresses: tuple[str, ...]
    mesh_address: str
    socket: str | None
    problem: str = ""


class Network:
    """A context manager: leaving it stops everything and removes every trace."""

    def __init__(
        self, description: Description, tell: Callable[[str], None] = lambda text: None
    ) -> None:
        self.in_user_namespace = False
        self._description = description
        self._tell = tell
        self._stack = contextlib.ExitStack()
        self._nodes: dict[str, Node] = {}
        self._failed: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self.in_user_namespace = sandbox.enter()
            self._world = self._stack.enter_context(World(self._description.plan, NAMES))
            if self._description.nodes:
                self._join()
            self._world.keep_open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def logs(self) -> Path:
        """Where the programs' output is while the network is up."""
        return self._world.logs

    def entrances(self) -> list[Entrance]:
        """Every part, in the order of the description."""
        plan = self._description.plan
        names = [router.name for router in plan.routers] + [host.name for host in plan.hosts]
        return [self._entrance(name) for name in names]

    def _entrance(self, name: str) -> Entrance:
        part = self._world[name]
        node = self._nodes.get(name)
        addresses = (self._world.address_text(name), str(part.address_v6 or ""))
        return Entrance(
            name,
            part.namespace,
            tuple(address for address in addresses if address),
            node.address if node else "",
            str(self._world.scratch / name / "warrend.sock") if node else None,
            self._failed.get(name, ""),
        )

    def _join(self) -> None:
        self._tell("the server starts")
        hub = start_server(self._world)
        proxies = {
            router: start_proxy(self._world, router)
            for router in sorted(set(self._description.proxied.values()))
        }
        for name in self._world.names():
            env = hub.trust | proxies.get(self._description.proxied.get(name, ""), {})
            (self._world.etc / name / _ENVIRONMENT).write_bytes(msgspec.json.encode(env))
            if name in self._description.nodes:
                state = self._world.scratch / name
                self._nodes[name] = Node(self._world[name], name, state, tun=False, env=env)
        self._tell(f"{len(self._nodes)} nodes join")
        self._failed = join(list(self._nodes.values()), hub.server, hub.key)


@dataclass(frozen=True)
class Way:
    """The way into a part of a network that is up. etc: its own hosts and resolv.conf. socket:
    where its node listens, if it has one. environment: what its programs find their way with,
    such as HTTPS_PROXY."""

    namespace: str
    etc: Path
    socket: Path
    environment: dict[str, str]


def find(name: str) -> Way:
    """The way into a part of a network that is up. Raises InvalidPlan."""
    kept = runs.kept_open()
    found = [
        path.name
        for run in kept
        for path in (runs.NETNS.glob(f"{runs.PREFIX}{run}-*") if runs.NETNS.is_dir() else ())
    ]
    split = [(each.removeprefix(runs.PREFIX).partition("-"), each) for each in found]
    matching = [(parts[0], each) for parts, each in split if name in (parts[2], each)]
    if not matching:
        known = sorted({parts[2] for parts, _ in split})
        raise InvalidPlan(
            f"no network that is up has a part {name!r}"
            + (
                f"; there are {', '.join(known)}"
                if known
                else "; start one with: warren lab up FILE"
            )
        )
    if len(matching) > 1:
        names = ", ".join(sorted(each for _, each in matching))
        raise InvalidPlan(f"several networks have a part {name!r}; name one of {names}")
    run, namespace = matching[0]
    part = namespace.split("-", 2)[2]
    etc = runs.RUNS / run / "etc" / part
    environment = {}
    with contextlib.suppress(FileNotFoundError):
        data = (etc / _ENVIRONMENT).read_bytes()
        environment = msgspec.json.decode(data, type=dict[str, str])
    return Way(namespace, etc, runs.RUNS / run / "scratch" / part / "warrend.sock", environment)
