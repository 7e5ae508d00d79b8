"""The ts2021 handshake, both ends: Noise IK with the protocol version in the prologue.

    initiation, 101 bytes: u16 version | 0x01 | u16 96 | e (32) | s sealed (48) | tag (16)
    response,    51 bytes: 0x02 | u16 48 | e (32) | tag (16)
    error,     3+n bytes:  0x03 | u16 n | UTF-8 text, not authenticated

All integers are big-endian (PROTOCOL §2.4).
"""

from __future__ import annotations

from typing import NamedTuple

from warren.control.aead import TAG_BYTES, MakeCipher, Sodium
from warren.control.noise import MalformedHandshake, SymmetricState
from warren.control.records import RecordLayer
from warren.keys import MachinePrivate, MachinePublic, MalformedKey

__all__ = [
    "INITIATION_BYTES",
    "RESPONSE_BYTES",
    "Accepted",
    "HandshakeRefused",
    "Initiator",
    "MalformedHandshake",
    "VersionTooOld",
    "encode_error",
    "initiation_version_untrusted",
    "reply_length_untrusted",
    "respond",
]

INITIATION_BYTES = 101
RESPONSE_BYTES = 51
HEADER_BYTES = 3
MAX_ERROR_TEXT_BYTES = 4093

_INITIATION, _RESPONSE, _ERROR = 0x01, 0x02, 0x03
_KEY_BYTES = 32
_INITIATION_BODY_BYTES = 96
_RESPONSE_BODY_BYTES = 48


class HandshakeRefused(MalformedHandshake):
    """The server answered with an error frame; `text` is its unauthenticated word."""

    def __init__(self, text: str) -> None:
        super().__init__(f"the server refused the handshake: {text}")
        self.text = text


class VersionTooOld(MalformedHandshake):
    """The client speaks a protocol version below what this server supports."""

    def __init__(self, version: int, minimum: int) -> None:
        super().__init__(f"protocol version {version} is older than {minimum}, the oldest served")
        self.version = version
        self.minimum = minimum


class Accepted(NamedTuple):
    """What a server has after a good initiation."""

    version: int
    client: MachinePublic
    response: bytes
    records: RecordLayer


class Initiator:
    """The client's end of one handshake.

    `version` is the capability version, `ephemeral` 32 fresh random bytes.
    """

    __slots__ = ("_ephemeral", "_machine", "_message", "_state")

    def __init__(
        self, machine: MachinePrivate, server: MachinePublic, version: int, ephemeral: bytes
    ) -> None:
        self._machine = machine
        # Of the same kind for its arithmetic: it lives as long as the handshake.
        self._ephemeral = MachinePrivate(ephemeral)
        self._state = state = SymmetricState(_prologue(version))
        state.mix_hash(server.raw)
        header = version.to_bytes(2, "big") + _header(_INITIATION, _INITIATION_BODY_BYTES)
        own = self._ephemeral.public().raw
        state.mix_hash(own)
        state.mix_key(_exchange(self._ephemeral, server.raw))
        sealed_static = state.seal(machine.public().raw)
        state.mix_key(_exchange(machine, server.raw))
        self._message = header + own + sealed_static + state.seal(b"")

    def message(self) -> bytes:
        """Return the initiation, 101 bytes."""
        return self._message

    def finish(self, response: bytes) -> RecordLayer:
        """Take the server's whole reply frame (see `reply_length_untrusted`).

        Raises HandshakeRefused for an error frame, MalformedHandshake for anything else that
        is not the answer to this initiation. A second call is an error of the caller.
        """
        length = reply_length_untrusted(response)
        if length is None or length != len(response):
            raise MalformedHandshake(f"a reply of {len(response)} bytes is cut or too long")
        if response[0] == _ERROR:
            raise HandshakeRefused(_printable(response[HEADER_BYTES:]))
        state = self._state
        theirs = response[HEADER_BYTES : HEADER_BYTES + _KEY_BYTES]
        state.mix_hash(theirs)
        state.mix_key(_exchange(self._ephemeral, theirs))
        state.mix_key(_exchange(self._machine, theirs))
        state.open(response[HEADER_BYTES + _KEY_BYTES :])
        to_server, to_client = state.split()
        return RecordLayer(send_key=to_server, receive_key=to_client)


def respond(
    initiation: bytes,
    server: MachinePrivate,
    ephemeral: bytes,
    minimum_version: int = 0,
    cipher: MakeCipher = Sodium,
) -> Accepted:
    """Answer an initiation, as the server. `ephemeral` is 32 fresh random bytes.

    cipher: what seals the session's records.

    Raises VersionTooOld below `minimum_version`, MalformedHandshake for anything that is not
    an initiation made for this server's key.
    """
    version = initiation_version_untrusted(initiation)
    if version < minimum_version:
        raise VersionTooOld(version, minimum_version)
    state = SymmetricState(_prologue(version))
    state.mix_hash(server.public().raw)
    theirs, sealed_static, tag = initiation[5:37], initiation[37:85], initiation[85:]
    state.mix_hash(theirs)
    state.mix_key(_exchange(server, theirs))
    client = MachinePublic(state.open(sealed_static))
    state.mix_key(_exchange(server, client.raw))
    state.open(tag)

    own = MachinePrivate(ephemeral)
    own_public = own.public().raw
    state.mix_hash(own_public)
    state.mix_key(_exchange(own, theirs))
    state.mix_key(_exchange(own, client.raw))
    response = _header(_RESPONSE, _RESPONSE_BODY_BYTES) + own_public + state.seal(b"")
    to_server, to_client = state.split()
    records = RecordLayer(send_key=to_client, receive_key=to_server, cipher=cipher)
    return Accepted(version, client, response, records)


def initiation_version_untrusted(initiation: bytes) -> int:
    """Return the protocol version in the header of an initiation; nothing is authenticated.

    Raises MalformedHandshake unless length and header are those of an initiation.
    """
    if len(initiation) != INITIATION_BYTES:
        raise MalformedHandshake(
            f"an initiation has {INITIATION_BYTES} bytes, not {len(initiation)}"
        )
    if initiation[2:5] != _header(_INITIATION, _INITIATION_BODY_BYTES):
        raise MalformedHandshake("the header is not that of an initiation")
    return int.from_bytes(initiation[:2], "big")


def reply_length_untrusted(data: bytes) -> int | None:
    """Tell how many bytes the server's reply frame has, or None if more must be read to know.

    Raises MalformedHandshake if what stands there cannot be a reply.
    """
    if not data:
        return None
    if data[0] not in (_RESPONSE, _ERROR):
        raise MalformedHandshake(f"expected a handshake reply, got a frame of type {data[0]}")
    if len(data) < HEADER_BYTES:
        return None
    length = int.from_bytes(data[1:HEADER_BYTES], "big")
    if data[0] == _RESPONSE and length != _RESPONSE_BODY_BYTES:
        raise MalformedHandshake(f"a response has {_RESPONSE_BODY_BYTES} bytes, not {length}")
    if length > MAX_ERROR_TEXT_BYTES:
        raise MalformedHandshake(f"an error text of {length} bytes is too long")
    return HEADER_BYTES + length


def encode_error(text: str) -> bytes:
    """Return the error frame that tells a client, unauthenticated, why it is turned away."""
    body = text.encode()[:MAX_ERROR_TEXT_BYTES]
    return _header(_ERROR, len(body)) + body


def _header(kind: int, length: int) -> bytes:
    return bytes([kind]) + length.to_bytes(2, "big")


def _prologue(version: int) -> bytes:
    return b"Tailscale Control Protocol v" + str(version).encode()


def _exchange(private: MachinePrivate, public: bytes) -> bytes:
    try:
        return private.exchange(MachinePublic(public))
    except MalformedKey as error:
        raise MalformedHandshake("the other side's key is a low-order point") from error


def _printable(text: bytes) -> str:
    """The text of an error frame, safe to show on a terminal."""
    decoded = text.decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "�" for character in decoded)


assert INITIATION_BYTES == 2 + HEADER_BYTES + _KEY_BYTES + (_KEY_BYTES + TAG_BYTES) + TAG_BYTES
assert RESPONSE_BYTES == HEADER_BYTES + _KEY_BYTES + TAG_BYTES
