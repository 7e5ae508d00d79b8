"""The relay over real sockets, through the front door, with the client's end of `warren.derp`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Message, Request

from warren.derp.frames import (
    CLIENT_MAX_PAYLOAD_BYTES,
    GONE_DISCONNECTED,
    GONE_NOT_HERE,
    ClosePeer,
    Frame,
    FrameReader,
    KeepAlive,
    NotePreferred,
    PeerGone,
    Ping,
    Pong,
    RecvPacket,
    Restarting,
    SendPacket,
    WatchConns,
    encode_frame,
)
from warren.derp.login import ClientInfo, ClientLogin
from warren.derp.upgrade import ClientUpgrade
from warren.edge.http import Door, Lobby, Routes
from warren.engine.relay import NativeRelay, RelayConfig
from warren.keys import NodePrivate, NodePublic
from warren.nat.stun import TxId, binding_request, parse_binding_response_untrusted
from warren.netmap.endpoint import Endpoint
from warren.relay import serve
from warren.relay.hub import Hub
from warren.relay.stun_server import ANSWERED, DROPPED, StunServer

DISCO = b"TS\xf0\x9f\x92\xac"


def key(name: str) -> NodePrivate:
    return NodePrivate.from_entropy(hashlib.sha256(name.encode()).digest())


class Relay:
    """A relay of two threads behind a door on a loopback port. options: of its RelayConfig."""

    def __init__(self, admits: Callable[[NodePublic], bool], **options: Any) -> None:
        config = RelayConfig(private_key=key("relay").reveal(), threads=2, **options)
        self.hub = Hub(NativeRelay(config), admits)
        self.lobby = Lobby()
        routes = Routes(serve.answers(), serve.takers(self.hub))
        self.make = lambda: Door(routes, self.lobby)

    async def __aenter__(self) -> Relay:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(self.make, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        self.task = loop.create_task(self.hub.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        self.hub.close()

    def count(self, name: str) -> int:
        return self.hub.counters()[name]


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    async with Relay(lambda key: True) as made:
        yield made


class Client:
    """A client as `warren.derp` has it, on a plain socket."""

    def __init__(self, name: str, fast: bool = False) -> None:
        self.key = key(name)
        self.fast = fast
        self.frames: asyncio.Queue[Frame | None] = asyncio.Queue()

    async def connect(self, port: int, receive_buffer: int = 0) -> Client:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=4096)
        upgrade = ClientUpgrade("x", fast_start=self.fast)
        server = key("relay").public() if self.fast else None
        login = ClientLogin(self.key, ClientInfo(), secrets.token_bytes(24), server)
        reader = FrameReader(CLIENT_MAX_PAYLOAD_BYTES)
        self.writer.write(upgrade.request() + login.poll_transmit())
        data: bytes | None = b"" if self.fast else None
        while data is None:
            data = upgrade.receive(await self.reader.read(4096))
        frames = reader.receive(data)
        while not login.done:
            for frame in frames:
                login.receive(frame)
            self.writer.write(login.poll_transmit())
            if not login.done:
                more = await asyncio.wait_for(self.reader.read(4096), 5)
                if not more:
                    raise ConnectionError("the relay closed")
                frames = reader.receive(more)
        self._reader = reader
        return self

    def start(self) -> Client:
        self.task = asyncio.get_running_loop().create_task(self._read())
        return self

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self.reader.read(65536):
                for frame in self._reader.receive(data):
                    await self.frames.put(frame)
        self.frames.put_nowait(None)

    def send(self, frame: Frame) -> None:
        self.writer.write(encode_frame(frame))

    async def next(self) -> Frame | None:
        return await asyncio.wait_for(self.frames.get(), 5)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    @property
    def public(self) -> NodePublic:
        return self.key.public()


async def clients(relay: Relay, *names: str) -> list[Client]:
    return [(await Client(name).connect(relay.port)).start() for name in names]


async def settled(relay: Relay, count: int) -> None:
    await until(lambda: len(relay.hub) == count)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("fast", [False, True])
async def test_packets_go_both_ways(relay: Relay, fast: bool) -> None:
    a = (await Client("a", fast).connect(relay.port)).start()
    b = (await Client("b", fast).connect(relay.port)).start()
    for size in (0, 1, 1280, 65536):
        packet = secrets.token_bytes(size)
        a.send(SendPacket(b.public, packet))
        assert await b.next() == RecvPacket(a.public, packet)
        b.send(SendPacket(a.public, packet))
        assert await a.next() == RecvPacket(b.public, packet)
    assert relay.count("packets") == 8


async def test_frames_in_any_pieces(relay: Relay) -> None:
    a, b = await clients(relay, "a", "b")
    stream = b"".join(
        encode_frame(SendPacket(b.public, bytes([n]) * (n + 1))) for n in range(60)
    ) + encode_frame(Ping(b"12345678"))
    for start in range(0, len(stream), 37):
        a.writer.write(stream[start : start + 37])
        await a.writer.drain()
    for n in range(60):
        assert await b.next() == RecvPacket(a.public, bytes([n]) * (n + 1))
    assert await a.next() == Pong(b"12345678")


async def test_peer_gone(relay: Relay) -> None:
    a, b, c = await clients(relay, "a", "b", "c")
    a.send(SendPacket(b.public, b"x"))
    assert isinstance(await b.next(), RecvPacket)
    await a.close()
    assert await b.next() == PeerGone(a.public, GONE_DISCONNECTED)
    c.send(SendPacket(b.public, b"y"))
    assert await b.next() == RecvPacket(c.public, b"y")
    assert c.frames.empty(), "who got nothing from it is not told"


async def test_unknown_destination(relay: Relay) -> None:
    (a,) = await clients(relay, "a")
    nobody = key("nobody").public()
    a.send(SendPacket(nobody, b"wireguard is dropped silently"))
    for _ in range(10):
        a.send(SendPacket(nobody, DISCO + bytes(80)))
    a.send(Ping(b"finished"))
    answers = []
    while (frame := await a.next()) != Pong(b"finished"):
        answers.append(frame)
    assert answers == [PeerGone(nobody, GONE_NOT_HERE)] * 3, "a burst of three, then one a second"


async def test_last_active_connection_wins(relay: Relay) -> None:
    old, sender = await clients(relay, "twin", "sender")
    new = (await Client("twin").connect(relay.port)).start()
    sender.send(SendPacket(old.public, b"1"))
    assert await new.next() == RecvPacket(sender.public, b"1")
    old.send(NotePreferred(True))
    old.send(Ping(b"activate"))
    assert await old.next() == Pong(b"activate")
    sender.send(SendPacket(old.public, b"2"))
    assert await old.next() == RecvPacket(sender.public, b"2")
    await old.close()
    await until(lambda: len(relay.hub._clients) == 2)
    sender.send(SendPacket(old.public, b"3"))
    assert await new.next() == RecvPacket(sender.public, b"3")
    assert sender.frames.empty(), "its key is still connected"


async def test_only_known_keys_are_admitted() -> None:
    known = key("known").public()
    async with Relay(lambda key: key == known) as relay:
        (inside,) = await clients(relay, "known")
        with pytest.raises(ConnectionError):
            await Client("stranger").connect(relay.port)
        assert relay.count("refused_clients") == 1
        relay.hub.kick(inside.public)
        assert await inside.next() is None
        await settled(relay, 0)


@pytest.mark.parametrize(
    "bad",
    [
        b"\x04\x00\x00\x00\x05short",
        b"\x04\x00\x02\x00\x00" + b"x" * 10,
        b"\x04\xff\xff\xff\xff",
        b"\x12\x00\x00\x00\x01x",
        b"\x07\x00\x00\x00\x02xx",
        encode_frame(WatchConns()),
        encode_frame(ClosePeer(key("a").public())),
        secrets.token_bytes(500),
        b"GET / HTTP/1.1\r\n\r\n" * 50,
    ],
)
async def test_bad_frames_end_only_their_connection(relay: Relay, bad: bytes) -> None:
    a, b, c = await clients(relay, "a", "b", "c")
    a.writer.write(bad)
    with contextlib.suppress(ConnectionError):
        await a.writer.drain()
        a.writer.write_eof()
    while await a.next() is not None:
        pass
    await settled(relay, 2)
    b.send(SendPacket(c.public, b"still here"))
    assert await c.next() == RecvPacket(b.public, b"still here")


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\x02\x00\x00\x00\x05short",
        b"\x02\x00\x10\x00\x00",
        b"\x02\x00\x00\x00\x60" + secrets.token_bytes(96),
        encode_frame(SendPacket(key("b").public(), b"before the login")),
        encode_frame(KeepAlive()),
    ],
)
async def test_bad_logins(relay: Relay, bad: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    writer.write(ClientUpgrade("x", fast_start=True).request() + bad)
    writer.write_eof()
    await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert len(relay.hub) == 0


async def test_login_deadline() -> None:
    async with Relay(lambda key: True, handshake_ms=100) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(ClientUpgrade("x", fast_start=True).request())
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 20)
        writer.close()


async def test_keep_alives_and_silence() -> None:
    times = {"keep_alive_ms": 50, "keep_alive_jitter_ms": 10, "silence_ms": 300}
    async with Relay(lambda key: True, **times) as relay:
        (a,) = await clients(relay, "a")
        kinds = []
        while (frame := await a.next()) is not None:
            kinds.append(type(frame))
        assert kinds.count(KeepAlive) >= 3 and Ping in kinds, "then it was taken for gone"
        await settled(relay, 0)


async def test_slow_reader_is_bounded_and_others_go_on() -> None:
    async with Relay(lambda key: True, stall_ms=500) as relay:
        slow = await Client("slow").connect(relay.port, receive_buffer=4096)  # it never reads
        a, b = await clients(relay, "a", "b")
        for _ in range(3000):
            a.send(SendPacket(slow.public, b"x" * 1400))
            await a.writer.drain()
        a.send(SendPacket(b.public, b"through"))
        assert await b.next() == RecvPacket(a.public, b"through")
        assert relay.count("dropped_full") + relay.count("dropped_unknown") > 0
        await settled(relay, 2)
        assert relay.count("stalled_clients") == 1
        await slow.close()
        assert relay.hub._native.snapshot().queued_bytes == 0


async def test_a_dead_reader_holds_its_sender_but_not_for_long() -> None:
    async with Relay(lambda key: True, stall_ms=60_000, hold_ms=50) as relay:
        dead = await Client("dead").connect(relay.port, receive_buffer=4096)
        a, b = await clients(relay, "a", "b")
        rounds = 60
        for n in range(rounds):
            for _ in range(100):
                a.send(SendPacket(dead.public, b"x" * 1400))
            a.send(SendPacket(b.public, n.to_bytes(4, "big")))
            await a.writer.drain()
        for n in range(rounds):
            assert await b.next() == RecvPacket(a.public, n.to_bytes(4, "big"))
        # Once, or twice where the kernel takes more for the dead one than its buffers held at
        # first; each of the sixty rounds would fill its queue.
        assert 1 <= relay.count("held_senders") <= 3
        assert relay.count("dropped_full") > 0
        assert relay.hub._native.snapshot().queued_bytes < 1 << 20
        await dead.close()


async def test_many_dead_readers_do_not_stop_their_sender() -> None:
    names = [f"dead-{n}" for n in range(8)]
    async with Relay(lambda key: True, stall_ms=60_000, hold_ms=200, pair_bytes=16_384) as relay:
        dead = [await Client(name).connect(relay.port, receive_buffer=4096) for name in names]
        a, b = await clients(relay, "a", "b")
        fill = b"".join(
            encode_frame(SendPacket(one.public, b"x" * 60_000)) for one in dead for _ in range(100)
        )
        for _ in range(4):  # more than the system keeps for each
            a.writer.write(fill)
            await a.writer.drain()
        a.send(SendPacket(b.public, b"through"))
        assert await asyncio.wait_for(b.frames.get(), 60) == RecvPacket(a.public, b"through")
        assert relay.count("held_senders") >= len(dead)
        assert relay.count("dropped_full") > 0
        for one in dead:
            await one.close()


async def test_a_flood_does_not_push_others_out(relay: Relay) -> None:
    """Whoever sends little to a busy client has its turn, on either thread."""
    flooder, thin = await clients(relay, "flooder", "thin")
    busy = await Client("busy").connect(relay.port)
    busy.frames = asyncio.Queue(32)  # what it has not looked at waits at the relay
    busy.start()
    flood = encode_frame(SendPacket(busy.public, b"x" * 1400)) * 200

    async def send() -> None:
        while True:
            flooder.writer.write(flood)
            await flooder.writer.drain()

    task = asyncio.get_running_loop().create_task(send())
    for n in range(6):
        thin.send(SendPacket(busy.public, bytes([n])))
        while await busy.next() != RecvPacket(thin.public, bytes([n])):
            pass
    task.cancel()


async def test_disco_overtakes_in_a_full_queue() -> None:
    async with Relay(lambda key: True, stall_ms=60_000, hold_ms=50) as relay:
        slow = await Client("slow").connect(relay.port, receive_buffer=4096)
        (a,) = await clients(relay, "a")
        while not relay.count("held_senders"):
            a.send(SendPacket(slow.public, b"x" * 1400))
            await a.writer.drain()
            await asyncio.sleep(0)
        disco = DISCO + b"urgent" + bytes(80)
        a.send(SendPacket(slow.public, b"late"))
        a.send(SendPacket(slow.public, disco))
        a.send(Ping(b"all sent"))
        assert await a.next() == Pong(b"all sent")
        slow.start()
        seen: list[bytes] = []
        while b"late" not in seen:
            frame = await slow.next()
            assert isinstance(frame, RecvPacket)
            seen.append(frame.packet)
        assert seen.index(disco) < seen.index(b"late")


async def test_reader_that_catches_up_loses_nothing() -> None:
    """Back pressure instead of loss: what is sent faster than it is read arrives all the same."""
    async with Relay(lambda key: True, hold_ms=60_000, stall_ms=60_000) as relay:
        a, b = await clients(relay, "a", "b")
        total = 4000
        for n in range(total):
            a.send(SendPacket(b.public, n.to_bytes(4, "big") + b"x" * 1200))
            await a.writer.drain()
        for n in range(total):
            frame = await b.next()
            assert isinstance(frame, RecvPacket) and frame.packet[:4] == n.to_bytes(4, "big")
        assert relay.count("dropped_full") == 0


async def test_pings_that_are_never_read(relay: Relay) -> None:
    """Answers to somebody who reads none are bounded, and so is the stream that asks."""
    rude = await Client("rude").connect(relay.port, receive_buffer=4096)
    a, b = await clients(relay, "a", "b")
    pings = encode_frame(Ping(b"12345678")) * 5000
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            rude.writer.write(pings)
            await asyncio.wait_for(rude.writer.drain(), 20)
    a.send(SendPacket(b.public, b"still here"))
    assert await b.next() == RecvPacket(a.public, b"still here")
    rude.writer.transport.abort()
    await settled(relay, 2)


async def test_stop_says_when_to_come_back(relay: Relay) -> None:
    (a,) = await clients(relay, "a")
    relay.hub.stop(500, 30_000)
    assert await a.next() == Restarting(500, 30_000)
    assert await a.next() is None


async def test_websocket(relay: Relay) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    websocket = WSConnection(ConnectionType.CLIENT)
    writer.write(websocket.send(Request(host="x", target="/derp", subprotocols=["derp"])))
    login = ClientLogin(key("web"), ClientInfo(), secrets.token_bytes(24))
    frames = FrameReader(CLIENT_MAX_PAYLOAD_BYTES)
    (b,) = await clients(relay, "b")
    accepted, got = False, None
    while got is None:
        websocket.receive_data(await asyncio.wait_for(reader.read(4096), 5))
        for event in websocket.events():
            if isinstance(event, AcceptConnection):
                accepted = event.subprotocol == "derp"
            elif isinstance(event, BytesMessage):
                for frame in frames.receive(bytes(event.data)):
                    if isinstance(frame, RecvPacket):
                        got = frame
                    else:
                        login.receive(frame)
                        if login.done:
                            b.send(SendPacket(key("web").public(), b"hello"))
        data = login.poll_transmit()
        for start in range(0, len(data), 7):
            writer.write(websocket.send(Message(data=data[start : start + 7])))
    assert accepted and got == RecvPacket(b.public, b"hello")
    writer.close()


async def test_websocket_without_the_subprotocol(relay: Relay) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    websocket = WSConnection(ConnectionType.CLIENT)
    writer.write(websocket.send(Request(host="x", target="/derp", subprotocols=["chat"])))
    assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_lobby_drops_the_oldest() -> None:
    relay = Relay(lambda key: True)
    relay.lobby = Lobby(limit=2)
    async with relay:
        opened = [await asyncio.open_connection("127.0.0.1", relay.port) for _ in range(3)]
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(opened[0][0].read(), 5) == b""
        (a,) = await clients(relay, "a")
        a.send(Ping(b"12345678"))
        assert await a.next() == Pong(b"12345678")
        for _, writer in opened:
            writer.close()


async def test_stun() -> None:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(StunServer, local_addr=("127.0.0.1", 0))
    address = transport.get_extra_info("sockname")
    transaction = TxId(secrets.token_bytes(12))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        for bad in (b"", b"x", b"\x00" * 20, secrets.token_bytes(2000), b"\x00\x01" * 300):
            sock.sendto(bad, address)
        sock.sendto(binding_request(transaction), address)
        answer = await asyncio.wait_for(loop.sock_recv(sock, 2048), 5)
        here = Endpoint.parse(f"127.0.0.1:{sock.getsockname()[1]}")
    assert parse_binding_response_untrusted(answer) == (transaction, here)
    assert server.counts == {ANSWERED: 1, DROPPED: 5}
    transport.close()
