"""Device posture: what a rule asks of the machine that a connection comes from (§12.1).

A posture is a list of conditions that must all hold; a rule may name several postures, of which
one must hold. What is not known of a machine satisfies nothing but `NOT SET`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from warren.policy.topology import Node

PREFIX = "posture:"
MAX_CONDITIONS = 1000
_KEY = re.compile(r"\s*([A-Za-z][A-Za-z0-9]*:[A-Za-z0-9_.-]{1,50})\s*")
_OPERATOR = re.compile(
    r"(==|!=|<=|>=|<|>|NOT\s+IN\b|IN\b|IS\s+SET\b|NOT\s+SET\b)\s*", re.IGNORECASE
)
_VALUE = re.compile(r"'([^']*)'|\"([^\"]*)\"|(true|false)\b|(-?[0-9]+(?:\.[0-9]+)?)\b")
_SPACES = re.compile(r"\s*")
_OF_NODES = ("node:os", "node:osVersion", "node:tsVersion", "node:tsReleaseTrack",
             "node:tsAutoUpdate", "node:tsStateEncrypted")  # fmt: skip
_OPERATORS = "==, !=, <, <=, >, >=, IN, NOT IN, IS SET, NOT SET"

Value = str | float | bool


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison: an attribute, an operator in capitals, and what it is compared with."""

    key: str
    operator: str
    values: tuple[Value, ...] = ()

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Whether it is true of these attributes."""
        fact = facts.get(self.key)
        if self.operator.endswith("SET"):
            return (fact is None) == self.operator.startswith("NOT")
        if fact is None:
            return False
        if self.operator in ("==", "IN"):
            return any(_same(fact, value) for value in self.values)
        if self.operator in ("!=", "NOT IN"):
            return not any(_same(fact, value) for value in self.values)
        order = _compare(fact, self.values[0])
        if order is None:
            return False
        return {"<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}[self.operator]


def parse_condition(text: str) -> Condition:
    """Parse `node:os == 'linux'` and the like. Raises ValueError with a sentence."""
    named = _KEY.match(text)
    if named is None:
        raise ValueError(f'posture "{text}": expected an attribute such as node:os')
    key = named[1]
    if key.startswith("node:") and key not in _OF_NODES:
        near = get_close_matches(key, _OF_NODES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f'posture "{text}": there is no attribute {key}{hint}')
    found = _OPERATOR.match(text, named.end())
    if found is None:
        raise ValueError(f'posture "{text}": after {key} expected one of {_OPERATORS}')
    operator, rest = " ".join(found[1].upper().split()), text[found.end() :].strip()
    if operator.endswith("SET"):
        if rest:
            raise ValueError(f'posture "{text}": nothing may follow {operator}')
        return Condition(key, operator)
    if operator.endswith("IN"):
        if not (rest.startswith("[") and rest.endswith("]")):
            raise ValueError(f'posture "{text}": after {operator} expected a list in brackets')
        return Condition(key, operator, _values(text, rest[1:-1]))
    values = _values(text, rest)
    if len(values) != 1:
        raise ValueError(f'posture "{text}": {operator} compares with one value')
    return Condition(key, operator, values)


def _values(text: str, rest: str) -> tuple[Value, ...]:
    found: list[Value] = []
    at = 0
    while True:
        value = _VALUE.match(rest, _past_space(rest, at))
        if value is None:
            raise ValueError(f"posture \"{text}\": expected a value such as 'linux', 3 or true")
        single, double, word, number = value.groups()
        if number is not None:
            found.append(float(number))
        elif word is not None:
            found.append(word == "true")
        else:
            found.append(single if single is not None else double)
        at = _past_space(rest, value.end())
        if at == len(rest):
            return tuple(found)
        if rest[at] != ",":
            raise ValueError(f'posture "{text}": expected a comma before "{rest[at : at + 20]}"')
        at += 1


def _past_space(text: str, at: int) -> int:
    found = _SPACES.match(text, at)
    return found.end() if found else at


def _same(fact: Any, value: Value) -> bool:
    if isinstance(fact, bool) or isinstance(value, bool):
        return fact is value
    if isinstance(fact, str) != isinstance(value, str):
        return False
    return bool(fact == value)


def _compare(fact: Any, value: Value) -> int | None:
    """Compare numbers, or texts as versions; None for what has no order."""
    if isinstance(fact, bool) or isinstance(value, bool):
        return None
    if isinstance(fact, str) and isinstance(value, str):
        one, other = _version(fact), _version(value)
        return (one > other) - (one < other)
    if isinstance(fact, str) or isinstance(value, str):
        return None
    return int(fact > value) - int(fact < value)


def _version(text: str) -> list[tuple[int, int, str]]:
    """Return a version's parts, in which 1.10 is after 1.9 and 1.2 before 1.2.1."""
    parts = re.findall(r"[0-9]{1,18}|[a-z]+", text.lower())
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


@dataclass
class Postures:
    """The postures of a policy. `default` is for rules that name none."""

    named: dict[str, list[Condition]]
    default: list[str]

    def holds(self, names: list[str], node: Node) -> bool:
        """Whether a machine satisfies one of the postures."""
        return self.satisfied(names, node.facts)

    def satisfied(self, names: list[str], facts: Mapping[str, Any]) -> bool:
        """Whether attributes satisfy one of the postures; of no postures, always."""
        if not names:
            return True
        return any(all(c.holds(facts) for c in self.named.get(name, ())) for name in names)

    @cached_property
    def keys(self) -> frozenset[str]:
        """Return the attributes that any posture asks for."""
        return frozenset(c.key for conditions in self.named.values() for c in conditions)
