"""Operations on webhooks."""

from __future__ import annotations

from collections.abc import Callable

from warren.coordinator.api import shapes
from warren.coordinator.api.operation import Call, Operation
from warren.coordinator.delta import Delta
from warren.coordinator.records import WebhookRecord
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.webhooks import subscriptions
from warren.coordinator.webhooks.sender import LOOKED


async def webhooks(call: Call) -> shapes.Webhooks:
    """List webhooks, without their secrets."""
    ordered = sorted(call.snapshot.webhooks.values(), key=lambda hook: (hook.created, hook.id))
    return shapes.Webhooks(webhooks=[_show(call, hook) for hook in ordered])


async def one(call: Call) -> shapes.Webhook:
    """Return a webhook, without its secret."""
    return _show(call, subscriptions.find(call.snapshot, call.path["webhook"]))


async def create(call: Call) -> shapes.Webhook:
    """Make a webhook; the answer has the secret that signs what is sent."""
    wish: shapes.NewWebhook = call.body
    wall = call.context.clock.wall()

    def decide(snapshot: Snapshot) -> tuple[Delta, WebhookRecord]:
        hook = subscriptions.make(
            snapshot,
            wish.endpoint_url,
            wish.provider_type,
            wish.subscriptions,
            creator=call.by.name,
            wall=wall,
            entropy=call.context.entropy,
            reach=call.context.reach,
        )
        # The first one hears of nothing that was before it.
        looked = {} if snapshot.webhooks else {LOOKED: wall.isoformat()}
        return Delta(webhooks=(hook,), settings=looked), hook

    return _show(call, await call.commit(decide), secret=True)


async def subscribe(call: Call) -> shapes.Webhook:
    """Replace what a webhook is told of."""
    wished, wall = call.body.subscriptions, call.context.clock.wall()
    return await _change(call, lambda hook: subscriptions.subscribe(hook, wished, wall))


async def rotate(call: Call) -> shapes.Webhook:
    """Give a webhook another secret; the answer has it, and the old one signs nothing more."""
    wall, entropy = call.context.clock.wall(), call.context.entropy
    return await _change(call, lambda hook: subscriptions.rotate(hook, wall, entropy), secret=True)


async def test(call: Call) -> object:
    """Send a webhook a test event, soon."""
    wall = call.context.clock.wall()

    def decide(snapshot: Snapshot) -> tuple[Delta, None]:
        hook = subscriptions.find(snapshot, call.path["webhook"])
        return subscriptions.try_out(snapshot, hook, wall), None

    await call.commit(decide)
    return {}


async def delete(call: Call) -> object:
    """Remove a webhook, with what still waits for it."""

    def decide(snapshot: Snapshot) -> tuple[Delta, None]:
        hook = subscriptions.find(snapshot, call.path["webhook"])
        return Delta(removed_webhooks=(hook.id,)), None

    await call.commit(decide)
    return {}


async def _change(
    call: Call, change: Callable[[WebhookRecord], WebhookRecord], secret: bool = False
) -> shapes.Webhook:
    def decide(snapshot: Snapshot) -> tuple[Delta, WebhookRecord]:
        hook = change(subscriptions.find(snapshot, call.path["webhook"]))
        return Delta(webhooks=(hook,)), hook

    return _show(call, await call.commit(decide), secret)


def _show(call: Call, hook: WebhookRecord, secret: bool = False) -> shapes.Webhook:
    return shapes.Webhook(
        endpoint_id=hook.id,
        endpoint_url=hook.url,
        provider_type=hook.provider,
        creator_login_name=hook.creator,
        created=hook.created,
        last_modified=hook.modified,
        subscriptions=list(hook.subscriptions),
        secret=hook.secret if secret else "",
        waiting=sum(one.webhook_id == hook.id for one in call.snapshot.deliveries.values()),
        problem=call.context.trouble(hook.id),
    )


_ALL, _ONE = "/tailnet/{tailnet}/webhooks", "/webhooks/{webhook}"
_READ, _WRITE = "webhooks:read", "webhooks"
OPERATIONS = (
    Operation("GET", _ALL, _READ, "List webhooks", webhooks, gives=shapes.Webhooks),
    Operation("POST", _ALL, _WRITE, "Make a webhook", create, shapes.NewWebhook, shapes.Webhook),
    Operation("GET", _ONE, _READ, "Return a webhook", one, gives=shapes.Webhook),
    Operation(
        "PATCH",
        _ONE,
        _WRITE,
        "Change what a webhook is told of",
        subscribe,
        shapes.Subscriptions,
        shapes.Webhook,
    ),
    Operation("DELETE", _ONE, _WRITE, "Remove a webhook", delete),
    Operation("POST", f"{_ONE}/test", _WRITE, "Send a test event", test, status=202),
    Operation(
        "POST", f"{_ONE}/rotate", _WRITE, "Give it another secret", rotate, gives=shapes.Webhook
    ),
)
