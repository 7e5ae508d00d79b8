"""From a described network's TOML to its tables, with errors that say where and what instead."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Literal

import msgspec

from warren.lab.spelling import SHOWN, meant, meant_or_known, shown

_END = "(at end of document)"
_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")


class MalformedDescription(ValueError):
    """The file cannot be built; the message says what is wrong with it."""


class RouterTable(msgspec.Struct, forbid_unknown_fields=True):
    """One [[router]]. ipv6: whether its LAN has IPv6, and IPv4 beside it."""

    name: str
    kind: str = "port-restricted"
    address: str | None = None
    behind: str | None = None
    lan: str | None = None
    ipv6: Literal["beside", "alone"] | None = None
    lan_v6: str | None = None


class HostTable(msgspec.Struct, forbid_unknown_fields=True):
    """One [[host]]. node: a Warren node runs on it."""

    name: str
    address: str | None = None
    behind: str | None = None
    ipv6: str | None = None
    node: bool = False


class File(msgspec.Struct, forbid_unknown_fields=True):
    """A whole file."""

    router: list[RouterTable] = []
    host: list[HostTable] = []


def read_untrusted(data: bytes) -> File:
    """Read the tables. Raises MalformedDescription, with line and column where they are known."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        raise MalformedDescription(f"{_end_of(before)}: this is not UTF-8 text") from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MalformedDescription(_broken(str(error), text)) from error
    except RecursionError as error:
        raise MalformedDescription("its brackets are nested too deeply") from error
    except ValueError as error:
        # A date or a number that has the form but is none, such as a 30th of February.
        raise MalformedDescription(f"it has an impossible value: {shown(str(error))}") from error
    _check_keys(tables, text)
    try:
        return msgspec.convert(tables, File)
    except msgspec.ValidationError as error:
        raise MalformedDescription(_wrong(str(error), tables)) from error


def _broken(said: str, text: str) -> str:
    found = _PLACE.search(said)
    if found:
        return f"line {found[1]}, column {found[2]}: {_lower(said[: found.start()])}"
    return f"{_end_of(text)}: {_lower(said.removesuffix(_END).strip())}"


def _end_of(text: str) -> str:
    return f"line {text.count(chr(10)) + 1}, column {len(text) - text.rfind(chr(10))}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _check_keys(tables: dict[str, Any], text: str) -> None:
    """Refuse a key that no table has, with the nearest one that it has."""
    for key in tables:
        if key not in ("router", "host"):
            raise MalformedDescription(
                f"{_line_of(key, text)}there is no table {shown(key)}"
                f"{meant(key, ('router', 'host')) or '; there are [[router]] and [[host]]'}"
            )
    for table, kind in (("router", RouterTable), ("host", HostTable)):
        known = kind.__struct_fields__
        entries = tables.get(table)
        for number, entry in enumerate(entries if isinstance(entries, list) else [], 1):
            for key in entry if isinstance(entry, dict) else ():
                if key not in known:
                    raise MalformedDescription(
                        f"{_line_of(key, text)}{_entry(table, number, entry)} has no key "
                        f"{shown(key)}{meant_or_known(key, known)}"
                    )


def _line_of(key: str, text: str) -> str:
    """Where a key is written, if that is clear: TOML's reader does not tell."""
    word = re.escape(key[:SHOWN])
    begins = re.compile(rf"""\s*(?:\[+\s*)?["']?{word}""")
    lines = [n for n, line in enumerate(text.split("\n"), 1) if begins.match(line)]
    return f"line {lines[0]}: " if len(lines) == 1 else ""


def _entry(table: str, number: int, entry: object) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    called = f" {shown(name)}" if isinstance(name, str) else f" number {number}"
    return f"the [[{table}]]{called}"


def _wrong(said: str, tables: dict[str, Any]) -> str:
    """A value of the wrong type, in words: `Expected … - at `$.router[0].kind``."""
    what, _, place = said.partition(" - at `$.")
    found = re.fullmatch(r"(router|host)\[(\d+)\](?:\.(\w+))?`", place)
    what = _lower(what.replace("`", "'"))
    if not found:
        table = place.rstrip("`")
        return f"{table}: it is written [[{table}]], once for each" if table else what
    table, number, key = found[1], int(found[2]), found[3]
    entry = _entry(table, number + 1, tables[table][number])
    if what.startswith("object missing required field"):
        return f"{entry} has no {what.rpartition(' ')[2]}"
    return f"{entry}: {key or table}: {what}"
