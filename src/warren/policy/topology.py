"""The users and nodes that a policy is compiled for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address, ip_network
from typing import Any

from warren.policy.logins import domain_key, login_key
from warren.policy.malformed import MalformedPolicy
from warren.policy.ranges import Network, Span, span_of_address, span_of_network

EXITS = ("0.0.0.0/0", "::/0")
_MAX_NODES = 20_000


@dataclass(slots=True, eq=False)
class User:
    """A user; `login` is an e-mail address, `role` one of §12.2's.

    groups: names of groups, by `login_key`, that an identity provider says they are in.
    """

    name: str
    login: str
    role: str = "admin"
    groups: frozenset[str] = frozenset()

    @property
    def domain(self) -> str:
        """Return what follows the @, in the form that is equal for equal domains."""
        return domain_key(self.login.rpartition("@")[2])


@dataclass(eq=False)
class Node:
    """A node. `user` is None where it is tagged; `approved` are routes that it may serve.

    facts: its attributes, which postures ask for, such as `node:os`. seniority: which of several
    routers serves a route: the one that comes first by it.
    """

    name: str
    addresses: list[str]
    user: User | None
    tags: list[str]
    routable: list[str]
    approved: list[str] = field(default_factory=list)
    seniority: tuple[int, int, str] = (0, 0, "")
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_hand = tuple(self.approved)
        """What was approved before any policy approved more."""

    @property
    def age(self) -> int:
        """Return what orders nodes by age, the oldest first, where a topology knows that."""
        return self.seniority[1]

    @cached_property
    def spans(self) -> list[Span]:
        """Return its own addresses."""
        return [span_of_address(address) for address in self.addresses]

    @property
    def routes(self) -> list[str]:
        """Return the approved routes that are no exit."""
        return [route for route in self.approved if route not in EXITS]

    @property
    def route_spans(self) -> list[Span]:
        """Return the approved routes that are no exit, as spans."""
        return [span_of_network(ip_network(route)) for route in self.routes]

    @property
    def prefixes(self) -> list[str]:
        """Return its addresses as CIDRs."""
        return [f"{address}/{128 if ':' in address else 32}" for address in self.addresses]


def is_exit(node: Node) -> bool:
    """Whether a node leads to the internet."""
    return any(route in EXITS for route in node.approved)


@dataclass
class Topology:
    """All users and nodes, nodes in the order given; the first user is the owner."""

    users: list[User]
    nodes: list[Node]
    any_domain: bool = False

    @cached_property
    def domain(self) -> str:
        """Return the network's own domain: its owner's; nothing where any might be it."""
        if self.any_domain:
            return ""
        return self.users[0].domain if self.users else ""


def parse_topology_untrusted(data: Any) -> Topology:
    """Parse the form of the recorded verdicts. Raises MalformedPolicy."""
    try:
        users = [
            User(
                str(user["name"]),
                str(user.get("email") or user["name"]),
                str(user.get("role") or ("admin" if number else "owner")),
                frozenset(login_key(str(group)) for group in user.get("groups") or []),
            )
            for number, user in enumerate(data.get("users") or [])
        ]
        by_name = {user.name: user for user in users}
        entries = data["nodes"].items()
        if len(entries) > _MAX_NODES:
            raise MalformedPolicy(f"more than {_MAX_NODES} nodes")
        nodes = [_node(name, entry, by_name) for name, entry in entries]
    except MalformedPolicy:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise MalformedPolicy(f"topology: {type(error).__name__}: {error}") from None
    return Topology(users, nodes, any_domain=data.get("any_domain") is True)


def _node(name: str, entry: dict[str, Any], users: dict[str, User]) -> Node:
    addresses = [str(ip_address(entry[key])) for key in ("ipv4", "ipv6") if entry.get(key)]
    tags = [str(tag) for tag in entry.get("tags") or []]
    owner = str(entry.get("user") or "")
    user = None if tags or not owner else users.get(owner, User(owner, owner, "member"))
    routable = [_network(route) for route in entry.get("routable_ips") or []]
    approved = [_network(route) for route in entry.get("approved_routes") or []]
    seniority = _seniority(name, entry, routable)
    facts = dict(entry.get("attributes") or {})
    return Node(name, addresses, user, tags, routable, approved, seniority, facts)


def _seniority(name: str, entry: dict[str, Any], routable: list[str]) -> tuple[int, int, str]:
    """The oldest router serves; where a topology has no ids, nobody can know which that is.

    What agrees most often with the recordings is no rule of the service: the router with most
    routes, then the shorter name.
    """
    if isinstance(entry.get("id"), int):
        return (0, entry["id"], "")
    return (-len(routable), len(name), name)


def _network(text: Any) -> str:
    found: Network = ip_network(str(text), strict=False)
    return str(found)
