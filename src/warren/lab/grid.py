"""The grid: which pairs of places get a direct path, how, after how long, and else why not.

One network holds two machines in each place and one server. Pairs are tried in rounds in which
every machine has one partner at most, so that the pairs of a round do not disturb each other, and
everything is asked of the real command line.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, NamedTuple, Self

from warren.lab import places, sandbox
from warren.lab.joining import NAMES, join, start_proxy, start_server
from warren.lab.mesh import Node
from warren.lab.pinging import Pinging
from warren.lab.places import Place
from warren.lab.program import LabTimeout
from warren.lab.world import World

Outcome = Literal["direct", "relayed", "unreachable"]
How = Literal["LAN", "own address", "NAT's address", "guessed port", "IPv6", ""]

TIMEOUT_S = 15.0
_PORT = 41641
_JOINING_AT_ONCE = 6
_POLL_S = 0.01
_WHY_S = 20.0


@dataclass
class Cell:
    """What became of one pair. Times are seconds from the first ping.

    how: what the two ends' addresses for each other are; seconds: until the path was direct.
    first_seconds: until the first answer, over whatever path. cause, why: what `warren why` says
    of a pair that is not direct, as one word and in sentences.
    """

    a: str
    b: str
    outcome: Outcome = "unreachable"
    how: How = ""
    seconds: float | None = None
    first_seconds: float | None = None
    paths: tuple[str | None, str | None] = (None, None)
    latency_ms: float | None = None
    cause: str = ""
    why: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


class _Run(NamedTuple):
    """A cell, and the ping that will tell what becomes of it."""

    cell: Cell
    ping: Pinging


class Grid:
    """A context manager: leaving it stops everything and removes every trace.

    tell: called with a sentence whenever something begins.
    """

    def __init__(
        self,
        chosen: Sequence[Place],
        timeout_s: float = TIMEOUT_S,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.places = list(chosen)
        self.cells: dict[tuple[str, str], Cell] = {}
        self.failed: dict[str, str] = {}
        """Machines that could not join, and what they said."""
        self._timeout_s = timeout_s
        self._tell = tell
        self._stack = contextlib.ExitStack()
        self._nodes: dict[str, Node] = {}

    def __enter__(self) -> Self:
        try:
            self._tell("building the network")
            sandbox.enter()
            self._world = self._stack.enter_context(World(places.plan(self.places), NAMES))
            self._join()
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

    def rounds(self) -> list[list[tuple[Place, Place]]]:
        """All pairs of two places, each place with itself among them, with no machine twice in
        one round: in round r the machine `a` of place i meets `b` of place i + r."""
        count = len(self.places)
        return [
            [
                (self.places[i], self.places[(i + step) % count])
                for i in range(count if 2 * step != count else count // 2)
            ]
            for step in range(count // 2 + 1)
        ]

    def run(self) -> Iterator[list[Cell]]:
        """Try all pairs; yields the cells of each round when it has ended."""
        rounds = self.rounds()
        for number, pairs in enumerate(rounds, 1):
            self._tell(f"round {number} of {len(rounds)}: {len(pairs)} pairs at once")
            cells = self._round(pairs)
            for cell in cells:
                self.cells[cell.a, cell.b] = cell
            yield cells

    def cell(self, one: str, other: str) -> Cell | None:
        """The cell of two places in either order."""
        return self.cells.get((one, other)) or self.cells.get((other, one))

    def _join(self) -> None:
        """Start the server and the machines, a few at once."""
        server, key = start_server(self._world)
        waiting = [(side, place) for place in self.places for side in places.SIDES]
        while waiting:
            batch, waiting = waiting[:_JOINING_AT_ONCE], waiting[_JOINING_AT_ONCE:]
            self._tell(f"{len(self._nodes) + len(batch)} of {2 * len(self.places)} machines join")
            nodes = [self._node(side, place) for side, place in batch]
            self._nodes.update((node.name, node) for node in nodes)
            self.failed.update(join(nodes, server, key))

    def _node(self, side: str, place: Place) -> Node:
        name = places.machine(side, place)
        # Ports are kept by most NATs; two customers of one carrier must not want the same.
        port = _PORT + places.SIDES.index(side)
        env = start_proxy(self._world, places.gateway(side, place)) if place.proxy else {}
        state = self._world.scratch / name
        return Node(self._world[name], name, state, tun=False, port=port, env=env)

    def _round(self, pairs: Sequence[tuple[Place, Place]]) -> list[Cell]:
        cells, runs = [], []
        for one, other in pairs:
            cell = Cell(one.name, other.name)
            cells.append(cell)
            a, b = places.machine("a", one), places.machine("b", other)
            missing = [
                f"{name} did not join: {self.failed[name]}"
                for name in (a, b)
                if name in self.failed
            ]
            if missing:
                cell.cause, cell.why = "not-joined", missing
                continue
            runs.append(_Run(cell, Pinging(self._nodes[a], b, self._timeout_s, f"ping-{b}")))
        self._watch(runs)
        for run in runs:
            _judge_ping(run)
        self._explain([run.cell for run in runs])
        return cells

    def _watch(self, runs: Sequence[_Run]) -> None:
        """Follow the pings until all have ended. They end by themselves."""
        left = list(runs)
        while left:
            left = [run for run in left if not run.ping.poll()]
            time.sleep(_POLL_S)

    def _explain(self, cells: Sequence[Cell]) -> None:
        """Ask the far end of a direct path how it sees it, and the near end of another why."""
        asked = []
        for cell in cells:
            near, far = f"a-{cell.a}", f"b-{cell.b}"
            if cell.outcome == "direct":
                near, far = far, near
            asked.append((cell, self._nodes[near].begin("why", far, "--json", name=f"why-{far}")))
        for cell, program in asked:
            try:
                program.wait(_WHY_S)
                found = json.loads(program.output())
            except (LabTimeout, ValueError):
                continue
            if cell.outcome == "direct":
                cell.paths = (cell.paths[0], found["path"].get("address"))
                cell.how = self._how(cell)
            else:
                cell.cause = found["cause"]
                cell.why, cell.advice = found["reasons"], found["advice"]

    def _how(self, cell: Cell) -> How:
        """The kind of addresses that both ends use, the more surprising end's."""
        seen: set[How] = set()
        ends = ((cell.paths[0], "b", cell.b), (cell.paths[1], "a", cell.a))
        for path, side, place in ends:
            if path is not None:
                seen.add(self._how_one(path, f"{side}-{place}", _PORT + places.SIDES.index(side)))
        order: tuple[How, ...] = ("IPv6", "guessed port", "NAT's address", "LAN", "own address")
        return next((how for how in order if how in seen), "")

    def _how_one(self, path: str, name: str, port: int) -> How:
        ip, _, number = path.rpartition(":")
        if ip.startswith("["):
            return "IPv6"
        if ip == self._world.address_text(name):
            return "LAN" if ip.startswith("192.168.") else "own address"
        return "NAT's address" if int(number) == port else "guessed port"


def _judge_ping(run: _Run) -> None:
    """Read a finished ping into its cell."""
    cell, last = run.cell, run.ping.last
    if last is None:
        cell.why = [run.ping.complaint]
        return
    cell.first_seconds = run.ping.first_s
    cell.outcome = "direct" if last["via"] == "direct" else "relayed"
    cell.latency_ms = last.get("ms")
    if cell.outcome == "direct":
        cell.seconds = run.ping.direct_s
        cell.paths = (last.get("path"), None)
