"""`python -m bench.swarm`: thousands of simulated machines on one coordinator.

Examples:

  python -m bench.swarm --nodes 10000             ten thousand, each of which sees about 100
  python -m bench.swarm --nodes 1000 --mesh       a full mesh of a thousand
  python -m bench.swarm --nodes 500 --url http://127.0.0.1:8080 --auth-key KEY --pid 4711
                                                  another implementation, already running

Without --url, `warren server` is started for it with SQLite, on a core of its own where there are
two. Times are what the machines see, and so include the swarm's own work; `cpu` is what the
server's process used, and is what can be compared between machines and hours.

A policy edit and a restart are measured on our own server only. Another one needs a user whose
key admits machines that ask for the tags of `--print-policy`; or one key for each tag, in their
order and with commas between them, and machines then ask for none.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import uvloop
from rich.console import Console

from bench import report as reports
from bench.__main__ import show
from bench.figure import Figure
from bench.swarm_node import SwarmNode, Told
from bench.swarm_server import OwnServer, Target, mesh_text, policy_text
from warren.edge.listen import raise_file_limit

AT_ONCE = 50
"""Machines that are joining at any moment while the swarm is built."""
SAMPLES = 30
_RETRY_S, _LONGEST_RETRY_S, _DEADLINE_S = 0.5, 15.0, 60.0
# After a long poll ended, a server may wait before it tells others; ours waits 8 s.
_OFFLINE_S = 40


class Probe:
    """Waits until a number of machines heard something, and keeps when each did."""

    def __init__(self, wanted: int, hears: Callable[[SwarmNode, Told], bool]) -> None:
        self._wanted = wanted
        self._hears = hears
        self._heard: dict[int, float] = {}
        self._done = asyncio.Event()
        self.began = time.monotonic()

    def listen(self, node: SwarmNode, told: Told) -> None:
        """Take what one machine heard."""
        if node.number not in self._heard and self._hears(node, told):
            self._heard[node.number] = time.monotonic() - self.began
            if len(self._heard) >= self._wanted:
                self._done.set()

    async def wait(self, timeout_s: float) -> list[float]:
        """Return how long each took, sorted. Raises RuntimeError if some heard nothing in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._done.wait()
        except TimeoutError:
            missing = self._wanted - len(self._heard)
            raise RuntimeError(
                f"{missing} of {self._wanted} machines did not hear of a change in {timeout_s:g} s"
            ) from None
        return sorted(self._heard.values())


class Swarm:
    """All machines, and what is known of them together."""

    def __init__(self, target: Target, nodes: int, peers: int) -> None:
        parts = urlsplit(target.url)
        self._address = (parts.hostname or "", parts.port or 80)
        key = target.key()
        self.nodes = [SwarmNode(n, key, self, *target.credentials(n, peers)) for n in range(nodes)]
        self.probes: list[Probe] = []
        self.failures: dict[str, int] = {}
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self.staying = False
        self._tasks: set[asyncio.Task[None]] = set()

    # What machines tell.

    def heard(self, node: SwarmNode, told: Told) -> None:
        """A map message came."""
        waiting = self._waiting.pop(node.number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
        for probe in self.probes:
            probe.listen(node, told)

    def failed(self, node: SwarmNode, why: str) -> None:
        """A connection ended."""
        waiting = self._waiting.pop(node.number, None)
        if waiting is not None and not waiting.done():
            waiting.set_exception(ConnectionError(why))
        elif self.staying:
            task = asyncio.get_running_loop().create_task(self.join(node))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # What they do.

    async def join(self, node: SwarmNode) -> None:
        """Connect, register if need be, and hang on the long poll; try until it works."""
        loop, pause_s = asyncio.get_running_loop(), _RETRY_S
        while True:
            mapped = loop.create_future()
            mapped.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                async with asyncio.timeout(_DEADLINE_S):
                    self._waiting[node.number] = mapped
                    line = node.dial()
                    await loop.create_connection(partial(_given, line), *self._address)
                    await mapped
                    return
            except (OSError, TimeoutError) as error:
                self._waiting.pop(node.number, None)
                node.close()
                why = "refused" if isinstance(error, ConnectionRefusedError) else str(error)
                self.failures[why] = self.failures.get(why, 0) + 1
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, _LONGEST_RETRY_S)

    async def join_all(self, said: Callable[[int], None]) -> None:
        """Let everyone join, some at a time, and say where they are reached."""
        places = asyncio.Semaphore(AT_ONCE)
        # Not team by team: that would make few, large changes of many.
        order = random.sample(self.nodes, len(self.nodes))

        async def one(node: SwarmNode) -> None:
            async with places:
                await self.join(node)
                node.report(endpoints(node.number))
                said(sum(other.mapped for other in self.nodes) if node.number % 100 == 0 else 0)

        await asyncio.gather(*(one(node) for node in order))
        self.staying = True

    def teams(self, peers: int) -> list[list[SwarmNode]]:
        """Return the machines that see each other."""
        return [self.nodes[at : at + peers] for at in range(0, len(self.nodes), peers)]

    def complete(self, peers: int) -> bool:
        """Whether everyone sees everyone of theirs online."""
        return all(
            node.mapped and len(node.online - {node.id}) == len(team) - 1
            for team in self.teams(peers)
            for node in team
        )

    async def settle(self, peers: int, timeout_s: float) -> float:
        """Wait until everyone sees everyone of theirs online; return the time of that."""
        deadline = time.monotonic() + timeout_s
        while not self.complete(peers):
            if time.monotonic() > deadline:
                missing = sum(not node.mapped for node in self.nodes)
                raise RuntimeError(
                    f"not everyone sees their peers online after {timeout_s:g} s; "
                    f"{missing} machines have no map"
                )
            await asyncio.sleep(0.2)
        return time.monotonic()


def endpoints(number: int, turn: int = 0) -> list[str]:
    """Return two addresses of a machine, others in each turn."""
    port = 1024 + (number + 7919 * turn) % 60000
    return [f"192.0.2.{number % 250}:{port}", f"10.1.{number // 250 % 250}.{number % 250}:41641"]


class Measuring:
    """One swarm on one server, and its figures. seen: how many see each other."""

    def __init__(
        self, swarm: Swarm, target: Target, peers: int, say: Callable[[str], None]
    ) -> None:
        self.swarm = swarm
        self.target = target
        self.peers = peers
        self.say = say
        self.name = f"{len(swarm.nodes)}-of-{peers}"
        self.who = f"{len(swarm.nodes)} machines that see {peers - 1}"

    def figure(self, name: str, what: str, unit: str, goal: str = "") -> Figure:
        """Return an empty figure of this swarm."""
        return Figure(f"swarm-{name}-{self.name}", f"{self.who}: {what}", unit, goal)

    async def joins(self) -> list[Figure]:
        """Let all join."""
        swarm, target = self.swarm, self.target
        self.say("joining")
        rate = self.figure("join", "joins a second", "/s", ">= 100")
        cpu = self.figure("join-cpu", "server's CPU time a join", "ms")
        memory = self.figure("memory", "server's memory, all online", "MB", "<= 1500")
        began, cpu_began = time.monotonic(), target.cpu_s()
        await swarm.join_all(lambda n: self.say(f"joining: {n}") if n else None)
        rate.samples.append(len(swarm.nodes) / (time.monotonic() - began))
        self.say("settling")
        settled = await swarm.settle(self.peers, 300)
        rate.note = f"all see all {settled - began:.1f} s after the first began"
        cpu.samples.append((target.cpu_s() - cpu_began) * 1000 / len(swarm.nodes))
        await asyncio.sleep(2)
        memory.samples.append(target.memory_mb())
        idle, cpu_began = self.figure("idle-cpu", "server's CPU at rest", "%"), target.cpu_s()
        await asyncio.sleep(5)
        idle.samples.append((target.cpu_s() - cpu_began) / 5 * 100)
        return [rate, cpu, memory, idle]

    async def reports(self) -> list[Figure]:
        """One machine says that it is reached elsewhere: until the last peer heard it."""
        last = self.figure("endpoint", "new endpoints to the last peer", "ms", "p99 <= 500")
        cpu = self.figure("endpoint-cpu", "server's CPU time for it", "ms")
        for turn in range(SAMPLES):
            self.say(f"endpoints, {turn + 1} of {SAMPLES}")
            team = random.choice(self.swarm.teams(self.peers))
            node = random.choice(team)
            new = endpoints(node.number, turn + 1)
            before = self.target.cpu_s()
            probe = Probe(len(team) - 1, partial(_says_endpoints, node, new))
            self.swarm.probes = [probe]
            node.report(new)
            last.samples.append((await probe.wait(30))[-1] * 1000)
            await asyncio.sleep(0.1)
            cpu.samples.append((self.target.cpu_s() - before) * 1000)
        _tell_tail(last)
        return [last, cpu]

    async def arrivals(self) -> list[Figure]:
        """Machines that were away come back: until the last peer sees each online."""
        last = self.figure("online", "back online to the last peer", "ms", "p99 <= 500")
        swarm, teams = self.swarm, self.swarm.teams(self.peers)
        team_of = {node.number: team for team in teams for node in team}
        away = random.sample(swarm.nodes, min(SAMPLES, len(swarm.nodes) // 4))
        self.say(f"{len(away)} machines leave")
        for node in away:
            node.close()
        # All are told of the absence first, or there would be nothing to hear.
        gone, gone_ids = {node.number for node in away}, {node.id for node in away}
        for _ in range(_OFFLINE_S):
            await asyncio.sleep(1)
            if not any(n.online & gone_ids for n in swarm.nodes if n.number not in gone):
                break
        for turn, node in enumerate(away):
            self.say(f"online, {turn + 1} of {len(away)}")
            gone.discard(node.number)
            there = sum(other.number not in gone for other in team_of[node.number]) - 1
            back = Probe(there, partial(_says_online, node))
            swarm.probes = [back]
            await swarm.join(node)
            last.samples.append((await back.wait(30))[-1] * 1000)
            await asyncio.sleep(0.1)
        _tell_tail(last)
        return [last]

    async def edits(self, server: OwnServer, text: Callable[..., str]) -> list[Figure]:
        """Two edits of the policy that everyone hears of, by its filter or by its own entry."""
        port = await self._edit(
            *("policy", "a policy edit (a port) to each machine", server),
            *(lambda turn: text(port=8000 + turn), lambda told: bool(bytes(told.filters))),
        )
        attribute = await self._edit(
            *("policy-attribute", "a policy edit (an attribute) to each machine", server),
            *(lambda turn: text(attribute=f"custom:{turn}"), lambda told: told.node is not None),
        )
        return port + attribute

    async def _edit(
        self,
        name: str,
        what: str,
        server: OwnServer,
        text: Callable[[int], str],
        heard: Callable[[Told], bool],
    ) -> list[Figure]:
        last = self.figure(name, what, "ms", "p99 <= 2000")
        cpu = self.figure(f"{name}-cpu", "server's CPU time for it", "ms")
        worst = self.figure(f"{name}-pause", "longest silence of the server during it", "ms")
        for turn in range(3):
            self.say(f"{what}, {turn + 1} of 3")
            before = server.cpu_s()
            probe = Probe(len(self.swarm.nodes), lambda _, told: heard(told))
            self.swarm.probes = [probe]
            async with asyncio.TaskGroup() as tasks:
                pings = tasks.create_task(_longest_pause_s(server))
                edit = tasks.create_task(asyncio.to_thread(server.set_policy, text(turn)))
                times = await probe.wait(60)
                await edit
                worst.samples.append(await _stopped(pings) * 1000)
            last.samples += [time_s * 1000 for time_s in _quantiles(times)]
            await asyncio.sleep(0.5)
            cpu.samples.append((server.cpu_s() - before) * 1000)
        _tell_tail(last)
        return [last, cpu, worst]

    async def restart(self, server: OwnServer) -> list[Figure]:
        """The server is killed and starts again; everyone comes back at once."""
        back = self.figure("restart", "all back and settled after a kill", "s", "<= 60")
        cpu = self.figure("restart-cpu", "server's CPU time until then, for each", "ms")
        swarm = self.swarm
        self.say("restarting the server")
        swarm.failures.clear()
        swarm.probes = []
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await asyncio.to_thread(server.start)
        up_s = time.monotonic() - began
        back.samples.append(await swarm.settle(self.peers, 300) - began)
        lost = sum(not node.mapped for node in swarm.nodes)
        refused = swarm.failures.pop("refused", 0)
        others = ", ".join(f"{count}x {why}" for why, count in swarm.failures.items()) or "none"
        back.note = (
            f"{lost} lost; the server answers after {up_s:.1f} s; other failures: {others}; "
            f"{refused} attempts before it listened"
        )
        cpu.samples.append(server.cpu_s() * 1000 / len(swarm.nodes))
        return [back, cpu]


def _given(line: asyncio.Protocol) -> asyncio.Protocol:
    return line


def _says_endpoints(node: SwarmNode, new: list[str], _: SwarmNode, told: Told) -> bool:
    return any(
        one.id == node.id and one.endpoints == new
        for one in [*(told.patches or ()), *(told.changed or ())]
    )


def _says_online(node: SwarmNode, _: SwarmNode, told: Told) -> bool:
    return (
        any(
            one.id == node.id and one.online
            for one in [*(told.patches or ()), *(told.changed or ())]
        )
        or (told.online or {}).get(node.id) is True
    )


def _quantiles(ordered: list[float]) -> list[float]:
    """Return a hundred of many samples that stand for all of them."""
    if len(ordered) <= 100:
        return ordered
    return [ordered[math.ceil(len(ordered) * n / 100) - 1] for n in range(1, 101)]


def _tell_tail(figure: Figure) -> None:
    ordered = sorted(figure.samples)
    at = min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)
    figure.note = f"p50 {figure.median:.0f}, p99 {ordered[at]:.0f} {figure.unit}"


async def _longest_pause_s(target: Target) -> float:
    """Ask for the server's key again and again, until cancelled; the longest answer's time."""
    worst = 0.0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            began = time.monotonic()
            await asyncio.to_thread(target.key)
            worst = max(worst, time.monotonic() - began)
            await asyncio.sleep(0.02)
    return worst


async def _stopped(task: asyncio.Task[float]) -> float:
    task.cancel()
    return await task


async def measure(
    chosen: argparse.Namespace, target: Target, say: Callable[[str], None]
) -> list[Figure]:
    """Build the swarm and take every figure that this server allows."""
    peers = chosen.nodes if chosen.mesh else min(chosen.peers, chosen.nodes)
    swarm = Swarm(target, chosen.nodes, peers)
    measuring = Measuring(swarm, target, peers, say)
    figures = await measuring.joins()
    wanted = chosen.only.split(",") if chosen.only else []
    if not wanted or "endpoint" in wanted:
        figures += await measuring.reports()
    if isinstance(target, OwnServer):
        if not wanted or "policy" in wanted:
            text = mesh_text if chosen.mesh else policy_text
            figures += await measuring.edits(target, partial(text, chosen.nodes, peers))
        if not wanted or "restart" in wanted:
            figures += await measuring.restart(target)
    if not wanted or "online" in wanted:
        figures += await measuring.arrivals()
    for why, count in swarm.failures.items():
        say(f"{count} attempts failed: {why}")
    return figures


def main() -> int:
    """Measure, print, keep."""
    words = argparse.ArgumentParser(
        prog="python -m bench.swarm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_argument("--nodes", type=int, default=500, help="simulated machines")
    words.add_argument("--peers", type=int, default=100, help="machines that see each other")
    words.add_argument("--mesh", action="store_true", help="all machines see each other")
    words.add_argument("--url", default="", help="a server that runs already")
    words.add_argument("--auth-key", default="", help="reusable keys of that server")
    words.add_argument("--pid", type=int, default=0, help="that server's process, for its CPU time")
    words.add_argument("--only", default="", help="of endpoint,policy,restart,online, with commas")
    words.add_argument("--print-policy", action="store_true", help="print the policy, and end")
    reports.add_arguments(words)
    chosen = words.parse_args()
    peers = chosen.nodes if chosen.mesh else min(chosen.peers, chosen.nodes)
    policy = (mesh_text if chosen.mesh else policy_text)(chosen.nodes, peers)
    if chosen.print_policy:
        print(policy)
        return 0
    if chosen.nodes < 2 or peers < 2:
        words.error("a swarm has at least two machines, and each sees another")
    if bool(chosen.url) != bool(chosen.auth_key):
        words.error("--url and --auth-key go together")
    console = Console(stderr=chosen.json)
    raise_file_limit()
    report = reports.begin(offloads=[])
    cores = sorted(os.sched_getaffinity(0))
    with (
        console.status("starting") as status,
        tempfile.TemporaryDirectory(prefix="swarm-") as scratch,
    ):
        target = None
        try:
            if chosen.url:
                target = Target(chosen.url, chosen.auth_key, chosen.pid)
            else:
                own = cores[0] if len(cores) > 1 else None
                target = OwnServer(Path(scratch) / "state", policy, own)
                os.sched_setaffinity(0, cores[1:] or cores)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                figures = runner.run(measure(chosen, target, status.update))
        except (OSError, RuntimeError) as error:
            print(f"swarm: {error}", file=sys.stderr)
            return 1
        finally:
            if isinstance(target, OwnServer):
                target.kill()
    reports.finish(report, figures)

    def shown() -> None:
        show(console, report, figures)
        for figure in figures:
            if figure.note:
                console.print(f"{figure.what}: {figure.note}", highlight=False)

    kind = f"swarm-{chosen.nodes}-{'mesh' if chosen.mesh else 'of'}-{peers}"
    reports.keep(report, chosen, kind, console, shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
