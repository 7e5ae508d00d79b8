"""`python -m bench.roaming`: how long a person on the move waits, as JSON and a table.

Nodes behind port-restricted NATs, the real engine, a call over TCP through the mesh. What is asked
of a node is asked over its socket every 20 ms, so the times are right to about that.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console

from bench import report as reports
from bench.__main__ import show
from bench.figure import Figure
from warren.lab import roaming, sandbox
from warren.lab.mesh import Node
from warren.lab.program import LabTimeout
from warren.lab.roaming import HOME_A, HOTEL, PLAN, Call, Pair, echo
from warren.lab.world import World
from warren.node.client import NodeClient, NodeError
from warren.node.schema import PathStatus, Status

_POLL_S = 0.02
_PATIENCE_S = 40.0
_TALKS_S = 2.0
_AWAY_S = 3.0
_SLEEPS_S = 14.0


class _Eye:
    """What one node says of itself and of its peer."""

    def __init__(self, node: Node, peer: str) -> None:
        self._client = NodeClient(node.socket)
        self._peer = peer

    def status(self) -> Status | None:
        with suppress(NodeError):
            return self._client.status()
        return None

    def direct(self, ip: str = "") -> bool:
        """Whether it sends to its peer directly, at this address."""
        path = self._path()
        return path is not None and path.kind == "direct" and str(path.address).startswith(ip)

    def at_relay(self) -> bool:
        """Whether nothing is wrong, such as a relay that cannot be reached."""
        status = self.status()
        return status is not None and not status.health

    def in_trouble(self) -> bool:
        """The opposite."""
        return not self.at_relay()

    def _path(self) -> PathStatus | None:
        status = self.status()
        peers = status.peers if status else ()
        return next((peer.path for peer in peers if peer.name == self._peer), None)


def _seconds_until(condition: Callable[[], bool], what: str) -> float:
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > _PATIENCE_S:
            raise LabTimeout(f"not within {_PATIENCE_S:g} s: {what}")
        time.sleep(_POLL_S)
    return time.monotonic() - began


class Roaming:
    """The figures, and one pair of nodes a run to take samples of them."""

    def __init__(self) -> None:
        def figure(name: str, what: str, goal: str) -> Figure:
            return Figure(name, what, "s", goal)

        self.moved = figure("moved_direct", "another network: direct again", "≤ 5")
        self.silent = figure("moved_silence", "another network: longest silence of a call", "")
        self.returned = figure("returned_direct", "back after no network: direct again", "≤ 5")
        self.left = figure("dead_path_left", "path died under a call: both have left it", "≤ 3")
        self.died = figure("dead_path_silence", "path died under a call: longest silence", "")
        self.relay = figure("relay_back", "relay killed and started: both are at it again", "≤ 2")
        self.woke = figure("woke_direct", "slept, and the NAT forgot: direct again", "≤ 5")

    @property
    def figures(self) -> list[Figure]:
        """All of them, in the order in which they are shown."""
        moves = [self.moved, self.silent, self.returned]
        return [*moves, self.left, self.died, self.relay, self.woke]

    def run(self, which: str, say: Callable[[str], None]) -> None:
        """Take one sample of each. which: what to call this run where a person looks on."""
        with World(PLAN) as world:
            pair = Pair(world)
            alice, bob = _Eye(pair.alice, "bob"), _Eye(pair.bob, "alice")
            pair.alice.ping_until_direct("bob", _PATIENCE_S)
            with echo(pair.bob.part, pair.bob.address):
                say(f"{which}: another network")
                self._move(pair, alice, bob)
                say(f"{which}: a sleep")
                self._sleep(pair, alice)
                say(f"{which}: a path that dies")
                self._path_dies(pair, alice, bob)
            say(f"{which}: a relay that dies")
            self._relay_dies(pair, alice, bob)

    def _move(self, pair: Pair, alice: _Eye, bob: _Eye) -> None:
        call = Call(pair.alice, pair.bob.address)
        time.sleep(_TALKS_S)
        pair.to_the_hotel()

        def settled(ip: str) -> Callable[[], bool]:
            return lambda: alice.direct() and bob.direct(ip)

        self.moved.samples.append(_seconds_until(settled(HOTEL), "direct from the hotel"))
        time.sleep(_TALKS_S)
        self.silent.samples.append(call.longest_silence_s)
        roaming.unplug(pair.world["alice"])
        time.sleep(_AWAY_S)
        pair.home()
        self.returned.samples.append(_seconds_until(settled(HOME_A), "direct from home"))
        call.end()

    def _sleep(self, pair: Pair, alice: _Eye) -> None:
        pid = str(pair.alice.program.pid)
        pair.alice.part.run(["kill", "-STOP", pid])
        time.sleep(_SLEEPS_S)
        roaming.flush_nat(pair.world["home-a"])
        pair.alice.part.run(["kill", "-CONT", pid])
        began = time.monotonic()
        pair.alice.ping_until_direct("bob", _PATIENCE_S)
        self.woke.samples.append(time.monotonic() - began)
        _seconds_until(alice.direct, "direct after the sleep")

    def _path_dies(self, pair: Pair, alice: _Eye, bob: _Eye) -> None:
        call = Call(pair.alice, pair.bob.address)
        time.sleep(_TALKS_S)
        pair.world["home-b"].block_udp()
        self.left.samples.append(
            _seconds_until(lambda: not alice.direct() and not bob.direct(), "the path is left")
        )
        time.sleep(2 * _TALKS_S)
        self.died.samples.append(call.longest_silence_s)
        call.end()

    def _relay_dies(self, pair: Pair, alice: _Eye, bob: _Eye) -> None:
        pair.server.program.kill()
        for eye in (alice, bob):
            _seconds_until(eye.in_trouble, "the death is noticed")
        pair.server.start()
        self.relay.samples.append(
            _seconds_until(lambda: alice.at_relay() and bob.at_relay(), "both are at the relay")
        )


def main() -> int:
    """Measure; exit code 1 where the machine cannot build a lab, or something never came."""
    words = argparse.ArgumentParser(prog="python -m bench.roaming", description=__doc__)
    words.add_argument("--runs", type=int, default=10, help="samples of each figure")
    reports.add_arguments(words)
    chosen = words.parse_args()
    console = Console(stderr=chosen.json)
    measured = Roaming()
    try:
        sandbox.enter()
        if not sandbox.tun_available():
            raise sandbox.LabUnavailable("/dev/net/tun cannot be opened; the bench needs root")
        report = reports.begin(offloads=[])
        with console.status("building the lab") as status:
            for run in range(chosen.runs):
                measured.run(f"run {run + 1} of {chosen.runs}", status.update)
    except (sandbox.LabUnavailable, LabTimeout) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    reports.finish(report, measured.figures)
    reports.keep(
        report, chosen, "roaming", console, lambda: show(console, report, measured.figures)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
