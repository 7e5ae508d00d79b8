"""One ts2021 connection to a coordinator: dial, upgrade, Noise, and HTTP/2 requests inside.

The protocol itself is `warren.control`; this file moves its bytes (PROTOCOL §2.1–2.6).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

import h11
import structlog

from warren.control.channel import (
    Body,
    ChannelUnavailable,
    ClientChannel,
    Closed,
    Ended,
    Reset,
    Response,
)
from warren.control.handshake import HandshakeRefused, Initiator, reply_length_untrusted
from warren.control.malformed import MalformedControl
from warren.control.upgrade import (
    WEBSOCKET_SUBPROTOCOL,
    ClientUpgrade,
    MalformedUpgrade,
    UpgradeRefused,
    websocket_target,
)
from warren.edge.dial import (
    DialFailed,
    Stream,
    Target,
    close,
    dial,
    unverified_tls,
    verified_tls,
    write,
)
from warren.edge.entropy import Entropy
from warren.keys import MachinePrivate, MachinePublic
from warren.netmap.wire import MalformedMessage, ServerKeys, decode_json_untrusted

CAPABILITY_VERSION = 130
"""What we say that we understand (PROTOCOL §3.9)."""

DIAL_TIMEOUT_S = 10.0
NATIVE_PATIENCE_S = 4.0
"""Whoever swallows the native upgrade without a word is tried by WebSocket after so long."""
KEY_MAX_BYTES = 64 * 1024
REPLY_MAX_BYTES = 1024 * 1024
_SECOND_DIAL_DELAY_S = 0.5
_READ_BYTES = 64 * 1024
_STREAM_QUEUE_EVENTS = 256

log = structlog.get_logger(__name__)


class LinkLost(Exception):
    """The coordinator cannot be reached now, or the connection broke. Worth another try."""


class LinkRefused(LinkLost):
    """The coordinator turned the connection away, for instance for its protocol version."""


class NotACoordinator(Exception):
    """What answers at the URL does not speak the protocol. The text is one sentence."""


class Reply(NamedTuple):
    """A whole HTTP reply."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def text(self, limit: int = 200) -> str:
        """Return the start of the body as a person may read it."""
        decoded = self.body[:limit].decode("utf-8", "replace")
        return " ".join("".join(c if c.isprintable() else " " for c in decoded).split())


async def fetch_server_key(url: str, timeout_s: float = DIAL_TIMEOUT_S) -> MachinePublic:
    """Ask the coordinator for its Noise key (`GET /key`); https certificates are verified.

    Raises LinkLost, NotACoordinator.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    target = Target(parts.hostname or "", port, verified_tls() if secure else None)
    try:
        async with asyncio.timeout(timeout_s):
            stream = await dial(target, timeout_s)
            try:
                status, body = await _get(
                    stream, parts.netloc, f"/key?v={CAPABILITY_VERSION}", KEY_MAX_BYTES
                )
            finally:
                await close(stream)
    except DialFailed as error:
        raise LinkLost(f"The coordinator {url} cannot be reached: {error}.") from error
    except (TimeoutError, OSError) as error:
        raise LinkLost(f"The coordinator {url} did not answer.") from error
    except h11.RemoteProtocolError as error:
        raise NotACoordinator(f"{url} does not speak HTTP as a coordinator does.") from error
    if status >= 500:
        raise LinkLost(f"The coordinator {url} is not ready: it answered {status}.")
    if status != 200:
        raise NotACoordinator(f"{url} is not a coordinator: it answered {status} for its key.")
    try:
        return decode_json_untrusted(body, ServerKeys).public_key
    except MalformedMessage as error:
        raise NotACoordinator(f"{url} is not a coordinator: it gave no key.") from error


async def _get(stream: Stream, host: str, path: str, limit_bytes: int) -> tuple[int, bytes]:
    http = h11.Connection(h11.CLIENT)
    request = h11.Request(
        method="GET", target=path, headers=[("Host", host), ("Connection", "close")]
    )
    write(stream.writer, (http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
    await stream.writer.drain()
    status, body = 0, bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.reader.read(_READ_BYTES))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > limit_bytes:
                raise h11.RemoteProtocolError("the reply is too long")
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(body)
        elif isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("the connection closed before the reply")


def dial_plan(url: str) -> list[Target]:
    """Return what to try for a URL, in order and with delays (PROTOCOL §2.2).

    TLS errors do not matter on this leg: Noise proves the server's key.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    tls = unverified_tls()
    if parts.scheme == "http":
        plan = [Target(host, parts.port or 80, None)]
        if not _is_local(host):
            plan.append(Target(host, 443, tls, _SECOND_DIAL_DELAY_S))
        return plan
    if parts.port is None or parts.port == 443:
        return [Target(host, 80, None), Target(host, 443, tls, _SECOND_DIAL_DELAY_S)]
    plan = [Target(host, parts.port, tls)]
    if not _is_local(host):
        plan.append(Target(host, 80, None, _SECOND_DIAL_DELAY_S))
    return plan


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not ip_address(host).is_global
    except ValueError:
        return False


class _Exchange:
    """One request under way: events come in by `events`, bounded."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Response | Body | Ended | None] = asyncio.Queue(
            _STREAM_QUEUE_EVENTS
        )


class ControlLink:
    """An open connection; requests run side by side on it. Use `open_link` to get one."""

    def __init__(self, stream: Stream, channel: ClientChannel) -> None:
        self._stream = stream
        self._channel = channel
        self._exchanges: dict[int, _Exchange] = {}
        self._lost: str | None = None

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Sequence[tuple[str, str]] = (),
        timeout_s: float | None = 30.0,
    ) -> Reply:
        """Make a request and wait for the whole reply. Raises LinkLost."""
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._exchange(method, path, body, headers) as exchange,
            ):
                head = await self._head(exchange)
                data = bytearray()
                async for piece in self._pieces(exchange):
                    data += piece
                    if len(data) > REPLY_MAX_BYTES:
                        raise LinkLost(f"The coordinator's reply to {path} is too long.")
                return Reply(head.status, head.headers, bytes(data))
        except TimeoutError:
            raise LinkLost(f"The coordinator did not answer {path} in time.") from None

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Sequence[tuple[str, str]] = (),
        timeout_s: float = 30.0,
    ) -> AsyncIterator[tuple[Response, AsyncIterator[bytes]]]:
        """Make a request whose reply body is read as it comes. Raises LinkLost."""
        async with self._exchange(method, path, body, headers) as exchange:
            try:
                async with asyncio.timeout(timeout_s):
                    head = await self._head(exchange)
            except TimeoutError:
                raise LinkLost(f"The coordinator did not answer {path} in time.") from None
            yield head, self._pieces(exchange)

    def drop(self, reason: str) -> None:
        """End the connection at once, without a word to the other side, who may not hear it."""
        self._end(reason)
        self._stream.writer.transport.abort()

    async def run(self) -> None:
        """Read until the connection ends; then every request under way fails with LinkLost."""
        reason = "The connection to the coordinator was closed."
        try:
            self._flush()
            while self._lost is None:
                data = await self._stream.reader.read(_READ_BYTES)
                if not data:
                    break
                for event in self._channel.receive(data):
                    if isinstance(event, Closed):
                        reason = f"The connection to the coordinator ended: {event.reason}."
                        return
                    await self._deliver(event)
                self._flush()
                await self._stream.writer.drain()
        except OSError as error:
            reason = f"The connection to the coordinator broke: {error}."
        finally:
            self._end(reason)

    async def _deliver(self, event: object) -> None:
        if isinstance(event, Response | Body | Ended | Reset):
            exchange = self._exchanges.get(event.stream)
            if exchange is not None:
                await exchange.events.put(None if isinstance(event, Reset) else event)

    @contextlib.asynccontextmanager
    async def _exchange(
        self, method: str, path: str, body: bytes, headers: Sequence[tuple[str, str]]
    ) -> AsyncIterator[_Exchange]:
        if self._lost is not None:
            raise LinkLost(self._lost)
        try:
            stream = self._channel.request(method, path, headers, body)
        except ChannelUnavailable as error:
            raise LinkLost(f"The connection to the coordinator is unusable: {error}.") from error
        exchange = self._exchanges[stream] = _Exchange()
        self._flush()
        try:
            yield exchange
        finally:
            del self._exchanges[stream]
            # The reader may wait for room in this queue: give it some.
            while not exchange.events.empty():
                exchange.events.get_nowait()
            self._channel.cancel(stream)
            self._flush()

    async def _head(self, exchange: _Exchange) -> Response:
        event = await self._next(exchange)
        if not isinstance(event, Response):
            raise LinkLost("The coordinator gave a reply without a head.")
        return event

    async def _pieces(self, exchange: _Exchange) -> AsyncIterator[bytes]:
        while True:
            event = await self._next(exchange)
            if isinstance(event, Ended):
                return
            if isinstance(event, Body):
                yield event.data

    async def _next(self, exchange: _Exchange) -> Response | Body | Ended:
        if self._lost is not None and exchange.events.empty():
            raise LinkLost(self._lost)
        event = await exchange.events.get()
        if event is None:
            raise LinkLost(self._lost or "The coordinator broke off a reply.")
        return event

    def _flush(self) -> None:
        if self._lost is None and (data := self._channel.poll_transmit()):
            # Of a connection that was reset the reader hears too, and tells all who wait.
            with contextlib.suppress(ConnectionResetError):
                write(self._stream.writer, data)

    def _end(self, reason: str) -> None:
        self._lost = reason
        for exchange in self._exchanges.values():
            with contextlib.suppress(asyncio.QueueFull):
                exchange.events.put_nowait(None)


@contextlib.asynccontextmanager
async def open_link(
    url: str, machine: MachinePrivate, server: MachinePublic, entropy: Entropy
) -> AsyncIterator[ControlLink]:
    """Connect to a coordinator and keep the link's reader running meanwhile. Raises LinkLost."""
    stream, channel = await _race(url, machine, server, entropy)
    link = ControlLink(stream, channel)
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(link.run(), name="control-link")
            try:
                yield link
            except Exception as error:
                # Carried around the group, which would wrap it.
                failure = error
            finally:
                reader.cancel()
    finally:
        await close(stream)
    if failure is not None:
        raise failure


_Attempt = tuple[Stream, ClientChannel] | LinkLost


async def _race(
    url: str, machine: MachinePrivate, server: MachinePublic, entropy: Entropy
) -> tuple[Stream, ClientChannel]:
    """Try the dial plan; a failure starts the next attempt at once; the first success wins."""
    waiting = dial_plan(url)
    pending = len(waiting)
    errors: list[LinkLost] = []
    outcomes: asyncio.Queue[_Attempt] = asyncio.Queue()
    won: tuple[Stream, ClientChannel] | None = None

    async def attempt(target: Target) -> None:
        try:
            outcomes.put_nowait(await _handshake(url, target, machine, server, entropy))
        except LinkLost as error:
            outcomes.put_nowait(error)

    async with asyncio.TaskGroup() as tasks:
        started: list[asyncio.Task[None]] = []
        while pending and won is None:
            if waiting:
                started.append(tasks.create_task(attempt(waiting.pop(0))))
            try:
                async with asyncio.timeout(waiting[0].delay_s if waiting else None):
                    outcome = await outcomes.get()
            except TimeoutError:
                continue
            pending -= 1
            if isinstance(outcome, LinkLost):
                errors.append(outcome)
            else:
                won = outcome
        for task in started:
            task.cancel()
    while not outcomes.empty():
        late = outcomes.get_nowait()
        if not isinstance(late, LinkLost):
            await close(late[0])
    if won is None:
        text = "; ".join(str(error).rstrip(".") for error in errors)
        if any(isinstance(error, LinkRefused) for error in errors):
            raise LinkRefused(f"The coordinator {url} turned this node away: {text}.")
        raise LinkLost(f"The coordinator {url} cannot be reached: {text}.")
    return won


class _Turned(LinkLost):
    """The native upgrade was turned away, as by a middlebox that knows only HTTP."""


async def _handshake(
    url: str, target: Target, machine: MachinePrivate, server: MachinePublic, entropy: Entropy
) -> tuple[Stream, ClientChannel]:
    """Dial, upgrade and shake hands; over WebSocket where the native upgrade is turned away."""
    initiator = Initiator(machine, server, CAPABILITY_VERSION, entropy(32))
    try:
        return await _connected(target, initiator, _Native(url))
    except _Turned as turned:
        again = Initiator(machine, server, CAPABILITY_VERSION, entropy(32))
        try:
            return await _connected(target, again, _WebSocket(url))
        except LinkLost:
            if isinstance(turned.__cause__, UpgradeRefused) and turned.__cause__.status == 400:
                raise LinkRefused(turned.__cause__.text or "it answered 400") from turned
            raise turned from None


async def _connected(
    target: Target, initiator: Initiator, way: _Native | _WebSocket
) -> tuple[Stream, ClientChannel]:
    try:
        stream = await dial(target, DIAL_TIMEOUT_S)
    except DialFailed as error:
        raise LinkLost(str(error)) from error
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            stream, rest = await way.open(stream, initiator.message())
            while (length := reply_length_untrusted(rest)) is None or len(rest) < length:
                rest += await _some(stream, target)
            channel = ClientChannel(initiator.finish(rest[:length]))
            # Nothing but the early payload and SETTINGS can stand here: no event is lost.
            channel.receive(rest[length:])
            return stream, channel
    except HandshakeRefused as error:
        await close(stream)
        raise LinkRefused(error.text) from error
    except (UpgradeRefused, MalformedUpgrade) as error:
        await close(stream)
        raise _Turned(f"{target}: {error}") from error
    except (MalformedControl, OSError) as error:
        await close(stream)
        raise LinkLost(f"{target}: {error}") from error
    except TimeoutError:
        await close(stream)
        raise LinkLost(f"{target} did not finish the handshake in time") from None
    except BaseException:
        await close(stream)
        raise


class _Native(NamedTuple):
    """The upgrade of PROTOCOL §2.2."""

    url: str

    async def open(self, stream: Stream, initiation: bytes) -> tuple[Stream, bytes]:
        """Upgrade; return the stream and what came behind the answer."""
        upgrade = ClientUpgrade(urlsplit(self.url).netloc, initiation)
        write(stream.writer, upgrade.request())
        try:
            async with asyncio.timeout(NATIVE_PATIENCE_S):
                while True:
                    data = await stream.reader.read(_READ_BYTES)
                    rest = upgrade.receive(data)
                    if rest is not None:
                        return stream, rest
                    if not data:
                        raise _Turned(f"{self.url} closed the connection")
        except TimeoutError:
            raise _Turned(f"{self.url} did not answer in time") from None


class _WebSocket(NamedTuple):
    """The same stream inside a WebSocket (PROTOCOL §2.3)."""

    url: str

    async def open(self, stream: Stream, initiation: bytes) -> tuple[Stream, bytes]:
        """Open the WebSocket; return the stream inside it."""
        # Where it is needed: it takes 1 MB of every daemon that has it.
        from warren.edge.websocket import open_websocket

        host = urlsplit(self.url).netloc
        inside = await open_websocket(
            stream, host, websocket_target(initiation), WEBSOCKET_SUBPROTOCOL
        )
        return inside, b""


async def _some(stream: Stream, target: Target) -> bytes:
    data = await stream.reader.read(_READ_BYTES)
    if not data:
        raise LinkLost(f"{target} closed the connection")
    return data
