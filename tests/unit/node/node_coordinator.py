"""A coordinator in a few lines, on the server's end of `warren.control`: it says what it is told.

`replies` are given to `/machine/register` in turn; `maps` are sent to each long poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from warren.control.channel import Body, Ended, Request, ServerChannel
from warren.control.early import encode_early
from warren.control.handshake import encode_error, respond
from warren.control.mapstream import encode_map_frame
from warren.control.upgrade import initiation_from_headers_untrusted, switching_response
from warren.edge.entropy import system_entropy
from warren.keys import ChallengePrivate, MachinePrivate
from warren.netmap.wire import (
    MapRequest,
    MapResponse,
    RegisterRequest,
    RegisterResponse,
    decode_json_untrusted,
    encode_json,
)

Answer = RegisterResponse | tuple[int, bytes, tuple[tuple[str, str], ...]]


class FakeCoordinator:
    """Listens on loopback. Everything that it received is in the lists."""

    def __init__(self) -> None:
        self.key = MachinePrivate.from_entropy(system_entropy(32))
        self.replies: list[Answer | Callable[[RegisterRequest], Answer]] = []
        self.maps: list[bytes] = []
        self.map_status = 200
        self.hang_up_after_maps = False
        self.refuse_with: str | None = None
        self.key_reply: tuple[int, bytes] | None = None
        self.registered: list[RegisterRequest] = []
        self.raw_registrations: list[bytes] = []
        self.map_requests: list[MapRequest] = []
        self.other: list[tuple[str, str, bytes]] = []
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._streams: list[tuple[ServerChannel, int, asyncio.StreamWriter]] = []
        self.url = ""

    async def __aenter__(self) -> FakeCoordinator:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()

    def drop(self) -> None:
        """Cut every long poll, as a crash would."""
        for _, _, writer in self._streams:
            writer.transport.abort()
        self._streams.clear()

    def send_map(self, response: MapResponse) -> None:
        """Send a message to everyone who polls."""
        for channel, stream, writer in self._streams:
            channel.send(stream, encode_map_frame(encode_json(response)))
            writer.write(channel.poll_transmit())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request_head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = request_head.split("\r\n")
            method, path, _ = first.split(" ")
            if path.startswith("/key"):
                self._give_key(writer)
            else:
                headers = [tuple(line.split(": ", 1)) for line in lines if line]
                await self._serve_noise(reader, writer, method, headers)  # type: ignore[arg-type]
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    def _give_key(self, writer: asyncio.StreamWriter) -> None:
        body = msgspec.json.encode({"publicKey": str(self.key.public())})
        status, body = self.key_reply or (200, body)
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    async def _serve_noise(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        headers: list[tuple[str, str]],
    ) -> None:
        self.connections += 1
        initiation = initiation_from_headers_untrusted(method, headers)
        if self.refuse_with is not None:
            writer.write(switching_response() + encode_error(self.refuse_with))
            return
        accepted = respond(initiation, self.key, system_entropy(32))
        early = encode_early(ChallengePrivate.from_entropy(system_entropy(32)).public())
        channel = ServerChannel(accepted.records, early)
        writer.write(switching_response() + accepted.response + channel.poll_transmit())
        bodies: dict[int, tuple[Request, bytearray]] = {}
        while data := await reader.read(65536):
            for event in channel.receive(data):
                if isinstance(event, Request):
                    bodies[event.stream] = (event, bytearray())
                elif isinstance(event, Body) and event.stream in bodies:
                    bodies[event.stream][1].extend(event.data)
                elif isinstance(event, Ended) and event.stream in bodies:
                    request, body = bodies.pop(event.stream)
                    self._answer(channel, request, bytes(body), writer)
            writer.write(channel.poll_transmit())
            if self.hang_up_after_maps and self._streams:
                await asyncio.sleep(0.01)
                self.drop()

    def _answer(
        self, channel: ServerChannel, request: Request, body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        if request.path == "/machine/register":
            asked = decode_json_untrusted(body, RegisterRequest)
            self.registered.append(asked)
            self.raw_registrations.append(body)
            answer = self.replies.pop(0) if self.replies else (500, b"no reply is planned", ())
            if callable(answer):
                answer = answer(asked)
            if isinstance(answer, RegisterResponse):
                answer = (200, encode_json(answer), ())
            channel.respond(request.stream, answer[0], answer[2])
            channel.send(request.stream, answer[1], end=True)
        elif request.path == "/machine/map":
            wanted = decode_json_untrusted(body, MapRequest)
            self.map_requests.append(wanted)
            channel.respond(request.stream, self.map_status)
            if wanted.stream and self.map_status == 200:
                for frame in self.maps:
                    channel.send(request.stream, frame)
                self._streams.append((channel, request.stream, writer))
            else:
                channel.send(request.stream, b"", end=True)
        else:
            self.other.append((request.method, request.path, body))
            channel.respond(request.stream, 200)
            channel.send(request.stream, b"", end=True)


def frame(response: MapResponse) -> bytes:
    """Return a map message as it travels."""
    return encode_map_frame(encode_json(response))
