"""The front door of a port: reads one request head and hands the connection to its owner.

One port serves protocols that have nothing in common but their first lines. The door reads a
head (RFC 9112) under a limit of size and time, and then either answers itself (probes), gives
transport and bytes to another protocol for good (upgrades), or lets an ASGI server have them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple, Protocol, cast

import h11

MAX_HEAD_BYTES = 16 * 1024
HEAD_TIMEOUT_S = 10.0
# Connections that have not said yet what they want; beyond it the oldest is dropped.
MAX_WAITING = 8192


class Head(NamedTuple):
    """A request head. Header names are in lower case."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: str) -> str:
        """Return a header's value, the last one's if there are several, or an empty text."""
        return dict(self.headers).get(name, "")


class Answer(NamedTuple):
    """A small whole response."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False


class Arrival(NamedTuple):
    """A connection that is handed over.

    raw: every byte of the request so far; rest: those of them behind the head.
    """

    head: Head
    transport: asyncio.Transport
    raw: bytes
    rest: bytes


# Answers from the head alone.
Answerer = Callable[[Head], Answer]
# Takes the connection and returns None, or refuses with an answer.
Taker = Callable[[Arrival], Answer | None]


@dataclass(frozen=True)
class Routes:
    """Who owns which path; `fallback` makes the protocol for all others."""

    answers: Mapping[str, Answerer] = field(default_factory=dict)
    takers: Mapping[str, Taker] = field(default_factory=dict)
    fallback: Callable[[], asyncio.Protocol] | None = None


def hand_over(transport: asyncio.Transport, protocol: asyncio.Protocol, data: bytes) -> None:
    """Give a transport to another protocol, with bytes that were read already."""
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    if data and not transport.is_closing():
        protocol.data_received(data)


class Guest(Protocol):
    """A connection that is waited for."""

    def abort(self) -> None:
        """Drop the connection at once, and leave."""


class Lobby:
    """The connections of a server that have not said yet what they want, oldest first."""

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self._waiting: dict[Guest, None] = {}

    def enter(self, guest: Guest) -> None:
        """Let one in; the oldest leaves if there are too many."""
        self._waiting[guest] = None
        if len(self._waiting) > self._limit:
            next(iter(self._waiting)).abort()

    def leave(self, guest: Guest) -> None:
        """One has found its owner, or is gone."""
        self._waiting.pop(guest, None)

    def abort_all(self) -> None:
        """Drop everyone: the server stops."""
        for guest in list(self._waiting):
            guest.abort()


class Door(asyncio.Protocol):
    """One connection until it is known whose it is."""

    def __init__(self, routes: Routes, lobby: Lobby) -> None:
        self._routes = routes
        self._lobby = lobby
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._raw = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a head, but not for long."""
        # uvloop's transports are none by inheritance.
        self._transport = cast(asyncio.Transport, transport)
        self._lobby.enter(self)
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        """Take bytes of the head."""
        self._raw += data
        self._http.receive_data(data)
        self._proceed()

    def eof_received(self) -> bool:
        """A half-closed connection will not say any more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._leave()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()
        self._leave()

    def _proceed(self) -> None:
        """Serve every request that is here whole."""
        while self._transport is not None and not self._transport.is_closing():
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self._fail(error.error_status_hint)
                return
            if not isinstance(event, h11.Request):
                return
            if len(self._raw) - len(self._rest()) > MAX_HEAD_BYTES:
                self._fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return
            if event.http_version not in (b"1.0", b"1.1"):
                self._fail(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
                return
            if not self._serve(_head(event)):
                return

    def _serve(self, head: Head) -> bool:
        """Serve one request; return whether another may follow on this connection."""
        answerer = self._routes.answers.get(head.path)
        if answerer is not None:
            return self._answer(head, answerer)
        taker = self._routes.takers.get(head.path)
        if taker is None:
            self._fall_back()
            return False
        assert self._transport is not None
        arrival = Arrival(head, self._transport, bytes(self._raw), self._rest())
        self._leave()
        refusal = taker(arrival)
        if refusal is not None:
            self._write(refusal._replace(close=True))
        return False

    def _answer(self, head: Head, answerer: Answerer) -> bool:
        if head.method not in ("GET", "HEAD"):
            self._write(Answer(405, headers=(("allow", "GET, HEAD"),), close=True))
            return False
        try:
            ended = isinstance(self._http.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError as error:
            self._fail(error.error_status_hint)
            return False
        if not ended:
            # A body where none belongs: not worth reading.
            self._write(Answer(400, b"no body is expected here\n", close=True))
            return False
        self._write(answerer(head))
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        rest = bytes(self._http.trailing_data[0])
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._raw = bytearray(rest)
        if rest:  # to h11, no bytes mean that the other side has closed
            self._http.receive_data(rest)
        self._set_deadline()
        return True

    def _write(self, answer: Answer) -> None:
        """Send a whole response; close if that was asked or the other side wants it."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(_encode(self._http, answer))
        if answer.close or self._http.our_state is h11.MUST_CLOSE:
            self._leave()
            transport.close()

    def _fail(self, status: int) -> None:
        transport = self._transport
        self._leave()
        if transport is None:
            return
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            transport.write(_encode(self._http, Answer(status, _phrase(status), close=True)))
        transport.close()

    def _fall_back(self) -> None:
        transport, raw = self._transport, bytes(self._raw)
        assert transport is not None
        self._leave()
        if self._routes.fallback is None:
            transport.write(_encode(self._http, Answer(404, _phrase(404), close=True)))
            transport.close()
            return
        hand_over(transport, self._routes.fallback(), raw)

    def _rest(self) -> bytes:
        head, _, rest = bytes(self._raw).partition(b"\r\n\r\n")
        if len(head) == len(self._raw):
            # Bare newlines are tolerated at the end of a head's lines (RFC 9112 §2.2).
            rest = bytes(self._raw).partition(b"\n\n")[2]
        return rest

    def _set_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(HEAD_TIMEOUT_S, self._give_up)

    def _give_up(self) -> None:
        """Close what was kept for another request that did not come; drop half a head."""
        if self._raw or self._transport is None:
            self.abort()
            return
        self._leave()
        self._transport.close()

    def _leave(self) -> None:
        self._lobby.leave(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def refuse(transport: asyncio.Transport, answer: Answer) -> None:
    """Answer on a connection that was handed over, then close it."""
    http = h11.Connection(h11.SERVER)
    transport.write(_encode(http, answer._replace(close=True)))
    transport.close()


def _head(request: h11.Request) -> Head:
    return Head(
        request.method.decode("latin-1"),
        _origin_form(request.target.decode("latin-1")),
        tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers),
    )


def _origin_form(target: str) -> str:
    """The target without scheme and host: servers accept both forms (RFC 9112 §3.2.2)."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return target
    authority_end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=-1)
    if authority_end < 0:
        return "/"
    rest = rest[authority_end:]
    return rest if rest.startswith("/") else f"/{rest}"


def _encode(http: h11.Connection, answer: Answer) -> bytes:
    headers: list[tuple[str, str]] = [("content-length", str(len(answer.body)))]
    if answer.body:
        headers.append(("content-type", answer.content_type))
    if answer.close:
        headers.append(("connection", "close"))
    headers.extend(answer.headers)
    if answer.status == HTTPStatus.NO_CONTENT:
        headers = [line for line in headers if line[0] != "content-length"]
    pieces: Iterable[bytes | None] = (
        http.send(
            h11.Response(
                status_code=answer.status,
                headers=headers,
                reason=HTTPStatus(answer.status).phrase,
            )
        ),
        http.send(h11.Data(data=answer.body)) if answer.body else b"",
        http.send(h11.EndOfMessage()),
    )
    return b"".join(piece or b"" for piece in pieces)


def _phrase(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode() + b"\n"
