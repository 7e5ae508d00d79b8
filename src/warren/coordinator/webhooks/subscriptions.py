"""Decisions about webhooks: made, changed, tried; pure. They raise Refused."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from ipaddress import ip_address
from urllib.parse import urlsplit

from msgspec.structs import replace

from warren.coordinator.auth.authkeys import random_text
from warren.coordinator.delta import Delta
from warren.coordinator.names import is_host_name
from warren.coordinator.records import WebhookRecord
from warren.coordinator.refusal import Conflict, NotFound, Refused
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.webhooks.events import CATEGORIES, KINDS, TEST, Event
from warren.coordinator.webhooks.messages import PROVIDERS
from warren.coordinator.webhooks.outbox import waiting
from warren.edge.entropy import Entropy
from warren.nat.turn.reach import Reach

MAX_WEBHOOKS = 20
SECRET_PREFIX = "warren-webhook-"  # noqa: S105
_ID_LENGTH, _SECRET_LENGTH = 12, 33
_MAX_URL_CHARACTERS = 1000


def make(
    snapshot: Snapshot,
    url: str,
    provider: str,
    subscriptions: Collection[str],
    *,
    creator: str,
    wall: datetime,
    entropy: Entropy,
    reach: Reach,
) -> WebhookRecord:
    """Return a new webhook with its secret. reach: where this server may post to."""
    if len(snapshot.webhooks) >= MAX_WEBHOOKS:
        raise Conflict(f"there can be {MAX_WEBHOOKS} webhooks; remove one first")
    if provider not in PROVIDERS:
        known = ", ".join(name for name in PROVIDERS if name)
        raise Refused(f"providerType is {provider[:40]!r}; it is empty, or one of {known}")
    check_url(url, reach)
    hook_id = random_text(_ID_LENGTH, entropy)
    return WebhookRecord(
        id=hook_id,
        url=url,
        provider=provider,
        subscriptions=_subscriptions(subscriptions),
        secret=_secret(hook_id, entropy),
        creator=creator,
        created=wall,
        modified=wall,
    )


def find(snapshot: Snapshot, hook_id: str) -> WebhookRecord:
    """Return a webhook."""
    hook = snapshot.webhooks.get(hook_id)
    if hook is None:
        raise NotFound(f"there is no webhook {hook_id[:80]!r}")
    return hook


def subscribe(hook: WebhookRecord, subscriptions: Collection[str], wall: datetime) -> WebhookRecord:
    """Replace what a webhook is told of."""
    return replace(hook, subscriptions=_subscriptions(subscriptions), modified=wall)


def rotate(hook: WebhookRecord, wall: datetime, entropy: Entropy) -> WebhookRecord:
    """Give a webhook another secret; what is sent from now on is signed with it."""
    return replace(hook, secret=_secret(hook.id, entropy), modified=wall)


def try_out(snapshot: Snapshot, hook: WebhookRecord, wall: datetime) -> Delta:
    """Send a webhook an event that tells of nothing."""
    event = Event(TEST, wall, "This is a test event")
    return waiting(snapshot, Delta(), [event], wall, only=hook.id)


def check_url(url: str, reach: Reach) -> None:
    """Look at an address as far as that goes without asking a resolver. Raises Refused."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if (
        not host
        or parts.scheme not in ("https", "http")
        or parts.username is not None
        or port == 0
        or len(url) > _MAX_URL_CHARACTERS
        or not url.isascii()
        or not url.isprintable()
        or " " in url
    ):
        raise Refused(f"{url[:80]!r} is not a URL like https://hooks.example.com/warren")
    try:
        ip = ip_address(host)
    except ValueError:
        if not is_host_name(host):
            raise Refused(f"{host[:80]!r} is not the name of a host") from None
        return
    if not reach.permits(ip):
        raise Refused(
            f"{ip} is not an address of the public network; whoever runs the server may allow it "
            "with --webhook-allow"
        )


def _subscriptions(wished: Collection[str]) -> tuple[str, ...]:
    if not wished:
        raise Refused("say what to be told of: subscriptions is empty")
    known = KINDS | CATEGORIES.keys()
    if strange := sorted(set(wished) - known):
        raise Refused(f"{strange[0][:60]!r} is not an event; there are {', '.join(sorted(known))}")
    return tuple(sorted(set(wished)))


def _secret(hook_id: str, entropy: Entropy) -> str:
    return f"{SECRET_PREFIX}{hook_id}-{random_text(_SECRET_LENGTH, entropy)}"
