"""One machine's control connection: Noise records, HTTP/2 inside, requests answered by tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import structlog

from warren.control.channel import Body, Closed, Ended, Event, Request, Reset, ServerChannel
from warren.control.handshake import Accepted
from warren.coordinator.machine_api import Reply
from warren.keys import MachinePublic

_log = structlog.get_logger("ts2021")

MAX_BODY_BYTES = 1 << 20
# All bodies of one connection that are being read, together.
MAX_BODIES_BYTES = 4 << 20
# A connection on which nothing is asked is closed; a long poll keeps it open.
IDLE_S = 120.0
# What may wait for a slow reader before its session pauses, and how long that may take.
HIGH_WATER_BYTES = 256 * 1024
STALL_S = 60.0

# machine, the address that it comes from, method, target, body, reply
Handler = Callable[[MachinePublic, str, str, str, bytes, Reply], Awaitable[None]]


@dataclass
class _Incoming:
    request: Request
    body: bytearray = field(default_factory=bytearray)


class ControlConnection(asyncio.Protocol):
    """Serves an accepted session over the transport that it is set as the protocol of.

    early: the early payload, or None for clients that know none (WebSocket, PROTOCOL §2.3).
    """

    def __init__(self, accepted: Accepted, early: bytes | None, handler: Handler) -> None:
        self._machine = accepted.client
        self._channel = ServerChannel(accepted.records, early)
        self._handler = handler
        self._source = ""
        self._transport: asyncio.Transport | None = None
        self._incoming: dict[int, _Incoming] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._idle: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self._writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: settings, and the early payload, go out at once."""
        # uvloop's transports are none by inheritance.
        self._transport = cast(asyncio.Transport, transport)
        # What comes through a socket of our own has none.
        peer = transport.get_extra_info("peername")
        self._source = str(peer[0]) if isinstance(peer, tuple) else ""
        self._watch_idleness()
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Take stream bytes."""
        for event in self._channel.receive(data):
            self._receive(event)
        self.flush()
        # What we now can send may free those who wait for room.
        self._drained.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop every task of this connection."""
        self._transport = None
        if self._idle is not None:
            self._idle.cancel()
        for task in self._tasks.values():
            task.cancel()
        self._drained.set()

    def pause_writing(self) -> None:
        """The socket takes no more: neither read requests nor make answers."""
        self._writable = False
        if self._transport is not None:
            with suppress(RuntimeError):  # it is closing
                self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._writable = True
        self._drained.set()
        if self._transport is not None:
            with suppress(RuntimeError):
                self._transport.resume_reading()

    def flush(self) -> None:
        """Write what the channel has to say."""
        data = self._channel.poll_transmit()
        if self._transport is None:
            return
        if data and not self._transport.is_closing():
            self._transport.write(data)
        if self._channel.closed:
            self._transport.close()

    def respond(self, stream: int, status: int, content_type: str) -> None:
        """Queue the head of an answer; it leaves with what follows."""
        self._channel.respond(stream, status, [("content-type", content_type)])

    def send(self, stream: int, data: bytes, end: bool) -> None:
        """Send a piece of an answer."""
        self._channel.send(stream, data, end)
        self.flush()

    async def drain(self, stream: int) -> None:
        """Wait until little of `stream` is queued. Raises ConnectionError."""
        if self.roomy(stream) and self._transport is not None:
            return
        try:
            async with asyncio.timeout(STALL_S):
                while not self.roomy(stream):
                    self._drained.clear()
                    await self._drained.wait()
                    if self._transport is None:
                        break
        except TimeoutError:
            if self._transport is not None:
                self._transport.abort()
            raise ConnectionError("the machine takes no data") from None
        if self._transport is None:
            raise ConnectionError("the machine is gone")

    def roomy(self, stream: int) -> bool:
        """Whether little of `stream` is queued."""
        return self._writable and self._channel.queued(stream) <= HIGH_WATER_BYTES

    def _receive(self, event: Event) -> None:
        match event:
            case Request(stream=stream):
                self._incoming[stream] = _Incoming(event)
            case Body(stream=stream, data=data):
                self._take_body(stream, data)
            case Ended(stream=stream):
                self._start(stream)
            case Reset(stream=stream):
                self._incoming.pop(stream, None)
                task = self._tasks.pop(stream, None)
                if task is not None:
                    task.cancel()
            case Closed(reason=reason):
                _log.debug("control connection closed", machine=str(self._machine), why=reason)

    def _take_body(self, stream: int, data: bytes) -> None:
        incoming = self._incoming.get(stream)
        if incoming is None:
            return
        incoming.body += data
        total = sum(len(other.body) for other in self._incoming.values())
        if len(incoming.body) > MAX_BODY_BYTES or total > MAX_BODIES_BYTES:
            del self._incoming[stream]
            self._channel.respond(stream, 413)
            self._channel.send(stream, b"the request is larger than 1 MiB\n", end=True)
            self._channel.reset(stream)

    def _start(self, stream: int) -> None:
        incoming = self._incoming.pop(stream, None)
        if incoming is None:
            return
        task = asyncio.get_running_loop().create_task(self._answer(stream, incoming))
        self._tasks[stream] = task
        task.add_done_callback(lambda _: self._done(stream))

    async def _answer(self, stream: int, incoming: _Incoming) -> None:
        request = incoming.request
        reply = _StreamReply(self, stream)
        try:
            await self._handler(
                self._machine,
                self._source,
                request.method,
                request.path,
                bytes(incoming.body),
                reply,
            )
        except ConnectionError:
            return
        except Exception:
            # One request's fault must not end the others, and must not be silent.
            _log.exception("a request failed", path=request.path)
            if not reply.started:
                with suppress(ConnectionError):
                    reply.start(500, "text/plain")
                    reply.finish(b"the server failed; its log has the reason\n")
            else:
                self._channel.reset(stream)
                self.flush()

    def _done(self, stream: int) -> None:
        self._tasks.pop(stream, None)
        self._watch_idleness()

    def _watch_idleness(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._check_idle)

    def _check_idle(self) -> None:
        if self._transport is not None and not self._tasks:
            self._channel.close("idle")
            self.flush()


class _StreamReply:
    """The way back of one request, as `machine_api.Reply`."""

    def __init__(self, connection: ControlConnection, stream: int) -> None:
        self._connection = connection
        self._stream = stream
        self.started = False

    def start(self, status: int, content_type: str = "application/json") -> None:
        """Send the status."""
        self.started = True
        self._connection.respond(self._stream, status, content_type)

    def write(self, data: bytes) -> None:
        """Send a piece, without waiting."""
        self._connection.send(self._stream, data, end=False)

    def roomy(self) -> bool:
        """Whether little of what was written is still queued."""
        return self._connection.roomy(self._stream)

    async def drain(self) -> None:
        """Wait until it is. Raises ConnectionError."""
        await self._connection.drain(self._stream)

    def finish(self, data: bytes = b"") -> None:
        """Send the last piece."""
        self._connection.send(self._stream, data, end=True)
