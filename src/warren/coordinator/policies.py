"""The policy as it is kept: read, checked against the network, replaced; pure.

A policy that is wrong, or that fails its own tests, is refused, and the old one stays in force.
Whoever edits says which text they edited, so that nobody overwrites what they have not seen.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Network

from warren.coordinator.change import Change
from warren.coordinator.compiled import Compiled, compile_policy
from warren.coordinator.delta import Delta
from warren.coordinator.policy_topology import network_of, policy_user, topology_of
from warren.coordinator.records import PolicyRecord, etag_of
from warren.coordinator.refusal import Conflict, Refused
from warren.coordinator.roles import ALL, ROLES, allows
from warren.coordinator.snapshot import Snapshot
from warren.policy.document import Policy, parse_policy_untrusted
from warren.policy.malformed import MalformedPolicy
from warren.policy.nodeattrs import Attributes, read_attributes
from warren.policy.targets import Targets
from warren.policy.topology import Node, Topology
from warren.policy.trials import FAILED, Failure
from warren.policy.verdict import Checked, read

DEFAULT_TEXT = """{
  // Everyone reaches everyone, until this says otherwise.
  "grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}],
}
"""
KEPT_VERSIONS = 100
POLICY = frozenset({"policy"})
"""Why, of a change that replaces the policy and nothing else."""
_FIRST_FAILURES = 3


class PolicyRefused(Refused):
    """A policy that cannot be taken: `problem` says why and where, `failures` what tests say."""

    def __init__(self, problem: MalformedPolicy, failures: list[Failure] | None = None) -> None:
        self.problem = problem
        self.failures = failures or []
        told = "; ".join(failure.sentence() for failure in self.failures[:_FIRST_FAILURES])
        super().__init__(f"{FAILED}: {told}" if told else problem.sentence())


class PolicyChanged(Conflict):
    """Someone else changed the policy since it was read."""


@lru_cache(maxsize=1)
def _stored(text: str) -> Policy:
    """Read the policy in force. It is kept here, whatever others are looked at meanwhile."""
    return parse_policy_untrusted(text)


def policy_text(snapshot: Snapshot) -> str:
    """Return the text in force, as its author wrote it, comments and all."""
    return snapshot.policy.text if snapshot.policy else DEFAULT_TEXT


def policy_etag(snapshot: Snapshot) -> str:
    """Return what stands for the text in force."""
    return etag_of(policy_text(snapshot))


def check_policy(snapshot: Snapshot, text: str) -> Checked:
    """Read a policy for the network as it is, and run its tests. Raises PolicyRefused."""
    return _check(topology_of(snapshot), text)


def check_and_compile(snapshot: Snapshot, text: str, wall: datetime) -> Compiled:
    """Do that, and compile what is to be put in force. Raises PolicyRefused."""
    network = network_of(snapshot)
    return compile_policy(snapshot, text, wall, (network, _check(network.topology, text)))


def _check(topology: Topology, text: str) -> Checked:
    try:
        checked = read(text, topology)
        failures = checked.trial().run(checked.policy)
    except MalformedPolicy as problem:
        raise PolicyRefused(problem) from problem
    if failures:
        raise PolicyRefused(MalformedPolicy(FAILED, failures[0].place), failures)
    return checked


def set_policy(
    snapshot: Snapshot, text: str, author: str, wall: datetime, edited: str | None = None
) -> Delta:
    """Check a policy and put it in force, as `put_policy` does. Raises PolicyRefused too."""
    check_edited(snapshot, edited)
    check_policy(snapshot, text)
    return put_policy(snapshot, text, author, wall, edited)


def check_edited(snapshot: Snapshot, edited: str | None) -> None:
    """Go on only if the policy in force is the one that was edited. Raises PolicyChanged."""
    if edited is not None and edited != policy_etag(snapshot):
        who = snapshot.policy.author if snapshot.policy else "someone"
        raise PolicyChanged(
            f"{who} changed the policy since you read it; read it again and repeat your change"
        )


def put_policy(
    snapshot: Snapshot,
    text: str,
    author: str,
    wall: datetime,
    edited: str | None = None,
    compiled: Compiled | None = None,
) -> Delta:
    """Put a policy in force that was checked. Raises PolicyChanged.

    edited: the etag of the text that was edited; None: whatever is in force is replaced.
    compiled: what it was compiled to, where that was done before.
    """
    check_edited(snapshot, edited)
    versions = sorted(snapshot.policies)
    record = PolicyRecord(
        id=versions[-1] + 1 if versions else 1, text=text, author=author, created=wall
    )
    return Delta(
        policies=(record,),
        removed_policies=tuple(versions[: max(0, len(versions) + 1 - KEPT_VERSIONS)]),
        change=Change(everything=True, why=POLICY, compiled=compiled),
    )


def ip_pools(snapshot: Snapshot, user_id: int, tags: Collection[str]) -> list[IPv4Network]:
    """Return the pools from which a new machine of a user, or with these tags, gets its address.

    Those of the first rule of `nodeAttrs` that has any and means it; none: any address.
    """
    text = policy_text(snapshot)
    try:
        policy = _stored(text)
        if not any(entry.words("ipPool") for entry in policy.node_attrs):
            return []
        users = {number: policy_user(user) for number, user in snapshot.users.items()}
        targets = Targets(policy, Topology(list(users.values()), [], any_domain=True))
        rules = read_attributes(policy, targets)
    except MalformedPolicy:
        return []  # what it says, nobody can tell until it is mended
    owner = None if tags else users.get(user_id)
    new = Node("", [], owner, list(tags), [])
    return Attributes(policy, rules, targets).pools(new)


def not_owned(snapshot: Snapshot, tags: Collection[str], by: Collection[str]) -> list[str]:
    """Return the tags that who bears the tags `by` may not give: neither those nor theirs."""
    try:
        owners = _stored(policy_text(snapshot)).tag_owners
    except MalformedPolicy:
        owners = {}  # nobody owns anything until it is mended
    return sorted(tag for tag in {*tags} - {*by} if not {*by} & {*owners.get(tag, ())})


def may_tag(snapshot: Snapshot, user_id: int, tag: str) -> bool:
    """Whether `tagOwners` lets a user give a machine a tag; who may do all gives any there is."""
    user = snapshot.users.get(user_id)
    if user is None:
        return False
    try:
        policy = _stored(policy_text(snapshot))
    except MalformedPolicy:
        return False  # nobody owns anything until it is mended
    if tag not in policy.tag_owners:
        return False
    me = policy_user(user)
    targets = Targets(policy, Topology([me], [], any_domain=True))
    # A stored policy may name everyone, which no owner is.
    owned = any(targets.users(word) for word in policy.tag_owners[tag] if word != "*")
    return owned or allows(ROLES.get(user.role, ()), ALL)
