"""Values of port mapping: what is asked of a router, what came of it, what is to be sent.

These are kept as long as they are true, so that a person can be told later why there is no
mapping: `sentence` says it.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from warren.nat.ssdp import Location
from warren.netmap.endpoint import Endpoint

Address = IPv4Address | IPv6Address

LEASE_S = 7200
"""What is asked for (PROTOCOL §5.10); a router that grants more is not relied on for more."""
LEASE_MIN_S = 30
"""A lease that is shorter is not worth its renewals."""

# No packet from the internet arrives at these. The documentation networks (RFC 5737, 3849) are not
# among them: nobody outside a lab has them, and labs are built of them.
_UNREACHABLE = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_LABS_V6 = IPv6Network("2001:db8::/32")
_SHARED = IPv4Network("100.64.0.0/10")
_PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))


class MapProtocol(StrEnum):
    """A way to ask a router for a mapping, by the name that people know."""

    NATPMP = "NAT-PMP"
    PCP = "PCP"
    UPNP = "UPnP"


class Finding(StrEnum):
    """What is known of one protocol at one router."""

    UNKNOWN = "unknown"
    """It was not asked yet, or its time to answer is not over."""
    DISABLED = "disabled"
    """We were told not to use it."""
    SILENT = "silent"
    """No answer: it is switched off, or not built in."""
    SPOKEN = "spoken"
    """It answers; a mapping was not needed of it, or is being asked for."""
    MAPPED = "mapped"
    REFUSED = "refused"
    """It answers, and gives no mapping."""
    SECOND_NAT = "second-nat"
    """Its outside address is not on the internet, so a mapping would be of no use."""
    BROKEN = "broken"
    """It answers with what it must not, or no longer."""


class Outcome(NamedTuple):
    """What came of one protocol; `since` is monotonic. detail: a phrase for people."""

    protocol: MapProtocol
    finding: Finding
    detail: str = ""
    external_ip: Address | None = None
    since: float = 0.0

    @property
    def spoken(self) -> bool | None:
        """Whether the router speaks it at all; None before that is known."""
        if self.finding in (Finding.UNKNOWN, Finding.DISABLED):
            return None
        return self.finding is not Finding.SILENT


class Mapping(NamedTuple):
    """A port of the router that leads to us. Times are monotonic; `lease_s` None: for good."""

    protocol: MapProtocol
    external: Endpoint
    internal_port: int
    lease_s: int | None
    since: float

    @property
    def expires_at(self) -> float | None:
        """When the router forgets it; None: never."""
        return None if self.lease_s is None else self.since + self.lease_s


class Datagram(NamedTuple):
    """A datagram to send from the socket whose address the router sees."""

    to: Endpoint
    data: bytes


class Call(NamedTuple):
    """An HTTP request to make; what comes of it goes to `receive_reply` with its number."""

    number: int
    method: str
    to: Location
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Reply(NamedTuple):
    """An HTTP response that came whole."""

    status: int
    body: bytes


class CallFailed(NamedTuple):
    """No whole response came; `reason` is a phrase for people."""

    reason: str


def why_unreachable(ip: Address) -> str | None:
    """Return why nothing on the internet reaches this address, as a phrase; None if it may."""
    if ip.version == 6:
        if ip.is_global or ip in _LABS_V6:
            return None
        return "not an address of the internet"
    assert isinstance(ip, IPv4Address)
    if ip in _SHARED:
        return "an address of a carrier's NAT"
    if any(ip in network for network in _PRIVATE):
        return "a private address"
    if any(ip in network for network in _UNREACHABLE):
        return "not an address of the internet"
    return None


def sentence(outcome: Outcome) -> str:
    """Say to a person what came of a protocol."""
    name, detail = outcome.protocol.value, outcome.detail
    because = f": {detail}" if detail else ""
    return {
        Finding.UNKNOWN: f"The router was not asked by {name} yet.",
        Finding.DISABLED: f"{name} is turned off on this machine.",
        Finding.SILENT: f"Your router's {name} is off: it does not answer.",
        Finding.SPOKEN: f"Your router speaks {name}{because}.",
        Finding.MAPPED: f"Your router has opened a port by {name}{because}.",
        Finding.REFUSED: f"Your router speaks {name}, but refuses a mapping{because}.",
        Finding.SECOND_NAT: f"Your router is itself behind a NAT ({name} says{because}); "
        "a mapping on it is of no use.",
        Finding.BROKEN: f"Your router's {name} does not work{because}.",
    }[outcome.finding]
