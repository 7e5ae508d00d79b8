"""`warren server --tls acme` against Pebble, an ACME server that we did not write.

`make test` builds it into `.build/bin`; otherwise it is taken from PATH.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from warren.coordinator.config import Config
from warren.edge.certificates import Certificates
from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.edge.tls import CertificateProblem, make_self_signed
from warren.engine.relay import NativeRelay, RelayConfig
from warren.keys import NodePublic
from warren.lab.ports import free_port
from warren.relay.hub import Hub

pytestmark = pytest.mark.interop

HOST = "vpn.warren.test"


def pebble() -> str | None:
    built = Path(__file__).parents[2] / ".build/bin/pebble"
    return str(built) if built.exists() else shutil.which("pebble")


def resolve(query: bytes) -> bytes:
    """Answer every A query with 127.0.0.1, and every other with nothing."""
    end = query.index(b"\0", 12) + 5
    question = query[12:end]
    is_a = question[-4:-2] == b"\0\x01"
    head = query[:2] + b"\x81\x80" + struct.pack("!4H", 1, int(is_a), 0, 0)
    answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + b"\x7f\0\0\x01"
    return head + question + (answer if is_a else b"")


async def serve_dns(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """DNS over TCP, as Pebble asks."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            size = int.from_bytes(await reader.readexactly(2), "big")
            answer = resolve(await reader.readexactly(size))
            writer.write(len(answer).to_bytes(2, "big") + answer)
    writer.close()


@pytest.fixture
async def acme(tmp_path: Path) -> AsyncIterator[tuple[Config, int]]:
    """A Pebble that validates on a port of ours; yields settings, and that port."""
    program = pebble()
    if program is None:
        pytest.skip("pebble is not here; `make go-peers` builds it")
    tls_port, api, manage, dns = (free_port() for _ in range(4))
    chain, key = make_self_signed("127.0.0.1", SystemClock().wall())
    (tmp_path / "ca.pem").write_bytes(chain)
    (tmp_path / "key.pem").write_bytes(key)
    settings = {
        "listenAddress": f"127.0.0.1:{api}",
        "managementListenAddress": f"127.0.0.1:{manage}",
        "certificate": str(tmp_path / "ca.pem"),
        "privateKey": str(tmp_path / "key.pem"),
        "httpPort": free_port(),
        "tlsPort": tls_port,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
    (tmp_path / "pebble.json").write_text(json.dumps({"pebble": settings}))
    resolver = await asyncio.start_server(serve_dns, "127.0.0.1", dns)
    process = await asyncio.create_subprocess_exec(
        program, "-config", str(tmp_path / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}",
        env={**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", api)
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.05)
    yield (
        Config(
            url=f"https://{HOST}",
            tls="acme",
            acme_directory=f"https://127.0.0.1:{api}/dir",
            acme_ca=str(tmp_path / "ca.pem"),
            acme_email="admin@warren.test",
        ),
        tls_port,
    )
    process.terminate()
    await process.wait()
    resolver.close()


def served(port: int) -> x509.Certificate:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port)) as sock,
        context.wrap_socket(sock, server_hostname=HOST) as tls,
    ):
        return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")


def front_door() -> Hub:
    return Hub(NativeRelay(RelayConfig(private_key=b"r" * 32)), lambda key: False)


def certificates_for(config: Config, state: Path, door: Hub) -> Certificates:
    relay = NodePublic(b"r" * 32)
    return Certificates(config, state, HOST, relay, door, SystemClock(), system_entropy)


async def test_certificate_is_obtained_and_renewed(
    acme: tuple[Config, int], tmp_path: Path
) -> None:
    config, port = acme
    door = front_door()
    certificates = certificates_for(config, tmp_path, door)
    certificates.load()
    door.listen(socket.create_server(("127.0.0.1", port)))
    before = await asyncio.to_thread(served, port)
    assert before.issuer == before.subject, "a self-signed one stands in"
    keeping = asyncio.get_running_loop().create_task(certificates.keep())
    async with asyncio.timeout(60):
        while (now := await asyncio.to_thread(served, port)).issuer == now.subject:
            await asyncio.sleep(0.1)
    keeping.cancel()
    names = now.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST]
    assert b"Pebble" in now.issuer.public_bytes()
    kept = (tmp_path / "tls/acme.pem").read_bytes()
    assert (tmp_path / "tls/acme.pem").stat().st_mode & 0o077 == 0
    # The same account gets another one.
    await asyncio.to_thread(certificates._obtain)
    assert (tmp_path / "tls/acme.pem").read_bytes() != kept
    door.close()


async def test_unreachable_host_is_said(acme: tuple[Config, int], tmp_path: Path) -> None:
    config, _ = acme  # nobody listens on the port
    certificates = certificates_for(config, tmp_path, front_door())
    certificates.load()
    with pytest.raises(CertificateProblem, match=f"could not reach {HOST} on port 443"):
        await asyncio.to_thread(certificates._obtain)
