"""Ports and protocols as a policy writes them (§12.1, §12.3)."""

from __future__ import annotations

from typing import NamedTuple

from warren.policy.malformed import nearest

PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipv4": 4, "ip-in-ip": 4, "tcp": 6, "egp": 8, "igp": 9, "udp": 17,
    "gre": 47, "esp": 50, "ah": 51, "ipv6-icmp": 58, "sctp": 132, "fc": 133,
}  # fmt: skip
WITH_PORTS = {PROTOCOLS[name] for name in ("tcp", "udp", "sctp")}
_MAX_PORT = 65535


class UnknownProtocol(ValueError):
    """No protocol has that name; the text is the service's."""

    def __init__(self, name: str) -> None:
        super().__init__(f'unknown protocol "{name}"')
        self.hint = nearest(name, PROTOCOLS)


class Ports(NamedTuple):
    """Inclusive ports."""

    first: int
    last: int


ANY = Ports(0, _MAX_PORT)


def _integer(text: str, source: str, which: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 8 and int(text) <= _MAX_PORT):
        raise ValueError(f'port range "{source}": invalid {which} integer')
    return int(text)


def parse_ports(text: str) -> Ports:
    """Parse `*`, a port or a range. Raises ValueError with the service's words."""
    text = text.strip()
    if text == "*":
        return ANY
    low, dash, high = text.partition("-")
    first = _integer(low.strip(), text, "first")
    if first == 0:
        raise ValueError(f"port range \"{text}\": first port must be >0, or use '*' for wildcard")
    last = _integer(high.strip(), text, "last") if dash else first
    if last < first:
        raise ValueError(f'port range "{text}": last port is lower than the first')
    return Ports(first, last)


def parse_protocol(text: str) -> tuple[int, ...]:
    """Parse a protocol's name or number; nothing means the default four. Raises ValueError."""
    text = text.strip().lower()
    if not text:
        return ()
    if text in PROTOCOLS:
        return (PROTOCOLS[text],)
    if text.isascii() and text.isdigit() and text[0] != "0" and int(text[:4]) <= 255:
        return (int(text),)
    raise UnknownProtocol(text)


def split_destination(text: str) -> tuple[str, list[Ports]]:
    """Split `target:ports` at its last colon. Raises ValueError."""
    target, colon, ports = text.rpartition(":")
    if not colon:
        raise ValueError(f'dst="{text}": missing port')
    target = target.removeprefix("[").removesuffix("]") if target.startswith("[") else target
    try:
        return target.strip(), [parse_ports(part) for part in ports.split(",")]
    except ValueError as error:
        raise ValueError(f'dst="{text}": {error}') from None


def parse_ip_entry(text: str) -> tuple[tuple[int, ...], Ports]:
    """Parse a grant's `ip` entry: `*`, `443`, `80-90`, `tcp:443`, `icmp:*`. Raises ValueError."""
    name, colon, ports = text.rpartition(":")
    return parse_protocol(name) if colon else (), parse_ports(ports)
