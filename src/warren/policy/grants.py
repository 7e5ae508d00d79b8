"""Rules of both kinds, `acls` and `grants`, read into one form and checked (§12.4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from warren.policy.document import Entry, Policy
from warren.policy.malformed import nearest
from warren.policy.ports import (
    ANY,
    WITH_PORTS,
    Ports,
    UnknownProtocol,
    parse_ip_entry,
    parse_protocol,
    split_destination,
)
from warren.policy.ranges import wire_form
from warren.policy.targets import INTERNET, SELF, Targets, UnknownTarget

_OUR_DOMAIN = "tailscale.com"
_OPEN_CAPABILITIES = {
    f"{_OUR_DOMAIN}/cap/{name}"
    for name in ("drive", "relay", "webui", "kubernetes", "tsidp", "secrets")
}
_MAX_RANGES = 1000
"""Of one destination: each machine that it names is told them all, for each of its addresses."""
_MAX_ENDS = 200_000
"""Ranges of all destinations of all rules."""
_SELF_MISUSED = "autogroup:self can only be used with users, groups, or supported autogroups"


@dataclass(slots=True)
class Grant:
    """Who may reach what: `ports` has for each protocol the ports of each target, in order."""

    entry: Entry
    sources: list[str]
    targets: list[str]
    ports: dict[tuple[int, ...], dict[str, list[Ports]]]
    app: dict[str, Any] = field(default_factory=dict)
    via: list[str] = field(default_factory=list)
    postures: list[str] = field(default_factory=list)


def read_grants(policy: Policy, targets: Targets) -> list[Grant]:
    """Return grants, then acls: the order in which the service compiles. Raises MalformedPolicy."""
    found, ends = [], 0
    for read, entries in ((read_grant, policy.grants), (read_acl, policy.acls)):
        for entry in entries or ():
            grant = read(entry, targets)
            found.append(grant)
            ends += sum(map(len, (r for by in grant.ports.values() for r in by.values())))
            if ends > _MAX_ENDS:
                raise entry.fail(f"the rules up to here have more than {_MAX_ENDS:,} port ranges")
    return found


def read_acl(entry: Entry, targets: Targets) -> Grant:
    """Read a rule of `acls`. Raises MalformedPolicy."""
    action = entry.text("action")
    if action != "accept":
        raise entry.fail(f'action="{action}" is not supported', "action")
    sources = entry.words("src", "users")
    _check_sources(entry, sources, targets)
    try:
        protocol = parse_protocol(entry.text("proto"))
    except UnknownProtocol as error:
        raise entry.fail(str(error), "proto", hint=error.hint) from None
    except ValueError as error:
        raise entry.fail(str(error), "proto") from None
    try:
        ends = [split_destination(text) for text in entry.words("dst", "ports")]
    except ValueError as error:
        raise entry.fail(str(error), "dst") from None
    _check_ports(entry, protocol, [ports for _, ranges in ends for ports in ranges])
    ports: dict[str, list[Ports]] = {}
    for target, ranges in ends:
        ports.setdefault(target, []).extend(ranges)
        if len(ports[target]) > _MAX_RANGES:
            raise entry.fail(f"more than {_MAX_RANGES:,} port ranges of one destination", "dst")
    _check_targets(entry, list(ports), targets, quoted=True)
    if SELF in ports and not all(word == "*" or targets.is_people(word) for word in sources):
        raise entry.fail(_SELF_MISUSED, "src")
    postures = entry.words("srcPosture")
    return Grant(entry, sources, list(ports), {protocol: ports}, postures=postures)


def read_grant(entry: Entry, targets: Targets) -> Grant:
    """Read a rule of `grants`. Raises MalformedPolicy."""
    sources, ends, app = entry.words("src"), entry.words("dst"), entry.members.get("app") or {}
    ips, via = entry.words("ip"), entry.words("via")
    if not ips and not app:
        raise entry.fail("ip and app can not both be empty")
    _check_sources(entry, sources, targets)
    _check_targets(entry, ends, targets)
    for end in ends:
        if end in ("0.0.0.0/0", "::/0"):
            message = f'dst "{end}": to allow all IP addresses, use "*" or "{INTERNET}"'
            raise entry.fail(message, "dst")
    for name in app:
        if name.partition("/")[0] == _OUR_DOMAIN and name not in _OPEN_CAPABILITIES:
            message = f"capability name must not be in the {_OUR_DOMAIN} domain"
            raise entry.fail(message, "app")
        if "://" in name or "/" not in name.strip("/"):
            raise entry.fail("capability name must have the form {domain}/{path}", "app")
    if app and INTERNET in ends:
        raise entry.fail(f"cannot use app grants with {INTERNET}", "dst")
    if SELF in ends and not all(targets.is_people(word) for word in sources):
        raise entry.fail(_SELF_MISUSED, "src")
    for tag in via:
        if not tag.startswith("tag:"):
            raise entry.fail("via can only be a tag", "via")
        if tag not in targets.policy.tag_owners:
            hint = nearest(tag, targets.policy.tag_owners, 0.7)
            raise entry.fail(f'tag "{tag}" not found', "via", tag, hint)
    if len(ips) > _MAX_RANGES:
        raise entry.fail(f"more than {_MAX_RANGES:,} port ranges of one destination", "ip")
    if len(ips) * len(ends) > _MAX_ENDS:
        raise entry.fail(f"more than {_MAX_ENDS:,} port ranges of all destinations", "ip")
    ports: dict[tuple[int, ...], dict[str, list[Ports]]] = {}
    for text in ips:
        try:
            protocol, found = parse_ip_entry(text)
        except UnknownProtocol as error:
            raise entry.fail(str(error), "ip", text, error.hint) from None
        except ValueError as error:
            raise entry.fail(str(error), "ip", text) from None
        _check_ports(entry, protocol, [found])
        for end in ends:
            ports.setdefault(protocol, {}).setdefault(end, []).append(found)
    return Grant(entry, sources, ends, ports, app, via, entry.words("srcPosture"))


def _check_ports(entry: Entry, protocol: tuple[int, ...], ports: list[Ports]) -> None:
    if not set(protocol) <= WITH_PORTS and any(one != ANY for one in ports):
        raise entry.fail('only tcp, udp and sctp have ports; use "*"')


def _check_sources(entry: Entry, words: list[str], targets: Targets) -> None:
    for word in words:
        check_source(entry, word)
        try:
            targets.check(word)
        except UnknownTarget as error:
            raise entry.fail(f"src={error}", "src", word, error.hint) from None


def check_source(entry: Entry, word: str) -> None:
    """Refuse what may only be reached. Raises MalformedPolicy."""
    if word in (SELF, INTERNET):
        raise entry.fail(f'"{word}" not valid on the src side of a rule', "src", word)


def _check_targets(
    entry: Entry, words: list[str], targets: Targets, *, quoted: bool = False
) -> None:
    """Look at what is reached. quoted: the service names the target itself before what is wrong."""
    for word in words:
        if word == "autogroup:danger-all":
            raise entry.fail(f"cannot use {word} as a dst", "dst")
        try:
            targets.check(word)
        except UnknownTarget as error:
            said = str(error)
            if quoted:
                said = f"dst={said}" if said.startswith(f'"{word}"') else f'dst="{word}": {said}'
            raise entry.fail(said, "dst", _written(entry, word), error.hint) from None


def _written(entry: Entry, target: str) -> str:
    """Return a target as it stands in the entry: an acl's has its ports behind it."""
    written = (word for name, word in entry.words_at if name in ("dst", "ports"))
    return next((w for w in written if w == target or w.startswith(target + ":")), target)


def is_address(word: str, policy: Policy) -> bool:
    """Whether a word is an address, or a host's name."""
    return word in policy.hosts or wire_form(word) is not None
