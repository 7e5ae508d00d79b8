"""One small HTTP/1.1 request to a machine that is not trusted, under limits of everything.

For routers in the local network: no names, no TLS, no proxy, no cookies; a body of bounded size,
a bounded time for the whole, and few redirects, none of them to another machine.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import h11

from warren.edge.dial import write
from warren.netmap.endpoint import Endpoint

MAX_BODY_BYTES = 128 * 1024
_MAX_HEAD_BYTES = 16 * 1024
_MAX_REDIRECTS = 2
_READ_BYTES = 16 * 1024
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
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
    writer: asyncio.StreamWriter | None = None
    try:
        reader, writer = await asyncio.open_connection(
            str(server.ip), server.port, local_addr=(local_ip, 0) if local_ip else None
        )
        lines = [("host", str(server)), ("connection", "close"), ("user-agent", "warren"), *headers]
        if method != "GET":
            lines.append(("content-length", str(len(body))))
        request = http.send(h11.Request(method=method, target=path, headers=lines)) or b""
        request += http.send(h11.Data(data=body)) or b"" if body else b""
        request += http.send(h11.EndOfMessage()) or b""
        write(writer, request)
        return await _read(http, reader)
    except h11.ProtocolError as error:
        raise FetchFailed("it does not speak HTTP") from error
    except (OSError, UnicodeError) as error:
        known = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
        raise FetchFailed(f"no connection: {known.lower() or type(error).__name__}") from error
    finally:
        if writer is not None:
            writer.transport.abort()


async def _read(http: h11.Connection, reader: asyncio.StreamReader) -> tuple[h11.Response, bytes]:
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
            if len(body) > MAX_BODY_BYTES:
                raise FetchFailed(f"it answers with more than {MAX_BODY_BYTES} bytes")
        elif isinstance(event, h11.EndOfMessage) and response is not None:
            return response, bytes(body)
        elif not isinstance(event, h11.InformationalResponse):
            raise FetchFailed("it does not speak HTTP")
