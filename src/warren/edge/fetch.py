"""One small HTTP/1.1 request to a machine that is not trusted, under limits of everything.

`fetch` is for routers in the local network: no names, no TLS, no proxy, no cookies; a body of
bounded size, a bounded time for the whole, and few redirects, none of them to another machine.
`fetch_url` is for servers that a person named: with TLS and proxy, and without redirects.
`connect` and `converse` are what is below both, for others that have limits of their own.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import h11

from warren.edge.dial import DialFailed, Stream, Target, dial, write
from warren.netmap.endpoint import Endpoint

MAX_BODY_BYTES = 128 * 1024
_MAX_HEAD_BYTES = 16 * 1024
_MAX_REDIRECTS = 2
_READ_BYTES = 16 * 1024
# A connection on which another question may follow.
_AGAIN = (h11.DONE, h11.DONE, b"", False)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class FetchFailed(Exception):
    """No whole response came. The text is a phrase for a person."""


class Fetched(NamedTuple):
    """A response."""

    status: int
    body: bytes


async def fetch(
    server: Endpoint,
    method: str,
    path: str,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    *,
    limit_s: float,
    local_ip: str | None = None,
) -> Fetched:
    """Make a request and return what came of it, whatever its status. Raises FetchFailed.

    A GET follows redirects, on the same machine only. limit_s is for all of it together.
    """
    try:
        # A task of its own, so that it may be awaited while the caller is being cancelled.
        return await asyncio.wait_for(
            _fetch(server, method, path, headers, body, local_ip), limit_s
        )
    except TimeoutError:
        raise FetchFailed(f"it did not answer within {limit_s:g} s") from None


async def fetch_url(
    url: str,
    method: str = "GET",
    body: bytes = b"",
    headers: Sequence[tuple[str, str]] = (),
    *,
    limit_s: float,
    tls: ssl.SSLContext,
    max_bytes: int = MAX_BODY_BYTES,
) -> Fetched:
    """Make a request to an http:// or https:// URL, likewise. Raises FetchFailed."""
    parts = urlsplit(url)
    secure, host = parts.scheme == "https", parts.hostname or ""
    target = Target(host, parts.port or (443 if secure else 80), tls if secure else None)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        async with asyncio.timeout(limit_s):
            stream = await dial(target, limit_s)
            named = [("host", parts.netloc.rpartition("@")[2]), *headers]
            response, content = await converse(stream, method, path, named, body, max_bytes)
    except TimeoutError:
        raise FetchFailed(f"it did not answer within {limit_s:g} s") from None
    except DialFailed as error:
        raise FetchFailed(str(error)) from error
    return Fetched(response.status_code, content)


async def _fetch(
    server: Endpoint,
    method: str,
    path: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    local_ip: str | None,
) -> Fetched:
    for _ in range(_MAX_REDIRECTS + 1):
        response, content = await _once(server, method, path, headers, body, local_ip)
        if method != "GET" or response.status_code not in _REDIRECTS:
            return Fetched(response.status_code, content)
        target = dict(response.headers).get(b"location", b"").decode("latin-1")
        server, path = _redirected(server, path, target)
    raise FetchFailed("it redirects without end")


def _redirected(server: Endpoint, path: str, target: str) -> tuple[Endpoint, str]:
    try:
        parts = urlsplit(urljoin(f"http://{server}{path}", target))
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        raise FetchFailed("it redirects to nowhere") from error
    if parts.scheme != "http" or host != str(server.ip):
        raise FetchFailed("it redirects to another place")
    query = f"?{parts.query}" if parts.query else ""
    return Endpoint(server.ip, port), (parts.path or "/") + query


async def _once(
    server: Endpoint,
    method: str,
    path: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    local_ip: str | None,
) -> tuple[h11.Response, bytes]:
    stream = await connect(server, local_ip=local_ip)
    return await converse(stream, method, path, [("host", str(server)), *headers], body)


async def connect(
    server: Endpoint,
    *,
    tls: ssl.SSLContext | None = None,
    name: str | None = None,
    local_ip: str | None = None,
) -> Stream:
    """Open a connection to an address, not a name. Raises FetchFailed.

    tls: None for a clear connection. name: whose certificate it must show.
    """
    try:
        return Stream(
            *await asyncio.open_connection(
                str(server.ip),
                server.port,
                ssl=tls,
                server_hostname=name if tls else None,
                local_addr=(local_ip, 0) if local_ip else None,
            )
        )
    except ssl.SSLCertVerificationError as error:
        raise FetchFailed(f"its certificate is not trusted ({error.verify_message})") from error
    except ssl.SSLError as error:
        raise FetchFailed(f"it does not speak TLS ({error.reason or error})") from error
    except (OSError, UnicodeError) as error:
        raise _failed(error) from error


async def converse(
    stream: Stream,
    method: str,
    target: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    max_bytes: int = MAX_BODY_BYTES,
    *,
    keep: bool = False,
) -> tuple[h11.Response, bytes]:
    """Ask on a stream, read the answer, and close it. Raises FetchFailed.

    headers: the host and whatever else is the caller's to say. keep: leave it open for another
    question, if the other side does.
    """
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
    try:
        lines = [*headers, ("user-agent", "warren")]
        if not keep:
            lines.append(("connection", "close"))
        if method != "GET":
            lines.append(("content-length", str(len(body))))
        request = http.send(h11.Request(method=method, target=target, headers=lines)) or b""
        request += http.send(h11.Data(data=body)) or b"" if body else b""
        request += http.send(h11.EndOfMessage()) or b""
        write(stream.writer, request)
        return await _read(http, stream.reader, max_bytes)
    except h11.ProtocolError as error:
        raise FetchFailed("it does not speak HTTP") from error
    except ssl.SSLError as error:
        raise FetchFailed(f"its TLS broke ({error.reason or error})") from error
    except (OSError, UnicodeError) as error:
        raise _failed(error) from error
    finally:
        if (http.our_state, http.their_state, *http.trailing_data) != _AGAIN or not keep:
            stream.writer.transport.abort()


def _failed(error: OSError | UnicodeError) -> FetchFailed:
    known = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    return FetchFailed(f"no connection: {known.lower() or type(error).__name__}")


async def _read(
    http: h11.Connection, reader: asyncio.StreamReader, max_bytes: int
) -> tuple[h11.Response, bytes]:
    response: h11.Response | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > max_bytes:
                raise FetchFailed(f"it answers with more than {max_bytes} bytes")
        elif isinstance(event, h11.EndOfMessage) and response is not None:
            return response, bytes(body)
        elif not isinstance(event, h11.InformationalResponse):
            raise FetchFailed("it does not speak HTTP")
