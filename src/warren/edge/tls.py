"""Certificates and contexts for servers."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from warren.edge.files import FileProblem, read_private, write_private

# Clients know a self-signed certificate by its pin, so its end would only be a trap.
_SELF_SIGNED_LIFE = timedelta(days=3650)


class CertificateProblem(Exception):
    """A certificate or its key cannot be used. The text is one sentence for a person."""


def make_self_signed(host: str, wall: datetime) -> tuple[bytes, bytes]:
    """Return a certificate for a host name or address and its key, both as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    alternative: x509.GeneralName
    try:
        alternative = x509.IPAddress(ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks differ; the certificate must not be younger than the client's.
        .not_valid_before(wall - timedelta(days=1))
        .not_valid_after(wall + _SELF_SIGNED_LIFE)
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private_pem(key)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as unencrypted PKCS #8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def leaf_der(chain_pem: bytes) -> bytes:
    """Return the first certificate of a PEM chain as DER. Raises CertificateProblem."""
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
    except (ValueError, IndexError) as error:
        raise CertificateProblem("the certificate file holds no PEM certificate") from error
    return leaf.public_bytes(serialization.Encoding.DER)


def covers(chain_pem: bytes, host: str) -> bool:
    """Whether a chain's leaf is made out to a host name or address."""
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, IndexError, x509.ExtensionNotFound):
        return False
    known = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    return host in known.union(names.get_values_for_type(x509.DNSName))


def expiry_of(chain_pem: bytes) -> datetime:
    """Return when the first certificate of a PEM chain ends. Raises CertificateProblem."""
    try:
        return x509.load_pem_x509_certificates(chain_pem)[0].not_valid_after_utc
    except (ValueError, IndexError) as error:
        raise CertificateProblem("the certificate file holds no PEM certificate") from error


def read_pair(chain: Path, key: Path) -> tuple[bytes, bytes]:
    """Return the content of a chain file and a key file. Raises CertificateProblem."""
    found = []
    for path in (chain, key):
        try:
            data = read_private(path)
        except FileProblem as problem:
            raise CertificateProblem(str(problem)) from problem
        if data is None:
            raise CertificateProblem(f"there is no file {path}")
        found.append(data)
    return found[0], found[1]


def server_context() -> ssl.SSLContext:
    """Return a context for a server: TLS 1.2 and later, no ALPN. It has no certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def with_appended(chain_pem: bytes, der: bytes) -> bytes:
    """Return a chain with one more certificate at its end; servers send whatever follows."""
    return chain_pem.rstrip() + b"\n" + ssl.DER_cert_to_PEM_cert(der).encode()


def load_certificate(
    context: ssl.SSLContext, chain_pem: bytes, key_pem: bytes, workspace: Path
) -> None:
    """Give a context its certificate; may be done again while it is in use.

    workspace: a private directory, since the library reads only files.
    Raises CertificateProblem, FileProblem.
    """
    chain, key = workspace / "serving-chain.pem", workspace / "serving-key.pem"
    try:
        write_private(chain, chain_pem)
        write_private(key, key_pem)
        context.load_cert_chain(chain, key)
    except (ssl.SSLError, OSError) as error:
        raise CertificateProblem(
            f"the certificate and its key do not fit together: {error}"
        ) from error
    finally:
        chain.unlink(missing_ok=True)
        key.unlink(missing_ok=True)
