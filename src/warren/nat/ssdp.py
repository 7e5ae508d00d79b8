"""SSDP, as far as it takes to find a router that speaks UPnP (UPnP Device Architecture 2.0 §1).

A search goes to the multicast group, and to the router itself as some answer only that. Answers
are HTTP heads in datagrams. Whoever sends one chooses the address that is fetched next, so the
caller checks that it is the router's own.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from warren.netmap.endpoint import Endpoint

PORT = 1900
GROUP = IPv4Address("239.255.255.250")
GROUP_V6 = IPv6Address("ff02::c")
MAX_BYTES = 4096
"""A datagram that is longer is not an answer."""

GATEWAY_V1 = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
GATEWAY_V2 = "urn:schemas-upnp-org:device:InternetGatewayDevice:2"

_MAX_LINES = 64
_MAX_PATH_CHARS = 512
_STATUS = re.compile(r"HTTP/1\.[01] 200(?: [^\r\n]*)?")
_NOTIFY = re.compile(r"NOTIFY \* HTTP/1\.[01]")
_BOOT_ID = "bootid.upnp.org"
_URL = re.compile(
    r"http://(\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:.]{2,45}\])(?::(\d{1,5}))?(/[\x21-\x7e]*)?", re.I
)


class MalformedSsdp(ValueError):
    """A datagram is not the answer to a search, or names a place that cannot be asked."""


class Location(NamedTuple):
    """Where something is to be had by HTTP; always an address, never a name."""

    server: Endpoint
    path: str

    def __str__(self) -> str:
        return f"http://{self.server}{self.path}"


class SsdpAnswer(NamedTuple):
    """One device's answer. `target` is what it calls itself, `server` its software."""

    location: Location
    target: str
    server: str
    boot_id: str = ""
    """Another one after every start of the device; empty where it does not tell."""


class SsdpNotice(NamedTuple):
    """What a device multicasts of itself unasked: that it is there, or going."""

    alive: bool
    boot_id: str


def search_request(target: str, host: Endpoint) -> bytes:
    """Return an M-SEARCH for devices that are a `target`, to be sent to `host`."""
    return (
        "M-SEARCH * HTTP/1.1\r\n"
        f"HOST: {host}\r\n"
        f"ST: {target}\r\n"
        'MAN: "ssdp:discover"\r\n'
        "MX: 1\r\n\r\n"
    ).encode()


def parse_ssdp_answer_untrusted(data: bytes) -> SsdpAnswer:
    """Read an answer to a search. Raises MalformedSsdp."""
    first, headers = _read(data)
    if not _STATUS.fullmatch(first):
        raise MalformedSsdp("not an answer to a search")
    if "location" not in headers:
        raise MalformedSsdp("the answer names no place")
    return SsdpAnswer(
        parse_location_untrusted(headers["location"]),
        _plain(headers.get("st", "")),
        _plain(headers.get("server", "")),
        _plain(headers.get(_BOOT_ID, "")),
    )


def parse_ssdp_notice_untrusted(data: bytes) -> SsdpNotice:
    """Read what a device multicasts of itself (§1.2). Raises MalformedSsdp."""
    first, headers = _read(data)
    if not _NOTIFY.fullmatch(first):
        raise MalformedSsdp("not a notice")
    return SsdpNotice(headers.get("nts") == "ssdp:alive", _plain(headers.get(_BOOT_ID, "")))


def _read(data: bytes) -> tuple[str, dict[str, str]]:
    """Split a head into its first line and its headers, names in lower case."""
    if len(data) > MAX_BYTES:
        raise MalformedSsdp(f"a message does not have {len(data)} bytes")
    lines = data.decode("latin-1").split("\n", _MAX_LINES)
    headers: dict[str, str] = {}
    for line in lines[1:_MAX_LINES]:
        name, colon, value = line.partition(":")
        if not line.strip():
            break
        if not colon:
            raise MalformedSsdp("a line is no header")
        headers.setdefault(name.strip().lower(), value.strip())
    return lines[0].rstrip("\r"), headers


def parse_location_untrusted(url: str) -> Location:
    """Read an `http://` URL with an address as its host. Raises MalformedSsdp."""
    found = _URL.fullmatch(url)
    if found is None:
        raise MalformedSsdp("the place is no http:// URL with an address")
    host, port_text, path = found.groups()
    port = int(port_text or 80)
    if not 0 < port <= 0xFFFF:
        raise MalformedSsdp("the place has no possible port")
    path = (path or "/").partition("#")[0]
    if len(path) > _MAX_PATH_CHARS:
        raise MalformedSsdp("the place has too long a path")
    try:
        return Location(Endpoint(ip_address(host.strip("[]")), port), path)
    except ValueError as error:
        raise MalformedSsdp("the place has no possible address") from error


def _plain(text: str) -> str:
    """What of a text may be shown to a person, and not too much of it."""
    return "".join(c for c in text[:128] if c.isascii() and c.isprintable())
