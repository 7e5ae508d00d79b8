"""Edits of ports alone, the most usual ones: who sees whom, and what each may do, stays as it was.

Which machines an edit's rules mean is looked at when they are compiled; here it is only compared
what they say, for one and the same network.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from warren.policy.document import Entry, Policy
from warren.policy.grants import Grant
from warren.policy.verdict import Checked

# Rules are compared as they were read; what tests say, and where words stand, changes nothing.
_ELSEWHERE = {"acls", "grants", "tests", "ssh_tests", "words_at"}
_SECTIONS = [section.name for section in fields(Policy) if section.name not in _ELSEWHERE]


def only_ports_differ(before: Checked, after: Checked) -> bool:
    """Whether two policies, read for the same network, differ at most in the ports of rules.

    Then only packet filters can differ: a rule with ports still has some, and one without none.
    """
    return (
        len(before.grants) == len(after.grants)
        and all(map(_but_for_ports, before.grants, after.grants))
        and all(
            _plain(getattr(before.policy, name)) == _plain(getattr(after.policy, name))
            for name in _SECTIONS
        )
    )


def _but_for_ports(one: Grant, other: Grant) -> bool:
    return (
        (one.sources, one.targets, one.via, one.postures, one.app, bool(one.ports))
        == (other.sources, other.targets, other.via, other.postures, other.app, bool(other.ports))
    )  # fmt: skip


def _plain(section: Any) -> Any:
    """Return a section's value without the places of its entries."""
    if isinstance(section, list):
        return [member.members if isinstance(member, Entry) else member for member in section]
    return section
