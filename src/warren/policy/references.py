"""The words of lists that are no rules: members of groups, owners, approvers, parts of ipsets.

Each must stand for something, so that a misspelt one is an error with its place, not silence.
"""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from ipaddress import ip_network

from warren.policy.document import EXIT_NODE, ROUTES, SERVICES, Policy
from warren.policy.malformed import nearest
from warren.policy.ranges import wire_form
from warren.policy.targets import (
    INTERNET,
    IPSET,
    MEMBERS,
    ROLES,
    Targets,
    UnknownTarget,
    split_line,
)

_OWNERS = (*MEMBERS, *ROLES, "autogroup:tagged")
_EVERYONE_AT = "user:*@"
_TAG = re.compile(r"tag:[A-Za-z0-9-]+")


def check_references(policy: Policy, targets: Targets) -> None:
    """Look at every word of these lists. Raises MalformedPolicy."""
    for name, members in policy.groups.items():
        for word in members:
            check_member(policy, name, word)
    for name in policy.hosts:
        check_host(policy, name)
    for name, owners in policy.tag_owners.items():
        check_approved(policy, "tagOwners", name)
        for word in owners:
            check_owner(policy, targets, "tagOwners", name, word)
    for section, lists in (
        (ROUTES, policy.route_approvers),
        (EXIT_NODE, {"": policy.exit_approvers}),
        (SERVICES, policy.service_approvers),
    ):
        for name, owners in lists.items():
            check_approved(policy, section, name)
            for word in owners:
                check_owner(policy, targets, section, name, word)
    _check_ipsets(policy)
    for name in policy.ipsets:
        targets.destination(name)  # which says if it has too many parts


def check_member(policy: Policy, group: str, word: str) -> None:
    """Look at a member of a group. Raises MalformedPolicy."""
    named = ":" not in word or word.startswith(_EVERYONE_AT)
    if not word or word == "*" or not named:
        message = f'"{word}": expected a user, such as alice@example.com'
        raise policy.fail("groups", group, word, message)


def check_owner(policy: Policy, targets: Targets, section: str, name: str, word: str) -> None:
    """Look at who owns a tag, or approves. Raises MalformedPolicy."""
    if word.startswith("autogroup:"):
        if word not in _OWNERS:
            message = f'"{word}" cannot own anything'
            raise policy.fail(section, name, word, message, nearest(word, _OWNERS))
    elif word.startswith(("group:", "tag:")):
        try:
            targets.check(word)
        except UnknownTarget as error:
            raise policy.fail(section, name, word, str(error), error.hint) from None
    elif "@" not in word:
        message = f'"{word}": expected a user, a group, a tag or an autogroup'
        raise policy.fail(section, name, word, message)


def check_host(policy: Policy, name: str) -> None:
    """Look at a host's name: one like other words could never be meant. Raises MalformedPolicy."""
    wrong = next((mark for mark in "*@:/" if mark in name), None)
    if wrong is not None:
        raise policy.fail("hosts", name, "", f'a host\'s name has no "{wrong}"')


def check_approved(policy: Policy, section: str, name: str) -> None:
    """Look at what is owned or approved. Raises MalformedPolicy."""
    if section == "tagOwners" and not _TAG.fullmatch(name):
        message = "tag names can only contain numbers, letters, or dashes"
        raise policy.fail(section, name, "", message)
    if section == SERVICES and not name.startswith(("svc:", "tag:")):
        raise policy.fail(section, name, "", "expected a service, such as svc:web")
    if section == ROUTES:
        try:
            ip_network(name, strict=False)
        except ValueError:
            raise policy.fail(section, name, "", "expected a network, such as 10.0.0.0/8") from None


# Sets of addresses.


def _check_ipsets(policy: Policy) -> None:
    within: dict[str, list[str]] = {}
    for name, lines in policy.ipsets.items():
        if not name.startswith(IPSET):
            raise policy.fail("ipsets", name, "", f"names of IP sets must start with '{IPSET}'")
        for line in lines:
            target = split_line(line)[1]
            _check_part(policy, name, line, target)
            if target.startswith(IPSET):
                within.setdefault(name, []).append(target)
    try:
        TopologicalSorter(within).prepare()
    except CycleError as error:
        circle = sorted(error.args[1])
        name = circle[0]
        line = next(one for one in policy.ipsets[name] if split_line(one)[1] in circle)
        message = f'"{line}": IP sets cannot contain themselves'
        raise policy.fail("ipsets", name, line, message) from None


def _check_part(policy: Policy, name: str, line: str, target: str) -> None:
    if target.startswith(IPSET):
        known: list[str] | dict[str, list[str]] = policy.ipsets
        if target not in known:
            message = f'ipset not found: "{target}"'
            raise policy.fail("ipsets", name, line, message, nearest(target, known, 0.7))
    elif target != INTERNET:
        host = target.removeprefix("host:")
        if host not in policy.hosts and (host != target or wire_form(target) is None):
            message = f'"{line}": expected add or remove with an address, a host or another IP set'
            raise policy.fail("ipsets", name, line, message, nearest(host, policy.hosts, 0.7))
