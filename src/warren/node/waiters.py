"""Who waits for which answer: to a ping by its transaction id, to a probe by its nonce."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from warren.node.turn_peers import TurnPath
from warren.paths.machine import Via
from warren.paths.peer_relay.client import Session

WAITERS_MAX = 4096


class Pong(NamedTuple):
    """The answer to a ping."""

    via: Via | Session | TurnPath | None
    rtt_s: float


class Waiter:
    """Waits for the first answer to any of the things that it sent."""

    def __init__(self, waiting: dict[bytes, Waiter]) -> None:
        self._waiting = waiting
        self._tokens: list[bytes] = []
        self.answer: asyncio.Future[Pong] = asyncio.get_running_loop().create_future()

    def sent(self, token: bytes) -> None:
        """Something left that an answer will name. Beyond a bound it is not waited for."""
        if len(self._waiting) < WAITERS_MAX:
            self._waiting[token] = self
            self._tokens.append(token)

    def leave(self) -> None:
        """Wait no longer."""
        for token in self._tokens:
            self._waiting.pop(token, None)


class Waiters:
    """All that is waited for. Lives on one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, Waiter] = {}

    @contextmanager
    def one(self) -> Iterator[Waiter]:
        """Let somebody wait while the block lasts."""
        waiter = Waiter(self._waiting)
        try:
            yield waiter
        finally:
            waiter.leave()

    def note(self, token: bytes, pong: Pong) -> None:
        """An answer came; the first one counts, and one that nobody waits for does not."""
        waiter = self._waiting.get(token)
        if waiter is not None and not waiter.answer.done():
            waiter.answer.set_result(pong)
