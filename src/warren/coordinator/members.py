"""Decisions about nodes and users, pure: a snapshot in, a delta out. They raise Refused."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address
from typing import Any

from msgspec.structs import replace

from warren.coordinator import addresses
from warren.coordinator.auth.authkeys import random_text
from warren.coordinator.change import Change, Facet
from warren.coordinator.delta import Delta
from warren.coordinator.names import dns_label, is_tag, is_user_name, unique_label
from warren.coordinator.policies import ip_pools
from warren.coordinator.records import NodeRecord, UserRecord
from warren.coordinator.refusal import Conflict, NotFound, Refused
from warren.coordinator.roles import MEMBER, OWNER, ROLES
from warren.coordinator.snapshot import Snapshot
from warren.edge.entropy import Entropy

LAST_ID = "last_id"
LAST_V4 = "last_ipv4"
MAX_ENDPOINTS = 64


def next_id(snapshot: Snapshot) -> int:
    """Return an id that was never given out before."""
    return int(snapshot.settings.get(LAST_ID, "0")) + 1


def create_user(snapshot: Snapshot, name: str, display_name: str, wall: datetime) -> Delta:
    """Add a user; the first is the owner."""
    if not is_user_name(name):
        raise Refused(f"{name!r} is not a user name; use an e-mail address or a word")
    if snapshot.user_named(name):
        raise Conflict(f"there is a user {name!r} already")
    user = UserRecord(
        id=next_id(snapshot),
        name=name,
        display_name=display_name or name,
        created=wall,
        role=MEMBER if snapshot.users else OWNER,
    )
    return Delta(users=(user,), settings={LAST_ID: str(user.id)})


def delete_user(snapshot: Snapshot, name: str, *, with_nodes: bool = False) -> Delta:
    """Remove a user with their keys, tokens and invites; one who owns nodes only with those.

    There is always an owner.
    """
    user = find_user(snapshot, name)
    owned = tuple(node.id for node in snapshot.nodes.values() if node.user_id == user.id)
    if owned and not with_nodes:
        plural = "s" if len(owned) > 1 else ""
        raise Conflict(f"{user.name} still owns {len(owned)} node{plural}; delete those first")
    _check_not_last_owner(snapshot, user)
    keys = tuple(key.id for key in snapshot.auth_keys.values() if key.user_id == user.id)
    tokens = tuple(t.id for t in snapshot.credentials.values() if t.user_id == user.id)
    invites = tuple(invite.id for invite in snapshot.invites.values() if invite.user_id == user.id)
    return Delta(
        removed_users=(user.id,),
        removed_nodes=owned,
        removed_auth_keys=keys,
        removed_credentials=tokens,
        removed_invites=invites,
        removed_ssh_passes=_ssh_passes(snapshot, user),
        change=Change(dict.fromkeys(owned, Facet.MEMBERSHIP), why=frozenset({"user deleted"})),
    )


def suspend(snapshot: Snapshot, user: UserRecord, wall: datetime) -> Delta:
    """Shut a user out: their machines' keys end, and nothing of theirs opens anything.

    Tagged machines are nobody's and stay. There is always an owner who is not suspended.
    """
    _check_not_last_owner(snapshot, user)
    cut = tuple(
        replace(node, key_expiry=wall)
        for node in snapshot.nodes.values()
        if node.user_id == user.id and not node.tags and not node.expired(wall)
    )
    invites = tuple(invite.id for invite in snapshot.invites.values() if invite.user_id == user.id)
    facets = dict.fromkeys((node.id for node in cut), Facet.MEMBERSHIP)
    return Delta(
        users=(replace(user, suspended=True),),
        nodes=cut,
        removed_invites=invites,
        removed_ssh_passes=_ssh_passes(snapshot, user),
        change=Change(facets, why=frozenset({"user suspended"})),
    )


def _ssh_passes(snapshot: Snapshot, user: UserRecord) -> tuple[str, ...]:
    return tuple(one.id for one in snapshot.ssh_passes.values() if one.user_id == user.id)


def restore(user: UserRecord) -> Delta:
    """Let a suspended user in again; each of their machines has to log in."""
    return Delta(users=(replace(user, suspended=False),))


def approve_user(user: UserRecord) -> Delta:
    """Let a user in who has waited for it."""
    return Delta(users=(replace(user, approved=True),))


def check_active(snapshot: Snapshot, user_id: int) -> None:
    """Go on only if the user is neither suspended nor waits for approval. Raises Refused."""
    user = snapshot.users[user_id]
    if user.suspended:
        raise Refused(f"the user {user.name} is suspended; an administrator can restore them")
    if not user.approved:
        raise Refused(f"the user {user.name} waits for an administrator to approve them")


def set_role(snapshot: Snapshot, user: UserRecord, role: str) -> Delta:
    """Give a user another role. There is always an owner."""
    if role not in ROLES:
        raise Refused(f"{role!r} is no role; there are {', '.join(ROLES)}")
    if role != OWNER:
        _check_not_last_owner(snapshot, user)
    return Delta(
        users=(replace(user, role=role),),
        change=Change(everything=True, why=frozenset({"role"})),
    )


def _check_not_last_owner(snapshot: Snapshot, user: UserRecord) -> None:
    others = (u for u in snapshot.users.values() if u.role == OWNER and u.is_active)
    if user.role == OWNER and all(other.id == user.id for other in others):
        raise Conflict(f"{user.name} is the only owner; make another user owner first")


def find_user(snapshot: Snapshot, name: str) -> UserRecord:
    """Return the user of this name or number."""
    user = snapshot.user_named(name)
    if user is None and name.isascii() and name.isdecimal():
        user = snapshot.users.get(int(name[:18]))
    if user is None:
        raise NotFound(f"there is no user {name!r}")
    return user


def find_node(snapshot: Snapshot, wanted: str) -> NodeRecord:
    """Return the node of this name, id, stable id or address."""
    text = wanted.strip().lower()
    number = int(text[:18]) if text.isascii() and text.isdecimal() else 0
    if number in snapshot.nodes:
        return snapshot.nodes[number]
    label = text.rstrip(".").split(".", 1)[0]
    for node in snapshot.nodes.values():
        if text in (node.stable_id.lower(), str(node.ipv4), str(node.ipv6)) or node.name == label:
            return node
    raise NotFound(f"there is no node {wanted!r}")


def new_node(snapshot: Snapshot, entropy: Entropy, **known: Any) -> Delta:
    """Add a node: ids, name and addresses are found here, `known` has the rest.

    known: user_id, machine_key, node_key, hostinfo, created and whatever else a NodeRecord has.
    Raises PoolExhausted.
    """
    ipv4, last = _free_address(snapshot, known["user_id"], known.get("tags", ()))
    node = NodeRecord(
        id=next_id(snapshot),
        stable_id="n" + random_text(16, entropy),
        ipv4=ipv4,
        ipv6=addresses.v6_beside(ipv4),
        name=_free_name(snapshot, known["hostinfo"].hostname, 0),
        **known,
    )
    return Delta(
        nodes=(node,),
        settings={LAST_ID: str(node.id), last: str(ipv4)},
        change=Change.of(node.id, Facet.MEMBERSHIP, "joined"),
    )


def _free_address(
    snapshot: Snapshot, user_id: int, tags: Collection[str]
) -> tuple[IPv4Address, str]:
    """Return a new node's address, and the setting by which the next one goes on from it.

    From the first of its policy's pools that has any left, or else from all.
    """
    pools = ip_pools(snapshot, user_id, tags)
    for pool in pools or [addresses.V4_POOL]:
        name = f"{LAST_V4}.{pool}" if pools else LAST_V4
        last = snapshot.settings.get(name)
        with suppress(addresses.PoolExhausted):
            return addresses.allocate(
                snapshot.addresses, IPv4Address(last) if last else None, pool
            ), name
    names = ", ".join(str(pool) for pool in pools or [addresses.V4_POOL])
    raise addresses.PoolExhausted(f"every address of {names} is in use")


def changed_node(node: NodeRecord, facets: Facet, why: str, **fields: Any) -> Delta:
    """Replace fields of one node."""
    return Delta(nodes=(replace(node, **fields),), change=Change.of(node.id, facets, why))


def removed_node(node: NodeRecord, why: str) -> Delta:
    """Remove a node."""
    return Delta(removed_nodes=(node.id,), change=Change.of(node.id, Facet.MEMBERSHIP, why))


def rename(snapshot: Snapshot, node: NodeRecord, name: str) -> Delta:
    """Give a node a name of an administrator's choice; empty: its host name again."""
    if not name:
        label = _free_name(snapshot, node.hostinfo.hostname, node.id)
        return changed_node(node, Facet.NAME, "renamed", name=label, renamed=False)
    if dns_label(name) != name:
        raise Refused(f"{name!r} is not a DNS label; {dns_label(name)!r} would be one")
    if any(other.name == name and other.id != node.id for other in snapshot.nodes.values()):
        raise Conflict(f"another node is called {name!r}")
    return changed_node(node, Facet.NAME, "renamed", name=name, renamed=True)


def tag(node: NodeRecord, tags: Collection[str], wall: datetime, life: timedelta | None) -> Delta:
    """Replace a node's tags. A tagged node's key does not expire; an untagged one's does."""
    for text in tags:
        if not is_tag(text):
            raise Refused(f"{text!r} is not a tag; write it like tag:server")
    new = tuple(sorted(set(tags)))
    expiry = node.key_expiry
    if bool(new) != bool(node.tags) and not node.expired(wall):
        expiry = None if new or life is None else wall + life
    return changed_node(node, Facet.OWNER | Facet.MEMBERSHIP, "tagged", tags=new, key_expiry=expiry)


def without_expired(node: NodeRecord, wall: datetime) -> NodeRecord:
    """Return a node without the attributes whose time is over; the same if there are none."""
    over = {name for name, when in node.attribute_expiries.items() if when <= wall}
    if not over:
        return node
    return replace(
        node,
        attributes={name: v for name, v in node.attributes.items() if name not in over},
        attribute_expiries={n: t for n, t in node.attribute_expiries.items() if n not in over},
    )


def expire(node: NodeRecord, wall: datetime) -> Delta:
    """End a node's key now."""
    return changed_node(node, Facet.MEMBERSHIP, "expired", key_expiry=wall)


def observed(
    snapshot: Snapshot, node: NodeRecord, wall: datetime, facts: dict[str, Any]
) -> Delta | None:
    """Take over what a node says of itself; None when it says nothing new.

    facts: any of disco_key, hostinfo, endpoints, version, online.
    """
    new = {name: value for name, value in facts.items() if getattr(node, name) != value}
    if not new:
        return None
    facets = Facet(0)
    for name, facet in (
        ("disco_key", Facet.KEYS),
        ("endpoints", Facet.PATHS),
        ("hostinfo", Facet.HOST | Facet.PATHS),
        ("version", Facet.HOST),
        ("online", Facet.PRESENCE),
    ):
        if name in new:
            facets |= facet
    renamed = "hostinfo" in new and new["hostinfo"].hostname != node.hostinfo.hostname
    if renamed and not node.renamed:
        new["name"] = _free_name(snapshot, new["hostinfo"].hostname, node.id)
        facets |= Facet.NAME
    why = "reported"
    if "online" in new:
        why, new["last_seen"] = "online" if new["online"] else "offline", wall
    return changed_node(node, facets, why, **new)


def _free_name(snapshot: Snapshot, hostname: str, node_id: int) -> str:
    return unique_label(dns_label(hostname), _NamesOfOthers(snapshot, node_id))


@dataclass(frozen=True)
class _NamesOfOthers:
    """The names that a node may not have, without going through all nodes."""

    snapshot: Snapshot
    node_id: int

    def __contains__(self, label: object) -> bool:
        holder = self.snapshot.node_named(str(label))
        return holder is not None and holder.id != self.node_id
