"""One POST to an address that was looked at before, under limits; no redirects, no proxy.

The caller resolves the name and decides on the address: asked once more here, the name could mean
another machine (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

import h11

from warren.edge.dial import write
from warren.edge.fetch import FetchFailed, read_response

_MAX_HEAD_BYTES = 16 * 1024


class Place(NamedTuple):
    """Where to post. tls: None for plain HTTP. authority: the Host header's value."""

    ip: IPv4Address | IPv6Address
    port: int
    host: str
    authority: str
    target: str
    tls: ssl.SSLContext | None


async def post(
    place: Place, headers: Sequence[tuple[str, str]], body: bytes, *, limit_s: float
) -> int:
    """Return the answer's status, whatever it is. Raises FetchFailed, a phrase for a person."""
    try:
        return await asyncio.wait_for(_post(place, headers, body), limit_s)
    except TimeoutError:
        raise FetchFailed(f"it did not answer within {limit_s:g} s") from None


async def _post(place: Place, headers: Sequence[tuple[str, str]], body: bytes) -> int:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
    writer: asyncio.StreamWriter | None = None
    try:
        reader, writer = await asyncio.open_connection(
            str(place.ip),
            place.port,
            ssl=place.tls,
            server_hostname=place.host if place.tls else None,
        )
        lines = [
            ("host", place.authority),
            ("connection", "close"),
            ("user-agent", "warren"),
            ("content-length", str(len(body))),
            *headers,
        ]
        request = http.send(h11.Request(method="POST", target=place.target, headers=lines)) or b""
        request += http.send(h11.Data(data=body)) or b""
        request += http.send(h11.EndOfMessage()) or b""
        write(writer, request)
        response, _ = await read_response(http, reader)
        return response.status_code
    except h11.ProtocolError as error:
        raise FetchFailed("it does not speak HTTP") from error
    except ssl.SSLCertVerificationError as error:
        raise FetchFailed(f"its certificate is not trusted ({error.verify_message})") from error
    except ssl.SSLError as error:
        raise FetchFailed(f"it does not speak TLS ({error.reason or error})") from error
    except (OSError, UnicodeError) as error:
        known = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
        raise FetchFailed(f"no connection: {known.lower() or type(error).__name__}") from error
    finally:
        if writer is not None:
            writer.transport.abort()
