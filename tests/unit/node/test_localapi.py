"""The local API: good requests, and everything else that may come in."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from warren.edge.linux.local_socket import SocketProblem, listen_local
from warren.node.client import DaemonAbsent, NodeClient, NodeError
from warren.node.localapi import BODY_MAX_BYTES, CONNECTIONS_MAX, LocalApi, RequestFailed
from warren.node.schema import (
    Explanation,
    NetcheckReport,
    PathStatus,
    PingReply,
    PingRequest,
    SideStatus,
    Status,
    UpRequest,
    WhyRequest,
)


class Actions:
    """Answers everything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def status(self, peers: bool = True) -> Status:
        self.asked.append(("status", peers))
        return Status(version="0", state="stopped")

    async def watch(self, seq: int, wait_s: float) -> Status:
        self.asked.append(("watch", seq, wait_s))
        return Status(version="0", state="running", seq=seq + 1)

    async def up(self, request: UpRequest) -> Status:
        self.asked.append(request)
        if request.hostname == "no":
            raise RequestFailed(400, "No.")
        if request.hostname == "bug":
            raise ZeroDivisionError
        return Status(version="0", state="starting")

    async def down(self) -> Status:
        return self.status()

    async def log_out(self) -> Status:
        return self.status()

    async def ping(self, request: PingRequest) -> PingReply:
        return PingReply(ok=True, kind=request.kind, peer=request.peer, address="100.64.0.2")

    async def netcheck(self) -> NetcheckReport:
        return NetcheckReport(udp=True)

    def why(self, request: WhyRequest) -> Explanation:
        self.asked.append(request)
        return Explanation(
            peer=request.peer,
            address="100.64.0.2",
            path=PathStatus(kind="none"),
            summary="So.",
            own=SideStatus(),
            theirs=SideStatus(nat="hard"),
        )


class Served:
    """A local API on a socket, and raw connections to it."""

    def __init__(self, path: Path, actions: Actions) -> None:
        self.path = path
        self.actions = actions

    async def raw(self, data: bytes, *, half_close: bool = True) -> bytes:
        """Send bytes and return everything that comes until the server closes."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            writer.write(data)
            if half_close:
                writer.write_eof()
            async with asyncio.timeout(5):
                return await reader.read()
        finally:
            writer.close()

    async def call(self, method: str, *arguments: object) -> object:
        """Call a method of the client in a thread, as another process would."""
        return await asyncio.to_thread(getattr(NodeClient(self.path), method), *arguments)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    actions = Actions()
    api = LocalApi(actions, os.geteuid())
    path = tmp_path / "s"
    listener = listen_local(path, mode=0o600)
    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(api.run(listener))
        yield Served(path, actions)
        server.cancel()


async def test_client_and_server_agree(served: Served) -> None:
    assert await served.call("status", False) == Status(version="0", state="stopped")
    assert served.actions.asked == [("status", False)]
    watched = await served.call("watch", 7, 1.5)
    assert isinstance(watched, Status)
    assert watched.seq == 8
    up = UpRequest(server_url="http://x", auth_key="k", hostname="h")
    await served.call("up", up)
    assert served.actions.asked[-1] == up
    pong = await served.call("ping", PingRequest(peer="b", kind="tsmp"))
    assert isinstance(pong, PingReply)
    assert pong.kind == "tsmp"
    assert await served.call("netcheck") == NetcheckReport(udp=True)
    why = await served.call("why", WhyRequest(peer="bob"))
    assert isinstance(why, Explanation)
    assert (why.peer, why.theirs.nat) == ("bob", "hard")


async def test_what_the_node_refuses_reaches_the_person(served: Served) -> None:
    with pytest.raises(NodeError, match=r"^No\.$"):
        await served.call("up", UpRequest(hostname="no"))


async def test_a_bug_is_not_shown(served: Served) -> None:
    with pytest.raises(NodeError, match="failed inside"):
        await served.call("up", UpRequest(hostname="bug"))
    assert await served.call("status")


def head(method: str = "POST", path: str = "/warren/v0/up", length: int = 0) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def body(answer: bytes) -> str:
    error = json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]
    assert isinstance(error, str)
    return error


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (head("GET", "/"), 404),
        (head("GET", "/warren/v0/up"), 405),
        (head("POST", "/warren/v0/status"), 405),
        (head("GET", "/localapi/v0/status"), 404),
        (head("GET", "/warren/v0/watch?seq=x"), 400),
        (head("GET", "/warren/v0/watch?wait_s=1e9"), 400),
        (head("GET", "/warren/v0/watch?wait_s=nan"), 400),
        (head(length=1) + b"{", 400),
        (head(length=2) + b"[]", 400),
        (head(length=2) + b"\xff\xfe", 400),
        (head(length=15) + b'{"hostname": 5}', 400),
        (head(length=12) + b'{"unknown":1', 400),
        (head(length=13) + b'{"unknown":1}', 400),
        (head("POST", "/warren/v0/ping", 2) + b"{}", 400),
        (head("POST", "/warren/v0/why", 2) + b"{}", 400),
        (head("POST", "/warren/v0/why", 10) + b'{"peer":[]', 400),
        (head("GET", "/warren/v0/why"), 405),
        (head(length=BODY_MAX_BYTES + 1) + bytes(BODY_MAX_BYTES + 1), 413),
        (b"GARBAGE\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"POST /warren/v0/up HTTP/1.1\r\nContent-Length: -5\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, 431),
    ],
)
async def test_bad_requests_get_a_sentence(
    served: Served, request_bytes: bytes, status: int
) -> None:
    answer = await served.raw(request_bytes)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    text = body(answer)
    assert text.endswith(".")
    assert "Traceback" not in text
    assert served.actions.asked == []


@pytest.mark.parametrize("cut", range(0, 80, 7))
async def test_a_cut_request_does_nothing(served: Served, cut: int) -> None:
    whole = head(length=2) + b"{}"
    await served.raw(whole[: min(cut, len(whole) - 1)])
    assert served.actions.asked == []
    assert await served.call("status")


async def test_deep_json_is_refused(served: Served) -> None:
    data = b'{"advertise_tags":' + b"[" * 20_000
    answer = await served.raw(head(length=len(data)) + data)
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_several_requests_on_one_connection(served: Served) -> None:
    two = head("GET", "/warren/v0/status") * 2
    answer = await served.raw(two)
    assert answer.count(b"HTTP/1.1 200") == 2


async def test_silent_connections_are_bounded(served: Served) -> None:
    idle = [socket.socket(socket.AF_UNIX) for _ in range(CONNECTIONS_MAX + 10)]
    try:
        for connection in idle:
            connection.connect(str(served.path))
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
    finally:
        for connection in idle:
            connection.close()
    await asyncio.sleep(0.05)
    assert await served.call("status")


async def test_others_may_read_but_not_change(tmp_path: Path) -> None:
    actions = Actions()
    # Root may always write, so the test asks as whoever runs it, against another owner.
    api = LocalApi(actions, owner_uid=12345)
    if os.geteuid() == 0:
        api._writers = frozenset({12345})
    path = tmp_path / "s"
    listener = listen_local(path, mode=0o666)
    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(api.run(listener))
        client = NodeClient(path)
        assert await asyncio.to_thread(client.status)
        for method in ("down", "log_out", "netcheck"):
            with pytest.raises(NodeError, match="Only root"):
                await asyncio.to_thread(getattr(client, method))
        server.cancel()


def test_no_daemon_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DaemonAbsent, match="`warren up` starts one"):
        NodeClient(tmp_path / "nothing").status()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff" * 100,
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nxyz",
    ],
)
def test_something_else_on_the_socket_is_one_sentence(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(answer)
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(NodeError):
        NodeClient(path).status()
    thread.join()
    listener.close()


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    live = listen_local(path, mode=0o600)
    with pytest.raises(SocketProblem, match="already listens"):
        listen_local(path, mode=0o600)
    live.close()


def test_what_cannot_be_a_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SocketProblem, match="not a socket"):
        listen_local(tmp_path / "file", mode=0o600)
    with pytest.raises(SocketProblem, match="longer than"):
        listen_local(tmp_path / ("x" * 120), mode=0o600)
    assert (tmp_path / "file").read_text() == "mine"


def test_schema_is_strict() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"peer":"x","kind":"smoke"}', type=PingRequest)
