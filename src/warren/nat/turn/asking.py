"""What a client asks for with an allocation, and what it is given (RFC 8656 §7)."""

from __future__ import annotations

from warren.nat.stun import MalformedStun
from warren.nat.turn.events import Allocated
from warren.nat.turn.message import Message
from warren.nat.turn.numbers import FAMILY_V6, MAX_LIFETIME_S, UDP, Attribute
from warren.nat.turn.transactions import Build

_IPV6 = bytes([FAMILY_V6, 0, 0, 0])


def asked(family: int, lifetime_s: int) -> Build:
    """Return the attributes of an Allocate. `family`: 4 or 6; 0 for both, as far as there are."""
    found = [
        (int(Attribute.REQUESTED_TRANSPORT), bytes([UDP, 0, 0, 0])),
        lifetime_value(lifetime_s),
    ]
    if family == 6:
        found.append((Attribute.REQUESTED_ADDRESS_FAMILY, _IPV6))
    elif family == 0:
        # Two numbers for one thing; who does not know one of them skips it.
        found.append((Attribute.ADDITIONAL_ADDRESS_FAMILY, _IPV6))
        found.append((Attribute.ADDITIONAL_ADDRESS_FAMILY_OLD, _IPV6))
    return lambda tx_id: found


def read_allocation_untrusted(message: Message) -> Allocated:
    """Return what a success grants. Raises MalformedStun."""
    mapped = message.endpoint(Attribute.XOR_MAPPED_ADDRESS)
    # In the place of a family that it does not have, coturn says 0.0.0.0:0.
    found = [
        at
        for at in message.endpoints(Attribute.XOR_RELAYED_ADDRESS)
        if at.port and not (at.ip.is_unspecified or at.ip.is_multicast)
    ]
    found.sort(key=lambda at: not at.is_v4)
    if not found or mapped is None:
        raise MalformedStun("an allocation without addresses that one can send to")
    also = found[-1] if found[-1].is_v4 != found[0].is_v4 else None
    return Allocated(found[0], mapped, granted_s_untrusted(message), also)


def lifetime_value(lifetime_s: int) -> tuple[int, bytes]:
    """Return the attribute; 0 seconds free an allocation."""
    return Attribute.LIFETIME, lifetime_s.to_bytes(4, "big")


def granted_s_untrusted(message: Message) -> int:
    """Return the lifetime that the server granted, in seconds. Raises MalformedStun."""
    granted = message.number(Attribute.LIFETIME, 4)
    if not granted:
        raise MalformedStun("the server grants no time")
    return min(granted, MAX_LIFETIME_S)
