"""One control connection without a socket: what leaves together, and what a full one does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from warren.control.channel import Body, ClientChannel, Ended, Response
from warren.control.handshake import Accepted
from warren.control.records import RecordLayer
from warren.coordinator.cipher import OpenSsl
from warren.coordinator.machine_api import Reply
from warren.coordinator.ts2021 import HIGH_WATER_BYTES, ControlConnection
from warren.keys import MachinePublic

UP, DOWN = bytes(range(32)), bytes(range(32, 64))


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Line:
    """Both ends of a connection, and the reply to the one request on it."""

    def __init__(self) -> None:
        self.wire, self.client = Wire(), ClientChannel(RecordLayer(UP, DOWN))
        accepted = Accepted(131, MachinePublic(bytes(32)), b"", RecordLayer(DOWN, UP, OpenSsl))
        self.server = ControlConnection(accepted, None, self._handle)
        self.asked: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()
        self.server.connection_made(self.wire)

    async def _handle(
        self,
        machine: MachinePublic,
        source: str,
        method: str,
        target: str,
        body: bytes,
        reply: Reply,
    ) -> None:
        self.asked.set_result(reply)
        await self.over.wait()

    async def reply(self) -> Reply:
        self.client.request("POST", "/machine/map", body=b"{}")
        self.server.data_received(self.client.poll_transmit())
        reply = await self.asked
        self.heard()
        return reply

    def heard(self) -> list[Any]:
        """Return what the machine makes of all that was written."""
        written, self.wire.written = self.wire.written, []
        return [event for data in written for event in self.client.receive(data)]


@pytest.fixture
async def line() -> Any:
    made = Line()
    yield made
    made.over.set()
    made.server.connection_lost(None)


async def test_the_head_of_an_answer_leaves_with_its_first_piece(line: Line) -> None:
    reply = await line.reply()
    reply.start(200)
    assert not line.wire.written
    reply.write(b"first")
    assert len(line.wire.written) == 1
    reply.finish(b"last")
    head, first, last, end = line.heard()
    assert isinstance(head, Response) and head.status == 200
    assert isinstance(first, Body) and first.data == b"first"
    assert isinstance(last, Body) and last.data == b"last" and isinstance(end, Ended)


async def test_what_waits_for_a_slow_reader_has_no_room(line: Line) -> None:
    reply = await line.reply()
    reply.start(200)
    assert reply.roomy()
    line.server.pause_writing()
    assert not reply.roomy()
    line.server.resume_writing()
    assert reply.roomy()
    # Flow control (RFC 9113 section 5.2): the window, and then what may be queued behind it.
    piece = bytes(64 * 1024)
    for _ in range(1024 * 1024 // len(piece)):
        reply.write(piece)
    assert reply.roomy()
    reply.write(bytes(HIGH_WATER_BYTES + 1))
    assert not reply.roomy()
    line.heard()
    line.server.data_received(line.client.poll_transmit())
    assert reply.roomy()
    await asyncio.wait_for(reply.drain(), 5)
