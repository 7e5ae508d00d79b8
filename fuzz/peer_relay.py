"""Peer relays: both machines with a handshake under way, and any opened message from either side.

The bytes that stand in for wire fields are put where a check would else stop every input: the
session's own number, generation and keys.
"""

from __future__ import annotations

import random
from contextlib import suppress

from warren.disco.malformed import MalformedDisco
from warren.disco.messages import (
    AllocateUDPRelayEndpointRequest,
    AllocateUDPRelayEndpointResponse,
    BindUDPRelayEndpoint,
    BindUDPRelayEndpointAnswer,
    BindUDPRelayEndpointChallenge,
    CallMeMaybeVia,
    Message,
    Ping,
    Pong,
    TxId,
    UDPRelayEndpoint,
    encode_message,
    parse_message_untrusted,
)
from warren.keys import DiscoPublic, NodePublic
from warren.netmap.endpoint import Endpoint, MalformedEndpoint
from warren.paths.peer_relay import limits
from warren.paths.peer_relay.client import RelayNode, ViaPaths
from warren.paths.peer_relay.server import RelayServer

_A, _B, _SERVER = (DiscoPublic(bytes([n]) * 32) for n in (1, 2, 8))
_KEY, _RELAY_KEY = (NodePublic(bytes([n]) * 32) for n in (11, 19))
_AT = Endpoint.parse("9.9.9.9:9")
_SRC = Endpoint.parse("7.7.7.7:7")


def server(data: bytes) -> None:
    """A relay with one session takes a message of a client: over DERP, or with the control bit."""
    machine = RelayServer(_SERVER, random.Random(1).randbytes, 0.0)
    machine.set_addresses([_AT])
    answer = machine.allocate(AllocateUDPRelayEndpointRequest((_A, _B), 1), _A, 0.0)
    assert answer is not None
    vni = answer.endpoint.vni
    message = _parse(data)
    if isinstance(message, AllocateUDPRelayEndpointRequest):
        machine.allocate(message, message.clients[0], 1.0)
    elif message is not None:
        if isinstance(message, BindUDPRelayEndpoint | BindUDPRelayEndpointAnswer):
            machine.receive(message._replace(vni=vni, remote=_B), _A, vni, _SRC, 1.0)
        machine.receive(message, _A, vni, _SRC, 1.0)
    said = 0
    while (challenge := machine.poll_transmit()) is not None:
        encode_message(challenge.message)
        said += 1
    assert said <= 2, "no more is said than was asked"
    assert machine.poll_event() is None, "nobody is bound by guessing"
    assert len(machine) <= 2


def client(data: bytes) -> None:
    """A client that has asked a relay and binds at another takes a message of anybody."""
    way = ViaPaths(_KEY, _A, _B, random.Random(1).randbytes)
    way.set_relays([RelayNode(_RELAY_KEY, DiscoPublic(bytes([9]) * 32), 1)])
    way.note_active(0.0)
    way.receive_call(CallMeMaybeVia(_offer()), 0.0)
    way.handle_timeout(limits.DISCOVER_AFTER_S)
    message = _parse(data)
    if isinstance(message, CallMeMaybeVia):
        way.receive_call(message, 1.0)
        way.receive_call(CallMeMaybeVia(message.endpoint._replace(clients=(_A, _B))), 1.0)
    elif isinstance(message, AllocateUDPRelayEndpointResponse):
        way.receive_allocated(_RELAY_KEY, message, 1.0)
    elif message is not None:
        way.receive(message, _SERVER, _AT, 77, 1.0)
        way.receive(message, _B, _AT, 77, 1.0)
    for _ in range(200):
        due = way.next_timeout()
        if due is None or due[0] > 400:
            break
        way.handle_timeout(max(1.0, due[0]))
    assert way.path(1.0) is None, "no path without a pong to a ping of ours"
    said = 0
    while (item := way.poll_transmit()) is not None:
        encode_message(item.message)
        said += 1
    bursts = 3 * len(limits.BIND_OFFSETS_S) * limits.ADDRESSES_MAX
    assert said < bursts + 100, "what is sent is bounded"


def messages() -> list[bytes]:
    """One of each that the machines take."""
    challenge = BindUDPRelayEndpointChallenge(77, 1, _B, bytes(32))
    kinds: list[Message] = [
        Ping(TxId(bytes(12)), _KEY),
        Pong(TxId(bytes(12)), _AT),
        BindUDPRelayEndpoint(77, 1, _B),
        challenge,
        BindUDPRelayEndpointAnswer(*challenge),
        CallMeMaybeVia(_offer()),
        AllocateUDPRelayEndpointRequest((_A, _B), 3),
        AllocateUDPRelayEndpointResponse(3, _offer()),
    ]
    return [encode_message(kind) for kind in kinds]


def _offer() -> UDPRelayEndpoint:
    return UDPRelayEndpoint(_SERVER, (_A, _B), 4, 77, 30 * 10**9, 300 * 10**9, (_AT,))


def _parse(data: bytes) -> Message | None:
    with suppress(MalformedDisco, MalformedEndpoint):
        return parse_message_untrusted(data)
    return None
