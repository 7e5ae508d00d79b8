"""The TLS port: DERP stays in the native relay, everything else comes out as plain bytes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from warren.derp.frames import (
    CLIENT_MAX_PAYLOAD_BYTES,
    FrameReader,
    Ping,
    Pong,
    RecvPacket,
    SendPacket,
    encode_frame,
)
from warren.derp.login import ClientInfo, ClientLogin
from warren.derp.metacert import build_meta_certificate
from warren.derp.upgrade import ClientUpgrade
from warren.edge.splice import serve_behind
from warren.edge.tls import leaf_der, make_self_signed, with_appended
from warren.engine.relay import NativeRelay, RelayConfig
from warren.keys import NodePrivate
from warren.relay.hub import Hub

KEY = NodePrivate.from_entropy(bytes(range(32)))
WALL = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = b"GET /key HTTP/1.1\r\nHost: x\r\n\r\n"


class Echo(asyncio.Protocol):
    """Sends back what comes, and remembers what it heard of the other side."""

    def __init__(self, port: Port) -> None:
        self.port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.port.echoes.append(self)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def eof_received(self) -> bool:
        self.port.ended += 1
        return False


class Port:
    """A TLS port of a relay of two threads; what is not DERP is echoed."""

    def __init__(self, **options: int | bool) -> None:
        config = RelayConfig(private_key=KEY.reveal(), threads=2, **options)  # type: ignore[arg-type]
        self.hub = Hub(NativeRelay(config), lambda key: True, self.receive)
        self.echoes: list[Echo] = []
        self.ended = 0

    async def receive(self, sock: socket.socket, source: tuple[str, int] | None) -> None:
        await serve_behind(lambda: Echo(self), sock, source)

    async def __aenter__(self) -> Port:
        self.pair = make_self_signed("relay.test", WALL)
        meta = build_meta_certificate(KEY.public(), bytes(32), WALL)
        self.hub.set_certificate(with_appended(self.pair[0], meta), self.pair[1])
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.number = listener.getsockname()[1]
        self.hub.listen(listener)
        self.task = asyncio.get_running_loop().create_task(self.hub.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        self.hub.close()

    async def open(
        self, *alpn: str, version: ssl.TLSVersion | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if version is not None:
            context.maximum_version = version
        return await asyncio.open_connection(
            "127.0.0.1", self.number, ssl=context, server_hostname="relay.test"
        )

    async def leaf(self, *alpn: str) -> tuple[bytes, str | None]:
        """What certificate and which protocol a new connection gets."""
        _, writer = await self.open(*alpn)
        tls = writer.get_extra_info("ssl_object")
        found = tls.getpeercert(binary_form=True), tls.selected_alpn_protocol()
        writer.close()
        return found


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    async with Port() as made:
        yield made


async def derp(
    port: Port, name: int, **how: ssl.TLSVersion
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, FrameReader]:
    """Log in over TLS, in a fast start."""
    reader, writer = await port.open(**how)
    node = NodePrivate.from_entropy(bytes([name]) * 32)
    login = ClientLogin(node, ClientInfo(), secrets.token_bytes(24), KEY.public())
    writer.write(ClientUpgrade("x", fast_start=True).request() + login.poll_transmit())
    frames = FrameReader(CLIENT_MAX_PAYLOAD_BYTES)
    while not login.done:
        for frame in frames.receive(await asyncio.wait_for(reader.read(4096), 20)):
            login.receive(frame)
    return reader, writer, frames


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_derp_stays_here(port: Port, version: ssl.TLSVersion) -> None:
    _, sender, _ = await derp(port, 1, version=version)
    reader, writer, frames = await derp(port, 2, version=version)
    keys = [NodePrivate.from_entropy(bytes([n]) * 32).public() for n in (1, 2)]
    sent = [secrets.token_bytes(size) for size in (0, 1, 1400, 65536, 17_000)] * 20
    for packet in sent:
        sender.write(encode_frame(SendPacket(keys[1], packet)))
    await sender.drain()
    writer.write(encode_frame(Ping(b"12345678")))
    got: list[object] = []
    while len(got) < len(sent) + 1:
        got += frames.receive(await asyncio.wait_for(reader.read(65536), 20))
    assert Pong(b"12345678") in got
    assert [f for f in got if isinstance(f, RecvPacket)] == [RecvPacket(keys[0], p) for p in sent]
    assert not port.echoes


async def test_other_requests_come_out_whole_and_tell_their_source(port: Port) -> None:
    reader, writer = await port.open()
    for piece in (REQUEST[:7], REQUEST[7:]):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.02)
    assert await asyncio.wait_for(reader.readexactly(len(REQUEST)), 20) == REQUEST
    transport = port.echoes[0].transport
    assert transport.get_extra_info("peername") == writer.get_extra_info("sockname")
    assert transport.get_extra_info("sslcontext")
    data = secrets.token_bytes(3 << 20)
    writer.write(data)  # more than fits anywhere on the way: each part waits for the next
    assert await asyncio.wait_for(reader.readexactly(len(data)), 60) == data
    transport.write(b"last words")
    transport.close()
    assert await asyncio.wait_for(reader.read(), 20) == b"last words"
    writer.close()


async def test_the_end_of_a_client_is_heard(port: Port) -> None:
    for abrupt in (False, True):
        reader, writer = await port.open()
        writer.write(REQUEST)
        await asyncio.wait_for(reader.readexactly(len(REQUEST)), 20)
        if abrupt:
            writer.transport.abort()
        else:
            writer.close()
    async with asyncio.timeout(20):
        while port.ended < 2:
            await asyncio.sleep(0.01)


async def test_upgrades_go_to_python_where_the_relay_is_off() -> None:
    async with Port(derp=False) as port:
        reader, writer = await port.open()
        request = ClientUpgrade("x", fast_start=True).request()
        writer.write(request)
        assert await asyncio.wait_for(reader.readexactly(len(request)), 20) == request
        writer.close()


async def test_the_relay_s_key_is_in_its_certificates(port: Port) -> None:
    # The ssl module of this Python shows no chain; the bytes of a TLS 1.2 handshake do.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="relay.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
    writer.write(outgoing.read())
    told = b"derpkey" + KEY.public().raw.hex().encode()
    flight = await asyncio.wait_for(reader.readuntil(told), 20)
    assert leaf_der(port.pair[0]) in flight
    writer.close()


async def test_a_new_certificate_needs_no_restart(port: Port) -> None:
    reader, writer = await port.open()
    before, _ = await port.leaf()
    chain, key = make_self_signed("relay.test", WALL)
    port.hub.set_certificate(chain, key)
    after, _ = await port.leaf()
    assert (before, after) == (leaf_der(port.pair[0]), leaf_der(chain))
    writer.write(REQUEST)
    assert await asyncio.wait_for(reader.readexactly(len(REQUEST)), 20) == REQUEST
    writer.close()


async def test_only_who_asks_for_the_proof_sees_it(port: Port) -> None:
    usual, proof = leaf_der(port.pair[0]), make_self_signed("relay.test", WALL)
    port.hub.set_proof("relay.test", *proof)
    assert await port.leaf("acme-tls/1") == (leaf_der(proof[0]), "acme-tls/1")
    assert await port.leaf() == (usual, None)
    assert await port.leaf("h2", "http/1.1") == (usual, "http/1.1")
    port.hub.set_proof("relay.test")
    assert await port.leaf("acme-tls/1") == (usual, None)


def test_bad_certificates_are_told() -> None:
    native = NativeRelay(RelayConfig(private_key=KEY.reveal(), threads=1))
    hub = Hub(native, lambda key: True)
    chain, key = make_self_signed("relay.test", WALL)
    _, other = make_self_signed("relay.test", WALL)
    for bad in ((b"", key), (chain, b""), (chain, b"nonsense"), (b"nonsense", key), (chain, other)):
        with pytest.raises(ValueError, match=r"certificate|key"):
            hub.set_certificate(*bad)
    with pytest.raises(ValueError, match="configuration"):
        NativeRelay({"private_key": b"short"})  # type: ignore[arg-type]
    hub.close()
    hub.close()


@pytest.mark.parametrize(
    "bad",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x40\x00" + bytes(0x4000),
        b"\x16\x03\x01\xff\xff",
        secrets.token_bytes(3000),
    ],
)
async def test_what_is_no_tls_ends_only_its_connection(port: Port, bad: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
    writer.write(bad)
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert (await port.leaf())[0] == leaf_der(port.pair[0])


async def test_who_says_nothing_is_dropped_in_time() -> None:
    async with Port(handshake_ms=100) as port:
        silent = await asyncio.open_connection("127.0.0.1", port.number)
        headless = await port.open()
        headless[1].write(b"GET /derp HTT")
        for reader, writer in (silent, headless):
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 20) == b""
            writer.close()


async def test_the_oldest_silent_ones_make_room() -> None:
    async with Port(max_waiting=4) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port.number) for _ in range(12)]
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(silent[0][0].read(), 20) == b""
        await derp(port, 1)
        assert port.hub.counters()["dropped_connections"] >= 6
        for _, writer in silent:
            writer.close()
