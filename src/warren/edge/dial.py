"""Opening streams to a coordinator: TCP, TLS, and through an HTTP proxy."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from warren.edge.aside import run_aside
from warren.netmap.endpoint import Endpoint

_PROXY_HEAD_MAX_BYTES = 16 * 1024


class DialFailed(Exception):
    """No stream could be opened. The text is one sentence for a person."""


class Stream(NamedTuple):
    """Both directions of an open connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Target(NamedTuple):
    """Where to connect. `tls`: None for a clear connection; `delay_s`: when a race starts it."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    delay_s: float = 0.0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def verified_tls() -> ssl.SSLContext:
    """TLS 1.2 or newer with the system's certificates (SSL_CERT_FILE is honoured)."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def unverified_tls() -> ssl.SSLContext:
    """TLS whose certificate is not looked at: for streams that carry their own proof (Noise)."""
    # Not the default context: it reads the system's 150 certificates, 2 MB and up to 40 ms.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def dial(target: Target, timeout_s: float) -> Stream:
    """Connect, honouring HTTPS_PROXY / HTTP_PROXY / NO_PROXY for names that are not local.

    Raises DialFailed.
    """
    proxy = _proxy_for(target)
    try:
        async with asyncio.timeout(timeout_s):
            if proxy is not None:
                return await _through_proxy(target, *proxy)
            return await _connected(target)
    except TimeoutError:
        raise DialFailed(f"{target} did not answer within {timeout_s:.0f} s") from None
    except ssl.SSLCertVerificationError as error:
        # OpenSSL's codes 9 and 10: not yet valid, expired.
        hint = "; is this machine's clock right?" if error.verify_code in (9, 10) else ""
        raise DialFailed(
            f"the certificate of {target} is not trusted ({error.verify_message}{hint})"
        ) from error
    except ssl.SSLError as error:
        raise DialFailed(f"{target} does not speak TLS ({error.reason or error})") from error
    except (OSError, ValueError) as error:
        raise DialFailed(f"cannot connect to {target}: {reason(error)}") from error


async def _connected(target: Target) -> Stream:
    """Try the addresses of a name one after the other. Raises OSError."""
    # Not left to the event loop: a look-up that is cut there ends in a complaint in the log.
    found = await run_aside(
        lambda: socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    )
    problem: OSError = OSError("the name has no address")
    for *_, address in found:
        try:
            reader, writer = await asyncio.open_connection(
                str(address[0]),
                target.port,
                ssl=target.tls,
                server_hostname=target.host if target.tls else None,
            )
            return Stream(reader, writer)
        except ssl.SSLError:
            raise
        except OSError as error:
            problem = error
    raise problem


def reason(error: Exception) -> str:
    """Return what the system said, in lower case and without numbers."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:] if text else type(error).__name__


def write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write to a connection that the other side may have reset a moment ago.

    Raises ConnectionResetError: uvloop would say RuntimeError, which nobody expects of a network.
    """
    if writer.is_closing():
        raise ConnectionResetError("the connection was closed")
    writer.write(data)


async def close(stream: Stream) -> None:
    """Close without waiting for the other side."""
    stream.writer.transport.abort()


class RelayProxy:
    """The proxy that HTTPS_PROXY named when this was made, for relays, whose dialler wants its
    address: a name is looked up once, here, which may take a moment."""

    def __init__(self) -> None:
        self.problem = ""
        """What is wrong with the variable, as a sentence; relays are then dialled directly."""
        self._place: str | None = None
        try:
            place = _proxy_of(tls=True)
            if place is not None:
                found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
                self._place = str(Endpoint.of(ip_address(found[0][4][0]), place[1]))
        except (DialFailed, OSError, ValueError) as error:
            self.problem = f"The proxy for relays cannot be used: {error}."

    def of_one(self, host: str) -> str | None:
        """As `of` for one host; None: it is reached directly."""
        return self.of((host,)).get(host)

    def of(self, hosts: Iterable[str]) -> dict[str, str]:
        """Those of the hosts that are to be reached through it: host → `ip:port` of the proxy."""
        if self._place is None:
            return {}
        return {host: self._place for host in hosts if not _is_exempt(host)}


def _proxy_for(target: Target) -> tuple[str, int] | None:
    return None if _is_exempt(target.host) else _proxy_of(tls=target.tls is not None)


def _proxy_of(*, tls: bool) -> tuple[str, int] | None:
    names = ("HTTPS_PROXY", "https_proxy") if tls else ("http_proxy", "HTTP_PROXY")
    url = next((os.environ[name] for name in names if os.environ.get(name)), None)
    if url is None:
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise DialFailed(f"the proxy {url!r} is not an http:// URL")
    return parts.hostname, parts.port or 80


def _is_exempt(host: str) -> bool:
    if host == "localhost" or host.startswith("127.") or host == "::1":
        return True
    exempt = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    entries = [entry.strip().lstrip(".") for entry in exempt.split(",") if entry.strip()]
    return any(e == "*" or host == e or host.endswith("." + e) for e in entries)


async def _through_proxy(target: Target, host: str, port: int) -> Stream:
    stream = await tunnel(str(target), host, port)
    if target.tls:
        try:
            await stream.writer.start_tls(target.tls, server_hostname=target.host)
        except BaseException:
            stream.writer.transport.abort()
            raise
    return stream


async def tunnel(to: str, host: str, port: int) -> Stream:
    """Let the HTTP proxy at `host` and `port` connect to `to`, an address or name with a port.

    Raises DialFailed and OSError.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        write(writer, f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n".encode())
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        status = head.split(b"\r\n", 1)[0].split(b" ")
        if len(head) > _PROXY_HEAD_MAX_BYTES or len(status) < 2 or status[1] != b"200":
            shown = b" ".join(status)[:80].decode("ascii", "replace")
            raise DialFailed(f"the proxy {host}:{port} refused: {shown}")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        writer.transport.abort()
        raise DialFailed(f"the proxy {host}:{port} does not speak HTTP") from error
    except BaseException:
        writer.transport.abort()
        raise
    return Stream(reader, writer)
