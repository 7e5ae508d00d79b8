"""The network as a policy sees it: users and machines, made from the coordinator's state."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from ipaddress import ip_network
from typing import Any, NamedTuple

from warren.coordinator.records import NodeRecord, UserRecord
from warren.coordinator.roles import OWNER
from warren.coordinator.snapshot import Snapshot
from warren.policy.logins import login_key
from warren.policy.topology import Node, Topology, User

MAX_ROUTES = 1000
"""Routes that are heard of one machine; more of them count as none."""


# Of an IPv6 address, text takes longer than all the rest of a machine.
_written = lru_cache(maxsize=1 << 16)(str)


class Network(NamedTuple):
    """The network as a policy sees it, and its parts by their ids."""

    topology: Topology
    nodes: dict[int, Node]
    users: dict[int, User]


def network_of(snapshot: Snapshot, wall: datetime | None = None) -> Network:
    """Return all users, the owner first, and all machines, oldest first.

    wall: only the machines that are in force then.
    """
    users = {number: policy_user(user) for number, user in snapshot.users.items()}
    ordered = sorted(snapshot.users.values(), key=lambda user: (user.role != OWNER, user.id))
    nodes = {
        number: policy_node(record, users)
        for number, record in sorted(snapshot.nodes.items())
        if wall is None or record.in_force(wall)
    }
    # Whose domain the network's is, nobody here decides.
    topology = Topology([users[user.id] for user in ordered], [*nodes.values()], any_domain=True)
    return Network(topology, nodes, users)


def topology_of(snapshot: Snapshot) -> Topology:
    """Return the same without ids."""
    return network_of(snapshot).topology


def policy_user(record: UserRecord) -> User:
    """Return a user as a policy sees them: by log-in name."""
    return User(record.name, record.name, record.role, frozenset(map(login_key, record.groups)))


def policy_node(record: NodeRecord, users: dict[int, User]) -> Node:
    """Return a machine as a policy sees it; its name there is its id, which never changes."""
    routable = routes_of(record.hostinfo.routable_ips)
    return Node(
        name=str(record.id),
        addresses=[_written(record.ipv4), _written(record.ipv6)],
        user=None if record.tags else users.get(record.user_id),
        tags=list(record.tags),
        routable=routable,
        approved=[route for route in routes_of(record.approved_routes) if route in routable],
        # Of several routers, one that is there serves, and of those the oldest.
        seniority=(int(not record.online), record.id, ""),
        facts=facts_of(record),
    )


def facts_of(record: NodeRecord) -> dict[str, Any]:
    """Return the attributes that postures may ask for: what is set, then what the host says."""
    host = record.hostinfo
    facts: dict[str, Any] = {
        name: value for name, value in record.attributes.items() if not name.startswith("node:")
    }
    if host.os:
        facts["node:os"] = host.os.lower()
    if host.os_version:
        facts["node:osVersion"] = host.os_version
    if host.ipn_version:
        version = host.ipn_version.partition("-")[0]
        facts["node:tsVersion"] = version
        minor = version.split(".")[1:2]
        # Stable versions have an even minor number.
        stable = bool(minor) and minor[0].isdecimal() and int(minor[0][-1]) % 2 == 0
        facts["node:tsReleaseTrack"] = "stable" if stable else "unstable"
    facts["node:tsAutoUpdate"] = host.allows_update
    if host.state_encrypted is not None:
        facts["node:tsStateEncrypted"] = host.state_encrypted
    return facts


def routes_of(texts: list[str] | tuple[str, ...]) -> list[str]:
    """Return routes in their usual form, without those that nobody can read."""
    found: dict[str, None] = {}
    for text in texts[:MAX_ROUTES]:
        try:
            found[str(ip_network(text, strict=False))] = None
        except ValueError:
            continue
    return list(found)


def shown_topology(snapshot: Snapshot) -> dict[str, Any]:
    """Return the network as JSON, in the form that `warren policy --topology` reads."""
    names = {user.id: user.name for user in snapshot.users.values()}
    ordered = sorted(snapshot.users.values(), key=lambda user: (user.role != OWNER, user.id))
    users = [
        {
            "id": user.id,
            "name": user.name,
            "email": user.name,
            "role": user.role,
            "groups": list(user.groups),
        }
        for user in ordered
    ]
    nodes = {
        record.name: {
            "id": record.id,
            "ipv4": str(record.ipv4),
            "ipv6": str(record.ipv6),
            "user": names.get(record.user_id),
            "tags": list(record.tags),
            "routable_ips": routes_of(record.hostinfo.routable_ips),
            "approved_routes": routes_of(record.approved_routes),
            "attributes": facts_of(record),
        }
        for _, record in sorted(snapshot.nodes.items())
        if record.authorized
    }
    return {"users": users, "nodes": nodes, "any_domain": True}
