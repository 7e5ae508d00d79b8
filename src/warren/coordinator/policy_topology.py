"""The network as a policy sees it: users and machines, made from the coordinator's state."""

from __future__ import annotations

from ipaddress import ip_network

from warren.coordinator.records import NodeRecord
from warren.coordinator.snapshot import Snapshot
from warren.policy.topology import Node, Topology, User

MAX_ROUTES = 1000
"""Routes that are heard of one machine; more of them count as none."""


def topology_of(snapshot: Snapshot) -> Topology:
    """Return all users, the owner first, and all machines, oldest first."""
    users = {user_id: User(u.name, u.name, u.role) for user_id, u in snapshot.users.items()}
    ordered = sorted(snapshot.users.values(), key=lambda user: (user.role != "owner", user.id))
    nodes = [policy_node(snapshot.nodes[number], users) for number in sorted(snapshot.nodes)]
    # Whose domain the network's is, nobody here decides.
    return Topology([users[user.id] for user in ordered], nodes, any_domain=True)


def policy_node(record: NodeRecord, users: dict[int, User]) -> Node:
    """Return a machine as a policy sees it; its name there is its id, which never changes."""
    return Node(
        name=str(record.id),
        addresses=[str(record.ipv4), str(record.ipv6)],
        user=None if record.tags else users.get(record.user_id),
        tags=list(record.tags),
        routable=routes_of(record.hostinfo.routable_ips),
        approved=routes_of(record.approved_routes),
    )


def routes_of(texts: list[str] | tuple[str, ...]) -> list[str]:
    """Return routes in their usual form, without those that nobody can read."""
    found: dict[str, None] = {}
    for text in texts[:MAX_ROUTES]:
        try:
            found[str(ip_network(text, strict=False))] = None
        except ValueError:
            continue
    return list(found)
