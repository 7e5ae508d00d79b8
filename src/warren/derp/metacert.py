"""The meta certificate: how a relay tells its key inside TLS 1.3 (PROTOCOL §4.1).

One extra self-signed Ed25519 certificate after the server's chain, with the common name
`derpkey` + 64 hex digits and the protocol version as its serial number. A client that finds it
starts fast: it does not wait for the HTTP answer nor for the ServerKey frame.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from warren.derp.frames import PROTOCOL_VERSION
from warren.keys import NodePublic
from warren.netmap.derpmap import PIN_PREFIX

_NAME_PREFIX = "derpkey"
_VALID_DAYS = 30
# OID 2.5.4.3, a string type of ASN.1, the length (71), the text.
_COMMON_NAME = re.compile(rb"\x06\x03\x55\x04\x03[\x0c\x13\x16]\x47derpkey([0-9a-fA-F]{64})")


def build_meta_certificate(server: NodePublic, entropy: bytes, wall: datetime) -> bytes:
    """Return the certificate as DER, valid 30 days before and after `wall` (UTC).

    `entropy` is 32 random bytes: the signing key, which nothing needs again.
    """
    key = Ed25519PrivateKey.from_private_bytes(entropy)
    name = _common_name(_NAME_PREFIX + server.raw.hex())
    builder = (
        x509.CertificateBuilder()
        .serial_number(PROTOCOL_VERSION)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .not_valid_before(wall - timedelta(days=_VALID_DAYS))
        .not_valid_after(wall + timedelta(days=_VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return builder.sign(key, None).public_bytes(Encoding.DER)


def server_key_untrusted(certificate: bytes) -> NodePublic | None:
    """Return the relay's key if `certificate` (DER) is a meta certificate that we can use.

    Nothing here is authenticated: the login is, since only the key's holder can open its box.
    """
    # `parsed.subject` would warn of the name's length each time, so the bytes are asked; first,
    # as nearly every certificate that comes here is another one.
    found = _COMMON_NAME.search(certificate)
    if found is None:
        return None
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        if parsed.serial_number != PROTOCOL_VERSION:
            return None
    except (ValueError, x509.InvalidVersion):
        return None
    return NodePublic.parse(NodePublic.PREFIX + found[1].decode())


def certificate_pin(certificate: bytes) -> str:
    """Return what a DERP map's CertName says to pin a leaf certificate (DER)."""
    return PIN_PREFIX + hashlib.sha256(certificate).hexdigest()


def _common_name(text: str) -> x509.Name:
    """A name with a common name of 71 characters, where X.520 allows 64: the wire's choice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, _validate=False)])
