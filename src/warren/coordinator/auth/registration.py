"""One RegisterRequest, decided: every flow of PROTOCOL §2.8, pure.

The order of the questions is the protocol: whose key is it, is it a goodbye, is the key over,
does it bring an auth key, is it known, does it wait for an administrator.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from msgspec import structs

from warren.coordinator import members
from warren.coordinator.auth import authkeys
from warren.coordinator.change import Facet
from warren.coordinator.delta import Delta
from warren.coordinator.names import is_tag
from warren.coordinator.policies import may_tag
from warren.coordinator.records import AuthKeyRecord, NodeRecord, PendingRecord
from warren.coordinator.refusal import NotFound, Refused
from warren.coordinator.settings import Settings
from warren.coordinator.snapshot import Snapshot
from warren.edge.entropy import Entropy
from warren.keys import MachinePublic
from warren.netmap.register import ZERO_TIME, Login, RegisterRequest, RegisterResponse, User

# So many machines may wait at once; each costs a row and some kilobytes of host info.
MAX_PENDING = 1000
_PENDING_ID_LENGTH = 24


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What to write, what to answer, and whose approval to wait for before answering.

    wrong_key: the request had an auth key that nobody gave out.
    """

    response: RegisterResponse
    delta: Delta | None = None
    waits_for: str = ""
    wrong_key: bool = False


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What a decision needs beside the request."""

    snapshot: Snapshot
    settings: Settings
    wall: datetime
    entropy: Entropy


def register(desk: Desk, machine: MachinePublic, request: RegisterRequest) -> Outcome:
    """Decide on a request of the machine that the Noise session proved."""
    try:
        return _register(desk, machine, request)
    except Refused as refusal:
        return Outcome(
            response=RegisterResponse(error=str(refusal)),
            wrong_key=isinstance(refusal, authkeys.UnknownKey),
        )


def _register(desk: Desk, machine: MachinePublic, request: RegisterRequest) -> Outcome:
    node = desk.snapshot.node_with_key(request.node_key)
    if request.node_key.is_zero:
        raise Refused("the request names no node key")
    if node is not None and node.machine_key != machine:
        raise Refused("this node key belongs to another machine")
    if ZERO_TIME < request.expiry <= desk.wall:
        # Even with an auth key attached: a goodbye never makes a node (PROTOCOL §14.14).
        return _log_out(desk, node)
    if node is not None and node.expired(desk.wall):
        return Outcome(response=RegisterResponse(node_key_expired=True))
    if node is not None:
        return _known(desk, node, request)
    previous = _previous(desk, machine, request)
    if request.auth is not None and request.auth.auth_key:
        return _with_auth_key(desk, machine, request, previous)
    if (moved := _moved_here(desk, machine)) is not None:
        return _move(desk, moved, request)
    if request.auth is not None and request.auth.oauth2_token:
        raise Refused("this server takes auth keys and log-ins, not OAuth tokens")
    return _interactive(desk, machine, request)


def approve(
    desk: Desk, pending_id: str, user_id: int, tags: tuple[str, ...] | None
) -> tuple[Delta, int]:
    """Admit a waiting machine for a user; return the delta and the node's id. Raises Refused.

    tags: None grants those that the machine asked for.
    """
    pending = find_pending(desk, pending_id)
    members.check_active(desk.snapshot, user_id)
    granted = tuple(sorted(pending.hostinfo.request_tags)) if tags is None else tags
    for text in granted:
        if not is_tag(text):
            raise Refused(f"{text!r} is not a tag; write it like tag:server")
    previous = _before(desk, pending, user_id, granted)
    return _admit_pending(desk, pending, previous, user_id, granted, authorized=True)


def join(desk: Desk, pending_id: str, user_id: int) -> tuple[Delta, int]:
    """Admit a waiting machine because its user says so, having logged in; as `approve` returns.

    It keeps address and name if it was theirs before, or nobody's. An administrator's approval,
    where that is needed, it still waits for. Raises Refused.
    """
    pending = find_pending(desk, pending_id)
    members.check_active(desk.snapshot, user_id)
    tags = tuple(sorted(set(pending.hostinfo.request_tags)))
    for tag in tags:
        if not is_tag(tag) or not may_tag(desk.snapshot, user_id, tag):
            raise Refused(f"the policy does not let you give a machine {tag[:64]!r}")
    previous = _before(desk, pending, user_id, tags)
    authorized = not desk.settings.approve_machines or (
        previous is not None and previous.authorized
    )
    return _admit_pending(desk, pending, previous, user_id, tags, authorized=authorized)


def reject(desk: Desk, pending_id: str) -> Delta:
    """Turn a waiting machine away; it is kept, so that it hears so. Raises NotFound."""
    pending = find_pending(desk, pending_id)
    return Delta(pending=(structs.replace(pending, rejected=True),))


def find_pending(desk: Desk, pending_id: str) -> PendingRecord:
    """Return the machine that waits under this id. Raises NotFound."""
    pending = desk.snapshot.pending.get(pending_id)
    if pending is None or pending.rejected or pending.expiry <= desk.wall:
        raise NotFound(f"no machine waits under {pending_id!r}; it may have given up")
    return pending


def _log_out(desk: Desk, node: NodeRecord | None) -> Outcome:
    response = RegisterResponse(node_key_expired=True)
    if node is None:
        return Outcome(response=response)
    if node.ephemeral:
        return Outcome(response=response, delta=members.removed_node(node, "logged out"))
    if node.expired(desk.wall):
        return Outcome(response=response)
    return Outcome(response=response, delta=members.expire(node, desk.wall))


def _known(desk: Desk, node: NodeRecord, request: RegisterRequest) -> Outcome:
    facts: dict[str, Any] = {"version": request.version}
    if request.hostinfo.hostname:
        facts["hostinfo"] = request.hostinfo
    delta = members.observed(desk.snapshot, node, desk.wall, _without_forgetting(node, facts))
    current = delta.nodes[0] if delta else node
    sooner = request.expiry > desk.wall and (
        node.key_expiry is None or request.expiry < node.key_expiry
    )
    if sooner:
        shorter = members.changed_node(
            current, Facet.MEMBERSHIP, "expires sooner", key_expiry=request.expiry
        )
        change = shorter.change.merge(delta.change) if delta else shorter.change
        delta = _with(shorter, change=change)
    return Outcome(response=_welcome(desk, current), delta=delta)


def _moved_here(desk: Desk, machine: MachinePublic) -> NodeRecord | None:
    """An imported machine that never spoke with this server, if it is the one with this key.

    A client that is pointed at another server makes a new node key. Its machine key, which the
    Noise session proved, is the one that the other server had checked.
    """
    known = [node for node in desk.snapshot.nodes_of_machine(machine) if node.never_spoke]
    return known[0] if len(known) == 1 and not known[0].expired(desk.wall) else None


def _move(desk: Desk, node: NodeRecord, request: RegisterRequest) -> Outcome:
    """Let it in with its new node key, for as long as the old one would have been good."""
    delta = _admit(
        desk,
        node,
        node_key=request.node_key,
        hostinfo=request.hostinfo,
        version=request.version,
    )
    return Outcome(response=_welcome(desk, delta.nodes[0]), delta=delta)


def _with_auth_key(
    desk: Desk, machine: MachinePublic, request: RegisterRequest, previous: NodeRecord | None
) -> Outcome:
    assert request.auth is not None
    key = authkeys.check(request.auth.auth_key, desk.snapshot.auth_keys, desk.wall)
    members.check_active(desk.snapshot, key.user_id)
    asked = set(request.hostinfo.request_tags)
    unknown = [
        tag
        for tag in sorted(asked - set(key.tags))
        if key.tags or not is_tag(tag) or not may_tag(desk.snapshot, key.user_id, tag)
    ]
    # An untagged key is its user's: they may ask for the tags that the policy says they own.
    tags = key.tags or tuple(sorted(asked))
    if unknown:
        raise Refused(f"the auth key does not allow {', '.join(unknown)}")
    if previous is None or _is_anothers(previous, key.user_id, tags):
        previous = _same_owner(desk, machine, key.user_id, tags)
    already_approved = previous is not None and previous.authorized
    delta = _admit(
        desk,
        previous,
        user_id=key.user_id,
        machine_key=machine,
        node_key=request.node_key,
        hostinfo=request.hostinfo,
        version=request.version,
        ephemeral=key.ephemeral or request.ephemeral,
        tags=tags,
        authorized=not desk.settings.approve_machines or key.pre_approved or already_approved,
        auth_key_id=key.id,
        key_expiry=_expiry(desk, tags),
    )
    used: AuthKeyRecord = structs.replace(key, uses=key.uses + 1)
    return Outcome(response=_welcome(desk, delta.nodes[0]), delta=_with(delta, auth_keys=(used,)))


def _interactive(desk: Desk, machine: MachinePublic, request: RegisterRequest) -> Outcome:
    followed = request.followup.rstrip("/").rpartition("/")[2]
    waiting = [
        pending
        for pending in desk.snapshot.pending.values()
        if pending.machine_key == machine and pending.node_key == request.node_key
    ]
    for pending in waiting:
        if pending.rejected and pending.id == followed:
            raise Refused("an administrator turned this machine away")
        if not pending.rejected and pending.expiry > desk.wall:
            return Outcome(
                response=RegisterResponse(auth_url=auth_url(desk.settings, pending.id)),
                waits_for=pending.id if pending.id == followed else "",
            )
    stale = tuple(p.id for p in desk.snapshot.pending.values() if p.expiry <= desk.wall)
    stale += tuple(pending.id for pending in waiting if pending.id not in stale)
    if len(desk.snapshot.pending) - len(stale) >= MAX_PENDING:
        raise Refused("too many machines wait for approval here; try again later")
    pending = PendingRecord(
        id=authkeys.random_text(_PENDING_ID_LENGTH, desk.entropy),
        machine_key=machine,
        node_key=request.node_key,
        old_node_key=request.old_node_key,
        hostinfo=request.hostinfo,
        version=request.version,
        ephemeral=request.ephemeral,
        created=desk.wall,
        expiry=desk.wall + desk.settings.pending_life,
    )
    return Outcome(
        response=RegisterResponse(auth_url=auth_url(desk.settings, pending.id)),
        delta=Delta(pending=(pending,), removed_pending=stale),
    )


def auth_url(settings: Settings, pending_id: str) -> str:
    """Return the page on which a waiting machine's user logs in, or an administrator is told of."""
    return f"{settings.url}/register/{pending_id}"


def _previous(desk: Desk, machine: MachinePublic, request: RegisterRequest) -> NodeRecord | None:
    """The node whose key is being replaced: it keeps id, address and name."""
    if request.old_node_key.is_zero:
        return None
    old = desk.snapshot.node_with_key(request.old_node_key)
    if old is not None and old.machine_key != machine:
        raise Refused("the old node key belongs to another machine")
    return old


def _before(
    desk: Desk, pending: PendingRecord, user_id: int, tags: tuple[str, ...]
) -> NodeRecord | None:
    """The node that a waiting machine was, if a log-in of this user can be that node's."""
    old = desk.snapshot.node_with_key(pending.old_node_key)
    if (
        old is not None
        and old.machine_key == pending.machine_key
        and not _is_anothers(old, user_id, tags)
    ):
        return old
    return _same_owner(desk, pending.machine_key, user_id, tags)


def _is_anothers(node: NodeRecord, user_id: int, tags: tuple[str, ...]) -> bool:
    """Whether it was one person's and is to be another's: that is another node in the network.

    A node with tags is nobody's, so it may become anybody's, and anybody's may get tags.
    """
    return node.user_id != user_id and not node.tags and not tags


def _same_owner(
    desk: Desk, machine: MachinePublic, user_id: int, tags: tuple[str, ...]
) -> NodeRecord | None:
    """The node that this machine was before it logged out and forgot its old key."""
    for node in desk.snapshot.nodes_of_machine(machine):
        if _is_of(node, user_id, tags):
            return node
    return None


def _is_of(node: NodeRecord, user_id: int, tags: tuple[str, ...]) -> bool:
    """Whether a log-in of this user, with these tags, could be this node's again."""
    return bool(node.tags) == bool(tags) and (bool(tags) or node.user_id == user_id)


def _admit_pending(
    desk: Desk,
    pending: PendingRecord,
    previous: NodeRecord | None,
    user_id: int,
    tags: tuple[str, ...],
    *,
    authorized: bool,
) -> tuple[Delta, int]:
    delta = _admit(
        desk,
        previous,
        user_id=user_id,
        machine_key=pending.machine_key,
        node_key=pending.node_key,
        hostinfo=pending.hostinfo,
        version=pending.version,
        ephemeral=pending.ephemeral,
        tags=tags,
        authorized=authorized,
        auth_key_id=None,
        key_expiry=_expiry(desk, tags),
    )
    return _with(delta, removed_pending=(pending.id,)), delta.nodes[0].id


def _admit(desk: Desk, previous: NodeRecord | None, **fields: Any) -> Delta:
    if previous is None:
        return members.new_node(desk.snapshot, desk.entropy, created=desk.wall, **fields)
    renewed = members.changed_node(
        previous, Facet.MEMBERSHIP | Facet.KEYS | Facet.OWNER | Facet.HOST, "came back", **fields
    )
    described = members.observed(
        desk.snapshot, previous, desk.wall, {"hostinfo": fields["hostinfo"]}
    )
    if described is None:
        return renewed
    node = structs.replace(renewed.nodes[0], name=described.nodes[0].name)
    return _with(renewed, nodes=(node,), change=renewed.change.merge(described.change))


def _expiry(desk: Desk, tags: tuple[str, ...]) -> datetime | None:
    life = desk.settings.key_expiry
    return None if tags or life is None else desk.wall + life


def _without_forgetting(node: NodeRecord, facts: dict[str, Any]) -> dict[str, Any]:
    """A registration comes before the network was measured: keep what was known of it."""
    hostinfo = facts.get("hostinfo")
    if hostinfo is not None and hostinfo.net_info is None and node.hostinfo.net_info is not None:
        facts["hostinfo"] = structs.replace(hostinfo, net_info=node.hostinfo.net_info)
    return facts


def _welcome(desk: Desk, node: NodeRecord) -> RegisterResponse:
    user = desk.snapshot.users[node.user_id]
    return RegisterResponse(
        user=User(id=user.id, display_name=user.display_name, created=user.created),
        login=Login(
            id=user.id,
            provider="warren",
            login_name=user.name,
            display_name=user.display_name,
        ),
        machine_authorized=node.authorized,
    )


def _with(delta: Delta, **fields: Any) -> Delta:
    return Delta(**{**delta.__dict__, **fields})
