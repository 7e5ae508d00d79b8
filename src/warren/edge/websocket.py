"""A byte stream inside WebSocket messages: ts2021 and DERP for those who have nothing else.

Both protocols send binary messages without compression whose borders mean nothing (PROTOCOL §2.3,
§4.1), so one adaptor around `wsproto` serves both, at both ends, and neither protocol room knows of
it. Sans-IO like them: bytes in, bytes out.
"""

from __future__ import annotations

from collections.abc import Iterable

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
)
from wsproto.utilities import ProtocolError

# Large enough for speed, small enough that a reader holds little.
_MESSAGE_BYTES = 64 * 1024


class MalformedWebSocket(ValueError):
    """The other side does not speak WebSocket, or not the subprotocol that was agreed."""


class WebSocketStream:
    """One end. Make it by `accept` or `connect`; feed `receive`, and send what `seal` gives.

    `poll_transmit` holds handshakes, pongs and farewells; it is to be sent first.
    """

    def __init__(self, connection: WSConnection, subprotocol: str, opened: bool) -> None:
        self._connection = connection
        self._subprotocol = subprotocol
        self._opened = opened
        self._out = bytearray()
        self.closed = False

    @classmethod
    def accept(
        cls, target: str, headers: Iterable[tuple[str, str]], subprotocol: str
    ) -> WebSocketStream:
        """Answer a request whose head the front door has read; the answer is to be transmitted.

        Raises MalformedWebSocket if it is no WebSocket request or lacks the subprotocol.
        """
        connection = WSConnection(ConnectionType.SERVER)
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        try:
            connection.initiate_upgrade_connection(raw, target)
            request = next(connection.events(), None)
            if not isinstance(request, Request) or subprotocol not in request.subprotocols:
                raise MalformedWebSocket(f"the request does not offer {subprotocol}")
            stream = cls(connection, subprotocol, opened=True)
            stream._out += connection.send(AcceptConnection(subprotocol=subprotocol))
        except ProtocolError as error:
            raise MalformedWebSocket(f"not a WebSocket request: {error}") from error
        return stream

    @classmethod
    def connect(cls, host: str, target: str, subprotocol: str) -> WebSocketStream:
        """Begin as a client; the request is to be transmitted."""
        connection = WSConnection(ConnectionType.CLIENT)
        stream = cls(connection, subprotocol, opened=False)
        stream._out += connection.send(
            Request(host=host, target=target, subprotocols=[subprotocol])
        )
        return stream

    @property
    def opened(self) -> bool:
        """Whether the handshake is done; only then may `seal` be called."""
        return self._opened

    def receive(self, data: bytes) -> bytes:
        """Take what the transport gave; return the bytes of the stream inside.

        Empty `data` means that the transport was closed. Raises MalformedWebSocket.
        """
        if self.closed:
            return b""
        inner = bytearray()
        try:
            self._connection.receive_data(data or None)
            for event in self._connection.events():
                if isinstance(event, BytesMessage):
                    inner += event.data
                elif isinstance(event, AcceptConnection):
                    self._check(event)
                elif isinstance(event, RejectConnection):
                    raise MalformedWebSocket(f"the server answered {event.status_code}")
                elif isinstance(event, Ping):
                    self._out += self._connection.send(event.response())
                elif isinstance(event, CloseConnection):
                    self._closing(event)
        except ProtocolError as error:
            raise MalformedWebSocket(f"the other side broke WebSocket: {error}") from error
        return bytes(inner)

    def seal(self, data: bytes) -> bytes:
        """Return the messages that carry `data`; nothing once closed."""
        if self.closed:
            return b""
        return b"".join(
            self._connection.send(BytesMessage(data=data[start : start + _MESSAGE_BYTES]))
            for start in range(0, len(data), _MESSAGE_BYTES)
        )

    def close(self) -> None:
        """Say farewell; `poll_transmit` has the bytes."""
        if not self.closed and self._opened:
            self._out += self._connection.send(CloseConnection(code=1000))
        self.closed = True

    def poll_transmit(self) -> bytes:
        """Return the bytes to send now."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def _check(self, event: AcceptConnection) -> None:
        if event.subprotocol != self._subprotocol:
            raise MalformedWebSocket(f"the server did not agree to {self._subprotocol}")
        self._opened = True

    def _closing(self, event: CloseConnection) -> None:
        self.closed = True
        # 1006 is wsproto's word for a transport that ended without farewell.
        if event.code != 1006:
            self._out += self._connection.send(event.response())
