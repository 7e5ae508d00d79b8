"""What a TURN client tells its owner."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from warren.netmap.endpoint import Endpoint

IPAddress = IPv4Address | IPv6Address


class Cause(StrEnum):
    """Why a client came to its end."""

    NO_ANSWER = "no answer"
    NO_STREAM = "the stream is not open"
    CREDENTIALS = "the credentials were refused"
    PORT_IN_USE = "the server still holds an allocation of this port; use another local port"
    QUOTA = "the user's quota at this server is used up"
    CAPACITY = "the server has no room"
    ALTERNATE = "the server names another server"
    NOT_OFFERED = "the server does not offer what is needed"
    PROTOCOL = "the server breaks the protocol"


class Allocated(NamedTuple):
    """The server relays for us now."""

    relayed: Endpoint
    """Where peers reach us."""
    mapped: Endpoint
    """Our own address as the server sees it."""
    lifetime_s: int
    also: Endpoint | None = None
    """The same in IPv6, where the server has both."""

    @property
    def addresses(self) -> tuple[Endpoint, ...]:
        """Both relayed addresses."""
        return (self.relayed,) if self.also is None else (self.relayed, self.also)


class Permitted(NamedTuple):
    """Peers at an address may send to us."""

    ip: IPAddress


class ChannelOpen(NamedTuple):
    """Data for a peer needs 4 bytes more instead of 36."""

    peer: Endpoint
    channel: int


class Refused(NamedTuple):
    """The server does not relay to a peer."""

    peer: Endpoint | IPAddress
    code: int
    reason: str


class Received(NamedTuple):
    """A datagram from a peer."""

    peer: Endpoint
    data: bytes


class Lost(NamedTuple):
    """The server forgot us. A new allocation is being asked for; permissions must be too."""


class Released(NamedTuple):
    """The allocation ended as was asked."""


class Failed(NamedTuple):
    """The end of this client."""

    cause: Cause
    code: int = 0
    """The server's error code, 0 if it gave none."""
    reason: str = ""
    """The server's words; not to be trusted."""
    alternate: Endpoint | None = None
    """For ALTERNATE: where to try instead."""
    retry_after_s: float | None = None
    """When the same server may be tried again; None: not with the same parameters."""


Event = Allocated | Permitted | ChannelOpen | Refused | Received | Lost | Released | Failed


@dataclass
class ClientCounters:
    """What came and was dropped."""

    malformed: int = 0
    unexpected: int = 0
    """Answers to no request of ours, data of peers without permission."""
    forged: int = 0
    """Answers whose integrity is missing or wrong."""
    unsent: int = 0
    """Our own data for which there is no permission yet."""
