"""Filters of nodes that the same rules mean by the same words: made once, but for addresses.

What such nodes are told differs only in where their own addresses stand, so one of them is
compiled with stand-ins for its addresses, and the others' are put in their places.
"""

from __future__ import annotations

from dataclasses import replace

from warren.netmap.filterrule import FilterRule, NetPortRange
from warren.policy.topology import Node

# No address is written so.
_STAND_INS = tuple(f"own {number}" for number in range(8))


def anonymous(node: Node) -> Node:
    """Return a node with stand-ins for its addresses; only their places can be asked for."""
    return replace(node, addresses=list(_STAND_INS[: len(node.addresses)]))


class Template:
    """The filter of an `anonymous` node. What it makes shares all that is equal."""

    __slots__ = ("_ends", "_rules")

    def __init__(self, rules: list[FilterRule]) -> None:
        self._rules = rules
        # For each rule that names own addresses: which of them, or none, and what stands there.
        self._ends: list[tuple[int, list[tuple[int | None, NetPortRange]]]] = []
        for place, rule in enumerate(rules):
            ends = [(_number(end.ip), end) for end in rule.dst_ports]
            if any(number is not None for number, _ in ends):
                self._ends.append((place, ends))

    def filled(self, addresses: list[str]) -> list[FilterRule]:
        """Return the rules for a node of these addresses; the same list if they name none."""
        if not self._ends:
            return self._rules
        made = self._rules.copy()
        for place, ends in self._ends:
            rule = made[place]
            made[place] = FilterRule(
                src_ips=rule.src_ips,
                ip_proto=rule.ip_proto,
                dst_ports=[
                    end if number is None else NetPortRange(ip=addresses[number], ports=end.ports)
                    for number, end in ends
                ],
            )
        return made


def _number(ip: str) -> int | None:
    return _STAND_INS.index(ip) if ip in _STAND_INS else None
