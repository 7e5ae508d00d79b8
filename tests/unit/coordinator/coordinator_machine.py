"""A bare machine that speaks to a real server: Noise, HTTP/2, registration, map stream."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from coordinator_world import machine_key, node_key, request

from warren.control.channel import Body, ClientChannel, Closed, Early, Ended, Reset, Response
from warren.control.handshake import RESPONSE_BYTES, Initiator
from warren.control.mapstream import MapFrames
from warren.control.upgrade import ClientUpgrade
from warren.keys import DiscoPublic, MachinePublic
from warren.netmap.codec import decode_json_untrusted, encode_json
from warren.netmap.fold import fold
from warren.netmap.messages import MapRequest, MapResponse, PingRequest
from warren.netmap.node import Hostinfo
from warren.netmap.register import RegisterResponse, ServerKeys
from warren.netmap.view import EMPTY, View


async def http_get(port: int, target: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    data = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


class Machine:
    """One machine with one node key and one control connection."""

    def __init__(self, port: int, name: str, version: int = 113) -> None:
        self.port, self.name, self.version = port, name, version
        self.machine = machine_key(name)
        self.node = node_key(name)
        self.disco = DiscoPublic(hashlib.sha256(name.encode()).digest())
        self.view: View = EMPTY
        self.messages: list[MapResponse] = []
        self.keep_alives = 0
        self.questions: list[PingRequest] = []
        self.early = False
        self._changed = asyncio.Event()
        self._streams: dict[int, asyncio.Queue[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self) -> Machine:
        status, body = await http_get(self.port, f"/key?v={self.version}")
        assert status == 200
        server = decode_json_untrusted(body, ServerKeys).public_key
        await self.connect_to(server)
        return self

    async def connect_to(self, server: MachinePublic) -> None:
        initiator = Initiator(self.machine, server, self.version, secrets.token_bytes(32))
        upgrade = ClientUpgrade("x", initiator.message())
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(upgrade.request())
        data = None
        while data is None:
            data = upgrade.receive(await asyncio.wait_for(self.reader.read(4096), 5))
        while len(data) < 3 or len(data) < 3 + int.from_bytes(data[1:3], "big"):
            more = await asyncio.wait_for(self.reader.read(4096), 5)
            assert more, "the server closed"
            data += more
        size = 3 + int.from_bytes(data[1:3], "big")
        records = initiator.finish(data[:size])
        assert size == RESPONSE_BYTES
        self.channel = ClientChannel(records)
        self._spawn(self._read(data[size:]))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                for event in self.channel.receive(data):
                    self._dispatch(event)
                self._flush()
                data = await self.reader.read(65536)
                if not data:
                    break
        for queue in self._streams.values():
            queue.put_nowait(None)

    def _dispatch(self, event: Any) -> None:
        if isinstance(event, Early):
            self.early = True
        elif isinstance(event, Response | Body | Ended | Reset):
            queue = self._streams.get(event.stream)
            if queue is not None:
                queue.put_nowait(event)
        elif isinstance(event, Closed):
            for queue in self._streams.values():
                queue.put_nowait(None)

    def _flush(self) -> None:
        self.writer.write(self.channel.poll_transmit())

    async def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        status, data = 0, b""
        async for event in self.stream(method, path, body):
            if isinstance(event, Response):
                status = event.status
            elif isinstance(event, Body):
                data += event.data
        return status, data

    async def stream(self, method: str, path: str, body: bytes) -> AsyncIterator[Any]:
        stream = self.channel.request(method, path, [], body)
        queue = self._streams[stream] = asyncio.Queue()
        self._flush()
        while True:
            event = await asyncio.wait_for(queue.get(), 20)
            if event is None:
                raise ConnectionError("closed")
            yield event
            if isinstance(event, Ended | Reset):
                return

    async def register(self, **fields: Any) -> RegisterResponse:
        fields.setdefault("hostname", self.name)
        node = fields.pop("node", self.name)
        status, body = await self.call(
            "POST", "/machine/register", encode_json(request(node, **fields))
        )
        assert status == 200, body
        return decode_json_untrusted(body, RegisterResponse)

    def map_request(self, **fields: Any) -> MapRequest:
        fields.setdefault("node_key", self.node.public())
        return MapRequest(
            version=self.version,
            compress="zstd",
            keep_alive=True,
            disco_key=self.disco,
            hostinfo=fields.pop("hostinfo", Hostinfo(hostname=self.name, os="linux")),
            **fields,
        )

    async def update(self, **fields: Any) -> tuple[int, bytes]:
        wanted = self.map_request(omit_peers=True, **fields)
        return await self.call("POST", "/machine/map", encode_json(wanted))

    def poll(self) -> None:
        """Begin the long poll; `view` follows it."""
        self._spawn(self._poll())

    async def _poll(self) -> None:
        frames = MapFrames()
        wanted = encode_json(self.map_request(stream=True))
        self.ended = False
        with contextlib.suppress(ConnectionError):
            async for event in self.stream("POST", "/machine/map", wanted):
                if isinstance(event, Response):
                    self.map_status = event.status
                elif isinstance(event, Body) and self.map_status == 200:
                    for message in frames.receive(event.data):
                        self._take(decode_json_untrusted(message, MapResponse))
        self.ended = True
        self._changed.set()

    def _take(self, response: MapResponse) -> None:
        if response.ping_request is not None:
            self.questions.append(response.ping_request)
        elif response.keep_alive:
            self.keep_alives += 1
        else:
            self.messages.append(response)
            self.view = fold(self.view, response, datetime.now(UTC))
        self._changed.set()

    async def until(self, condition: Callable[[View], bool], timeout_s: float = 5.0) -> View:
        async with asyncio.timeout(timeout_s):
            while not condition(self.view):
                self._changed.clear()
                await self._changed.wait()
        return self.view

    async def until_ended(self) -> None:
        async with asyncio.timeout(5):
            while not self.ended:
                self._changed.clear()
                await self._changed.wait()

    async def close(self) -> None:
        self.writer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
