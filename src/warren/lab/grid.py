"""The grid: which pairs of places get a direct path, how, after how long, and else why not.

One network holds the machines of all pairs and one server. Pairs are tried in rounds in which
every machine has one partner at most, so that the pairs of a round do not disturb each other, and
everything is asked of the real command line.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from warren.lab import physics, places, sandbox
from warren.lab.cell import Cell, How
from warren.lab.joining import NAMES_WITH_RELAY, Hub, join, join_stock, start_proxy, start_server
from warren.lab.meeting import Meeting, Ping, StockFetch
from warren.lab.mesh import Node
from warren.lab.pairs import Pair, in_rounds, rows_and_columns
from warren.lab.physics import Side
from warren.lab.pinging import Pinging
from warren.lab.places import Place
from warren.lab.program import LabTimeout, Program
from warren.lab.stock import StockClient, caddy_binary
from warren.lab.world import World

TIMEOUT_S = 15.0
AT_ONCE = 8
UNEXPLAINED = "unexplained"
"""A cause that nobody can tell."""
_PORT = 41641
_JOINING_AT_ONCE = 6
_POLL_S = 0.01
_WHY_S = 20.0
_SETTLING_S = 0.5
"""How long the far end has to find its own way; it is asked before it forgets that again."""


class Stock(StrEnum):
    """Which machines run a stock client: none, the second of each pair, or both."""

    NONE = "none"
    ONE = "one"
    BOTH = "both"


@dataclass(frozen=True)
class _Known:
    """What the server knows of a machine that joined."""

    address: str
    key: str


class Grid:
    """A context manager: leaving it stops everything and removes every trace.

    tell: called with a sentence whenever something begins. at_once: how many pairs are tried at
    the same time; what many take on a busy machine says little of their paths.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        timeout_s: float = TIMEOUT_S,
        tell: Callable[[str], None] = lambda text: None,
        stock: Stock = Stock.NONE,
        at_once: int = AT_ONCE,
    ) -> None:
        """Raises LabUnavailable where a stock client is wanted and there is none."""
        self.rows, self.columns = rows_and_columns(pairs)
        self.cells: dict[tuple[str, str], Cell] = {}
        self.failed: dict[str, str] = {}
        """Machines that could not join, and what they said."""
        self.stock = stock
        self.stock_version = ""
        """What the stock clients say that they are."""
        if stock is not Stock.NONE:
            caddy_binary()
        self._pairs = list(pairs)
        self._timeout_s = timeout_s
        self._tell = tell
        self._at_once = at_once
        self._stack = contextlib.ExitStack()
        self._nodes: dict[str, Node] = {}
        self._clients: dict[str, StockClient] = {}
        self._known: dict[str, _Known] = {}

    def __enter__(self) -> Self:
        try:
            self._tell("building the network")
            sandbox.enter()
            machines = [("a", place) for place in self.rows]
            machines += [("b", place) for place in self.columns]
            self._world = self._stack.enter_context(World(places.plan(machines), NAMES_WITH_RELAY))
            self._join(machines)
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

    def run(self) -> Iterator[list[Cell]]:
        """Try all pairs; yields the cells of each round when it has ended."""
        rounds = in_rounds(self._pairs, self._at_once)
        for number, pairs in enumerate(rounds, 1):
            self._tell(f"round {number} of {len(rounds)}: {len(pairs)} pairs at once")
            cells = self._round(pairs)
            for cell in cells:
                self.cells[cell.a, cell.b] = cell
            yield cells

    def cell(self, one: str, other: str) -> Cell | None:
        """The cell of two places in either order."""
        return self.cells.get((one, other)) or self.cells.get((other, one))

    def _join(self, machines: Sequence[tuple[str, Place]]) -> None:
        """Start the server and the machines, a few at once."""
        hub = start_server(self._world, second_relay=True)
        for at in range(0, len(machines), _JOINING_AT_ONCE):
            batch = machines[at : at + _JOINING_AT_ONCE]
            self._tell(f"{at + len(batch)} of {len(machines)} machines join")
            stock = [each for each in batch if self._is_stock(each[0])]
            nodes = [self._node(*each, hub) for each in batch if each not in stock]
            clients = [self._client(*each, hub) for each in stock]
            self._nodes.update((node.name, node) for node in nodes)
            self._clients.update((client.name, client) for client in clients)
            self.failed.update(join(nodes, hub.server, hub.key) | join_stock(clients))
        for node in hub.server.nodes():
            address = next(text for text in node["addresses"] if ":" not in text)
            self._known[node["name"]] = _Known(address, node["node_key"])
            if node["name"] in self._clients:
                self.stock_version = node["client_version"].partition("-")[0]

    def _is_stock(self, side: str) -> bool:
        return self.stock is Stock.BOTH or (self.stock is Stock.ONE and side == "b")

    def _node(self, side: str, place: Place, hub: Hub) -> Node:
        name = places.machine(side, place)
        state = self._world.scratch / name
        env = hub.trust | self._proxy(side, place)
        return Node(self._world[name], name, state, tun=False, port=_port(side), env=env)

    def _client(self, side: str, place: Place, hub: Hub) -> StockClient:
        name = places.machine(side, place)
        return StockClient(
            self._world[name],
            name,
            server=hub.server.url,
            state=self._world.scratch / name,
            auth_key=hub.key,
            port=_port(side),
            env=hub.trust | self._proxy(side, place),
        )

    def _proxy(self, side: str, place: Place) -> dict[str, str]:
        return start_proxy(self._world, places.gateway(side, place)) if place.proxy else {}

    def _round(self, pairs: Sequence[Pair]) -> list[Cell]:
        cells: list[Cell] = []
        meetings: list[tuple[Cell, Meeting]] = []
        for one, other in pairs:
            a, b = self._side("a", one), self._side("b", other)
            cell = Cell(one.name, other.name, expected=physics.cause(a, b))
            cells.append(cell)
            missing = [
                f"{name} did not join: {self.failed[name]}"
                for name in (a.name, b.name)
                if name in self.failed
            ]
            if missing:
                cell.cause, cell.why = "not-joined", missing
                continue
            meetings.append((cell, self._meet(a.name, b.name)))
        self._watch(meetings)
        return cells

    def _side(self, side: str, place: Place) -> Side:
        return Side(places.machine(side, place), place, guesses=not self._is_stock(side))

    def _meet(self, a: str, b: str) -> Meeting:
        if a in self._clients:
            peer = self._known[b]
            return StockFetch(self._clients[a], peer.address, peer.key, self._timeout_s)
        return Ping(Pinging(self._nodes[a], b, self._timeout_s, f"ping-{b}"))

    def _watch(self, meetings: Sequence[tuple[Cell, Meeting]]) -> None:
        """Follow them until all have ended, which they do by themselves, and ask about each."""
        end = time.monotonic() + self._timeout_s + 30
        going, due, asked = list(meetings), list[tuple[float, Cell]](), []
        while going or due:
            now = time.monotonic()
            for pair in list(going):
                cell, meeting = pair
                if now > end:
                    meeting.give_up()
                elif not meeting.poll():
                    continue
                _take(cell, meeting)
                going.remove(pair)
                due.append((now + _SETTLING_S, cell))
            asked += [(cell, self._ask(cell)) for at, cell in due if at <= now]
            due = [(at, cell) for at, cell in due if at > now]
            time.sleep(_POLL_S)
        for cell, program in asked:
            if program is not None:
                self._explain(cell, program)

    def _ask(self, cell: Cell) -> Program | None:
        """Ask the far end of a direct path how it sees it, and the near end of another why."""
        near, far = f"a-{cell.a}", f"b-{cell.b}"
        if cell.outcome == "direct":
            near, far = far, near
            cell.how = self._how(cell)
        if near in self._nodes:
            return self._nodes[near].begin("why", far, "--json", name=f"why-{far}")
        if cell.outcome == "direct":
            seen = self._clients[near].direct_paths(self._known[far].key)
            cell.paths = (cell.paths[0], seen[-1][1] if seen else None)
            cell.how = self._how(cell)
        elif cell.outcome == "relayed":
            # A stock client has no word for it.
            a, b = self._side("a", places.find(cell.a)), self._side("b", places.find(cell.b))
            cell.cause, cell.told_by = physics.cause(a, b) or UNEXPLAINED, "kinds"
            cell.why = [physics.sentence(a, b)]
        return None

    def _explain(self, cell: Cell, program: Program) -> None:
        try:
            program.wait(_WHY_S)
            found = json.loads(program.output())
        except (LabTimeout, ValueError) as error:
            if cell.outcome != "direct":
                said = program.output().strip().splitlines() or [str(error)]
                cell.cause, cell.why = UNEXPLAINED, [*cell.why, f"warren why: {said[-1]}"]
            return
        if cell.outcome == "direct":
            cell.paths = (cell.paths[0], found["path"].get("address"))
            cell.how = self._how(cell)
        else:
            cell.cause, cell.told_by = found["cause"], "warren why"
            cell.why, cell.advice = found["reasons"], found["advice"]

    def _how(self, cell: Cell) -> How:
        """The kind of addresses that both ends use, the more surprising end's."""
        seen: set[How] = set()
        ends = ((cell.paths[0], "b", cell.b), (cell.paths[1], "a", cell.a))
        for path, side, place in ends:
            if path is not None:
                seen.add(self._how_one(path, f"{side}-{place}", _port(side)))
        order: tuple[How, ...] = ("IPv6", "guessed port", "NAT's address", "LAN", "own address")
        return next((how for how in order if how in seen), "")

    def _how_one(self, path: str, name: str, port: int) -> How:
        ip, _, number = path.rpartition(":")
        if ip.startswith("["):
            return "IPv6"
        if ip == self._world.address_text(name):
            return "LAN" if ip.startswith("192.168.") else "own address"
        return "NAT's address" if int(number) == port else "guessed port"


def _port(side: str) -> int:
    """Ports are kept by most NATs; two customers of one carrier must not want the same."""
    return _PORT + places.SIDES.index(side)


def _take(cell: Cell, meeting: Meeting) -> None:
    """Read what became of a meeting into its cell."""
    met = meeting.met()
    cell.outcome, cell.seconds, cell.first_seconds = met.outcome, met.seconds, met.first_seconds
    cell.latency_ms, cell.paths = met.latency_ms, (met.path, None)
    if met.said:
        cell.cause, cell.why = UNEXPLAINED, [met.said]
