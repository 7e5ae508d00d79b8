"""NAT-PMP and PCP as two dialects of one conversation, for `datagram_asker`."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from warren.nat.mapping import Address, Finding, MapProtocol
from warren.nat.natpmp import (
    ExternalAddress,
    NatPmpMapped,
    NatPmpResult,
    external_address_request,
    map_request,
    parse_natpmp_response_untrusted,
)
from warren.nat.pcp import (
    Announced,
    Nonce,
    PcpMapped,
    PcpResult,
    announce_request,
    parse_pcp_response_untrusted,
    pcp_map_request,
)
from warren.netmap.endpoint import Endpoint

NO_ADDRESS = "it has no address of the internet"
"""What routers say of themselves behind another NAT: miniupnpd by NAT-PMP and UPnP."""

_NATPMP_REASONS = {
    NatPmpResult.NOT_AUTHORIZED: "it is switched off there, or not for this machine",
    NatPmpResult.NETWORK_FAILURE: NO_ADDRESS,
    NatPmpResult.OUT_OF_RESOURCES: "it has no more mappings to give",
    NatPmpResult.UNSUPPORTED_OPCODE: "it does not know the operation",
}
_PCP_REASONS = {
    PcpResult.NOT_AUTHORIZED: "it is switched off there, or not for this machine",
    PcpResult.MALFORMED_REQUEST: "it does not understand the request",
    PcpResult.UNSUPP_OPCODE: "it does not know the operation",
    PcpResult.NETWORK_FAILURE: NO_ADDRESS,
    PcpResult.NO_RESOURCES: "it has no more mappings to give",
    PcpResult.UNSUPP_PROTOCOL: "it does not map UDP",
    PcpResult.USER_EX_QUOTA: "this machine has as many mappings as it may",
    PcpResult.CANNOT_PROVIDE_EXTERNAL: "another machine has this port",
    PcpResult.ADDRESS_MISMATCH: "there is another NAT between this machine and the router",
}


class Alive(NamedTuple):
    """The router speaks the dialect. trouble: why it can map nothing, else empty."""

    epoch_s: int
    external_ip: Address | None
    trouble: str

    @property
    def finding(self) -> Finding:
        """What its trouble means."""
        return _meaning(self.trouble)


class Granted(NamedTuple):
    """A mapping was made, or with `lifetime_s` 0 deleted. external_ip None: as told before."""

    epoch_s: int
    external_ip: Address | None
    external_port: int
    lifetime_s: int


class Denied(NamedTuple):
    """No mapping."""

    epoch_s: int
    reason: str

    @property
    def finding(self) -> Finding:
        """What that means."""
        return _meaning(self.reason)


class NotSpoken(NamedTuple):
    """The router knows the port, but not this version."""


def _meaning(reason: str) -> Finding:
    return Finding.SECOND_NAT if reason == NO_ADDRESS else Finding.REFUSED


Heard = Alive | Granted | Denied | NotSpoken


class Stray(ValueError):
    """A response that is whole, but to nothing that we asked."""


class Dialect(Protocol):
    """How one of the two protocols says it."""

    @property
    def protocol(self) -> MapProtocol:
        """Which of the two."""
        ...

    def probe_request(self) -> bytes:
        """Ask whether it is spoken."""
        ...

    def map_request(self, lifetime_s: int, wish: Endpoint | None) -> bytes:
        """Ask for a mapping, or with lifetime 0 to delete it."""
        ...

    def hear_untrusted(self, data: bytes) -> Heard:
        """Read a response. Raises MalformedNatPmp, MalformedPcp or Stray."""
        ...


class NatPmpDialect:
    """NAT-PMP for one internal port."""

    protocol = MapProtocol.NATPMP

    def __init__(self, internal_port: int) -> None:
        self._port = internal_port

    def probe_request(self) -> bytes:
        """Ask for the outside address."""
        return external_address_request()

    def map_request(self, lifetime_s: int, wish: Endpoint | None) -> bytes:
        """Ask for a mapping; a deletion wishes for port 0 (RFC 6886 §3.4)."""
        port = (wish.port if wish else self._port) if lifetime_s else 0
        return map_request(self._port, port, lifetime_s)

    def hear_untrusted(self, data: bytes) -> Heard:
        """Read a response. Raises MalformedNatPmp or Stray."""
        response = parse_natpmp_response_untrusted(data)
        reason = _NATPMP_REASONS.get(response.result, f"error {response.result}")  # type: ignore[call-overload]
        if response.result == NatPmpResult.UNSUPPORTED_VERSION:
            # We only ever sent version 0: this answers our PCP.
            raise Stray("an answer to another protocol")
        if isinstance(response, ExternalAddress):
            return Alive(response.epoch_s, response.ip, "" if response.ip else reason)
        assert isinstance(response, NatPmpMapped)
        if response.result != NatPmpResult.SUCCESS:
            return Denied(response.epoch_s, reason)
        if response.internal_port != self._port:
            raise Stray("another internal port")
        return Granted(response.epoch_s, None, response.external_port, response.lifetime_s)


class PcpDialect:
    """PCP for one internal port. client: the address that requests are sent from."""

    protocol = MapProtocol.PCP

    def __init__(self, client: Address, internal_port: int, nonce: Nonce) -> None:
        self._client = client
        self._port = internal_port
        self._nonce = nonce

    def probe_request(self) -> bytes:
        """Ask for an announcement."""
        return announce_request(self._client)

    def map_request(self, lifetime_s: int, wish: Endpoint | None) -> bytes:
        """Ask for a mapping under our nonce."""
        if wish is None or not lifetime_s:
            port = self._port if lifetime_s else 0
            return pcp_map_request(self._client, self._nonce, self._port, lifetime_s, port)
        return pcp_map_request(
            self._client, self._nonce, self._port, lifetime_s, wish.port, wish.ip
        )

    def hear_untrusted(self, data: bytes) -> Heard:
        """Read a response. Raises MalformedPcp or Stray."""
        response = parse_pcp_response_untrusted(data)
        reason = _PCP_REASONS.get(response.result, f"error {response.result}")  # type: ignore[call-overload]
        if response.result == PcpResult.UNSUPP_VERSION:
            # We only ever sent version 2: this answers our NAT-PMP.
            raise Stray("an answer to another protocol")
        if isinstance(response, Announced):
            known = response.result in (PcpResult.SUCCESS, PcpResult.UNSUPP_OPCODE)
            return Alive(response.epoch_s, None, "" if known else reason)
        if not isinstance(response, PcpMapped):
            return Denied(response.epoch_s, reason)
        if response.nonce != self._nonce or response.internal_port != self._port:
            raise Stray("another nonce or internal port")
        if response.result != PcpResult.SUCCESS:
            return Denied(response.epoch_s, reason)
        return Granted(
            response.epoch_s, response.external_ip, response.external_port, response.lifetime_s
        )
