"""Plain HTTP inside the lab: a server in a thread, and a client that takes a proxy if told to.

Only the sockets live in a part's network; the threads are this process's.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from warren.lab.world import Part

SEEN_FROM = "X-Lab-From"
"""Answer header with the address that the server saw as the client's."""

FILE_PATH = "/file"

_BLOCK_BYTES = 1 << 20
_SHUTDOWN_POLL_S = 0.05
_EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - of a namespace, not of this machine


@dataclass(frozen=True)
class Page:
    """An answer. seen_from: the client's address in the server's eyes, if it told."""

    status: int
    body: bytes
    seen_from: str | None


@dataclass(frozen=True)
class Download:
    """A large body that was received. seconds: from the first byte sent to the last received."""

    size_bytes: int
    seconds: float
    sha256: str

    @property
    def mbit_per_s(self) -> float:
        """Megabits of payload a second."""
        return self.size_bytes * 8 / 1e6 / self.seconds


class WebServer:
    """Serves a greeting at / and, if `file_bytes` is not 0, that many random bytes at /file."""

    def __init__(self, part: Part, port: int, greeting: str, file_bytes: int = 0) -> None:
        self.greeting = greeting
        self.port = port
        self._file = os.memfd_create("warren-lab-file", os.MFD_CLOEXEC)
        digest = hashlib.sha256()
        for offset in range(0, file_bytes, _BLOCK_BYTES):
            block = os.urandom(min(_BLOCK_BYTES, file_bytes - offset))
            digest.update(block)
            os.write(self._file, block)
        self.sha256 = digest.hexdigest()
        self.size_bytes = file_bytes
        self._server = _Server(self, part.socket(socket.SOCK_STREAM))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        os.close(self._file)

    def send_file(self, connection: socket.socket) -> None:
        """Write the whole file to a connection. Raises OSError."""
        connection.settimeout(30)
        with os.fdopen(os.dup(self._file), "rb") as file:
            connection.sendfile(file)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: WebServer, listener: socket.socket) -> None:
        super().__init__((_EVERY_ADDRESS, owner.port), _Handler, bind_and_activate=False)
        self.owner = owner
        self.socket.close()
        self.socket = listener
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_EVERY_ADDRESS, owner.port))
        listener.listen(64)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        owner = self.server.owner
        if self.path == FILE_PATH and owner.size_bytes:
            self._head(owner.size_bytes)
            owner.send_file(self.connection)
        elif self.path == "/":
            body = owner.greeting.encode()
            self._head(len(body))
            self.wfile.write(body)
        else:
            self.send_error(404)

    def _head(self, size_bytes: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size_bytes))
        self.send_header(SEEN_FROM, str(self.client_address[0]))
        self.end_headers()
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Route:
    """How a client of the lab reaches the mesh: from `part`, by its kernel or by a SOCKS5 proxy."""

    part: Part
    socks: tuple[str, int] | None = None

    def connect(self, address: str, port: int, timeout_s: float) -> socket.socket:
        """Open a TCP connection. Raises OSError."""
        family = socket.AF_INET6 if ":" in address and self.socks is None else socket.AF_INET
        sock = self.part.socket(socket.SOCK_STREAM, family)
        try:
            sock.settimeout(timeout_s)
            if self.socks is None:
                sock.connect((address, port))
            else:
                sock.connect(self.socks)
                _socks_connect(sock, address, port)
        except BaseException:
            sock.close()
            raise
        return sock


def get(
    route: Route,
    address: str,
    port: int,
    *,
    path: str = "/",
    timeout_s: float = 10.0,
    headers: dict[str, str] | None = None,
) -> Page:
    """One GET with a small answer. Raises OSError or http.client.HTTPException."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
    connection.sock = route.connect(address, port, timeout_s)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return Page(response.status, response.read(1 << 20), response.getheader(SEEN_FROM))
    finally:
        connection.close()


def download(route: Route, address: str, port: int, timeout_s: float = 30.0) -> Download:
    """Fetch /file into memory, then hash it. Raises OSError or http.client.HTTPException."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
    connection.sock = route.connect(address, port, timeout_s)
    try:
        began = time.monotonic()
        connection.request("GET", FILE_PATH)
        response = connection.getresponse()
        if response.status != 200:
            raise http.client.HTTPException(f"status {response.status}")
        body = memoryview(bytearray(int(response.getheader("Content-Length", "0"))))
        got = 0
        while got < len(body):
            count = response.readinto(body[got : got + _BLOCK_BYTES])
            if not count:
                raise http.client.IncompleteRead(b"", len(body) - got)
            got += count
            if time.monotonic() - began > timeout_s:
                raise TimeoutError(f"{got} of {len(body)} bytes after {timeout_s:g} s")
        seconds = time.monotonic() - began
    finally:
        connection.close()
    return Download(got, seconds, hashlib.sha256(body).hexdigest())


def _socks_connect(sock: socket.socket, host: str, port: int) -> None:
    """Ask a SOCKS5 proxy without authentication for a connection (RFC 1928 §3 to §6)."""
    sock.sendall(b"\x05\x01\x00")
    if _exactly(sock, 2) != b"\x05\x00":
        raise ConnectionError("the proxy does not speak SOCKS5 without authentication")
    name = host.encode("idna") if not _is_ip(host) else b""
    if name:
        target = b"\x03" + bytes([len(name)]) + name
    elif ":" in host:
        target = b"\x04" + socket.inet_pton(socket.AF_INET6, host)
    else:
        target = b"\x01" + socket.inet_pton(socket.AF_INET, host)
    sock.sendall(b"\x05\x01\x00" + target + struct.pack("!H", port))
    _, reply, _, kind = _exactly(sock, 4)
    if reply != 0:
        raise ConnectionError(f"the proxy refused {host}:{port} with code {reply}")
    length = {1: 4, 4: 16}.get(kind) or _exactly(sock, 1)[0]
    _exactly(sock, length + 2)


def _is_ip(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionError("the proxy closed the connection")
        data += more
    return data
