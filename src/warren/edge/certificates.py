"""The certificate of the front door, by the mode that the operator chose."""

from __future__ import annotations

import asyncio
import ssl
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import structlog

from warren.derp.metacert import build_meta_certificate, certificate_pin
from warren.edge.aside import run_aside
from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.edge.files import FileProblem, private_directory, read_private, write_private
from warren.edge.settings import ServingSettings
from warren.edge.tls import (
    CertificateProblem,
    covers,
    expiry_of,
    leaf_der,
    load_certificate,
    make_self_signed,
    read_pair,
    server_context,
    with_appended,
)
from warren.keys import NodePublic

_log = structlog.get_logger("tls")

# The certificate is looked at this often: files may have been renewed, and the meta certificate,
# which is valid for 30 days, is made anew.
_LOOK_S = 12 * 3600.0
# An ACME certificate is renewed so long before its end; failures are tried again.
_RENEW_BEFORE = timedelta(days=30)
_FIRST_RETRY_S, _LAST_RETRY_S = 60.0, 6 * 3600.0


class Door(Protocol):
    """Shows certificates on the TLS ports; may be told others at any time, by any thread."""

    def set_certificate(self, chain_pem: bytes, key_pem: bytes) -> None:
        """Show new connections this chain. Raises ValueError with a sentence."""

    def set_proof(self, host: str, chain_pem: bytes = b"", key_pem: bytes = b"") -> None:
        """Show this chain where ACME asks for a proof; without a chain, no more."""


class Certificates:
    """Makes or reads the certificate, and keeps it fresh where it is shown.

    host: the name or address that a self-signed certificate is made out to. relay: the key that
    the meta certificate tells (PROTOCOL §4.1). door: the front door's ports; `context` is for
    those that Python serves itself (TURN).
    """

    def __init__(
        self,
        config: ServingSettings,
        state: Path,
        host: str,
        relay: NodePublic,
        door: Door,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._config = config
        self._directory = state / "tls"
        self._host = host
        self._relay = relay
        self._door = door
        self._clock = clock
        self._entropy = entropy
        self.context: ssl.SSLContext = server_context()
        self.pin = ""
        self.until: datetime | None = None
        """When what is shown ends; None: nothing is."""

    def load(self) -> None:
        """Put the certificate in force. Raises CertificateProblem, FileProblem."""
        private_directory(self._directory)
        chain, key = self._pair()
        wall = self._clock.wall()
        meta = build_meta_certificate(self._relay, self._entropy(32), wall)
        load_certificate(self.context, chain, key, self._directory)
        try:
            self._door.set_certificate(with_appended(chain, meta), key)
        except ValueError as error:
            raise CertificateProblem(str(error)) from error
        self.until = expiry_of(chain)
        if self._config.tls == "self-signed":
            self.pin = certificate_pin(leaf_der(chain))

    async def keep(self) -> None:
        """Keep the certificate fresh, for ever."""
        retry_s = _FIRST_RETRY_S
        while True:
            wait_s = _LOOK_S
            try:
                if self._config.tls == "acme" and self._due():
                    await run_aside(self._obtain)
                self.load()
                retry_s = _FIRST_RETRY_S
            except (CertificateProblem, FileProblem) as problem:
                _log.error("the certificate stays the old one", problem=str(problem))
                wait_s, retry_s = retry_s, min(retry_s * 4, _LAST_RETRY_S)
            await asyncio.sleep(wait_s)

    def _pair(self) -> tuple[bytes, bytes]:
        if self._config.tls == "files":
            return read_pair(Path(self._config.tls_cert), Path(self._config.tls_key))
        if self._config.tls == "acme":
            kept = self._kept("acme.pem")
            if kept is not None:
                return kept
        # Under ACME it only stands in until the real one has come.
        return self._self_signed()

    def _due(self) -> bool:
        kept = self._kept("acme.pem")
        if kept is None:
            return True
        return expiry_of(kept[0]) - self._clock.wall() < _RENEW_BEFORE

    def _obtain(self) -> None:
        """Get a certificate by ACME and keep it. Blocks. Raises CertificateProblem."""
        from warren.edge import acme  # it brings `requests`, which no other mode needs

        account = self._directory / "acme-account.pem"
        account_key = read_private(account)
        if account_key is None:
            account_key = acme.new_key()
            write_private(account, account_key)
        key = acme.new_key()
        try:
            chain = acme.obtain(
                directory=self._config.acme_directory,
                email=self._config.acme_email,
                host=self._host,
                account_key=account_key,
                certificate_key=key,
                present=self._present,
                wall=self._clock.wall(),
                ca_file=self._config.acme_ca,
            )
        except acme.AcmeProblem as problem:
            raise CertificateProblem(str(problem)) from problem
        write_private(self._directory / "acme.pem", chain + key)
        _log.info("a certificate has come", host=self._host, until=str(expiry_of(chain)))

    def _present(self, challenge: tuple[bytes, bytes] | None) -> None:
        """Show a challenge certificate on the port, for the seconds that a proof takes.

        Only who asks by ACME's protocol sees it.
        """
        self._door.set_proof(self._host, *(challenge or ()))

    def _self_signed(self) -> tuple[bytes, bytes]:
        kept = self._kept("self-signed.pem")
        if kept is not None:
            return kept
        chain, key = make_self_signed(self._host, self._clock.wall())
        write_private(self._directory / "self-signed.pem", chain + key)
        return chain, key

    def _kept(self, name: str) -> tuple[bytes, bytes] | None:
        """Return the chain and key in a file of ours, if it is there and made out to our host.

        One file holds both: a crash can't leave a certificate with another's key.
        """
        kept = read_private(self._directory / name)
        if kept is None or not covers(kept, self._host):
            return None
        chain, marker, key = kept.partition(b"-----BEGIN PRIVATE KEY-----")
        return chain, marker + key
