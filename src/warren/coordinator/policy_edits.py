"""Replacing the policy of a running server, and questions about others, beside its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import TypeVar

from warren.coordinator import policies
from warren.coordinator.audit import Actor
from warren.coordinator.delta import Delta
from warren.coordinator.records import PolicyRecord
from warren.coordinator.refusal import Busy
from warren.coordinator.registry import Registry
from warren.coordinator.snapshot import Snapshot
from warren.edge.aside import run_aside

_T = TypeVar("_T")
MAX_WAITING = 8


class Questions:
    """Works on policies that somebody asks about: a large one takes seconds.

    One at a time, so that who may only look does not take the processor from everybody else.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)
        self._asked = 0

    async def answer(self, work: Callable[[], _T]) -> _T:
        """Do the work of one in a thread of its own; raises what it raises, and Busy."""
        if self._asked >= MAX_WAITING:
            raise Busy("too many policies are being looked at; ask again in a few seconds")
        self._asked += 1
        try:
            async with self._turn:
                return await run_aside(work)
        finally:
            self._asked -= 1


async def edit_policy(
    registry: Registry, text: str, author: str, wall: datetime, edited: str | None, by: Actor
) -> PolicyRecord:
    """Check and compile a policy beside the loop, then put it in force.

    It is checked for the network as it is now; what joins meanwhile is as what joins just after.
    Raises PolicyRefused, PolicyChanged and StoreProblem; then the old one stays.
    """
    now = registry.snapshot
    policies.check_edited(now, edited)
    compiled = await run_aside(partial(policies.check_and_compile, now, text, wall))

    def decide(snapshot: Snapshot) -> tuple[Delta, PolicyRecord]:
        delta = policies.put_policy(snapshot, text, author, wall, edited, compiled)
        return delta, delta.policies[0]

    return await registry.commit(decide, by)
