"""Disco messages of the UDP relay: bind handshake, allocation (PROTOCOL §5.1, §5.12).

All integers are big-endian. Lamport ids order what one relay server allocated for one pair.
"""

from __future__ import annotations

from typing import NamedTuple

from warren.disco.malformed import MalformedDisco
from warren.keys import DiscoPublic
from warren.netmap.endpoint import PACKED_BYTES, Endpoint

CHALLENGE_BYTES = 32
BIND_BODY_BYTES = 72

_KEY_BYTES = 32
_ENDPOINT_FIXED_BYTES = 124
_REQUEST_BYTES = 2 * _KEY_BYTES + 4


class BindUDPRelayEndpoint(NamedTuple):
    """A client's first word to a relay endpoint. `vni` of 24 bits, `generation` not 0."""

    vni: int
    generation: int
    remote: DiscoPublic
    challenge: bytes = bytes(CHALLENGE_BYTES)


class BindUDPRelayEndpointChallenge(NamedTuple):
    """The relay's answer: the client must send `challenge` back from the same address."""

    vni: int
    generation: int
    remote: DiscoPublic
    challenge: bytes


class BindUDPRelayEndpointAnswer(NamedTuple):
    """The client's answer: the challenge as it was received."""

    vni: int
    generation: int
    remote: DiscoPublic
    challenge: bytes


class UDPRelayEndpoint(NamedTuple):
    """A relay server's allocation for two clients. `clients` are sorted; lifetimes in ns."""

    server: DiscoPublic
    clients: tuple[DiscoPublic, DiscoPublic]
    lamport_id: int
    vni: int
    bind_lifetime_ns: int
    steady_state_lifetime_ns: int
    endpoints: tuple[Endpoint, ...]


class CallMeMaybeVia(NamedTuple):
    """Asks the receiver to bind at a relay endpoint that the sender got."""

    endpoint: UDPRelayEndpoint


class AllocateUDPRelayEndpointRequest(NamedTuple):
    """Asks a relay server for an endpoint for two clients, whose keys are sorted."""

    clients: tuple[DiscoPublic, DiscoPublic]
    generation: int


class AllocateUDPRelayEndpointResponse(NamedTuple):
    """The relay server's answer to the request of that generation."""

    generation: int
    endpoint: UDPRelayEndpoint


RelayMessage = (
    BindUDPRelayEndpoint
    | BindUDPRelayEndpointChallenge
    | BindUDPRelayEndpointAnswer
    | CallMeMaybeVia
    | AllocateUDPRelayEndpointRequest
    | AllocateUDPRelayEndpointResponse
)

_BIND_TYPES: dict[
    int,
    type[BindUDPRelayEndpoint]
    | type[BindUDPRelayEndpointChallenge]
    | type[BindUDPRelayEndpointAnswer],
] = {
    0x04: BindUDPRelayEndpoint,
    0x05: BindUDPRelayEndpointChallenge,
    0x06: BindUDPRelayEndpointAnswer,
}
_VIA, _REQUEST, _RESPONSE = 0x07, 0x08, 0x09


def encode_relay_body(message: RelayMessage) -> tuple[int, bytes]:
    """Return type and body of a message."""
    if isinstance(message, CallMeMaybeVia):
        return _VIA, _encode_endpoint(message.endpoint)
    if isinstance(message, AllocateUDPRelayEndpointRequest):
        keys = b"".join(key.raw for key in message.clients)
        return _REQUEST, keys + message.generation.to_bytes(4, "big")
    if isinstance(message, AllocateUDPRelayEndpointResponse):
        generation = message.generation.to_bytes(4, "big")
        return _RESPONSE, generation + _encode_endpoint(message.endpoint)
    kind = next(kind for kind, bind in _BIND_TYPES.items() if isinstance(message, bind))
    numbers = message.vni.to_bytes(4, "big") + message.generation.to_bytes(4, "big")
    return kind, numbers + message.remote.raw + message.challenge


def parse_relay_body(kind: int, body: bytes) -> RelayMessage | None:
    """Read a body; None if `kind` is not one of this file's. Raises MalformedDisco."""
    if kind in _BIND_TYPES:
        return _parse_bind(_BIND_TYPES[kind], body)
    if kind == _VIA:
        return CallMeMaybeVia(_parse_endpoint(body))
    if kind == _REQUEST:
        if len(body) < _REQUEST_BYTES:
            raise MalformedDisco("a relay allocation request is cut")
        return AllocateUDPRelayEndpointRequest(_keys(body, 0), _number(body, 64, 4))
    if kind == _RESPONSE:
        if len(body) < 4:
            raise MalformedDisco("a relay allocation response is cut")
        return AllocateUDPRelayEndpointResponse(_number(body, 0, 4), _parse_endpoint(body[4:]))
    return None


def _parse_bind(
    kind: type[BindUDPRelayEndpoint]
    | type[BindUDPRelayEndpointChallenge]
    | type[BindUDPRelayEndpointAnswer],
    body: bytes,
) -> RelayMessage:
    if len(body) < BIND_BODY_BYTES:
        raise MalformedDisco("a relay bind message is cut")
    generation = _number(body, 4, 4)
    if generation == 0:
        raise MalformedDisco("a relay bind message has a generation")
    remote = DiscoPublic(body[8:40])
    return kind(_number(body, 0, 4), generation, remote, body[40:BIND_BODY_BYTES])


def _encode_endpoint(endpoint: UDPRelayEndpoint) -> bytes:
    return b"".join(
        (
            endpoint.server.raw,
            *(key.raw for key in endpoint.clients),
            endpoint.lamport_id.to_bytes(8, "big"),
            endpoint.vni.to_bytes(4, "big"),
            endpoint.bind_lifetime_ns.to_bytes(8, "big"),
            endpoint.steady_state_lifetime_ns.to_bytes(8, "big"),
            *(item.pack() for item in endpoint.endpoints),
        )
    )


def _parse_endpoint(body: bytes) -> UDPRelayEndpoint:
    addresses = body[_ENDPOINT_FIXED_BYTES:]
    if not addresses or len(addresses) % PACKED_BYTES:
        raise MalformedDisco("a relay endpoint is cut or has no whole address")
    starts = range(0, len(addresses), PACKED_BYTES)
    return UDPRelayEndpoint(
        server=DiscoPublic(body[:_KEY_BYTES]),
        clients=_keys(body, _KEY_BYTES),
        lamport_id=_number(body, 96, 8),
        vni=_number(body, 104, 4),
        bind_lifetime_ns=_number(body, 108, 8),
        steady_state_lifetime_ns=_number(body, 116, 8),
        endpoints=tuple(Endpoint.unpack(addresses[at : at + PACKED_BYTES]) for at in starts),
    )


def _keys(body: bytes, at: int) -> tuple[DiscoPublic, DiscoPublic]:
    first, second = body[at : at + _KEY_BYTES], body[at + _KEY_BYTES : at + 2 * _KEY_BYTES]
    return DiscoPublic(first), DiscoPublic(second)


def _number(body: bytes, at: int, size: int) -> int:
    return int.from_bytes(body[at : at + size], "big")
