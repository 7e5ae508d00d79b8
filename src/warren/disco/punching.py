"""Messages by which two Warren nodes agree on birthday punching; over the relay only.

They are this project's own, and go only to peers that say in their host information that they
are Warren: others drop unknown types. Types lie far above those that stock clients use.
"""

from __future__ import annotations

from typing import NamedTuple

from warren.disco.malformed import MalformedDisco
from warren.netmap.endpoint import PACKED_BYTES, Endpoint

PUNCH_INVITE, PUNCH_END = 0xE0, 0xE1

PORTS_MAX, SPANS_MAX = 128, 4
_FIXED_BYTES = 4 + 2 + 2 * PACKED_BYTES + 2


class PunchInvite(NamedTuple):
    """The hard side has opened `sockets` ports towards `target`; please find one of them.

    attempt: a number that its answers repeat. target: the receiver's endpoint, the only source
    that the ports let in. address: where the ports are; its own port says nothing. ports, spans:
    where to look first, in this order; at most 128 and 4.
    """

    attempt: int
    sockets: int
    target: Endpoint
    address: Endpoint
    ports: tuple[int, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()


class PunchEnd(NamedTuple):
    """The easy side stopped, or never began. `reason` is one of `PunchReason`'s numbers."""

    attempt: int
    reason: int


class PunchReason:
    """Why an invitation came to nothing."""

    EXHAUSTED = 1
    BOTH_HARD = 2
    SWITCHED_OFF = 3
    ADDRESS_NOT_YOURS = 4
    BUSY = 5
    NO_UDP = 6


PunchMessage = PunchInvite | PunchEnd


def encode_punch_body(message: PunchMessage) -> tuple[int, bytes]:
    """Return type and body."""
    if isinstance(message, PunchEnd):
        return PUNCH_END, message.attempt.to_bytes(4, "big") + bytes([message.reason])
    body = message.attempt.to_bytes(4, "big") + message.sockets.to_bytes(2, "big")
    body += message.target.pack() + message.address.pack()
    body += bytes([len(message.ports), len(message.spans)])
    body += b"".join(port.to_bytes(2, "big") for port in message.ports)
    for first, last in message.spans:
        body += first.to_bytes(2, "big") + last.to_bytes(2, "big")
    return PUNCH_INVITE, body


def parse_punch_body(kind: int, body: bytes) -> PunchMessage | None:
    """Read a body; None if the type is another's. Raises MalformedDisco."""
    if kind == PUNCH_END:
        if len(body) < 5:
            raise MalformedDisco("the end of a punching attempt is cut")
        return PunchEnd(int.from_bytes(body[:4], "big"), body[4])
    if kind != PUNCH_INVITE:
        return None
    if len(body) < _FIXED_BYTES:
        raise MalformedDisco("an invitation to punch is cut")
    target = Endpoint.unpack(body[6 : 6 + PACKED_BYTES])
    address = Endpoint.unpack(body[6 + PACKED_BYTES : 6 + 2 * PACKED_BYTES])
    port_count, span_count = body[_FIXED_BYTES - 2], body[_FIXED_BYTES - 1]
    if port_count > PORTS_MAX or span_count > SPANS_MAX:
        raise MalformedDisco("an invitation to punch names too many ports")
    words = body[_FIXED_BYTES : _FIXED_BYTES + 2 * port_count + 4 * span_count]
    if len(words) < 2 * port_count + 4 * span_count:
        raise MalformedDisco("an invitation to punch is cut")
    numbers = [int.from_bytes(words[at : at + 2], "big") for at in range(0, len(words), 2)]
    spans = zip(numbers[port_count::2], numbers[port_count + 1 :: 2], strict=True)
    return PunchInvite(
        attempt=int.from_bytes(body[:4], "big"),
        sockets=int.from_bytes(body[4:6], "big"),
        target=target,
        address=address,
        ports=tuple(numbers[:port_count]),
        spans=tuple((first, last) for first, last in spans if first <= last),
    )
