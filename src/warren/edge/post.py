"""One POST to an address that was looked at before, under limits; no redirects, no proxy.

The caller resolves the name and decides on the address: asked once more here, the name could mean
another machine (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import NamedTuple

import h11

from warren.edge.fetch import FetchFailed, connect, converse
from warren.netmap.endpoint import Endpoint


class Place(NamedTuple):
    """Where to post. authority: the Host header's value. tls: None for plain HTTP."""

    at: Endpoint
    host: str
    authority: str
    target: str
    tls: ssl.SSLContext | None


async def post(
    place: Place, headers: Sequence[tuple[str, str]], body: bytes, *, limit_s: float
) -> int:
    """Return the answer's status, whatever it is. Raises FetchFailed, a phrase for a person."""
    try:
        response = await asyncio.wait_for(_post(place, headers, body), limit_s)
    except TimeoutError:
        raise FetchFailed(f"it did not answer within {limit_s:g} s") from None
    return response.status_code


async def _post(place: Place, headers: Sequence[tuple[str, str]], body: bytes) -> h11.Response:
    stream = await connect(place.at, tls=place.tls, name=place.host)
    named = [("host", place.authority), *headers]
    response, _ = await converse(stream, "POST", place.target, named, body)
    return response
