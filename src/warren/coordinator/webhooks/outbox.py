"""What waits to be sent, per webhook: bounded in number, size and time; pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import msgspec

from warren.coordinator.audit import Actor
from warren.coordinator.delta import Delta
from warren.coordinator.records import DeliveryRecord
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.webhooks.events import Event, events_of, subscribed

MAX_WAITING, MAX_WAITING_CHARACTERS = 500, 1 << 21
"""Of one webhook; when more come, the oldest go."""
MAX_AGE = timedelta(days=1)
MAX_AT_ONCE = 50
_MAX_BYTES_AT_ONCE = 1 << 18


def with_events(before: Snapshot, delta: Delta, by: Actor, wall: datetime) -> Delta:
    """Return the delta with what it tells webhooks of. One that is removed has nothing to wait."""
    if before.webhooks:
        delta = waiting(before, delta, events_of(before, delta, by.name, wall), wall)
    gone = set(delta.removed_webhooks)
    if gone:
        left = [one.id for one in before.deliveries.values() if one.webhook_id in gone]
        kept = tuple(one for one in delta.deliveries if one.webhook_id not in gone)
        removed = (*delta.removed_deliveries, *left)
        delta = replace(delta, deliveries=kept, removed_deliveries=removed)
    return delta


def waiting(
    before: Snapshot,
    delta: Delta,
    events: Iterable[Event],
    wall: datetime,
    only: str | None = None,
) -> Delta:
    """Return the delta with these events for each webhook that subscribed, or only for one."""
    hooks = [hook for hook in before.webhooks.values() if only in (None, hook.id)]
    number = max(before.deliveries, default=0)
    new: list[DeliveryRecord] = []
    for event in events:
        content = msgspec.json.encode(event).decode()
        for hook in hooks:
            if subscribed(hook.subscriptions, event.type):
                number += 1
                new.append(DeliveryRecord(number, hook.id, wall, content))
    if not new:
        return delta
    dropped = _over(before.deliveries, new)
    return replace(
        delta,
        deliveries=(*delta.deliveries, *(one for one in new if one.id not in dropped)),
        removed_deliveries=(*delta.removed_deliveries, *(dropped & before.deliveries.keys())),
    )


def _over(known: Mapping[int, DeliveryRecord], new: list[DeliveryRecord]) -> set[int]:
    """Return the oldest of each webhook that are too many, or too large together."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    dropped = set()
    for one in sorted((*known.values(), *new), key=lambda one: one.id, reverse=True):
        count[one.webhook_id] += 1
        size[one.webhook_id] += len(one.event)
        if count[one.webhook_id] > MAX_WAITING or size[one.webhook_id] > MAX_WAITING_CHARACTERS:
            dropped.add(one.id)
    return dropped


def by_webhook(snapshot: Snapshot) -> dict[str, list[DeliveryRecord]]:
    """Return what waits for each webhook, oldest first."""
    found: dict[str, list[DeliveryRecord]] = defaultdict(list)
    for _, one in sorted(snapshot.deliveries.items()):
        if one.webhook_id in snapshot.webhooks:
            found[one.webhook_id].append(one)
    return found


def too_old(snapshot: Snapshot, wall: datetime) -> tuple[int, ...]:
    """Return what waited so long that nobody wants to hear of it any more."""
    return tuple(one.id for one in snapshot.deliveries.values() if one.created + MAX_AGE <= wall)


def next_batch(queue: list[DeliveryRecord]) -> list[DeliveryRecord]:
    """Return what goes into one request: the oldest, at least one."""
    batch: list[DeliveryRecord] = []
    size = 0
    for one in queue[:MAX_AT_ONCE]:
        size += len(one.event)
        if batch and size > _MAX_BYTES_AT_ONCE:
            break
        batch.append(one)
    return batch


def event_of(delivery: DeliveryRecord) -> Event:
    """Return the event that a delivery is of."""
    return msgspec.json.decode(delivery.event, type=Event)
