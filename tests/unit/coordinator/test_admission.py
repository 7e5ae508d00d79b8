"""Relays elsewhere ask the coordinator whom to serve: the stock relay's question, and ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from coordinator_server import Running, joined
from coordinator_world import node_key as private_key

from warren.edge.dial import verified_tls
from warren.edge.fetch import fetch_url
from warren.keys import NodePublic
from warren.relay.admission import Admission


async def post(running: Running, body: bytes) -> tuple[int, bytes]:
    url = f"http://127.0.0.1:{running.http}/verify"
    return await fetch_url(url, "POST", body, limit_s=5, tls=verified_tls())


def node_key(name: str) -> NodePublic:
    return private_key(name).public()


def question(key: NodePublic) -> bytes:
    # As derper writes it.
    return json.dumps({"NodePublic": str(key), "Source": "192.0.2.7"}).encode()


async def test_machines_are_admitted_and_strangers_are_not(running: Running) -> None:
    async with joined(running, "a"):
        assert await post(running, question(node_key("a"))) == (200, b'{"Allow":true}')
        assert await post(running, question(node_key("b"))) == (200, b'{"Allow":false}')


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"NodePublic": "nodekey:12"}', 400),
        (b'{"NodePublic": 7}', 400),
        (b"[" * 3000, 400),
        (b" " * 5000, 413),
    ],
)
async def test_what_is_no_question(running: Running, body: bytes, status: int) -> None:
    assert (await post(running, body))[0] == status
    url = f"http://127.0.0.1:{running.http}/verify"
    assert (await fetch_url(url, limit_s=5, tls=verified_tls())).status == 405


async def test_our_relay_asks_and_lets_go_who_has_left(running: Running) -> None:
    admission = Admission(f"http://127.0.0.1:{running.http}/verify", fail_open=True)
    async with joined(running, "a", "b"):
        assert await admission.admits(node_key("a"))
        assert not await admission.admits(node_key("stranger"))
        await running.admin(lambda client: client.delete_node("a"))
        kicked: list[NodePublic] = []
        await admission.look(lambda: {node_key("a"), node_key("b")}, kicked.append)
        assert kicked == [node_key("a")]


@pytest.fixture
async def bad_server() -> AsyncIterator[str]:
    answers = [b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n"
               b"content-length: 1\r\n\r\n{", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\n"
               b"content-length: 9999\r\n\r\n" + b" " * 9999]  # fmt: skip

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/verify"


async def test_without_an_answer_it_is_as_was_said(bad_server: str, tmp_path: Path) -> None:
    closed, opened = Admission(bad_server, fail_open=False), Admission(bad_server, fail_open=True)
    for said in ("status 500", "cannot be read"):
        assert not await closed.admits(node_key("a"))
        assert said in closed.problem
    for _ in range(2):
        assert await opened.admits(node_key("a"))
        assert opened.problem
    nobody = Admission("http://127.0.0.1:9/verify", fail_open=False)
    assert not await nobody.admits(node_key("a"))
    kicked: list[NodePublic] = []
    await nobody.look(lambda: {node_key("a")}, kicked.append)
    assert kicked == [], "no answer is no reason to let anybody go"
