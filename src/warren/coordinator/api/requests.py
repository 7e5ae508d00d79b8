"""Operations on machines that wait to join, which the service's API has not: Warren's own."""

from __future__ import annotations

from collections.abc import Collection

from warren.coordinator import members
from warren.coordinator.api import shapes
from warren.coordinator.api.operation import Call, NotPermitted, Operation
from warren.coordinator.auth.flow import Registration
from warren.coordinator.refusal import Refused
from warren.coordinator.roles import covers


async def waiting(call: Call) -> shapes.DeviceRequests:
    """List machines that wait to join, the oldest first."""
    wall = call.context.clock.wall()
    found = [p for p in call.snapshot.pending.values() if not p.rejected and p.expiry > wall]
    return shapes.DeviceRequests(
        requests=[
            shapes.DeviceRequest(
                id=pending.id,
                hostname=pending.hostinfo.hostname,
                os=pending.hostinfo.os,
                requested_tags=list(pending.hostinfo.request_tags),
                created=pending.created,
                expires=pending.expiry,
                node_key=str(pending.node_key),
            )
            for pending in sorted(found, key=lambda pending: pending.created)
        ]
    )


async def approve(call: Call) -> shapes.Joined:
    """Let a machine in, for a user, perhaps with tags in place of those that it asked for."""
    wish: shapes.DeviceApproval = call.body
    user_id = _owner(call, wish.user, wish.tags)
    tags = None if wish.tags is None else tuple(sorted(set(wish.tags)))
    registration = _registration(call)
    node_id = await registration.approve(call.path["request"], user_id, tags, call.by)
    return shapes.Joined(id=str(node_id), node_id=call.snapshot.nodes[node_id].stable_id)


async def reject(call: Call) -> object:
    """Turn a machine away."""
    await _registration(call).reject(call.path["request"], call.by)
    return {}


def _owner(call: Call, name: str, tags: Collection[str] | None) -> int:
    users = call.snapshot.users
    if call.who.kind == "client":
        # A client lets in only what bears its tags, as its auth keys do.
        if not tags or not set(tags) <= set(call.who.tags):
            raise NotPermitted("an OAuth client lets machines in with its own tags only")
        return call.who.user_id
    if name:
        user = members.find_user(call.snapshot, name)
        if not tags and not covers(call.who.scopes, user.role):
            # What is reached from it is what that user reaches.
            raise NotPermitted(
                f"{user.name} may do more than you: they let their machine in by logging in"
            )
        return user.id
    if len(users) == 1 or tags:
        return call.who.user_id
    raise Refused("say for which user the machine joins")


def _registration(call: Call) -> Registration:
    assert call.context.registration is not None
    return call.context.registration


_PATH = "/tailnet/{tailnet}/device-requests"
OPERATIONS = (
    Operation(
        "GET",
        _PATH,
        "devices:core:read",
        "List machines that wait to join",
        waiting,
        gives=shapes.DeviceRequests,
    ),
    Operation(
        "POST",
        f"{_PATH}/{{request}}/approve",
        "devices:core",
        "Let a waiting machine in",
        approve,
        shapes.DeviceApproval,
        shapes.Joined,
    ),
    Operation("POST", f"{_PATH}/{{request}}/reject", "devices:core", "Turn a machine away", reject),
)
