"""Replacing the policy of a running server, and trying one: work of seconds, beside the loop."""

from __future__ import annotations

from datetime import datetime
from functools import partial

from warren.coordinator import policies
from warren.coordinator.audit import Actor
from warren.coordinator.delta import Delta
from warren.coordinator.records import PolicyRecord
from warren.coordinator.registry import Registry
from warren.coordinator.snapshot import Snapshot
from warren.edge.aside import run_aside


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


async def try_policy(registry: Registry, text: str) -> None:
    """Check a policy for the network as it is, and run its tests. Raises PolicyRefused."""
    await registry.beside(partial(policies.check_policy, registry.snapshot, text))
