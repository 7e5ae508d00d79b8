"""Punching through the kernel's NATs with the real engine, in network namespaces.

One network holds a machine behind each kind of NAT. Every run starts the nodes anew, with UDP
ports of their own: what the run before opened is open in the routers still. Within a run the
pairs come one after the other, so that none waits for another's sockets or for the processor.
"""

from __future__ import annotations

import itertools
import re
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from warren.lab import places
from warren.lab.joining import NAMES_WITH_RELAY, join, server_hosts, start_server
from warren.lab.mesh import Node
from warren.lab.pinging import Pinging
from warren.lab.places import PLACES
from warren.lab.plan import Host, Plan, Router
from warren.lab.program import LabTimeout, ProgramFailed, wait_until
from warren.lab.stock import StockClient
from warren.lab.world import World

PATIENCE_S = 25.0
FIGURE_S = 10.0
"""Within this time 95 % of the runs are to be direct."""
_FIRST_PORT = 42000
_KNOWN_S = 30.0
_PORTS_TRIED = re.compile(r"(\d+) ports? tried")


class _Lab:
    """A server, and a machine behind each kind of NAT, called like it."""

    def __init__(self, world: World, what: str, regions: int = 1) -> None:
        self.world = world
        self._what = what
        self._hub = start_server(world, second_relay=regions > 1, ephemeral=True)

    def nodes(self, kinds: Sequence[str], run: int) -> dict[str, Node]:
        """Let a fresh node join behind each of these NATs."""
        found = {}
        for kind in kinds:
            name = f"{kind}-{run}"
            state = self.world.scratch / name
            port = _FIRST_PORT + run
            part, env = self.world[kind], self._hub.trust
            found[kind] = Node(part, name, state, tun=True, port=port, env=env)
        failed = join(list(found.values()), self._hub.server, self._hub.key)
        if failed:
            raise ProgramFailed("; ".join(f"{name}: {said}" for name, said in failed.items()))
        return found

    def stock(self, kind: str, run: int) -> StockClient:
        """Let a fresh stock client join behind one."""
        name = f"stock-{run}"
        client = StockClient(
            self.world[kind],
            name,
            server=self._hub.server.url,
            state=self.world.scratch / name,
            auth_key=self._hub.key,
            ephemeral=True,
            port=_FIRST_PORT + run,
            env=self._hub.trust,
        )
        client.start()
        client.wait_joined()
        return client

    def ping(self, node: Node, peer: str, run: int) -> float | None:
        """Return after how many seconds the path to a peer was direct."""
        wait_until(
            lambda: (node.peer(peer) or {}).get("online"), _KNOWN_S, f"{node.name} knows {peer}"
        )
        pinging = Pinging(node, peer, PATIENCE_S, f"ping-{peer}-{run}")
        pinging.wait()
        return pinging.direct_s

    def tell(self, run: int, runs: int) -> None:
        """Say how far it is, where a person looks on."""
        print(f"bench: {self._what}: run {run + 1} of {runs}", file=sys.stderr, flush=True)


def _plan(kinds: Sequence[str]) -> Plan:
    routers = [
        Router(f"r-{kind}"[:24], kind=kind, address=f"203.0.113.{10 * number}")
        if kind != "public"
        else None
        for number, kind in enumerate(kinds, 1)
    ]
    return Plan(
        routers=tuple(router for router in routers if router is not None),
        hosts=(
            *server_hosts(second_relay=True),
            *(
                Host(kind, behind=router.name)
                if router is not None
                else Host(kind, address=f"203.0.113.{10 * number}")
                for number, (kind, router) in enumerate(zip(kinds, routers, strict=True), 1)
            ),
        ),
    )


def judge(seconds: Sequence[float | None]) -> dict[str, Any]:
    """Return what runs of one pair come to; None stands for one that stayed on the relay."""
    found = sorted(took for took in seconds if took is not None)
    return {
        "runs": len(seconds),
        "connected": len(found) / len(seconds),
        "connected_10_s": sum(took <= FIGURE_S for took in found) / len(seconds),
        "median_s": statistics.median(found) if found else None,
        "slowest_s": max(found, default=None),
    }


def curve_runs(runs: int, hard: str, easy: str) -> dict[str, Any]:
    """Punch between two kinds; return the times, and how many probes each run took."""
    probes: list[int | None] = []
    seconds: list[float | None] = []
    with World(_plan((hard, easy)), NAMES_WITH_RELAY) as world:
        lab = _Lab(world, f"{hard} with {easy}")
        for run in range(runs):
            lab.tell(run, runs)
            nodes = lab.nodes((hard, easy), run)
            took = lab.ping(nodes[hard], nodes[easy].name, run)
            said = _PORTS_TRIED.findall(nodes[easy].run("why", nodes[hard].name, "--json"))
            seconds.append(took)
            if took is None:
                probes.append(None)
            elif said:
                # The ports may have met without a guess being answered, or it was forgotten.
                probes.append(sum(map(int, said)))
            for node in nodes.values():
                node.stop()
    return {**judge(seconds), "runs_counted": len(probes), "probes": probes}


def pair_runs(runs: int, hard: Sequence[str], easy: Sequence[str]) -> list[dict[str, Any]]:
    """Connect every hard kind with every easy one, `runs` times each."""
    pairs = [(one, other) for one in hard for other in easy]
    judged = _every_pair(runs, _plan((*hard, *easy)), pairs, "hard kinds with easy ones")
    return [
        {"hard": one, "easy": other, "easy_side": "Warren", **found}
        for (one, other), found in zip(pairs, judged, strict=True)
    ]


def easy_runs(runs: int, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Connect every two of the grid's places, each with itself too, `runs` times each."""
    chosen = [PLACES[kind] for kind in kinds]
    pairs = list(itertools.combinations_with_replacement(chosen, 2))
    plan = places.plan((side, place) for side in places.SIDES for place in chosen)
    machines = [(places.machine("a", one), places.machine("b", other)) for one, other in pairs]
    judged = _every_pair(runs, plan, machines, "easy kinds with each other")
    return [
        {"a": one.name, "b": other.name, **found}
        for (one, other), found in zip(pairs, judged, strict=True)
    ]


def _every_pair(
    runs: int, plan: Plan, pairs: Sequence[tuple[str, str]], what: str
) -> list[dict[str, Any]]:
    """Connect each two hosts of a plan, `runs` times, with fresh nodes each time."""
    seconds: dict[tuple[str, str], list[float | None]] = {pair: [] for pair in pairs}
    hosts = list(dict.fromkeys(host for pair in pairs for host in pair))
    with World(plan, NAMES_WITH_RELAY) as world:
        lab = _Lab(world, what)
        for run in range(runs):
            lab.tell(run, runs)
            nodes = lab.nodes(hosts, run)
            # No pair is always the first, whose node has measured its NAT only just now.
            first = run % len(pairs)
            for one, other in [*pairs[first:], *pairs[:first]]:
                # Either side may be the one that wants something.
                near, far = (one, other) if run % 2 == 0 else (other, one)
                seconds[one, other].append(lab.ping(nodes[near], nodes[far].name, run))
            for node in nodes.values():
                node.stop()
    return [judge(seconds[pair]) for pair in pairs]


def stock_runs(runs: int, own: str, peer: str, regions: int) -> dict[str, Any]:
    """Connect a Warren node behind one kind with a stock client behind another.

    regions: of relays, 1 or 2; with one a stock client cannot know whether its ports vary.
    """
    seconds: list[float | None] = []
    with World(_plan((own, peer)), NAMES_WITH_RELAY) as world:
        what = f"{own} with a stock client behind {peer}, relay regions: {regions}"
        lab = _Lab(world, what, regions)
        for run in range(runs):
            lab.tell(run, runs)
            stock = lab.stock(peer, run)
            node = lab.nodes((own,), run)[own]
            try:
                seconds.append(lab.ping(node, stock.name, run))
            except LabTimeout:
                seconds.append(None)
            node.stop()
            stock.stop()
    return {"warren": own, "stock": peer, "regions": regions, **judge(seconds)}
