"""The local API: HTTP/1.1 on a Unix socket, one small table of routes.

Whoever may open the socket may read; only root and the daemon's own user may change anything.
Paths begin with `/warren/v0/`. Stock tools' `/localapi/v0/` is another table beside this one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

import h11
import msgspec
import structlog

from warren.edge.dial import write
from warren.edge.linux.local_socket import peer_uid
from warren.node.schema import (
    ApiError,
    Explanation,
    NetcheckReport,
    PingReply,
    PingRequest,
    Status,
    UpRequest,
    WhyRequest,
)

PREFIX = "/warren/v0"
BODY_MAX_BYTES = 64 * 1024
CONNECTIONS_MAX = 64
IDLE_TIMEOUT_S = 60.0
WATCH_MAX_S = 60.0
_READ_BYTES = 16 * 1024

log = structlog.get_logger(__name__)


class RequestFailed(Exception):
    """A request that cannot be carried out; the text is one sentence for a person."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class NodeActions(Protocol):
    """What the local API can ask of the node. Each may raise RequestFailed."""

    def status(self, peers: bool = True) -> Status:
        """Return what is known now."""
        ...

    async def watch(self, seq: int, wait_s: float) -> Status:
        """Return the status once its `seq` is beyond the given one, or after `wait_s`."""
        ...

    async def up(self, request: UpRequest) -> Status:
        """Join or change preferences."""
        ...

    async def down(self) -> Status:
        """Leave the network alone until the next `up`; the log-in stays."""
        ...

    async def log_out(self) -> Status:
        """Expire this node's key and stop."""
        ...

    async def ping(self, request: PingRequest) -> PingReply:
        """Ping a peer once."""
        ...

    async def netcheck(self) -> NetcheckReport:
        """Measure the network now."""
        ...

    def why(self, request: WhyRequest) -> Explanation:
        """Explain the path to a peer, from what is known now."""
        ...


class _Request(NamedTuple):
    query: dict[str, list[str]]
    body: bytes


_Handler = Callable[[_Request], Awaitable[msgspec.Struct]]


class LocalApi:
    """Serves `actions` on a listening Unix socket."""

    def __init__(self, actions: NodeActions, owner_uid: int) -> None:
        self._actions = actions
        self._writers = frozenset({0, owner_uid})
        self._open = 0
        # (method, path) → handler, and whether it changes something.
        self._routes: dict[tuple[str, str], tuple[_Handler, bool]] = {
            ("GET", f"{PREFIX}/status"): (self._status, False),
            ("GET", f"{PREFIX}/watch"): (self._watch, False),
            ("POST", f"{PREFIX}/up"): (self._up, True),
            ("POST", f"{PREFIX}/down"): (self._down, True),
            ("POST", f"{PREFIX}/logout"): (self._log_out, True),
            ("POST", f"{PREFIX}/ping"): (self._ping, True),
            ("POST", f"{PREFIX}/netcheck"): (self._netcheck, True),
            ("POST", f"{PREFIX}/why"): (self._why, False),
        }

    async def run(self, listener: socket.socket) -> None:
        """Serve until cancelled; then connections under way are closed."""
        server = await asyncio.start_unix_server(self._serve, sock=listener)
        try:
            await server.serve_forever()
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._open += 1
        try:
            may_write = peer_uid(writer.get_extra_info("socket")) in self._writers
            await self._converse(reader, writer, may_write)
        except (OSError, TimeoutError, h11.RemoteProtocolError):
            pass
        except asyncio.CancelledError:
            # Only the end of the daemon cancels this task; asyncio's stream server would show
            # the cancellation as an error.
            pass
        finally:
            self._open -= 1
            writer.transport.abort()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, may_write: bool
    ) -> None:
        http = h11.Connection(h11.SERVER)
        while True:
            try:
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    request, body = await _read_request(http, reader)
            except h11.RemoteProtocolError as error:
                if http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    text = "The request is not HTTP as this API speaks it."
                    await _write(http, writer, error.error_status_hint, ApiError(error=text))
                raise
            if request is None:
                return
            status, answer = await self._answer(request, body, may_write)
            await _write(http, writer, status, answer)
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

    async def _answer(
        self, request: h11.Request, body: bytes, may_write: bool
    ) -> tuple[int, msgspec.Struct]:
        target = urlsplit(request.target.decode("latin-1"))
        method = request.method.decode("latin-1")
        found = self._routes.get((method, target.path))
        if found is None:
            known = any(path == target.path for _, path in self._routes)
            text = "This path takes another method." if known else "There is no such path."
            return (405 if known else 404), ApiError(error=text)
        handler, writes = found
        if writes and not may_write:
            text = "Only root and the user who runs the daemon may do this; try with sudo."
            return 403, ApiError(error=text)
        try:
            return 200, await handler(_Request(parse_qs(target.query), body))
        except RequestFailed as error:
            return error.status, ApiError(error=str(error))
        except msgspec.DecodeError as error:
            return 400, ApiError(error=f"The request body does not fit: {error}.")
        except UnicodeDecodeError:
            return 400, ApiError(error="The request body is not UTF-8.")
        except Exception:
            log.exception("a local request failed", path=target.path)
            return 500, ApiError(error="The daemon failed inside; its log says more.")

    async def _status(self, request: _Request) -> Status:
        return self._actions.status(peers=request.query.get("peers") != ["false"])

    async def _watch(self, request: _Request) -> Status:
        try:
            seq = int(request.query.get("seq", ["0"])[0])
            wait_s = float(request.query.get("wait_s", ["30"])[0])
        except ValueError:
            raise RequestFailed(400, "seq and wait_s are numbers.") from None
        if not 0 <= wait_s <= WATCH_MAX_S:
            raise RequestFailed(400, f"wait_s is between 0 and {WATCH_MAX_S:.0f}.")
        return await self._actions.watch(seq, wait_s)

    async def _up(self, request: _Request) -> Status:
        return await self._actions.up(msgspec.json.decode(request.body or b"{}", type=UpRequest))

    async def _down(self, request: _Request) -> Status:
        return await self._actions.down()

    async def _log_out(self, request: _Request) -> Status:
        return await self._actions.log_out()

    async def _ping(self, request: _Request) -> PingReply:
        return await self._actions.ping(msgspec.json.decode(request.body, type=PingRequest))

    async def _netcheck(self, request: _Request) -> NetcheckReport:
        return await self._actions.netcheck()

    async def _why(self, request: _Request) -> Explanation:
        return self._actions.why(msgspec.json.decode(request.body, type=WhyRequest))


async def _read_request(
    http: h11.Connection, reader: asyncio.StreamReader
) -> tuple[h11.Request | None, bytes]:
    request: h11.Request | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > BODY_MAX_BYTES:
                raise h11.RemoteProtocolError("the body is too long", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage):
            return request, bytes(body)
        else:
            return None, b""


async def _write(
    http: h11.Connection, writer: asyncio.StreamWriter, status: int, answer: msgspec.Struct
) -> None:
    body = msgspec.json.encode(answer)
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    out = http.send(h11.Response(status_code=status, headers=headers)) or b""
    out += http.send(h11.Data(data=body)) or b""
    out += http.send(h11.EndOfMessage()) or b""
    write(writer, out)
    await writer.drain()
