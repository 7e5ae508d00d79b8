"""Sleeps are told from ordinary delays."""

from __future__ import annotations

from warren.edge.linux.sleep import suspended_s
from warren.node.waking import SLEEP_CHECK_S, WakeDetector


def test_a_suspended_machine_wakes_once() -> None:
    wakes = WakeDetector(100.0, 7.0)
    assert not wakes.note(102.0, 7.0)
    assert wakes.note(104.0, 3607.0)
    assert not wakes.note(106.0, 3607.0)


def test_a_stopped_process_wakes_once_and_a_busy_one_does_not() -> None:
    wakes = WakeDetector(100.0, 0.0)
    assert not wakes.note(100.0 + SLEEP_CHECK_S + 4.0, 0.0)
    assert wakes.note(160.0, 0.0)
    assert not wakes.note(162.0, 0.0)


def test_clocks_that_wobble_are_no_sleep() -> None:
    wakes = WakeDetector(0.0, suspended_s())
    assert not wakes.note(SLEEP_CHECK_S, suspended_s() + 0.001)
    assert not wakes.note(2 * SLEEP_CHECK_S, suspended_s() - 0.001)
