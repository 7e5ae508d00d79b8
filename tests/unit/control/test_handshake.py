"""The Noise handshake: our two ends against each other and against an independent one."""

from __future__ import annotations

import pytest
from noise.connection import Keypair, NoiseConnection

from warren.control.handshake import (
    INITIATION_BYTES,
    RESPONSE_BYTES,
    HandshakeRefused,
    Initiator,
    MalformedHandshake,
    VersionTooOld,
    encode_error,
    initiation_version_untrusted,
    reply_length_untrusted,
    respond,
)
from warren.keys import MachinePrivate, MachinePublic

SERVER = MachinePrivate.from_entropy(bytes(range(32)))
CLIENT = MachinePrivate.from_entropy(bytes(range(1, 33)))
CLIENT_EPHEMERAL = bytes(range(2, 34))
SERVER_EPHEMERAL = bytes(range(3, 35))


def _initiator(version: int = 130) -> Initiator:
    return Initiator(CLIENT, SERVER.public(), version, CLIENT_EPHEMERAL)


def _oracle(prologue: bytes = b"Tailscale Control Protocol v130") -> NoiseConnection:
    oracle = NoiseConnection.from_name(b"Noise_IK_25519_ChaChaPoly_BLAKE2s")
    oracle.set_prologue(prologue)
    return oracle


def test_our_two_ends_agree() -> None:
    initiator = _initiator()
    accepted = respond(initiator.message(), SERVER, SERVER_EPHEMERAL)
    assert (accepted.version, accepted.client) == (130, CLIENT.public())
    assert len(initiator.message()) == INITIATION_BYTES
    assert len(accepted.response) == RESPONSE_BYTES
    records = initiator.finish(accepted.response)
    assert accepted.records.receive(records.seal(b"up")) == [b"up"]
    assert records.receive(accepted.records.seal(b"down")) == [b"down"]


def test_our_client_with_an_independent_server() -> None:
    oracle = _oracle()
    oracle.set_as_responder()
    oracle.set_keypair_from_private_bytes(Keypair.STATIC, SERVER.reveal())
    oracle.start_handshake()
    initiator = _initiator()
    assert oracle.read_message(initiator.message()[5:]) == b""
    records = initiator.finish(b"\x02\x00\x30" + oracle.write_message())
    # The first nonce is zero whatever its byte order.
    assert records.receive(b"\x04\x00\x12" + oracle.encrypt(b"hi")) == [b"hi"]
    assert oracle.decrypt(records.seal(b"ho")[3:]) == b"ho"


def test_our_server_with_an_independent_client() -> None:
    oracle = _oracle()
    oracle.set_as_initiator()
    oracle.set_keypair_from_private_bytes(Keypair.STATIC, CLIENT.reveal())
    oracle.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, SERVER.public().raw)
    oracle.start_handshake()
    message = bytes([0, 130, 1, 0, 96]) + oracle.write_message()
    accepted = respond(message, SERVER, SERVER_EPHEMERAL)
    assert accepted.client == CLIENT.public()
    assert oracle.read_message(accepted.response[3:]) == b""
    assert accepted.records.receive(b"\x04\x00\x12" + oracle.encrypt(b"hi")) == [b"hi"]
    assert oracle.decrypt(accepted.records.seal(b"ho")[3:]) == b"ho"


def test_an_old_client_is_told_so() -> None:
    with pytest.raises(VersionTooOld, match="version 87 is older than 88") as caught:
        respond(_initiator(87).message(), SERVER, SERVER_EPHEMERAL, minimum_version=88)
    assert (caught.value.version, caught.value.minimum) == (87, 88)
    assert respond(_initiator(88).message(), SERVER, SERVER_EPHEMERAL, 88).version == 88


def test_the_version_is_bound_to_the_handshake() -> None:
    message = bytearray(_initiator().message())
    message[1] += 1
    assert initiation_version_untrusted(bytes(message)) == 131
    with pytest.raises(MalformedHandshake, match="does not authenticate"):
        respond(bytes(message), SERVER, SERVER_EPHEMERAL)


@pytest.mark.parametrize("length", [*range(INITIATION_BYTES), INITIATION_BYTES + 1, 5000])
def test_an_initiation_of_another_length(length: int) -> None:
    message = (_initiator().message() + bytes(5000))[:length]
    with pytest.raises(MalformedHandshake):
        respond(message, SERVER, SERVER_EPHEMERAL)


@pytest.mark.parametrize("at", range(INITIATION_BYTES))
def test_a_changed_byte_in_the_initiation(at: int) -> None:
    message = bytearray(_initiator().message())
    message[at] ^= 1
    with pytest.raises(MalformedHandshake):
        respond(bytes(message), SERVER, SERVER_EPHEMERAL)


def test_an_initiation_for_another_server() -> None:
    other = MachinePrivate.from_entropy(bytes(range(9, 41)))
    with pytest.raises(MalformedHandshake, match="does not authenticate"):
        respond(_initiator().message(), other, SERVER_EPHEMERAL)


@pytest.mark.parametrize("length", [*range(RESPONSE_BYTES), RESPONSE_BYTES + 1, 5000])
def test_a_response_of_another_length(length: int) -> None:
    initiator = _initiator()
    response = respond(initiator.message(), SERVER, SERVER_EPHEMERAL).response
    with pytest.raises(MalformedHandshake):
        initiator.finish((response + bytes(5000))[:length])


@pytest.mark.parametrize("at", range(RESPONSE_BYTES))
def test_a_changed_byte_in_the_response(at: int) -> None:
    initiator = _initiator()
    response = bytearray(respond(initiator.message(), SERVER, SERVER_EPHEMERAL).response)
    # The highest bit of a Curve25519 point is not part of it, but it is of the transcript.
    response[at] ^= 0x80
    with pytest.raises(MalformedHandshake):
        initiator.finish(bytes(response))


def test_low_order_points() -> None:
    with pytest.raises(MalformedHandshake, match="low-order"):
        Initiator(CLIENT, MachinePublic.zero(), 130, CLIENT_EPHEMERAL)
    message = bytearray(_initiator().message())
    message[5:37] = bytes(32)
    with pytest.raises(MalformedHandshake, match="low-order"):
        respond(bytes(message), SERVER, SERVER_EPHEMERAL)
    with pytest.raises(MalformedHandshake, match="low-order"):
        _initiator().finish(b"\x02\x00\x30" + bytes(48))


def test_the_error_frame() -> None:
    frame = encode_error("too old\x1b[31m")
    assert frame[:3] == b"\x03\x00\x0c"
    assert reply_length_untrusted(frame[:3]) == len(frame)
    with pytest.raises(HandshakeRefused) as caught:
        _initiator().finish(frame)
    assert caught.value.text == "too old\ufffd[31m", "nothing reaches the terminal that moves it"
    assert len(encode_error("x" * 100_000)) == 4096


def test_how_long_a_reply_is() -> None:
    assert reply_length_untrusted(b"") is None
    assert reply_length_untrusted(b"\x02\x00") is None
    assert reply_length_untrusted(b"\x02\x00\x30rest") == RESPONSE_BYTES
    for wrong in (b"\x04", b"\x02\x00\x31", b"\x03\xff\xff", b"HTTP"):
        with pytest.raises(MalformedHandshake):
            reply_length_untrusted(wrong)


def test_nothing_secret_is_shown() -> None:
    assert CLIENT.reveal().hex() not in repr(vars(type(_initiator()))) + repr(_initiator())
