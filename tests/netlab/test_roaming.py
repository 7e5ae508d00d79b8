"""A laptop that changes its network, and a relay that dies: what a person would notice of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from warren.lab import sandbox
from warren.lab.mesh import Node
from warren.lab.program import ProgramFailed
from warren.lab.roaming import (
    HOME_A,
    HOTEL,
    PLAN,
    Call,
    Pair,
    echo,
    flush_nat,
    forget_flow,
    unplug,
)
from warren.lab.world import World

pytestmark = pytest.mark.netlab

# The promise is 5 s (and 2 s for a relay), and `python -m bench.roaming` measures how it is kept;
# the rest is room for a machine that does much else.
SLACK_S = 5.0


@pytest.fixture
def mesh() -> Iterator[Pair]:
    with World(PLAN) as world:
        yield Pair(world)


def seconds_until(condition: Callable[[], bool], limit_s: float, what: str) -> float:
    """Ask until it holds; how long that took."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        with suppress(ProgramFailed):
            if condition():
                return time.monotonic() - began
        time.sleep(0.1)
    raise AssertionError(f"not within {limit_s:g} s: {what}")


def faults(node: Node) -> list[str]:
    """What is wrong by the node's own word; a relay that cannot be reached is."""
    return list(node.status()["health"])


def direct(node: Node, peer: str, ip: str = "") -> bool:
    known = node.peer(peer)
    if known is None or known["path"]["kind"] != "direct":
        return False
    return str(known["path"]["address"]).startswith(ip)


def report_direct_again(mesh: Pair, alice_ip: str) -> None:
    """Wait until both talk directly, with alice behind this address, and print for how long."""

    def settled() -> bool:
        return direct(mesh.alice, "bob") and direct(mesh.bob, "alice", alice_ip)

    took_s = seconds_until(settled, 5.0 + SLACK_S, "both are direct again")
    print(f"direct again after {took_s:.1f} s")


@pytest.mark.skipif(not sandbox.tun_available(), reason="needs a TUN device")
def test_a_laptop_that_moves_keeps_its_connections_and_is_direct_again(mesh: Pair) -> None:
    """From one NAT to another in the middle of a TCP connection."""
    mesh.alice.ping_until_direct("bob", 20)
    with echo(mesh.bob.part, mesh.bob.address):
        call = Call(mesh.alice, mesh.bob.address)
        mesh.world.wait(lambda: len(call.echoed_at) > 10, 20, "words go to and fro")
        moved_at = time.monotonic()
        mesh.to_the_hotel()
        report_direct_again(mesh, HOTEL)
        before = len(call.echoed_at)
        mesh.world.wait(lambda: len(call.echoed_at) > before + 10, 15, "words go on")
        print(f"longest silence of the connection: {call.longest_silence_s:.1f} s")
        assert call.echoed_at[-1] > moved_at
        # And back, with a while between the networks in which there is none at all.
        unplug(mesh.world["alice"])
        mesh.world.wait(lambda: not mesh.alice.status()["connected"], 15, "it is noticed")
        time.sleep(1)
        mesh.home()
        report_direct_again(mesh, HOME_A)
        call.end()
    pong = mesh.bob.ping("alice")
    assert pong.via == "direct"
    mesh.world.wait(
        lambda: mesh.alice.status()["connected"], 15, "alice is with the coordinator again"
    )


def test_a_path_that_dies_is_left_for_the_relay(mesh: Pair) -> None:
    """While traffic flows: 3 s from the last direct packet."""
    mesh.alice.ping_until_direct("bob", 20)
    mesh.alice.ping("bob")
    mesh.world["home-b"].block_udp()
    took_s = seconds_until(
        lambda: not direct(mesh.alice, "bob"), 3.0 + SLACK_S, "alice has left the dead path"
    )
    print(f"the dead path was left after {took_s:.1f} s")
    assert mesh.alice.ping("bob").via == "relay"


def test_a_relay_that_was_killed_is_back_in_use_at_once(mesh: Pair) -> None:
    """2 s after it listens again, packets of both go through it."""
    for home in ("home-a", "home-b"):
        mesh.world[home].block_udp()
    assert mesh.alice.ping("bob").via == "relay"
    for away_s in (0.0, 6.0):
        mesh.server.program.kill()
        for node in (mesh.alice, mesh.bob):
            mesh.world.wait(partial(faults, node), 10, "the relay's death is noticed")
        time.sleep(away_s)
        mesh.server.start()
        took_s = seconds_until(
            lambda: not any(faults(node) for node in (mesh.alice, mesh.bob)),
            2.0 + SLACK_S,
            "both are at the relay again",
        )
        assert mesh.alice.ping("bob").via == "relay"
        print(f"at the relay {took_s:.1f} s after its return; it was away for {away_s:g} s")
    forget_flow(mesh.alice, mesh.world["home-a"])
    # What bob says is lost until alice notices; she does by her own packets, within seconds.
    took_s = seconds_until(lambda: bool(mesh.alice.ping("bob")), 30, "alice has found out")
    print(f"a forgotten connection was replaced after {took_s:.1f} s")


def test_a_process_that_was_stopped_finds_its_way_back(mesh: Pair) -> None:
    """As after a sleep: its NAT has forgotten it meanwhile, and it notices by itself."""
    mesh.alice.ping_until_direct("bob", 20)
    mesh.alice.part.run(["kill", "-STOP", str(mesh.alice.program.pid)])
    time.sleep(14)
    flush_nat(mesh.world["home-a"])
    mesh.alice.part.run(["kill", "-CONT", str(mesh.alice.program.pid)])
    began = time.monotonic()
    mesh.alice.ping_until_direct("bob", 5.0 + SLACK_S)
    print(f"direct again {time.monotonic() - began:.1f} s after the wake")
