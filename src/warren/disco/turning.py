"""A message by which a Warren node tells another where a TURN server relays for it.

It is this project's own, as those of `punching`. Stock clients hear of a relayed address in
CallMeMaybe, and take it for one like any other.
"""

from __future__ import annotations

from typing import NamedTuple

from warren.disco.malformed import MalformedDisco
from warren.netmap.endpoint import PACKED_BYTES, Endpoint

TURN_OFFER = 0xE2

RELAYED_MAX = 4


class TurnOffer(NamedTuple):
    """Ping me at these addresses: a TURN server passes on what you send there.

    Comes over the relay only; it takes the place of the one before. At most 4 addresses.
    """

    relayed: tuple[Endpoint, ...]


def encode_turn_body(message: TurnOffer) -> bytes:
    """Return the body: count u8 | addresses of 18 bytes."""
    relayed = message.relayed[:RELAYED_MAX]
    return bytes([len(relayed)]) + b"".join(each.pack() for each in relayed)


def parse_turn_body(kind: int, body: bytes) -> TurnOffer | None:
    """Read a body; None if the type is another's. Raises MalformedDisco."""
    if kind != TURN_OFFER:
        return None
    count = body[0] if body else 0
    if not body or count > RELAYED_MAX or len(body) < 1 + count * PACKED_BYTES:
        raise MalformedDisco("an offer of relayed addresses is cut")
    starts = range(1, 1 + count * PACKED_BYTES, PACKED_BYTES)
    return TurnOffer(tuple(Endpoint.unpack(body[at : at + PACKED_BYTES]) for at in starts))
