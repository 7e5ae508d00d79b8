"""A topology for a policy that is tested without its network: one node for each name."""

from __future__ import annotations

from ipaddress import ip_address

from warren.policy.document import Entry, Policy
from warren.policy.topology import Node, Topology, User

_FIRST4 = int(ip_address("100.64.0.1"))
_FIRST6 = int(ip_address("fd7a:115c:a1e0::1"))


def stand_ins(policy: Policy) -> Topology:
    """Return a topology with a node for every user and every tag that the policy names."""
    entries = (
        *(policy.acls or ()), *(policy.grants or ()), *policy.ssh, *policy.node_attrs,
        *policy.tests, *policy.ssh_tests,
    )  # fmt: skip
    words = [word for members in policy.groups.values() for word in members]
    words += [word for owners in policy.tag_owners.values() for word in owners]
    words += [word for entry in entries for word in _words(entry)]
    logins = dict.fromkeys(
        word for word in words if "@" in word and ":" not in word and "*" not in word
    )
    users = [User(login.partition("@")[0], login) for login in logins]
    nodes = [Node(user.login, [], user, [], []) for user in users]
    nodes += [Node(tag, [], None, [tag], []) for tag in policy.tag_owners]
    for number, node in enumerate(nodes):
        ends = (_FIRST4 + number, _FIRST6 + number)
        node.addresses.extend(str(ip_address(end)) for end in ends)
    return Topology(users, nodes, any_domain=True)


def _words(entry: Entry) -> list[str]:
    found: list[str] = []
    for value in entry.members.values():
        parts = value if isinstance(value, list) else [value]
        for part in parts:
            if isinstance(part, str):
                # A destination of an acl has its ports behind the last colon.
                found.append(part.strip())
                found.append(part.strip().rpartition(":")[0])
    return found
