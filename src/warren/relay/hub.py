"""Who may use this relay, and who is connected; packets are forwarded by the native relay."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import structlog

from warren.edge.splice import SocketPump
from warren.engine.relay import (
    Admit,
    Adopt,
    Arrival,
    Event,
    Fault,
    Kick,
    Left,
    Listen,
    Login,
    NativeRelay,
    SetCertificate,
    SetProof,
    Stop,
)
from warren.keys import MalformedKey, NodePublic

# What strangers can cause is counted, and logged only for who looks closely.
_log = structlog.get_logger("relay")

# Whether a node key may use this relay; who has to ask elsewhere takes a moment.
Admits = Callable[[NodePublic], bool | Awaitable[bool]]
# Takes a connection to a TLS port that is not the relay's: a socket, and where it comes from.
Receive = Callable[[socket.socket, tuple[str, int] | None], Awaitable[None]]


class RelayFailed(Exception):
    """The native relay has a fault and serves no more. The text is a sentence for a person."""


class Hub:
    """The clients of one relay. `run` must run for anybody to be let in."""

    def __init__(
        self,
        native: NativeRelay,
        admits: Admits,
        receive: Receive | None = None,
        max_clients: int = 20_000,
    ) -> None:
        self._native = native
        self._admits = admits
        self._receive = receive
        self._max_clients = max_clients
        self._clients: dict[int, NodePublic] = {}
        self._refused = 0
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def __len__(self) -> int:
        """How many keys are connected."""
        return len(self.connected())

    def connected(self) -> set[NodePublic]:
        """Return the keys that are connected."""
        return set(self._clients.values())

    def counters(self) -> dict[str, int]:
        """Return what the relay did since it started, by the names of the metrics."""
        return self._native.snapshot().counters | {"refused_clients": self._refused}

    async def run(self) -> None:
        """Answer the native relay, for ever. Raises RelayFailed."""
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._native.fileno(), told.set)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                while True:
                    await told.wait()
                    told.clear()
                    for event in self._native.poll():
                        await self._take(event)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            loop.remove_reader(self._native.fileno())

    def listen(self, sock: socket.socket) -> None:
        """Serve TLS on a listening socket, which is the hub's from now on."""
        self._native.apply([Listen(sock.detach())])

    def set_certificate(self, chain_pem: bytes, key_pem: bytes) -> None:
        """Show new connections this chain. Raises ValueError with a sentence."""
        self._native.apply([SetCertificate(chain_pem, key_pem)])

    def set_proof(self, host: str, chain_pem: bytes = b"", key_pem: bytes = b"") -> None:
        """Show this chain where ACME asks for a proof for `host`; without a chain, no more."""
        self._native.apply([SetProof(host, chain_pem, key_pem)])

    def adopt(self, transport: asyncio.Transport, rest: bytes, fast_start: bool) -> bool:
        """Take a connection over whose upgrade was read, away from the event loop.

        rest: bytes that were read behind the request. False where the transport has no socket of
        its own, or still something to write: it then needs a `pump`.
        """
        sock = transport.get_extra_info("socket")
        if sock is None or transport.get_write_buffer_size():
            return False
        self._native.apply([Adopt(os.dup(sock.fileno()), rest, fast_start)])
        transport.abort()  # closes only the loop's descriptor
        return True

    def pump(self, rest: bytes = b"", fast_start: bool = True) -> SocketPump:
        """Return a protocol that carries a transport's bytes to the relay."""
        ours, relays = socket.socketpair()
        ours.setblocking(False)
        relays.setblocking(False)
        self._native.apply([Adopt(relays.detach(), rest, fast_start)])
        return SocketPump(ours)

    def kick(self, key: NodePublic) -> None:
        """Close the connections of a key that may not come any more."""
        self._native.apply([Kick(client) for client, of in self._clients.items() if of == key])

    def stop(self, reconnect_in_ms: int, try_for_ms: int) -> None:
        """Close the ports, tell every client to come back later, and close them."""
        self._native.apply([Stop(reconnect_in_ms, try_for_ms)])

    def close(self) -> None:
        """End every connection at once."""
        self._native.close()

    async def _take(self, event: Event) -> None:
        match event:
            case Login(client, raw):
                self._decide(client, raw)
            case Left(client):
                self._clients.pop(client, None)
                if (task := self._asking.pop(client, None)) is not None:
                    task.cancel()
            case Fault(error):
                raise RelayFailed(error)
            case Arrival(fd, source):
                await self._arrive(socket.socket(fileno=fd), source)

    def _decide(self, client: int, raw: bytes) -> None:
        try:
            key = NodePublic(raw)
        except MalformedKey:
            self._answer(client, None, False)
            return
        # Those who wait for their answer have a place, too.
        if len(self._clients) + len(self._asking) >= self._max_clients:
            self._answer(client, key, False)
            return
        admitted = self._admits(key)
        if isinstance(admitted, bool):
            self._answer(client, key, admitted)
            return
        assert self._tasks is not None
        self._asking[client] = self._tasks.create_task(self._wait(client, key, admitted))

    async def _wait(self, client: int, key: NodePublic, admitted: Awaitable[bool]) -> None:
        answer = await admitted
        # Whoever has left meanwhile has had this task cancelled.
        del self._asking[client]
        self._answer(client, key, answer)

    def _answer(self, client: int, key: NodePublic | None, admitted: bool) -> None:
        if key is not None and admitted:
            self._clients[client] = key
        else:
            self._refused += 1
            _log.debug("a client is not admitted", client=str(key))
        self._native.apply([Admit(client, admitted)])

    async def _arrive(self, sock: socket.socket, source: str) -> None:
        if self._receive is None:
            sock.close()
            return
        ip, _, port = source.rpartition(":")
        try:
            await self._receive(sock, (ip.strip("[]"), int(port)) if port else None)
        except OSError as error:
            sock.close()
            _log.debug("a connection could not be taken", source=source, error=str(error))
