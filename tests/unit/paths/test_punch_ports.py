"""How a NAT's ports are learned from samples, and in which order they are guessed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.netmap.endpoint import Endpoint
from warren.paths.punching.easy import SCAN_MAX
from warren.paths.punching.ports import (
    BLOCK_MAX,
    FIRST_MAX,
    FIRST_PORT,
    LAST_PORT,
    PORTS,
    SAMPLES_MAX,
    Allocation,
    GuessPlan,
    Pattern,
    PortMemory,
    Sample,
    Span,
    guesses,
    infer,
    plan_for,
    scan_plan_for,
)

SERVER = Endpoint.parse("192.0.2.1:3478")


def samples(ports: Sequence[int], local_port: int = 0, ip: str = "198.51.100.1") -> list[Sample]:
    return [
        Sample(SERVER, Endpoint.parse(f"{ip}:{port}"), float(at), local_port)
        for at, port in enumerate(ports)
    ]


def test_nothing_is_known_without_samples() -> None:
    assert infer([]) == Allocation(Pattern.UNKNOWN)
    assert infer(samples([5000])).pattern is Pattern.UNKNOWN


def test_kept_ports() -> None:
    assert infer(samples([41641, 41641], local_port=41641)).pattern is Pattern.PRESERVED


@pytest.mark.parametrize("step", [1, 2, 4, 8, -1, -2])
def test_sequential_ports_with_their_step(step: int) -> None:
    """Other flows between ours make gaps larger, but multiples of the step."""
    ports, port = [], 30000
    for gap in (1, 3, 2, 1, 5, 1):
        ports.append(port)
        port += gap * step
    found = infer(samples(ports))
    assert (found.pattern, found.step) == (Pattern.SEQUENTIAL, step)


def test_a_counter_that_others_moved_far_since_the_older_samples() -> None:
    found = infer(samples([30000, 30007, 41207, 41214, 41564, 41571, 41963, 41970]))
    assert (found.pattern, found.step) == (Pattern.SEQUENTIAL, 7)


def test_sequential_ports_round_the_end_of_the_range() -> None:
    found = infer(samples([65533, 65534, 65535, 1024, 1025]))
    assert (found.pattern, found.step) == (Pattern.SEQUENTIAL, 1)
    plan = plan_for(found, 16)
    assert plan.first and all(FIRST_PORT <= port <= LAST_PORT for port in plan.first)


def test_prediction_covers_the_ports_that_come_next() -> None:
    plan = plan_for(infer(samples([30000, 30001, 30007, 30008])), 256)
    coming = set(range(30009, 30009 + 256))
    assert sum(port in coming for port in plan.first[:24]) >= 8


def test_a_block_is_found_and_only_it_is_probed_first() -> None:
    block = Span(20480, 22527)
    rng = random.Random(1)
    for _ in range(50):
        seen = [rng.randint(*block) for _ in range(8)]
        found = infer(samples(seen))
        if found.pattern is Pattern.SEQUENTIAL:
            continue
        assert found.pattern is Pattern.BLOCK
        first = list(islice(guesses(plan_for(found, 256), rng.randbytes), 30))
        assert sum(block.first <= port <= block.last for port in first) >= 15


def test_random_ports() -> None:
    rng = random.Random(2)
    for _ in range(100):
        ports = [rng.randint(FIRST_PORT, LAST_PORT) for _ in range(6)]
        if max(ports) - min(ports) >= BLOCK_MAX:
            assert infer(samples(ports)).pattern is Pattern.RANDOM
            assert not plan_for(infer(samples(ports)), 256).spans


def test_samples_of_another_address_say_nothing() -> None:
    memory = PortMemory()
    for sample in samples([30000, 30001, 30002]):
        memory.note(sample)
    assert infer(memory.samples()).pattern is Pattern.SEQUENTIAL
    memory.note(Sample(SERVER, Endpoint.parse("203.0.113.7:9999"), 9.0))
    assert infer(memory.samples()) == Allocation(Pattern.UNKNOWN, (9999,))
    assert str(memory.address()) == "203.0.113.7"


def test_memory_is_bounded_and_ignores_ipv6() -> None:
    memory = PortMemory()
    memory.note(Sample(SERVER, Endpoint.parse("[2001:db8::1]:5"), 0.0))
    assert memory.address() is None
    for sample in samples(range(2000, 3000)):
        memory.note(sample)
    assert len(memory.samples()) == SAMPLES_MAX
    memory.forget()
    assert not memory.samples()


def test_the_whole_range_is_guessed_once() -> None:
    rng = random.Random(3)
    given_ports = list(
        guesses(GuessPlan((5, 2000, 2000, 70000), (Span(3000, 3100),), 4), rng.randbytes)
    )
    assert len(given_ports) == len(set(given_ports)) == PORTS
    assert given_ports[0] == 2000
    assert all(3000 <= port <= 3100 for port in given_ports[1:100])


def test_a_wrong_span_is_given_up() -> None:
    """Of 2,048 ports with 256 of ours, 64 misses mean that ours are elsewhere."""
    rng = random.Random(4)
    found = list(islice(guesses(GuessPlan((), (Span(4096, 6143),), 256), rng.randbytes), 65))
    assert all(4096 <= port <= 6143 for port in found[:64])


def scanned(ports: Sequence[int]) -> list[int]:
    rng = random.Random(5)
    plan = scan_plan_for(infer(samples(ports)))
    return list(islice(guesses(plan, rng.randbytes, whole=False, exhaust=True), SCAN_MAX))


@pytest.mark.parametrize("seen", [[21000], [20480], [22527], [20500, 22500], [22500, 20500, 21700]])
def test_a_scan_leaves_no_port_of_a_block_out(seen: list[int]) -> None:
    """The aligned blocks around what was seen, and little else."""
    found = scanned(seen)
    assert len(found) == len(set(found)) <= 2048 + FIRST_MAX
    assert set(range(20480, 22528)) <= set(found)


def test_a_scan_takes_small_blocks_before_large_ones() -> None:
    found = scanned([20500])
    for size in (256, 512, 1024):
        assert set(range(20480, 20480 + size)) <= set(found[: size + FIRST_MAX])


@pytest.mark.parametrize("seen", [[20943, 20892], [20892, 20943], [20700, 20703]])
def test_a_scan_does_not_take_two_ports_of_a_block_for_ports_in_turn(seen: list[int]) -> None:
    """A stock client in a network with two relay regions shows two."""
    found = scanned(seen)
    assert set(range(20480, 20992)) <= set(found[: 512 + FIRST_MAX])
    assert set(range(20480, 22528)) <= set(found)


def test_a_scan_of_a_block_that_is_not_aligned_lies_around_what_was_seen() -> None:
    """Blocks of 2,048 from port 1024 on: aligned ones would miss half of it."""
    found = set(scanned([21600, 22900]))
    assert set(range(21504, 23200)) <= found


@pytest.mark.parametrize("step", [1, 3, -2])
def test_a_scan_of_ports_in_turn_goes_on_from_the_newest(step: int) -> None:
    found = scanned([30000, 30000 + 2 * step, 30000 + 3 * step])
    for later in (1, 20, 100):
        assert 30000 + (3 + later) * step in found[: later + 2]
    assert 30000 + 900 * step in found


@given(
    ports=st.lists(st.integers(1, 65535), max_size=40),
    sockets=st.integers(0, 300),
    seed=st.integers(0, 2**32),
)
def test_any_samples_give_a_bounded_plan_of_distinct_ports(
    ports: list[int], sockets: int, seed: int
) -> None:
    rng = random.Random(seed)
    allocation = infer(samples(ports))
    assert str(allocation)
    for plan in (plan_for(allocation, sockets), scan_plan_for(allocation)):
        assert len(plan.first) <= FIRST_MAX and len(plan.spans) <= 4
        found = list(islice(guesses(plan, rng.randbytes), 1500))
        assert len(found) == len(set(found)) == 1500
        assert all(FIRST_PORT <= port <= LAST_PORT for port in found)
