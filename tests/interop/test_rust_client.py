"""A second client that nobody here wrote: the official Rust implementation, from crates.io.

Building it takes minutes, so `conftest.py` leaves this out unless it was built before (by
`cargo build` in `rust-client/`) or WARREN_TEST_RUST_CLIENT asks for it.
"""

from __future__ import annotations

import http.client
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from warren.lab import sandbox
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.web import WebServer, get
from warren.lab.world import World

pytestmark = [pytest.mark.netlab, pytest.mark.interop]

CRATE = Path(__file__).parent / "rust-client"
BINARY = CRATE / "target" / "debug" / "rust-client"
SERVER = "198.51.100.10"
PLAN = Plan(
    routers=(
        Router("home-a", kind="port-restricted", address="203.0.113.10"),
        Router("home-b", kind="port-restricted", address="203.0.113.20"),
    ),
    hosts=(
        Host("server", address=SERVER),
        Host("alice", behind="home-a"),
        Host("rusty", behind="home-b"),
    ),
)


@pytest.fixture(scope="module")
def binary() -> Path:
    if os.environ.get("WARREN_TEST_RUST_CLIENT") or not BINARY.exists():
        subprocess.run(["cargo", "build", "--locked", "--quiet"], cwd=CRATE, check=True)
    return BINARY


@pytest.fixture
def world() -> Iterator[World]:
    with World(PLAN) as built:
        yield built


def certificates(directory: Path) -> tuple[Path, Path, Path]:
    """The authority that `lab-roots` trusts, and a chain and key of it for the server's address."""
    authority = ec.derive_private_key(0x77617272656E, ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Warren lab")])
    now = datetime.now(UTC)

    def issue(
        subject: x509.Name, key: ec.EllipticCurvePublicKey, *more: x509.ExtensionType
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .issuer_name(issuer)
            .subject_name(subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )
        for extension in more:
            builder = builder.add_extension(extension, critical=False)
        signed = builder.sign(authority, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    key = ec.generate_private_key(ec.SECP256R1())
    root, chain, private = (directory / name for name in ("root.pem", "chain.pem", "key.pem"))
    root.write_bytes(
        issue(issuer, authority.public_key(), x509.BasicConstraints(ca=True, path_length=None))
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER)])
    names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(SERVER))])
    chain.write_bytes(issue(subject, key.public_key(), names))
    private.touch(mode=0o600)
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return root, chain, private


def test_it_joins_and_exchanges_http_with_a_node(world: World, binary: Path) -> None:
    """It takes plain map frames, absolute request targets, and only the relay's way."""
    root, chain, private = certificates(world.scratch)
    tls = ["--tls", "files", "--tls-cert", str(chain), "--tls-key", str(private)]
    server = Server(world["server"], world.scratch / "server", tls)
    server.start()
    server.create_user("tester")
    key = server.create_key("tester", "--reusable")
    alice = Node(
        world["alice"],
        "alice",
        world.scratch / "alice",
        tun=sandbox.tun_available(),
        env={"SSL_CERT_FILE": str(root)},
    )
    alice.start()
    alice.wait_daemon()
    alice.up(server.url, key)
    with WebServer(alice.part, 8000, "hello from alice"):
        argv = [str(binary), server.url, "rusty", str(world.scratch / "rusty.json")]
        client = world["rusty"].spawn(
            [*argv, f"{alice.address}:8000"], "rust", env={"AUTH_KEY": key, "RUST_BACKTRACE": "0"}
        )
        client.wait_output("joined 100.64.", 20)
        client.wait_output("got hello from alice", 60)
    address = client.output().split("joined ")[1].split()[0]

    def fetched() -> bool:
        try:
            return get(alice.route(), address, 80, timeout_s=5).body == b"hello from rust"
        except (OSError, http.client.HTTPException):
            return False

    world.wait(fetched, 20, "alice fetches from the Rust client")
