"""The disco packet: a NaCl box with the sender's key in front (PROTOCOL §5.1).

    "TS💬" (6) | sender's disco public key (32) | nonce (24) | box: message + 16

Whose box may be opened is for the caller to decide: only keys that the netmap named.
"""

from __future__ import annotations

import nacl.bindings
import nacl.exceptions

from warren.disco.malformed import MalformedDisco
from warren.keys import DiscoPrivate, DiscoPublic

MAGIC = b"TS\xf0\x9f\x92\xac"
NONCE_BYTES = 24
HEADER_BYTES = len(MAGIC) + 32 + NONCE_BYTES
BOX_OVERHEAD_BYTES = 16

_NONCE_START = len(MAGIC) + 32


class SharedBox:
    """One pair of keys with the shared secret computed once; seals and opens both ways.

    Raises MalformedDisco if the other side's key is a low-order point.
    """

    __slots__ = ("_own_public", "_secret", "peer")

    def __init__(self, own: DiscoPrivate, peer: DiscoPublic) -> None:
        self.peer = peer
        self._own_public = own.public().raw
        try:
            self._secret = nacl.bindings.crypto_box_beforenm(peer.raw, own.reveal())
        except (nacl.exceptions.CryptoError, RuntimeError) as error:
            raise MalformedDisco("the other side's disco key is a low-order point") from error

    def seal(self, message: bytes, nonce: bytes) -> bytes:
        """Return the packet that carries `message`. `nonce`: 24 random bytes, used once."""
        box = nacl.bindings.crypto_box_afternm(message, nonce, self._secret)
        return MAGIC + self._own_public + nonce + box

    def open_untrusted(self, packet: bytes) -> bytes:
        """Return the message in a packet from `peer`. Raises MalformedDisco."""
        if sender_of_untrusted(packet) != self.peer:
            raise MalformedDisco("the packet is not from the peer of this box")
        if len(packet) < HEADER_BYTES + BOX_OVERHEAD_BYTES:
            raise MalformedDisco(f"a disco packet of {len(packet)} bytes is cut")
        nonce, box = packet[_NONCE_START:HEADER_BYTES], packet[HEADER_BYTES:]
        try:
            return nacl.bindings.crypto_box_open_afternm(box, nonce, self._secret)
        except nacl.exceptions.CryptoError as error:
            raise MalformedDisco("the disco box does not open") from error

    def __repr__(self) -> str:
        return f"<SharedBox with {self.peer!r}>"


def sender_of_untrusted(packet: bytes) -> DiscoPublic | None:
    """Return the key that the packet claims to be from, or None if it is not a disco packet."""
    if len(packet) < HEADER_BYTES or not packet.startswith(MAGIC):
        return None
    return DiscoPublic(packet[len(MAGIC) : _NONCE_START])


def seal(message: bytes, sender: DiscoPrivate, receiver: DiscoPublic, nonce: bytes) -> bytes:
    """Return the packet that carries `message`. Raises MalformedDisco for a low-order key."""
    return SharedBox(sender, receiver).seal(message, nonce)


def open_untrusted(packet: bytes, receiver: DiscoPrivate, sender: DiscoPublic) -> bytes:
    """Return the message in a packet that `sender` sealed to `receiver`. Raises MalformedDisco."""
    return SharedBox(receiver, sender).open_untrusted(packet)
