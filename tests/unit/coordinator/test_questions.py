"""An administrator asks a connected machine why its path to another is what it is."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from coordinator_machine import Machine
from coordinator_server import Running, joined

from warren.coordinator import questions
from warren.coordinator.client import AdminError
from warren.coordinator.questions import NodeAnswer, parse_answer_untrusted
from warren.netmap.messages import PingRequest


def response(status: int, body: bytes) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def asked(machine: Machine) -> PingRequest:
    async with asyncio.timeout(10):
        while not machine.questions:
            await asyncio.sleep(0.01)
    return machine.questions.pop(0)


def path_of(question: PingRequest) -> str:
    return urlsplit(question.url).path


async def ask(running: Running, machine: Machine, answer: bytes) -> tuple[Any, PingRequest]:
    """Ask a machine, have it answer, and return what came of it and what it was asked."""
    async with asyncio.TaskGroup() as tasks:
        result = tasks.create_task(running.admin(lambda client: outcome(client, "a", "b")))
        question = await asked(machine)
        assert (await machine.call("POST", path_of(question), answer))[0] == 200
    return result.result(), question


def outcome(client: Any, node: str, peer: str) -> Any:
    try:
        return json.loads(client.why(node, peer))
    except AdminError as error:
        return str(error)


async def test_the_answer_of_a_machine_comes_back(running: Running) -> None:
    async with joined(running, "a", "b") as (a, b):
        explained = {"summary": "The path to b is direct."}
        answer = response(200, json.dumps(explained).encode())
        got, question = await ask(running, a, answer)
        assert got == explained
        assert question.url_is_noise and question.types == "c2n"
        inner = base64.b64decode(question.payload or "").decode()
        address = next(p.addresses[0] for p in a.view.peers.values()).split("/")[0]
        assert inner.startswith(f"GET /warren/why?peer={address} HTTP/1.1\r\n")
        # The same path twice, by another machine, or one that nobody was given, is refused.
        for machine, path in ((a, path_of(question)), (b, questions.PATH + "00"), (a, "/machine/")):
            assert (await machine.call("POST", path, answer))[0] == 404
        assert not b.questions


async def test_only_the_machine_that_was_asked_can_answer(running: Running) -> None:
    async with joined(running, "a", "b") as (a, b), asyncio.TaskGroup() as tasks:
        result = tasks.create_task(running.admin(lambda client: outcome(client, "a", "b")))
        question = await asked(a)
        forged = response(200, b'"forged"')
        assert (await b.call("POST", path_of(question), forged))[0] == 404
        assert (await a.call("POST", path_of(question), response(200, b'"true"')))[0] == 200
        assert await result == "true"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (response(404, b"not found"), "a cannot explain its paths: it runs"),
        (response(409, b'{"error":"This machine is not up."}'), "a says: This machine is not up."),
        (response(200, b"{"), "cannot be read"),
        (response(400, b"unknown c2n path"), "a cannot explain its paths: it runs"),
        (response(409, b"\xff"), "cannot be read"),
        (b"garbage", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
async def test_what_is_no_explanation_is_one_sentence(
    running: Running, answer: bytes, words: str
) -> None:
    async with joined(running, "a", "b") as (a, _):
        assert words in (await ask(running, a, answer))[0]


async def test_what_cannot_be_asked_is_one_sentence(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with joined(running, "a", "b") as (a, b):
        for node, peer, words in (
            ("a", "a", "itself"),
            ("a", "nobody", "nobody"),
            ("nobody", "a", "nobody"),
            ("a", "", "which machine"),
        ):
            said = await running.admin(lambda client, n=node, p=peer: outcome(client, n, p))
            assert words in said
        monkeypatch.setattr(questions.Questions.ask, "__defaults__", (0.1,))
        said = await running.admin(lambda client: outcome(client, "a", "b"))
        assert "a did not answer within 0.1 s" in said
        late = await a.call("POST", path_of(await asked(a)), response(200, b"{}"))
        assert late[0] == 404
        nodes = running.server._registry.snapshot.nodes
        b_id = next(node.id for node in nodes.values() if node.name == "b")
        await b.close()
        async with asyncio.timeout(10):
            while running.server._maps.connected(b_id):
                await asyncio.sleep(0.01)
        said = await running.admin(lambda client: outcome(client, "b", "a"))
        assert "b is not connected now" in said


def test_answers_are_read_as_http() -> None:
    assert parse_answer_untrusted(response(200, b"hi")) == NodeAnswer(200, b"hi")
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    assert parse_answer_untrusted(chunked) == NodeAnswer(200, b"hi")
    for bad in (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", b"HTTP/1.1 1", b"\0"):
        assert parse_answer_untrusted(bad).status == 502
