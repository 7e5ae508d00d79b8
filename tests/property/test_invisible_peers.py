"""What a node is told names exactly the peers that it has to do with, and nothing of the others.

The message is searched as the bytes that travel: keys, names, addresses, endpoints, people.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from reference import Reference
from test_policy_reference import BASE, HOLDERS, ROUTES, SAMPLES, USERS, acls, grants

from warren.coordinator.addresses import v6_beside
from warren.coordinator.enforcement import Enforcement
from warren.coordinator.mapper import Mapper
from warren.coordinator.records import NodeRecord, PolicyRecord, UserRecord
from warren.coordinator.settings import Settings
from warren.coordinator.snapshot import Snapshot
from warren.keys import DiscoPublic, MachinePublic, NodePublic
from warren.netmap.codec import encode_json
from warren.netmap.derpmap import DERPMap
from warren.netmap.diff import diff
from warren.netmap.node import Hostinfo
from warren.netmap.view import EMPTY

WALL = datetime(2026, 3, 1, tzinfo=UTC)
PEOPLE = {
    number: UserRecord(
        id=number, name=user["email"], display_name=f"Person {user['name']} of {number}",
        created=WALL, role="owner" if number == 1 else "admin",
    )
    for number, user in enumerate(USERS, 1)
}  # fmt: skip
IDS = {user["name"]: number for number, user in enumerate(USERS, 1)}
SSH = [
    [],
    [{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:a"], "users": ["root"]}],
    [{"action": "check", "src": ["tag:b"], "dst": ["tag:a"], "users": ["ubuntu"]}],
    [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"],
      "users": ["autogroup:nonroot"]}],
]  # fmt: skip


def record(number: int, holder: dict[str, Any], routes: list[str], system: str) -> NodeRecord:
    ipv4 = IPv4Address("100.64.0.0") + number
    return NodeRecord(
        id=number, stable_id=f"stable-{number}x", user_id=IDS[holder.get("user", "cid")],
        machine_key=MachinePublic(bytes([number]) * 32), node_key=NodePublic(bytes([number]) * 32),
        disco_key=DiscoPublic(bytes([number]) * 32), ipv4=ipv4, ipv6=v6_beside(ipv4),
        name=f"host-{number}x", created=WALL, tags=tuple(holder.get("tags", ())), version=130,
        endpoints=(f"192.0.2.{number}:4164{number}",), approved_routes=tuple(routes), online=True,
        hostinfo=Hostinfo(os=system, hostname=f"machine-{number}x", routable_ips=list(routes)),
    )  # fmt: skip


def traces(node: NodeRecord) -> list[str]:
    """Return how a node would show in a message."""
    return [
        f"{node.node_key}", f"{node.machine_key}", f"{node.disco_key}", f'"{node.stable_id}"',
        node.name, f"machine-{node.id}x", f'"{node.ipv4}"', f'"{node.ipv4}/32"', f'"{node.ipv6}"',
        f'"{node.ipv6}/128"', *node.endpoints,
    ]  # fmt: skip


machines = st.lists(
    st.tuples(st.sampled_from(HOLDERS), st.sampled_from(ROUTES),
              st.sampled_from(["linux", "windows"])),
    min_size=2, max_size=6,
)  # fmt: skip
policies = st.builds(
    lambda some_grants, some_acls, ssh: (
        BASE | {"grants": some_grants, "acls": some_acls, "ssh": ssh}
    ),
    st.lists(grants, max_size=2),
    st.lists(acls(), max_size=2),
    st.sampled_from(SSH),
)


@settings(max_examples=40, deadline=None)
@given(policies, machines)
def test_a_message_names_whom_it_is_about_and_nobody_else(
    policy: dict[str, Any], drawn: list[tuple[dict[str, Any], list[str], str]]
) -> None:
    nodes = {n: record(n, *one) for n, one in enumerate(drawn, 1)}
    text = PolicyRecord(id=1, text=json.dumps(policy), author="", created=WALL)
    snapshot = Snapshot(users=PEOPLE, nodes=nodes, policies={1: text})
    enforced = Enforcement(snapshot, WALL)
    assert not enforced.problems()
    topology = {
        "users": USERS,
        "nodes": {
            str(n): {
                **holder, "ipv4": str(nodes[n].ipv4), "ipv6": str(nodes[n].ipv6),
                "approved_routes": routes, "attributes": {"node:os": system},
            }
            for n, (holder, routes, system) in enumerate(drawn, 1)
        },
    }  # fmt: skip
    plain = Reference(policy, topology)
    mapper = Mapper(Settings(url="http://x"), DERPMap(regions={}))
    for one in nodes.values():
        wanted = {
            n for n in nodes if n != one.id and plain.sees(str(one.id), str(n), SAMPLES)
        }  # fmt: skip
        message = diff(EMPTY, mapper.view(one, snapshot, enforced, WALL))
        assert message is not None
        assert {peer.id for peer in message.peers or []} == wanted
        data = encode_json(message).decode()
        # Who may log in is named by address, whether packets get there or not.
        logins = json.dumps(enforced.ssh(one))
        for other in nodes.keys() - wanted - {one.id}:
            left = [t for t in traces(nodes[other]) if t in data and t not in logins]
            # An address that the policy itself names is the policy's.
            left = [t for t in left if t.strip('"').partition("/")[0] not in text.text]
            assert not left, (one.name, left)
        shown = {one.user_id} | {nodes[n].user_id for n in wanted}
        for person in PEOPLE.values():
            known = person.id in shown or person.id == 1  # the owner's name is the network's
            assert known or person.display_name not in data
            assert known or f'"{person.name}"' not in data
