"""The relay's key in a certificate."""

from __future__ import annotations

import hashlib
import warnings
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from warren.derp.metacert import build_meta_certificate, certificate_pin, server_key_untrusted
from warren.keys import NodePrivate

SERVER = NodePrivate.from_entropy(bytes(range(32))).public()
WALL = datetime(2026, 1, 2, tzinfo=UTC)
CERTIFICATE = build_meta_certificate(SERVER, bytes(range(32)), WALL)


def test_the_certificate_is_what_stock_clients_look_for() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = x509.load_der_x509_certificate(CERTIFICATE)
        assert parsed.subject.rfc4514_string() == "CN=derpkey" + SERVER.raw.hex()
        assert parsed.issuer == parsed.subject
    assert parsed.serial_number == 2
    assert parsed.not_valid_before_utc == WALL - timedelta(days=30)
    assert parsed.not_valid_after_utc == WALL + timedelta(days=30)
    own = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()
    own.verify(parsed.signature, parsed.tbs_certificate_bytes)


def test_it_is_read_back_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert server_key_untrusted(CERTIFICATE) == SERVER
        build_meta_certificate(SERVER, bytes(32), WALL)


def test_what_is_none() -> None:
    for length in range(0, len(CERTIFICATE), 7):
        assert server_key_untrusted(CERTIFICATE[:length]) is None
    assert server_key_untrusted(CERTIFICATE + b"x") is None
    assert server_key_untrusted(b"garbage") is None
    assert server_key_untrusted(CERTIFICATE.replace(b"derpkey", b"derpkex")) is None
    assert server_key_untrusted(CERTIFICATE.replace(b"\x02\x01\x02", b"\x02\x01\x03", 2)) is None


def test_the_pin() -> None:
    assert certificate_pin(b"leaf") == "sha256-raw:" + hashlib.sha256(b"leaf").hexdigest()
