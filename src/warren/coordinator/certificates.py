"""The certificate of the front door, by the mode that the operator chose."""

from __future__ import annotations

import ssl
from pathlib import Path

from warren.coordinator.config import Config
from warren.derp.metacert import build_meta_certificate, certificate_pin
from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.edge.files import private_directory, read_private, write_private
from warren.edge.tls import (
    covers,
    leaf_der,
    load_certificate,
    make_self_signed,
    read_pair,
    server_context,
)
from warren.keys import NodePublic


class Certificates:
    """Makes or reads the certificate, and gives it to a context that it then keeps fresh.

    host: the name or address that a self-signed certificate is made out to. relay: the key that
    the meta certificate tells (PROTOCOL §4.1).
    """

    def __init__(
        self,
        config: Config,
        state: Path,
        host: str,
        relay: NodePublic,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._config = config
        self._directory = state / "tls"
        self._host = host
        self._relay = relay
        self._clock = clock
        self._entropy = entropy
        self.context: ssl.SSLContext = server_context()
        self.pin = ""

    def load(self) -> None:
        """Put the certificate in force. Raises CertificateProblem, FileProblem."""
        private_directory(self._directory)
        chain, key = self._pair()
        wall = self._clock.wall()
        meta = build_meta_certificate(self._relay, self._entropy(32), wall)
        load_certificate(self.context, chain, key, self._directory, meta)
        if self._config.tls == "self-signed":
            self.pin = certificate_pin(leaf_der(chain))

    def _pair(self) -> tuple[bytes, bytes]:
        if self._config.tls == "files":
            return read_pair(Path(self._config.tls_cert), Path(self._config.tls_key))
        return self._self_signed()

    def _self_signed(self) -> tuple[bytes, bytes]:
        # One file for both: a crash in between can't leave a certificate with another's key.
        path = self._directory / "self-signed.pem"
        kept = read_private(path)
        if kept is not None and covers(kept, self._host):
            chain, marker, key = kept.partition(b"-----BEGIN PRIVATE KEY-----")
            return chain, marker + key
        chain, key = make_self_signed(self._host, self._clock.wall())
        write_private(path, chain + key)
        return chain, key
