"""A stored policy that is wrong in places: what can safely be left out of it is left out.

An older version may have taken what this one refuses, and a network must not stand still after an
upgrade for one misspelt name. Only what gives something is left out, so that less is allowed than
was meant, never more: a word that stands for nobody, and a rule that cannot be read. What takes
something away makes the whole policy unreadable, as before: parts of IP sets, postures, rules with
`via`. Of SSH rules none is left where one is wrong, since it might have asked for a check first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from warren.policy.document import EXIT_NODE, ROUTES, SERVICES, Entry, Policy
from warren.policy.grants import read_acl, read_grant
from warren.policy.malformed import MalformedPolicy
from warren.policy.nodeattrs import read_attribute
from warren.policy.references import check_approved, check_host, check_member, check_owner
from warren.policy.ssh import read_ssh
from warren.policy.targets import Targets

RELAY = "tailscale.com/cap/relay"
"""The capability whose rules, where there are any, say alone who may use which relay."""

_T = TypeVar("_T")


def mended(policy: Policy, targets: Targets) -> tuple[Policy, list[MalformedPolicy]]:
    """Return the policy without what can be left out, and why. Raises MalformedPolicy."""
    problems: list[MalformedPolicy] = []

    def good(check: Callable[[_T], object], items: list[_T]) -> list[_T]:
        kept = []
        for item in items:
            try:
                check(item)
                kept.append(item)
            except MalformedPolicy as problem:
                if isinstance(item, Entry) and _takes_away(item):
                    raise
                problems.append(problem)
        return kept

    # Names first: what is said of one that is left out is wrong as well.
    tags = good(lambda name: check_approved(policy, "tagOwners", name), list(policy.tag_owners))
    hosts = good(lambda name: check_host(policy, name), list(policy.hosts))
    policy = replace(
        policy,
        tag_owners={name: policy.tag_owners[name] for name in tags},
        hosts={name: policy.hosts[name] for name in hosts},
    )
    targets = Targets(policy, targets.topology)

    def owners(section: str, lists: dict[str, list[str]]) -> dict[str, list[str]]:
        known = good(lambda name: check_approved(policy, section, name), list(lists))
        return {
            name: good(lambda word: check_owner(policy, targets, section, name, word), lists[name])  # noqa: B023 - called at once
            for name in known
        }

    groups = {
        name: good(lambda word: check_member(policy, name, word), words)  # noqa: B023 - called at once
        for name, words in policy.groups.items()
    }
    ssh = policy.ssh
    try:
        read_ssh(policy, targets)
    except MalformedPolicy as problem:
        problems.append(problem)
        ssh = []
    found = replace(
        policy,
        groups=groups,
        tag_owners=owners("tagOwners", policy.tag_owners),
        route_approvers=owners(ROUTES, policy.route_approvers),
        exit_approvers=owners(EXIT_NODE, {"": policy.exit_approvers})[""],
        service_approvers=owners(SERVICES, policy.service_approvers),
        acls=policy.acls and good(lambda entry: read_acl(entry, targets), policy.acls),
        grants=policy.grants and good(lambda entry: read_grant(entry, targets), policy.grants),
        ssh=ssh,
        node_attrs=good(lambda entry: read_attribute(entry, targets), policy.node_attrs),
    )
    return found, problems


def _takes_away(entry: Entry) -> bool:
    app = entry.members.get("app")
    return bool(entry.words("via")) or (isinstance(app, dict) and RELAY in app)
