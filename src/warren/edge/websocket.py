"""WebSocket as a plain byte stream (RFC 6455), for protocols that don't know of it.

The inner protocol sees an `asyncio.Transport`; what it writes goes in binary messages, and
message borders mean nothing in either direction. wsproto does the framing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from warren.edge.dial import Stream, write
from warren.edge.http import Answer, Arrival, Head, hand_over

_UNSUPPORTED_DATA = 1003
_NORMAL = 1000
_REPLY_MAX_BYTES = 16 * 1024
_READ_BYTES = 16 * 1024


class WebSocketRefused(ConnectionError):
    """The other side opens no WebSocket here. The text is one sentence for a person."""


def is_websocket(head: Head) -> bool:
    """Whether a request asks for a WebSocket."""
    return head.method == "GET" and head.header("upgrade").lower() == "websocket"


def accept_websocket(arrival: Arrival, subprotocol: str, inner: asyncio.Protocol) -> Answer | None:
    """Complete the opening handshake and give the stream inside to `inner`.

    Returns None, or the refusal of a request that is no WebSocket or lacks the subprotocol.
    """
    websocket = WSConnection(ConnectionType.SERVER)
    try:
        # Only the head: wsproto, as a server, would lose what follows it.
        websocket.receive_data(arrival.raw[: len(arrival.raw) - len(arrival.rest)])
        request = next(websocket.events(), None)
        if not isinstance(request, Request) or subprotocol not in request.subprotocols:
            return Answer(400, f"the subprotocol here is {subprotocol}\n".encode())
        # No extensions: what is inside is encrypted and does not compress.
        reply = websocket.send(AcceptConnection(subprotocol=subprotocol))
    except (RemoteProtocolError, LocalProtocolError, UnicodeError) as error:
        # UnicodeError: wsproto decodes some headers as ASCII without asking.
        return Answer(400, f"this is not a WebSocket handshake: {error}\n".encode())
    arrival.transport.write(reply)
    hand_over(arrival.transport, _Outer(websocket, inner), arrival.rest)
    return None


async def open_websocket(stream: Stream, host: str, target: str, subprotocol: str) -> Stream:
    """Ask for a WebSocket on a fresh connection and return the stream inside it.

    host, target: of the request. Raises WebSocketRefused and OSError.
    """
    websocket = WSConnection(ConnectionType.CLIENT)
    try:
        request = Request(host=host, target=target, subprotocols=[subprotocol])
        write(stream.writer, websocket.send(request))
        await _await_acceptance(stream, websocket, subprotocol)
    except (RemoteProtocolError, LocalProtocolError, UnicodeError) as error:
        raise WebSocketRefused(f"the answer opens no WebSocket: {error}") from error
    # From here on the transport feeds a reader of what is inside.
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    inner = asyncio.StreamReaderProtocol(reader)
    outer = _Outer(websocket, inner, origin=stream)
    hand_over(cast(asyncio.Transport, stream.writer.transport), outer, b"")
    outer.take_events()
    return Stream(reader, asyncio.StreamWriter(outer.stream, inner, reader, loop))


async def _await_acceptance(stream: Stream, websocket: WSConnection, subprotocol: str) -> None:
    received = 0
    while True:
        data = await stream.reader.read(_READ_BYTES)
        received += len(data)
        if not data or received > _REPLY_MAX_BYTES:
            raise WebSocketRefused("the connection ended before a WebSocket was open")
        websocket.receive_data(data)
        event = next(websocket.events(), None)
        if isinstance(event, RejectConnection):
            raise WebSocketRefused(f"a WebSocket was refused with {event.status_code}")
        if isinstance(event, AcceptConnection):
            if event.subprotocol != subprotocol:
                raise WebSocketRefused("the WebSocket there speaks another protocol")
            return


class _Outer(asyncio.Protocol):
    """What the real transport talks to.

    origin: the stream that the transport came from; a writer that nobody holds would close it.
    """

    def __init__(
        self, websocket: WSConnection, inner: asyncio.Protocol, origin: Stream | None = None
    ) -> None:
        self._websocket = websocket
        self._origin = origin
        self._inner = inner
        self._stream: WebSocketTransport | None = None

    @property
    def stream(self) -> WebSocketTransport:
        """The stream inside; there once the connection is made."""
        assert self._stream is not None
        return self._stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Show the stream to the inner protocol."""
        # uvloop's transports are none by inheritance.
        outer = cast(asyncio.Transport, transport)
        self._stream = WebSocketTransport(outer, self._websocket)
        self._inner.connection_made(self._stream)

    def data_received(self, data: bytes) -> None:
        """Take frames."""
        try:
            self._websocket.receive_data(data)
        except RemoteProtocolError:
            self._abort()
            return
        self.take_events()

    def eof_received(self) -> bool:
        """A stream that ends is over in both directions."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the inner protocol."""
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Hand on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Hand on."""
        self._inner.resume_writing()

    def take_events(self) -> None:
        """Hand on what wsproto has read."""
        stream = self.stream
        try:
            for event in self._websocket.events():
                match event:
                    case BytesMessage(data=data):
                        if data:
                            self._inner.data_received(bytes(data))
                    case Ping():
                        stream.write_raw(self._websocket.send(event.response()))
                    case CloseConnection():
                        stream.write_raw(self._websocket.send(event.response()))
                        stream.close()
                    case TextMessage():
                        stream.close(_UNSUPPORTED_DATA)
        except (RemoteProtocolError, LocalProtocolError):
            self._abort()

    def _abort(self) -> None:
        if self._stream is not None:
            self._stream.abort()


class WebSocketTransport(asyncio.Transport):
    """The stream inside a WebSocket."""

    def __init__(self, outer: asyncio.Transport, websocket: WSConnection) -> None:
        super().__init__()
        self._outer = outer
        self._websocket = websocket

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes as one binary message."""
        if data and not self._outer.is_closing():
            self._outer.write(self._websocket.send(BytesMessage(data=bytes(data))))

    def writelines(self, list_of_data: Any) -> None:
        """Send all pieces as one message."""
        self.write(b"".join(list_of_data))

    def write_raw(self, data: bytes) -> None:
        """Send what is framed already."""
        if not self._outer.is_closing():
            self._outer.write(data)

    def close(self, code: int = _NORMAL) -> None:
        """Say goodbye and close once everything is sent."""
        if self._outer.is_closing():
            return
        with suppress(LocalProtocolError):  # it was said already
            self._outer.write(self._websocket.send(CloseConnection(code=code)))
        self._outer.close()

    def abort(self) -> None:
        """Close at once."""
        self._outer.abort()

    def is_closing(self) -> bool:
        """Whether it is closing or closed."""
        return self._outer.is_closing()

    def pause_reading(self) -> None:
        """Take nothing for now."""
        self._outer.pause_reading()

    def resume_reading(self) -> None:
        """Go on taking."""
        self._outer.resume_reading()

    def is_reading(self) -> bool:
        """Whether it takes data."""
        return self._outer.is_reading()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait."""
        return self._outer.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when writing pauses."""
        self._outer.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Ask the real transport."""
        return self._outer.get_extra_info(name, default)
