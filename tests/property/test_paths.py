"""Path machines against each other over a simulated network with loss, NATs and failures.

Time is virtual and every choice comes from one seed, so a failing example replays.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from warren.disco.messages import Message, Ping, Pong
from warren.keys import NodePrivate
from warren.netmap.endpoint import Endpoint
from warren.paths import timing
from warren.paths.machine import EndpointsWanted, Lease, PeerPaths, Relay

REGION = 900
LEASE_S = timing.TRUST_S
SILENT_S = 2 * timing.SUSPECT_AFTER_S
"""A ping and one of those that follow a suspicion were lost at least, by then."""


@dataclass
class Nat:
    """A NAT or none: outside address, and what it lets in.

    kind: open (no NAT), full, address, port (restricted), symmetric, closed (UDP blocked).
    """

    kind: str
    inside: Endpoint
    outside: Endpoint
    opened: set[tuple[Endpoint, Endpoint]] = field(default_factory=set)
    ports: dict[Endpoint, Endpoint] = field(default_factory=dict)
    next_port: int = 20000

    def out(self, to: Endpoint) -> Endpoint | None:
        """Return the source address that the world sees, or None if it is dropped."""
        if self.kind == "closed":
            return None
        source = self.outside
        if self.kind == "symmetric":
            if to not in self.ports:
                self.next_port += 7
                self.ports[to] = Endpoint(self.outside.ip, self.next_port)
            source = self.ports[to]
        self.opened.add((source, to))
        return source

    def lets_in(self, src: Endpoint, at: Endpoint) -> bool:
        """Whether a datagram from `src` to the outside address `at` comes through."""
        if self.kind == "closed":
            return False
        if self.kind == "open":
            return at == self.outside
        if self.kind == "full":
            return at == self.outside and bool(self.opened)
        if self.kind == "address":
            return any(o == at and to.ip == src.ip for o, to in self.opened)
        return (at, src) in self.opened


class Side:
    """One node: its machine for the other, its NAT, and the lease that its engine would hold."""

    def __init__(self, name: str, nat: Nat, rng: random.Random) -> None:
        self.name = name
        self.nat = nat
        self.paths = PeerPaths(NodePrivate.from_entropy(rng.randbytes(32)).public(), rng.randbytes)
        self.lease: tuple[Endpoint, float] | None = None
        self.switches: list[tuple[float, Endpoint | None]] = []

    def direct(self, now: float) -> Endpoint | None:
        return self.lease[0] if self.lease and now < self.lease[1] else None


class World:
    """Two sides, a relay, and what happens to datagrams between them."""

    def __init__(self, seed: int, kinds: tuple[str, str], loss: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.loss = loss
        self.latency_s = 0.02
        self.cut: Callable[[Endpoint, Endpoint], bool] = lambda src, dst: False
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.answer_from: dict[bytes, Endpoint] = {}
        """A machine without a NAT answers from the address that was asked."""
        self.sides = [
            Side(
                name,
                Nat(
                    kind,
                    Endpoint.parse(f"192.168.{i}.2:41641"),
                    Endpoint.parse(f"198.51.100.{i}:41641"),
                ),
                self.rng,
            )
            for i, (name, kind) in enumerate(zip("ab", kinds, strict=True), start=1)
        ]
        for side, other in zip(self.sides, reversed(self.sides), strict=True):
            side.paths.set_peer([other.nat.outside, other.nat.inside], REGION, 0.0)
            side.paths.set_own_endpoints([side.nat.outside, side.nat.inside], 0.0)

    def at(self, when: float, action: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.queue, (when, self.count, action))

    def send(self, side: Side, to: Endpoint | Relay, message: Message) -> None:
        other = self.sides[1 - self.sides.index(side)]
        if isinstance(to, Relay):
            self.at(self.now + 0.03, lambda: self.give(other, message, Relay(REGION)))
            return
        source = side.nat.out(to)
        if isinstance(message, Pong) and side.nat.kind == "open":
            source = self.answer_from.get(message.tx_id, source)
        if source is None or self.rng.random() < self.loss or self.cut(source, to):
            return
        delay = self.latency_s * self.rng.uniform(0.9, 1.2)
        self.at(self.now + delay, lambda: self.arrive(other, message, source, to))

    def arrive(self, other: Side, message: Message, src: Endpoint, to: Endpoint) -> None:
        if other.nat.lets_in(src, to):
            if isinstance(message, Ping):
                self.answer_from[message.tx_id] = to
            self.give(other, message, src)

    def give(self, side: Side, message: Message, via: Endpoint | Relay) -> None:
        side.paths.receive(message, via, self.now)
        self.settle(side)

    def settle(self, side: Side) -> None:
        while (transmit := side.paths.poll_transmit()) is not None:
            self.send(side, transmit.to, transmit.message)
        while (event := side.paths.poll_event()) is not None:
            if isinstance(event, Lease):
                before = side.direct(self.now)
                side.lease = None
                if event.endpoint is not None:
                    side.lease = (event.endpoint, self.now + event.lease_ms / 1000)
                if event.endpoint != before:
                    side.switches.append((self.now, event.endpoint))
            elif isinstance(event, EndpointsWanted):
                self.at(self.now + 0.02, lambda: self.tell(side))

    def tell(self, side: Side) -> None:
        side.paths.set_own_endpoints([side.nat.outside, side.nat.inside], self.now)
        self.settle(side)

    def run(self, until: float, traffic: tuple[bool, bool] = (True, True)) -> None:
        """Let time pass; sides with traffic say so every two seconds, as the engine does."""
        for side, flows in zip(self.sides, traffic, strict=True):
            if flows:
                self.flow(side, until)
        steps = 0
        while True:
            steps += 1
            assert steps < 100_000, "a machine asks for timeouts without end"
            due = [s.paths.next_timeout() for s in self.sides]
            next_timer = min((d[0] for d in due if d), default=float("inf"))
            next_event = self.queue[0][0] if self.queue else float("inf")
            when = min(next_timer, next_event)
            if when > until:
                break
            self.now = max(self.now, when)
            if next_event <= next_timer:
                heapq.heappop(self.queue)[2]()
                continue
            for side in self.sides:
                side.paths.handle_timeout(self.now)
                self.settle(side)
        self.now = until

    def flow(self, side: Side, until: float) -> None:
        side.paths.note_active(self.now)
        self.settle(side)
        if self.now + 2 < until:
            self.at(self.now + 2, lambda: self.flow(side, until))


EASY = ("open", "full", "address", "port")
WORKING = [(a, b) for a in EASY for b in EASY] + [
    ("symmetric", "open"),
    ("symmetric", "full"),
    ("symmetric", "address"),
    ("open", "symmetric"),
]


@pytest.mark.parametrize("kinds", WORKING)
def test_direct_within_a_second_where_a_way_exists(kinds: tuple[str, str]) -> None:
    """Both ends find the way, whoever begins."""
    for traffic in ((True, True), (True, False)):
        world = World(1, kinds)
        world.run(1.0, traffic)
        assert world.sides[0].direct(world.now), f"{kinds} {traffic}"


@pytest.mark.parametrize(
    "kinds", [("symmetric", "symmetric"), ("symmetric", "port"), ("closed", "open")]
)
def test_relayed_and_quiet_where_none_exists(kinds: tuple[str, str]) -> None:
    """No lease is ever given, and the search slows down."""
    world = World(2, kinds)
    world.run(600.0)
    for side in world.sides:
        assert not side.switches
        # 2 candidates and what was learned: far fewer than a ping every second.
        assert sum(c.pings for c in side.paths.candidates) < 600


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kinds=st.sampled_from(WORKING),
    loss=st.sampled_from([0.0, 0.1, 0.3, 0.5]),
)
def test_eventually_direct_under_loss(seed: int, kinds: tuple[str, str], loss: float) -> None:
    """Loss delays a direct path but does not prevent it."""
    world = World(seed, kinds, loss)
    deadline = 60.0
    while world.now < deadline and not all(s.direct(world.now) for s in world.sides):
        world.run(world.now + 1.0)
    assert all(side.switches for side in world.sides)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), when=st.floats(5, 60), kinds=st.sampled_from(WORKING))
def test_never_a_black_hole(seed: int, when: float, kinds: tuple[str, str]) -> None:
    """When the direct way dies, packets are on the relay again within the lease's length."""
    world = World(seed, kinds)
    world.run(when)
    world.cut = lambda src, dst: True
    world.run(when + LEASE_S)
    assert not any(side.direct(world.now) for side in world.sides)
    world.cut = lambda src, dst: False
    world.run(when + LEASE_S + 35.0)
    assert all(side.direct(world.now) for side in world.sides)


def two_ways(seed: int, loss: float = 0.0) -> tuple[World, Side, Endpoint, Endpoint]:
    """A world in which `a` reaches `b` at two public addresses."""
    world = World(seed, ("open", "open"), loss)
    a, b = world.sides
    second = Endpoint.parse("203.0.113.9:41641")
    b.nat.lets_in = lambda src, at: at in (b.nat.outside, second)  # type: ignore[method-assign]
    a.paths.set_peer([b.nat.outside, second], REGION, 0.0)
    return world, a, b.nat.outside, second


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), when=st.floats(4, 90), one_way=st.booleans())
def test_a_dead_path_is_left_for_the_next_best_within_three_seconds(
    seed: int, when: float, one_way: bool
) -> None:
    """Whenever it dies, and if only in one direction: while traffic flows, 3 s and no more."""
    world, a, _, _ = two_ways(seed)
    world.run(when)
    used = a.direct(world.now)
    assert used is not None
    world.cut = lambda src, dst: dst == used or (not one_way and src == used)
    world.run(when + 3.0)
    assert a.direct(world.now) not in (None, used)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), when=st.floats(4, 90), kinds=st.sampled_from(WORKING))
def test_without_another_path_the_relay_is_taken_within_three_seconds(
    seed: int, when: float, kinds: tuple[str, str]
) -> None:
    """Both sides find out for themselves."""
    world = World(seed, kinds)
    world.run(when)
    assert all(side.direct(world.now) for side in world.sides)
    world.cut = lambda src, dst: True
    world.run(when + 3.0)
    assert not any(side.direct(world.now) for side in world.sides)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), when=st.floats(4, 60), kinds=st.sampled_from(WORKING))
def test_another_network_is_direct_again_within_five_seconds(
    seed: int, when: float, kinds: tuple[str, str]
) -> None:
    """A side moves behind another NAT of the same kind; both find each other again."""
    world = World(seed, kinds)
    world.run(when)
    mover, other = world.sides
    moved = Endpoint.parse("203.0.113.77:41641")
    mover.nat = Nat(kinds[0], Endpoint.parse("192.168.7.2:41641"), moved)
    mover.paths.network_changed(world.now)
    world.settle(mover)
    world.run(when + 5.0)
    assert mover.direct(world.now)
    found = other.direct(world.now)
    assert found is not None
    assert found.ip == moved.ip


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), ratio=st.floats(0.8, 1.25), wobble=st.floats(0.0, 0.3))
def test_no_flapping_between_ways_that_wobble(seed: int, ratio: float, wobble: float) -> None:
    """Two ways of nearly the same length whose lengths change all the time: it settles."""
    world, a, first, second = two_ways(seed)
    base_s = world.latency_s

    def wander() -> None:
        world.latency_s = base_s * world.rng.uniform(1 - wobble, 1 + wobble)
        world.at(world.now + 0.4, wander)

    send = world.send

    def stretched(side: Side, to: Endpoint | Relay, message: Message) -> None:
        kept = world.latency_s
        if second in (to, world.answer_from.get(getattr(message, "tx_id", b""))):
            world.latency_s *= ratio
        send(side, to, message)
        world.latency_s = kept

    world.send = stretched  # type: ignore[method-assign]
    wander()
    world.run(900.0)
    assert a.direct(world.now) in (first, second)
    assert len(a.switches) <= 5


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.05, 0.15]))
@example(seed=21498, loss=0.15)  # seven silences in ten minutes
def test_no_flapping_between_equal_paths(seed: int, loss: float) -> None:
    """Two ways of the same length, with jitter: one is left when it is silent, and else hardly."""
    world = World(seed, ("open", "open"), loss)
    a, b = world.sides
    second = Endpoint.parse("203.0.113.9:41641")
    b.nat.lets_in = lambda src, at: at in (b.nat.outside, second)  # type: ignore[method-assign]
    a.paths.set_peer([b.nat.outside, second], REGION, 0.0)
    heard_at: dict[Endpoint | Relay, float] = {}
    silences_s: list[float] = []
    give = world.give

    def noted(side: Side, message: Message, via: Endpoint | Relay) -> None:
        if side is a and isinstance(message, Pong):
            heard_at[via] = world.now
        give(side, message, via)

    class Switches(list[tuple[float, Endpoint | None]]):
        def append(self, switch: tuple[float, Endpoint | None]) -> None:
            before = self[-1][1] if self else None
            if switch[1] is None and before is not None:
                silences_s.append(world.now - heard_at[before])
            super().append(switch)

    world.give = noted  # type: ignore[method-assign]
    a.switches = Switches()
    world.run(600.0)
    assert a.direct(world.now)
    # Pings in a row were lost: nothing can know that the way still lives.
    assert all(silence >= SILENT_S for silence in silences_s), silences_s
    assert loss or not silences_s
    unforced = [to for (_, left), (_, to) in pairwise(a.switches) if left and to]
    assert len(unforced) <= 3


def test_idle_peers_say_nothing() -> None:
    """45 s after the last packet the heartbeats end, and so does every timer."""
    world = World(4, ("port", "port"))
    world.run(5.0)
    world.run(5.0 + timing.ACTIVE_S + 10, (False, False))
    assert world.sides[0].direct(world.now) is None
    assert all(side.paths.next_timeout() is None for side in world.sides)
    pings = [sum(c.pings for c in side.paths.candidates) for side in world.sides]
    world.run(world.now + 600, (False, False))
    assert pings == [sum(c.pings for c in side.paths.candidates) for side in world.sides]
    world.run(world.now + 2.0)
    assert all(side.direct(world.now) for side in world.sides)
