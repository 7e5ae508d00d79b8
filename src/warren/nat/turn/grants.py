"""What a coordinator tells a node about TURN: servers, and credentials that end.

It travels as one value of the node capability `CAPABILITY` in the node's own CapMap; stock
clients know nothing of it and are not told. JSON, with servers as URIs (RFC 7065, RFC 5928):

    {"urls": ["turn:192.0.2.1:3478?transport=udp", "turns:turn.example.com:443?transport=tcp"],
     "username": "1767229200:n5", "credential": "…", "ends": 1767229200}

A URI may end in `#sha256-raw:<hex>`, which pins the server's certificate as in a DERP map.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from warren.nat.turn.allocation import Transport
from warren.nat.turn.credentials import (
    MAX_NAME_BYTES,
    Credentials,
    MalformedCredential,
    prepare,
    timed_credentials,
)
from warren.netmap.codec import MalformedMessage, decode_json_untrusted, encode_json
from warren.netmap.derpmap import PIN_PREFIX

CAPABILITY = "warren.dev/cap/turn"
MAX_SERVERS = 16
MAX_GRANT_BYTES = 16_384
_DEFAULT_PORT, _DEFAULT_TLS_PORT = 3478, 5349
_SLOT_S = 12 * 3600

_URI = re.compile(
    r"(?P<scheme>turns?):(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})"
    r"(?::(?P<port>[0-9]{1,5}))?(?:\?transport=(?P<transport>udp|tcp))?"
    rf"(?:#{PIN_PREFIX}(?P<pin>[0-9A-Fa-f]{{64}}))?"
)


class MalformedGrant(ValueError):
    """A value of the capability is not what it should be."""


class TurnPlace(NamedTuple):
    """One way to a TURN server.

    host: name or address, an IPv6 one without brackets. pin: SHA-256 of its TLS certificate
    (DER), which then need not be for `host`.
    """

    transport: Transport
    host: str
    port: int
    pin: bytes | None = None

    def uri(self) -> str:
        """Return the text form."""
        scheme = "turns" if self.transport is Transport.TLS else "turn"
        host = f"[{self.host}]" if ":" in self.host else self.host
        way = "udp" if self.transport is Transport.UDP else "tcp"
        pin = f"#{PIN_PREFIX}{self.pin.hex()}" if self.pin is not None else ""
        return f"{scheme}:{host}:{self.port}?transport={way}{pin}"


class Grant(NamedTuple):
    """Servers with the same credentials."""

    places: tuple[TurnPlace, ...]
    credentials: Credentials
    ends_unix_s: int
    """When a new grant must have come; allocations are made anew with it before."""


class _Wire(msgspec.Struct, kw_only=True):
    urls: list[str]
    username: str
    credential: str
    ends: int = 0


def issue(secret: bytes, owner: str, places: Sequence[TurnPlace], wall: datetime) -> Grant:
    """Make a node's grant. For half a day it is the same, so that it does not change the map.

    It is good for 12 to 24 hours. `owner`: a text without colons and spaces for the node.
    """
    ends = (int(wall.timestamp()) // _SLOT_S + 2) * _SLOT_S
    return Grant(tuple(places), timed_credentials(secret, owner, ends), ends)


def turnover(wall: datetime) -> datetime:
    """Return when `issue` gives others than at `wall`."""
    return datetime.fromtimestamp((int(wall.timestamp()) // _SLOT_S + 1) * _SLOT_S, UTC)


def encode(grant: Grant) -> bytes:
    """Return the JSON of a grant."""
    return encode_json(
        _Wire(
            urls=[place.uri() for place in grant.places],
            username=grant.credentials.username,
            credential=grant.credentials.password,
            ends=grant.ends_unix_s,
        )
    )


def parse_grant_untrusted(data: bytes) -> Grant:
    """Read a grant. Servers of a kind that we don't know are left out. Raises MalformedGrant."""
    if len(data) > MAX_GRANT_BYTES:
        raise MalformedGrant("the TURN grant is too long")
    try:
        wire = decode_json_untrusted(data, _Wire)
        prepare(wire.username)
        prepare(wire.credential)
    except (MalformedMessage, MalformedCredential) as error:
        raise MalformedGrant(f"not a TURN grant: {error}") from error
    if len(wire.username.encode()) > MAX_NAME_BYTES:
        raise MalformedGrant("the user name is too long")
    places = [place for url in wire.urls[:MAX_SERVERS] if (place := parse_uri(url)) is not None]
    if not places:
        raise MalformedGrant("the TURN grant names no server that can be used")
    return Grant(tuple(places), Credentials(wire.username, wire.credential), wire.ends)


def parse_uri(uri: str) -> TurnPlace | None:
    """Read a URI (RFC 7065); None for what is none, and for DTLS, which nobody here speaks."""
    match = _URI.fullmatch(uri)
    if match is None:
        return None
    secure, way = match["scheme"] == "turns", match["transport"]
    port = int(match["port"] or (_DEFAULT_TLS_PORT if secure else _DEFAULT_PORT))
    if secure and way == "udp":
        return None
    if not 0 < port <= 0xFFFF:
        return None
    transport = Transport.TLS if secure else Transport.TCP if way == "tcp" else Transport.UDP
    if match["pin"] and not secure:
        return None
    pin = bytes.fromhex(match["pin"]) if match["pin"] else None
    return TurnPlace(transport, match["host"].strip("[]"), port, pin)
