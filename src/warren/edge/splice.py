"""Streams that pass through a local socket: to and from whatever else in this process serves them.

`serve_behind` serves a protocol on a socket whose far end is a TLS connection that ends
elsewhere; `SocketPump` carries a transport's bytes into a socket and back.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

_READ_BYTES = 64 * 1024


async def serve_behind(
    make: Callable[[], asyncio.Protocol], sock: socket.socket, source: tuple[str, int] | None
) -> None:
    """Serve `make()` on a Unix socket as if the TLS connection from `source` were its own."""
    loop = asyncio.get_running_loop()
    await loop.connect_accepted_socket(lambda: _Threshold(make, source), sock)


class _Threshold(asyncio.Protocol):
    """Puts the face of the TLS connection on a transport, then steps aside."""

    def __init__(
        self, make: Callable[[], asyncio.Protocol], source: tuple[str, int] | None
    ) -> None:
        self._make = make
        self._source = source

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the transport on."""
        # uvloop's transports are none by inheritance.
        inner = cast(asyncio.Transport, transport)
        protocol = self._make()
        inner.set_protocol(protocol)
        protocol.connection_made(TransportBehind(inner, self._source))


class TransportBehind(asyncio.Transport):
    """A transport that tells the facts of the TLS connection in front of it."""

    def __init__(self, inner: asyncio.Transport, source: tuple[str, int] | None) -> None:
        super().__init__()
        self._inner = inner
        self._facts: dict[str, Any] = {"peername": source, "sslcontext": True}

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return where the connection comes from (`peername`), and that it is TLS."""
        return self._facts.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        self._inner.write(data)

    def writelines(self, list_of_data: Any) -> None:
        """Send all pieces."""
        self._inner.writelines(list_of_data)

    def close(self) -> None:
        """Close once everything is sent."""
        self._inner.close()

    def abort(self) -> None:
        """Close at once."""
        self._inner.abort()

    def is_closing(self) -> bool:
        """Whether it is closing or closed."""
        return self._inner.is_closing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes to another protocol from now on."""
        self._inner.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return who gets what comes."""
        return self._inner.get_protocol()

    def pause_reading(self) -> None:
        """Take nothing for now."""
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Go on taking."""
        self._inner.resume_reading()

    def is_reading(self) -> bool:
        """Whether it takes data."""
        return self._inner.is_reading()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait."""
        return self._inner.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when writing pauses."""
        self._inner.set_write_buffer_limits(high, low)


class SocketPump(asyncio.Protocol):
    """Carries what a transport brings into a socket, and back; each side waits for the other.

    sock: connected and non-blocking; the pump's from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._transport: asyncio.Transport | None = None
        self._waiting = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those that the socket does not take at once stop the transport."""
        transport = self._transport
        if transport is None:
            return
        self._waiting += data
        if self._push() and self._waiting:
            transport.pause_reading()
            asyncio.get_running_loop().add_writer(self._sock, self._go_on)

    def eof_received(self) -> bool:
        """A stream that ends is over in both directions."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the socket too."""
        self._transport = None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._sock)
        loop.remove_writer(self._sock)
        self._sock.close()

    def pause_writing(self) -> None:
        """The transport is full."""
        asyncio.get_running_loop().remove_reader(self._sock)

    def resume_writing(self) -> None:
        """The transport takes bytes again."""
        if self._transport is not None:
            asyncio.get_running_loop().add_reader(self._sock, self._pull)

    def _push(self) -> bool:
        """Let the socket take what waits; whether it is still open."""
        try:
            while self._waiting:
                del self._waiting[: self._sock.send(self._waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self._over()
            return False
        return True

    def _go_on(self) -> None:
        if self._push() and not self._waiting and self._transport is not None:
            asyncio.get_running_loop().remove_writer(self._sock)
            self._transport.resume_reading()

    def _pull(self) -> None:
        data = b""
        with suppress(BlockingIOError, ConnectionError):
            data = self._sock.recv(_READ_BYTES)
        if not data:
            self._over()
        elif self._transport is not None:
            self._transport.write(data)

    def _over(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._sock)
        loop.remove_writer(self._sock)
        if self._transport is not None:
            self._transport.close()
