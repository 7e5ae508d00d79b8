"""What stands inside a disco box: `type u8 | version u8 | body` (PROTOCOL §5.1).

Trailing bytes are ignored, as every receiver must, so that messages can grow. Ids and nonces are
given by the caller. The messages of the UDP relay are in `relaying`, those of birthday punching
in `punching`, that of TURN in `turning`.
"""

from __future__ import annotations

from typing import NamedTuple, NewType

from warren.disco.malformed import MalformedDisco, UnknownMessage
from warren.disco.punching import (
    PunchEnd,
    PunchInvite,
    PunchMessage,
    encode_punch_body,
    parse_punch_body,
)
from warren.disco.relaying import (
    AllocateUDPRelayEndpointRequest,
    AllocateUDPRelayEndpointResponse,
    BindUDPRelayEndpoint,
    BindUDPRelayEndpointAnswer,
    BindUDPRelayEndpointChallenge,
    CallMeMaybeVia,
    RelayMessage,
    UDPRelayEndpoint,
    encode_relay_body,
    parse_relay_body,
)
from warren.disco.turning import TURN_OFFER, TurnOffer, encode_turn_body, parse_turn_body
from warren.keys import NodePublic
from warren.netmap.endpoint import PACKED_BYTES, Endpoint

__all__ = [
    "AllocateUDPRelayEndpointRequest",
    "AllocateUDPRelayEndpointResponse",
    "BindUDPRelayEndpoint",
    "BindUDPRelayEndpointAnswer",
    "BindUDPRelayEndpointChallenge",
    "CallMeMaybe",
    "CallMeMaybeVia",
    "MalformedDisco",
    "Message",
    "Ping",
    "Pong",
    "PunchEnd",
    "PunchInvite",
    "TurnOffer",
    "TxId",
    "UDPRelayEndpoint",
    "UnknownMessage",
    "encode_message",
    "parse_message_untrusted",
]

TxId = NewType("TxId", bytes)
"""Twelve random bytes that join a pong to its ping."""

TX_ID_BYTES = 12
HEADER_BYTES = 2
VERSION = 0

_NODE_KEY_BYTES = 32
_PING, _PONG, _CALL_ME_MAYBE = 0x01, 0x02, 0x03


class Ping(NamedTuple):
    """Asks for a Pong. `padding` zero bytes at the end make it an MTU probe.

    `node_key` is the sender's; it is the zero key in pings of ancient clients.
    """

    tx_id: TxId
    node_key: NodePublic
    padding: int = 0


class Pong(NamedTuple):
    """Answers a Ping: `source` is where the ping was seen to come from."""

    tx_id: TxId
    source: Endpoint


class CallMeMaybe(NamedTuple):
    """Asks the receiver to ping every one of `endpoints` now. Comes over the relay only."""

    endpoints: tuple[Endpoint, ...]


Message = Ping | Pong | CallMeMaybe | RelayMessage | PunchMessage | TurnOffer


def encode_message(message: Message) -> bytes:
    """Return the bytes to seal."""
    if isinstance(message, Ping):
        kind = _PING
        body = message.tx_id + message.node_key.raw + bytes(message.padding)
    elif isinstance(message, Pong):
        kind, body = _PONG, message.tx_id + message.source.pack()
    elif isinstance(message, CallMeMaybe):
        kind, body = _CALL_ME_MAYBE, b"".join(item.pack() for item in message.endpoints)
    elif isinstance(message, PunchInvite | PunchEnd):
        kind, body = encode_punch_body(message)
    elif isinstance(message, TurnOffer):
        kind, body = TURN_OFFER, encode_turn_body(message)
    else:
        kind, body = encode_relay_body(message)
    return bytes([kind, VERSION]) + body


def parse_message_untrusted(data: bytes) -> Message:
    """Read an opened message. Raises MalformedDisco; UnknownMessage for a type not known."""
    if len(data) < HEADER_BYTES:
        raise MalformedDisco("a disco message has a type and a version")
    kind, version, body = data[0], data[1], data[HEADER_BYTES:]
    if kind == _PING:
        return _parse_ping(body)
    if kind == _PONG:
        return _parse_pong(body)
    if kind == _CALL_ME_MAYBE:
        return _parse_call_me_maybe(version, body)
    other: Message | None = parse_relay_body(kind, body) or parse_punch_body(kind, body)
    other = other or parse_turn_body(kind, body)
    if other is None:
        raise UnknownMessage(f"a disco message of type {kind} is not known")
    return other


def _parse_ping(body: bytes) -> Ping:
    if len(body) < TX_ID_BYTES:
        raise MalformedDisco("a ping is cut")
    tx_id, rest = TxId(body[:TX_ID_BYTES]), body[TX_ID_BYTES:]
    if len(rest) < _NODE_KEY_BYTES:
        return Ping(tx_id, NodePublic.zero(), len(rest))
    return Ping(tx_id, NodePublic(rest[:_NODE_KEY_BYTES]), len(rest) - _NODE_KEY_BYTES)


def _parse_pong(body: bytes) -> Pong:
    if len(body) < TX_ID_BYTES + PACKED_BYTES:
        raise MalformedDisco("a pong is cut")
    source = Endpoint.unpack(body[TX_ID_BYTES : TX_ID_BYTES + PACKED_BYTES])
    return Pong(TxId(body[:TX_ID_BYTES]), source)


def _parse_call_me_maybe(version: int, body: bytes) -> CallMeMaybe:
    # What a later version may put here can't be guessed: an empty list is the wire's answer.
    if version != VERSION or len(body) % PACKED_BYTES:
        return CallMeMaybe(())
    starts = range(0, len(body), PACKED_BYTES)
    return CallMeMaybe(tuple(Endpoint.unpack(body[at : at + PACKED_BYTES]) for at in starts))
