"""Typed keys: their text forms, their arithmetic, and that secrets stay out of sight."""

from __future__ import annotations

import copy

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from vectors.captures import sessions
from warren.keys import (
    ChallengePrivate,
    ChallengePublic,
    DiscoPrivate,
    DiscoPublic,
    LockPrivate,
    LockPublic,
    MachinePrivate,
    MachinePublic,
    MalformedKey,
    MeshKey,
    NodePrivate,
    NodePublic,
    PrivateKey,
    PublicKey,
)

PUBLIC = [
    (NodePublic, "nodekey:"),
    (MachinePublic, "mkey:"),
    (DiscoPublic, "discokey:"),
    (ChallengePublic, "chalpub:"),
    (LockPublic, "nlpub:"),
]
CURVE = [NodePrivate, MachinePrivate, DiscoPrivate, ChallengePrivate]
HEX = "00112233445566778899aabbccddeeff" * 2


@pytest.mark.parametrize(("kind", "prefix"), PUBLIC)
def test_public_text_both_ways(kind: type[PublicKey], prefix: str) -> None:
    key = kind.parse(prefix + HEX)
    assert str(key) == prefix + HEX
    assert key.raw == bytes.fromhex(HEX)
    assert kind.parse(prefix + HEX.upper()) == key
    assert str(kind.zero()) == prefix + "0" * 64
    assert kind.zero().is_zero
    assert not key.is_zero


@pytest.mark.parametrize(("kind", "prefix"), PUBLIC)
@pytest.mark.parametrize(
    "rest",
    [
        "",
        HEX[:-1],
        HEX[:-2],
        HEX + "0",
        HEX + "00",
        HEX + "\n",
        "g" + HEX[1:],
        " " + HEX[1:],
        HEX[:31] + "  " + HEX[33:],
        "é" * 64,
        "x" * 100_000,
    ],
)
def test_text_that_is_no_key(kind: type[PublicKey], prefix: str, rest: str) -> None:
    with pytest.raises(MalformedKey):
        kind.parse(prefix + rest)


@pytest.mark.parametrize(("kind", "prefix"), PUBLIC)
def test_the_prefix_is_exact(kind: type[PublicKey], prefix: str) -> None:
    for wrong in ("", prefix.upper(), prefix[:-1], " " + prefix, prefix + prefix, "privkey:"):
        with pytest.raises(MalformedKey):
            kind.parse(wrong + HEX)
    for size in (0, 31, 33):
        with pytest.raises(MalformedKey):
            kind(bytes(size))


def test_kinds_do_not_mix() -> None:
    raw = bytes.fromhex(HEX)
    keys = {kind(raw) for kind, _ in PUBLIC}
    assert len(keys) == len(PUBLIC)
    assert NodePublic(raw) != DiscoPublic(raw)
    assert NodePublic(raw) == NodePublic(raw)
    assert NodePublic(bytes(32)) < NodePublic(raw)


def test_the_lock_key_is_read_in_the_spelling_of_the_cli() -> None:
    assert LockPublic.parse("tlpub:" + HEX) == LockPublic.parse("nlpub:" + HEX)


@pytest.mark.parametrize("kind", CURVE)
def test_private_keys_are_clamped_and_written_with_their_prefix(kind: type[NodePrivate]) -> None:
    key = kind.from_entropy(b"\xff" * 32)
    assert (key.reveal()[0], key.reveal()[31]) == (0xF8, 0x7F)
    assert key.reveal_text() == "privkey:f8" + "ff" * 30 + "7f"
    assert kind.parse(key.reveal_text()) == key
    with pytest.raises(MalformedKey):
        kind.from_entropy(bytes(31))


def test_the_vectors_of_rfc_7748() -> None:
    # RFC 7748 §6.1: Bob's key pair, Alice's public key, and what they share.
    bob = NodePrivate(
        bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    )
    alice = NodePublic.parse(
        "nodekey:8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    )
    assert str(bob.public()) == (
        "nodekey:de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    )
    assert bob.exchange(alice).hex() == (
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    )
    with pytest.raises(MalformedKey, match="low-order"):
        bob.exchange(NodePublic.zero())


def test_the_recorded_keys_belong_together() -> None:
    for capture in sessions():
        sent = dict.fromkeys(data[5:37] for way, data in capture.derp if data[:1] == b"\x02")
        assert capture.node.public().raw in sent


def test_lock_keys() -> None:
    key = LockPrivate.from_entropy(bytes(range(32)))
    public = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()
    assert key.public().raw == public.public_bytes_raw()
    assert key.reveal_text().startswith("nlpriv:")
    assert LockPrivate.parse(key.reveal_text()) == key
    with pytest.raises(MalformedKey):
        LockPrivate.from_entropy(bytes(64))


def test_a_mesh_key_has_no_prefix() -> None:
    assert MeshKey.parse(HEX).reveal_text() == HEX
    with pytest.raises(MalformedKey):
        MeshKey.parse("mesh:" + HEX)


@pytest.mark.parametrize(
    "key",
    [
        *(kind.from_entropy(bytes(range(32))) for kind in CURVE),
        LockPrivate.from_entropy(bytes(range(32))),
        MeshKey(bytes(range(32))),
    ],
    ids=lambda key: type(key).__name__,
)
def test_a_private_key_never_shows_itself(key: PrivateKey) -> None:
    secret = key.reveal().hex()
    for text in (repr(key), str(key), f"{key}", f"{[key]}", "%s" % key):  # noqa: UP031
        assert secret[:16] not in text
        assert "secret" in text
    for spread in (lambda: hash(key), lambda: copy.deepcopy(key)):
        with pytest.raises(TypeError):
            spread()


def test_an_error_does_not_repeat_the_secret() -> None:
    with pytest.raises(MalformedKey) as caught:
        NodePrivate.parse("privkey:" + HEX + "00")
    assert HEX[:16] not in str(caught.value)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_the_arithmetic_is_that_of_another_implementation(entropy: bytes, other: bytes) -> None:
    key = NodePrivate.from_entropy(entropy)
    theirs = X25519PrivateKey.from_private_bytes(entropy)
    assert key.public().raw == theirs.public_key().public_bytes_raw()
    try:
        shared = theirs.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        with pytest.raises(MalformedKey):
            key.exchange(NodePublic(other))
    else:
        assert key.exchange(NodePublic(other)) == shared
    signing = Ed25519PrivateKey.from_private_bytes(entropy)
    assert LockPrivate.from_entropy(entropy).public().raw == signing.public_key().public_bytes_raw()


@pytest.mark.parametrize(
    "point",
    [
        "00" * 32,
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",  # p - 1
        "ed" + "ff" * 30 + "7f",  # p
        "ee" + "ff" * 30 + "7f",  # p + 1
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    ],
)
def test_no_secret_is_shared_with_a_point_of_low_order(point: str) -> None:
    """RFC 7748 §6.1."""
    with pytest.raises(MalformedKey, match="low-order"):
        NodePrivate.from_entropy(b"x" * 32).exchange(NodePublic(bytes.fromhex(point)))
