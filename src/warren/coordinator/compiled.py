"""A policy compiled for the network of one snapshot; pure, so that a thread may do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from warren.coordinator.policy_topology import Network, network_of
from warren.coordinator.records import NodeRecord
from warren.coordinator.snapshot import Snapshot
from warren.policy.malformed import MalformedPolicy
from warren.policy.topology import Node, User
from warren.policy.verdict import Checked, World, read, read_stored

# For a policy that cannot be read: whom it lets through, nobody can say.
_NOBODY = '{"grants": []}'


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """What it is made of, and what came of it.

    text: the policy's. records: the machines of the snapshot. nodes, users: the machines that were
    in force, and all people, by id. problem: why the text could not be read; then the world is one
    in which nobody reaches anybody. left_out: why parts of it do not count, where the rest of it is
    safe without them.
    """

    text: str
    records: Mapping[int, NodeRecord]
    nodes: dict[int, Node]
    users: dict[int, User]
    world: World
    problem: str = ""
    left_out: Sequence[str] = ()

    def behind(self, snapshot: Snapshot, wall: datetime) -> list[int]:
        """Return the machines that may have changed for the policy since it was compiled."""
        gone = self.records.keys() - snapshot.nodes.keys()
        return [*gone, *(
            number
            for number, record in snapshot.nodes.items()
            if self.records.get(number) is not record
            or record.in_force(wall) is not (number in self.nodes)
        )]  # fmt: skip


def compile_policy(
    snapshot: Snapshot, text: str, wall: datetime, known: tuple[Network, Checked] | None = None
) -> Compiled:
    """Compile a policy for the machines that are in force at `wall`. Never fails.

    known: all machines, and the policy as it was read for them, where that was done before.
    """
    problem, left_out = "", list[str]()
    if known is not None and all(node.in_force(wall) for node in snapshot.nodes.values()):
        network, checked = known
    else:
        network = network_of(snapshot, wall)
        try:
            checked, wrong = read_stored(text, network.topology)
            left_out = [problem.sentence() for problem in wrong]
        except MalformedPolicy as error:
            problem = error.sentence()
            checked = read(_NOBODY, network.topology)
    return Compiled(
        text=text,
        records=snapshot.nodes,
        nodes=network.nodes,
        users=network.users,
        world=World(checked),
        problem=problem,
        left_out=left_out,
    )
