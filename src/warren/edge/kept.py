"""Asking one server again and again over connections that stay open in between."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from urllib.parse import urlsplit

from warren.edge.dial import DialFailed, Stream, Target, dial
from warren.edge.fetch import Fetched, FetchFailed, converse

MAX_IDLE = 16


class KeptServer:
    """The server of an http:// or https:// URL. tls: for the latter.

    As with `fetch_url`, through the proxy of the environment, and without redirects.
    """

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self._target = Target(
            parts.hostname or "", parts.port or (443 if secure else 80), tls if secure else None
        )
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._host = parts.netloc.rpartition("@")[2]
        self._idle: list[Stream] = []

    async def post(
        self,
        body: bytes,
        headers: Sequence[tuple[str, str]] = (),
        *,
        limit_s: float,
        max_bytes: int,
    ) -> Fetched:
        """Make a POST request that may be made twice; return what came of it. Raises FetchFailed.

        limit_s is for all of it together.
        """
        try:
            async with asyncio.timeout(limit_s):
                while self._idle:
                    stream = self._idle.pop()
                    try:
                        return await self._ask(stream, body, headers, max_bytes)
                    except FetchFailed:
                        # It was closed while nobody looked; the next one may be open.
                        continue
                stream = await dial(self._target, limit_s)
                return await self._ask(stream, body, headers, max_bytes)
        except TimeoutError:
            raise FetchFailed(f"it did not answer within {limit_s:g} s") from None
        except DialFailed as error:
            raise FetchFailed(str(error)) from error

    def close(self) -> None:
        """Close what is open."""
        while self._idle:
            self._idle.pop().writer.transport.abort()

    async def _ask(
        self, stream: Stream, body: bytes, headers: Sequence[tuple[str, str]], max_bytes: int
    ) -> Fetched:
        named = [("host", self._host), *headers]
        response, content = await converse(
            stream, "POST", self._path, named, body, max_bytes, keep=True
        )
        if stream.writer.transport.is_closing():
            pass
        elif len(self._idle) < MAX_IDLE:
            self._idle.append(stream)
        else:
            stream.writer.transport.abort()
        return Fetched(response.status_code, content)
