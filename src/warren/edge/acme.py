"""A certificate from an ACME server (RFC 8555), proven on the TLS port itself (RFC 8737).

Everything here blocks; callers run it in a thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC

from warren.edge.tls import private_pem

_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
_DEADLINE = timedelta(seconds=90)


class AcmeProblem(Exception):
    """The ACME server gave no certificate. The text is one sentence for a person."""


@challenges.ChallengeResponse.register
class _TlsAlpn01Response(challenges.KeyAuthorizationChallengeResponse):
    typ = "tls-alpn-01"


@challenges.Challenge.register
class _TlsAlpn01(challenges.KeyAuthorizationChallenge):
    """The challenge that the library leaves out: its validation is the key authorization."""

    response_cls = _TlsAlpn01Response
    typ = response_cls.typ

    def validation(self, account_key: JWK, **kwargs: Any) -> str:
        """Return what the challenge certificate must hold the digest of."""
        return self.key_authorization(account_key)


# Puts a challenge certificate (chain, key; PEM) on the TLS port, or (None) takes it away.
Present = Callable[[tuple[bytes, bytes] | None], None]


def new_key() -> bytes:
    """Return a fresh P-256 key as PEM, for an account or a certificate."""
    return private_pem(ec.generate_private_key(ec.SECP256R1()))


def obtain(
    *,
    directory: str,
    email: str,
    host: str,
    account_key: bytes,
    certificate_key: bytes,
    present: Present,
    wall: datetime,
    ca_file: str = "",
) -> bytes:
    """Return the chain (PEM) of a new certificate for `host`. Raises AcmeProblem.

    account_key, certificate_key: PEM, as `new_key` makes them. ca_file: root of a private ACME
    server, or empty for the system's roots.
    """
    try:
        return _obtain(directory, email, host, account_key, certificate_key, present, wall, ca_file)
    except errors.ValidationError as error:
        reasons = "; ".join(_reasons(error)) or "without a reason"
        raise AcmeProblem(
            f"the ACME server could not reach {host} on port 443: {reasons}"
        ) from error
    except messages.Error as error:
        raise AcmeProblem(f"the ACME server refused: {error.detail or error.typ}") from error
    except errors.Error as error:
        raise AcmeProblem(f"the ACME server gave no certificate: {error!r}") from error
    except (OSError, ValueError) as error:  # what `requests` raises is an OSError too
        raise AcmeProblem(f"the ACME server {directory} does not answer well: {error}") from error
    finally:
        present(None)


def _obtain(
    directory: str,
    email: str,
    host: str,
    account_key: bytes,
    certificate_key: bytes,
    present: Present,
    wall: datetime,
    ca_file: str,
) -> bytes:
    account = JWKEC.load(account_key)
    network = client.ClientNetwork(account, alg=ES256, user_agent="warren", timeout=20)
    if ca_file:
        network.session.verify = ca_file
        network.verify_ssl = ca_file  # type: ignore[assignment]
    acme = client.ClientV2(client.ClientV2.get_directory(directory, network), network)
    _log_in(acme, network, email)
    order = acme.new_order(_request(host, certificate_key))
    for authorization in order.authorizations:
        if authorization.body.status == messages.STATUS_VALID:
            continue
        chosen = _challenge(authorization)
        response, validation = chosen.response_and_validation(account)
        present(_challenge_pair(host, validation, wall))
        acme.answer_challenge(chosen, response)
    # The library compares its deadline with a naive local time.
    deadline = datetime.now() + _DEADLINE
    return acme.poll_and_finalize(order, deadline).fullchain_pem.encode()


def _log_in(acme: client.ClientV2, network: client.ClientNetwork, email: str) -> None:
    wanted = messages.NewRegistration.from_data(email=email or None, terms_of_service_agreed=True)
    try:
        network.account = acme.new_account(wanted)
    except errors.ConflictError as known:
        network.account = messages.RegistrationResource(
            body=messages.Registration(), uri=known.location
        )


def _challenge(authorization: messages.AuthorizationResource) -> messages.ChallengeBody:
    for body in authorization.body.challenges:
        if isinstance(body.chall, _TlsAlpn01):
            return body
    raise AcmeProblem("the ACME server does not offer the challenge tls-alpn-01")


def _challenge_pair(host: str, validation: str, wall: datetime) -> tuple[bytes, bytes]:
    """Return the certificate that RFC 8737 §3 asks for, and its key."""
    digest = hashlib.sha256(validation.encode()).digest()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "acme challenge")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(wall - timedelta(days=1))
        .not_valid_after(wall + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(_IDENTIFIER, b"\x04\x20" + digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private_pem(key)


def _request(host: str, key_pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def _reasons(error: errors.ValidationError) -> list[str]:
    return [
        str(body.error.detail)
        for authorization in error.failed_authzrs
        for body in authorization.body.challenges
        if body.error is not None
    ]
