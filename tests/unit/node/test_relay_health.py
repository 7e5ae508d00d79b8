"""Which relays are avoided, for how long, and how long one that was cut off is waited for."""

from __future__ import annotations

from datetime import UTC, datetime

from warren.node.measuring import AVOID_S
from warren.node.relay_health import HOME_GRACE_S, RESTART_GRACE_S, RelayHealth


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        return self.seconds

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)


def test_a_dead_region_is_avoided_until_it_answers_or_time_has_passed() -> None:
    clock = Clock()
    relays = RelayHealth(clock)
    assert relays.note_dead(1) and relays.note_dead(2)
    assert not relays.note_dead(1), "it is known"
    assert relays.dead == {1, 2}
    assert relays.note_connected(2, "") and not relays.note_connected(2, "")
    clock.seconds += AVOID_S - 1
    assert not relays.note_dead(1), "and is so for longer now"
    clock.seconds += AVOID_S - 1
    assert relays.dead == {1}
    clock.seconds += 2
    assert relays.dead == set()
    assert relays.note_dead(1), "it is news again"
    relays.forget_dead()
    assert not relays.dead


def test_a_relay_that_said_that_it_restarts_is_waited_for_longer() -> None:
    relays = RelayHealth(Clock())
    assert relays.grace_s(1) == HOME_GRACE_S
    relays.note_connected(1, "It restarts.")
    assert (relays.grace_s(1), relays.grace_s(2)) == (RESTART_GRACE_S, HOME_GRACE_S)
    relays.note_connected(1, "")
    assert relays.grace_s(1) == HOME_GRACE_S
