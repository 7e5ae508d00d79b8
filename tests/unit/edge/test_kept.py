"""A server that is asked again and again, over connections that stay open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from warren.edge.fetch import FetchFailed
from warren.edge.kept import MAX_IDLE, KeptServer
from warren.edge.tls import server_context

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
Reply = Callable[[int, int], tuple[bytes, bool]]


class Stub:
    """Answers as `reply` says, which is told how many connections and requests there were."""

    def __init__(self, reply: Reply) -> None:
        self.reply, self.connections, self.requests = reply, 0, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert b"content-length: 1" in head
                assert b"onnection:" not in head
                await reader.readexactly(1)
                self.requests += 1
                answer, stay = self.reply(self.connections, self.requests)
                writer.write(answer)
                if not stay:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


@asynccontextmanager
async def stub(reply: Reply) -> AsyncIterator[tuple[Stub, KeptServer]]:
    made = Stub(reply)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    kept = KeptServer(f"http://127.0.0.1:{port}/verify?x", server_context())
    yield made, kept
    kept.close()
    server.close()


async def ask(kept: KeptServer, limit_s: float = 5) -> bytes:
    return (await kept.post(b"x", limit_s=limit_s, max_bytes=100)).body


async def test_one_connection_does_for_many_questions() -> None:
    async with stub(lambda connections, requests: (ANSWER, True)) as (made, kept):
        for _ in range(20):
            assert await ask(kept) == b"hi"
        assert (made.connections, made.requests) == (1, 20)
        await asyncio.gather(*(ask(kept) for _ in range(MAX_IDLE + 8)))
        known = made.connections
        assert known <= MAX_IDLE + 8
        await asyncio.gather(*(ask(kept) for _ in range(MAX_IDLE)))
        assert made.connections == known, "the idle ones are used, and so many are kept"


async def test_a_connection_that_was_closed_meanwhile_is_no_failure() -> None:
    async with stub(lambda connections, requests: (ANSWER, False)) as (made, kept):
        for _ in range(3):
            assert await ask(kept) == b"hi"
        assert made.connections == 3
    closing = ANSWER.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
    async with stub(lambda connections, requests: (closing, False)) as (made, kept):
        assert await ask(kept) == await ask(kept) == b"hi"
        assert not kept._idle


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"x" * 101,
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
        b"",
    ],
)
async def test_bad_answers(answer: bytes) -> None:
    async with stub(lambda connections, requests: (answer, False)) as (_, kept):
        with pytest.raises(FetchFailed):
            await ask(kept)
        assert not kept._idle


async def test_an_answer_with_more_behind_it_ends_the_connection() -> None:
    async with stub(lambda connections, requests: (ANSWER + ANSWER, True)) as (made, kept):
        assert await ask(kept) == await ask(kept) == b"hi"
        assert made.connections == 2


async def test_nobody_answers() -> None:
    async with stub(lambda connections, requests: (b"", True)) as (_, kept):
        with pytest.raises(FetchFailed, match=r"within 0\.2 s"):
            await ask(kept, 0.2)
    with pytest.raises(FetchFailed, match="cannot connect"):
        await ask(kept)
