"""Who waits for which answer."""

from __future__ import annotations

import pytest

from warren.node import waiters as room
from warren.node.waiters import Pong, Waiters


async def test_the_first_answer_to_any_of_them_counts() -> None:
    waiters = Waiters()
    with waiters.one() as waiter, waiters.one() as other:
        waiter.sent(b"1")
        waiter.sent(b"2")
        other.sent(b"3")
        waiters.note(b"9", Pong(None, 9.0))
        waiters.note(b"2", Pong(None, 2.0))
        waiters.note(b"1", Pong(None, 1.0))
        assert (await waiter.answer).rtt_s == 2.0
        assert not other.answer.done()
    waiters.note(b"3", Pong(None, 3.0))
    assert not other.answer.done(), "who left is told nothing"
    assert not waiters._waiting


async def test_what_is_waited_for_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "WAITERS_MAX", 3)
    waiters = Waiters()
    with waiters.one() as waiter:
        for number in range(10):
            waiter.sent(bytes([number]))
        assert len(waiters._waiting) == 3
    assert not waiters._waiting
