"""TURN on real sockets: what is opened is closed again, and there is an end to everything."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network

import pytest

from warren.nat.turn.allocation import Transport, TurnSettings
from warren.nat.turn.client import TurnClient
from warren.nat.turn.credentials import Credentials, StaticAccounts
from warren.nat.turn.events import Allocated, Cause, ChannelOpen, Event, Failed, Received
from warren.nat.turn.reach import Reach
from warren.nat.turn.server import TurnServer
from warren.netmap.endpoint import Endpoint
from warren.relay import turn_server
from warren.relay.turn_server import RelayAddress, TurnService

LOOPBACK = ip_address("127.0.0.1")
USER = Credentials("alice", "wonderland")


def make(ports: tuple[int, int] = (49152, 65535), **settings: int) -> TurnService:
    machine = TurnServer(
        TurnSettings("warren", frozenset({LOOPBACK}), **settings),
        StaticAccounts(dict((USER,))),
        Reach(allow=[ip_network("127.0.0.0/8")]),
        os.urandom,
        asyncio.get_running_loop().time(),
    )
    return TurnService(machine, {4: RelayAddress(LOOPBACK, LOOPBACK)}, os.urandom, ports)


class Client:
    """Our machine on a UDP socket or a TCP connection."""

    def __init__(self, sock: socket.socket, reliable: bool) -> None:
        self.sock, self.loop = sock, asyncio.get_running_loop()
        self.machine = TurnClient(USER, os.urandom, self.loop.time(), reliable=reliable)

    async def wait(self, kind: type[Event]) -> Event:
        async with asyncio.timeout(5):
            while True:
                while (data := self.machine.poll_transmit()) is not None:
                    await self.loop.sock_sendall(self.sock, data)
                while (event := self.machine.poll_event()) is not None:
                    if isinstance(event, kind):
                        return event
                data = await self.loop.sock_recv(self.sock, 1 << 16)
                self.machine.receive(data, self.loop.time())


async def udp_client(to: tuple[str, int]) -> Client:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.connect(to)
    return Client(sock, reliable=False)


async def tcp_client(to: tuple[str, int]) -> Client:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, to)
    return Client(sock, reliable=True)


def udp_place(service: TurnService) -> tuple[str, int]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    service.serve_datagrams(sock)
    host, port = sock.getsockname()
    return str(host), int(port)


@pytest.fixture
async def service() -> AsyncIterator[TurnService]:
    made = make()
    yield made
    made.close()


async def tcp_place(service: TurnService) -> tuple[asyncio.Server, tuple[str, int]]:
    server = await asyncio.get_running_loop().create_server(
        lambda: service.stream(Transport.TCP), "127.0.0.1", 0
    )
    host, port = server.sockets[0].getsockname()
    return server, (str(host), int(port))


async def test_a_datagram_there_and_back_and_every_socket_closed(service: TurnService) -> None:
    client = await udp_client(udp_place(service))
    allocated = await client.wait(Allocated)
    assert isinstance(allocated, Allocated)
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.setblocking(False)
    peer.bind(("127.0.0.1", 0))
    endpoint = Endpoint(LOOPBACK, peer.getsockname()[1])
    client.machine.open_channel(endpoint, client.loop.time())
    await client.wait(ChannelOpen)
    relayed = (str(allocated.relayed.ip), allocated.relayed.port)
    await client.loop.sock_sendto(peer, b"hello", relayed)
    assert await client.wait(Received) == Received(endpoint, b"hello")
    service.close()
    again = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    again.bind(relayed)
    for sock in (again, peer, client.sock):
        sock.close()


async def test_when_no_port_is_left_the_client_is_told() -> None:
    service = make(ports=(59990, 59991))
    place = udp_place(service)
    clients = [await udp_client(place) for _ in range(3)]
    for client in clients[:2]:
        await client.wait(Allocated)
    failed = await clients[2].wait(Failed)
    assert isinstance(failed, Failed) and failed.cause is Cause.CAPACITY
    service.close()
    for client in clients:
        client.sock.close()


async def test_connections_that_do_nothing_or_are_too_many_end(
    service: TurnService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_server, "IDLE_S", 0.2)
    monkeypatch.setattr(turn_server, "MAX_STREAMS", 2)
    server, place = await tcp_place(service)
    busy, idle = await tcp_client(place), await tcp_client(place)
    await busy.wait(Allocated)
    refused = await tcp_client(place)
    loop = asyncio.get_running_loop()

    async def ended(client: Client) -> bool:
        try:
            return await asyncio.wait_for(loop.sock_recv(client.sock, 10), 2) == b""
        except ConnectionError:
            return True

    assert await ended(refused) and await ended(idle)
    assert len(service.machine) == 1  # the one with an allocation may stay
    for client in (busy, idle, refused):
        client.sock.close()
    async with asyncio.timeout(2):
        while len(service.machine):
            await asyncio.sleep(0.01)
    server.close()


async def test_a_stream_that_reads_nothing_loses_data_and_not_our_memory(
    service: TurnService,
) -> None:
    server, place = await tcp_place(service)
    client = await tcp_client(place)
    allocated = await client.wait(Allocated)
    assert isinstance(allocated, Allocated)
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.bind(("127.0.0.1", 0))
    client.machine.open_channel(Endpoint(LOOPBACK, peer.getsockname()[1]), client.loop.time())
    await client.wait(ChannelOpen)
    to = (str(allocated.relayed.ip), allocated.relayed.port)
    async with asyncio.timeout(20):
        while not service.machine.counters.dropped_full:
            for _ in range(20):
                peer.sendto(bytes(8000), to)
            await asyncio.sleep(0.01)
    client.sock.close()
    peer.close()
    server.close()
