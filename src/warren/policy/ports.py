"""Ports and protocols as a policy writes them (§12.1, §12.3)."""

from __future__ import annotations

from typing import NamedTuple

from warren.policy.malformed import nearest

PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipv4": 4, "ip-in-ip": 4, "tcp": 6, "egp": 8, "igp": 9, "udp": 17,
    "dccp": 33, "gre": 47, "esp": 50, "ah": 51, "ipv6-icmp": 58, "tsmp": 99, "sctp": 132, "fc": 133,
}  # fmt: skip
_ALIASES = {"icmpv4": 1, "icmpv6": 58}
WITH_PORTS = {PROTOCOLS[name] for name in ("tcp", "udp", "sctp")}
_MAX_PORT = 65535


class UnknownProtocol(ValueError):
    """No protocol has that name; the text is the service's."""

    def __init__(self, name: str) -> None:
        super().__init__(f'proto name "{name}" not known; use protocol number 0-255')
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
    if not text:
        raise ValueError(f'invalid port list: "{text}"')
    if text.count("-") > 1:
        raise ValueError(f'port range "{text}": too many dashes(-)')
    low, dash, high = text.partition("-")
    first = _integer(low.strip(), text, "first")
    last = _integer(high.strip(), text, "last") if dash else first
    if first == 0:
        raise ValueError(f"port range \"{text}\": first port must be >0, or use '*' for wildcard")
    if last < first:
        # It says so itself, whichever of the two is meant.
        raise ValueError(f'port range "{text}": first port must be >= last port')
    return Ports(first, last)


def parse_protocol(text: str) -> tuple[int, ...]:
    """Parse a protocol's name or number; nothing means the default four. Raises ValueError."""
    text = text.strip().lower()
    if not text:
        return ()
    if (known := PROTOCOLS.get(text) or _ALIASES.get(text)) is not None:
        return (known,)
    if text.isascii() and text.isdigit() and text[0] == "0":
        raise ValueError(f'leading 0 not permitted in protocol number: "{text}"')
    if text.isascii() and text.isdigit() and int(text[:4]) <= 255:
        return (int(text),)
    raise UnknownProtocol(text)


def split_destination(text: str) -> tuple[str, list[Ports]]:
    """Split `target:ports` at its last colon. Raises ValueError with the service's words."""
    target, colon, ports = text.rpartition(":")
    try:
        if not colon:
            raise ValueError('hostport must contain a colon (":")')
        return _unbracketed(target.strip()), [parse_ports(part) for part in ports.split(",")]
    except ValueError as error:
        raise ValueError(f'dst="{text}": {error}') from None


def _unbracketed(target: str) -> str:
    """Return `fd7a::1` of `[fd7a::1]`, and `fd7a::/48` of `[fd7a::]/48`."""
    if not target.startswith("["):
        return target
    address, closed, rest = target[1:].partition("]")
    if not closed or ":" not in address or (rest and not rest.startswith("/")):
        raise ValueError("square brackets are only valid around IPv6 addresses")
    return address + rest


def parse_ip_entry(text: str) -> tuple[tuple[int, ...], Ports]:
    """Parse a grant's `ip` entry: `*`, `443`, `80-90`, `tcp:443`, `icmp:*`, `*:443`.

    Raises ValueError with the service's words.
    """
    if not text:
        raise ValueError("empty string")
    name, colon, ports = text.rpartition(":")
    if colon and not name.strip():
        raise ValueError("empty protocol")
    found = parse_ports(ports)
    return parse_protocol("" if name.strip() == "*" else name), found
