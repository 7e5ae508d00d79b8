"""The sockets of `warren netcheck` on loopback: examination, portals, handshake times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address

import pytest

from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.engine.commands import RelayNode
from warren.nat.behaviour import Dependence
from warren.nat.explain import explain
from warren.nat.places import group_places
from warren.netmap.endpoint import Endpoint
from warren.node.captive import find_portal
from warren.node.natcheck import examine
from warren.node.relaytimes import handshake_times
from warren.relay.stun_server import Places, StunServer

Answer = Callable[[bytes], bytes]


@asynccontextmanager
async def http(answer: Answer, *, hang: bool = False) -> AsyncIterator[Endpoint]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if not hang:
            writer.write(answer(head))
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Endpoint.parse(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()


def challenge_of(head: bytes) -> bytes:
    lines = head.lower().split(b"\r\n")
    return next(line.split(b": ")[1] for line in lines if line.startswith(b"x-tailscale-challenge"))


def relay(head: bytes) -> bytes:
    return b"HTTP/1.1 204 No Content\r\nX-Tailscale-Response: response %s\r\n\r\n" % challenge_of(
        head
    )


@pytest.mark.parametrize(
    ("answer", "portal"),
    [
        (relay, False),
        (lambda head: b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (lambda head: b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n", True),
        (lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", True),
        (lambda head: b"garbage\r\n\r\n", None),
        (lambda head: b"", None),
        (lambda head: b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, None),
    ],
)
async def test_portal(answer: Answer, portal: bool | None) -> None:
    async with http(answer) as at:
        assert await find_portal([("relay.example", at)], system_entropy) is portal


async def test_no_portal_is_waited_for_long() -> None:
    async with http(relay, hang=True) as at:
        assert await find_portal([("relay", at)], system_entropy, limit_s=0.1) is None
    assert await find_portal([("relay", at)], system_entropy) is None, "nobody listens any more"
    assert await find_portal([], system_entropy) is None


async def test_one_portal_is_enough() -> None:
    async with http(relay) as honest, http(lambda head: b"HTTP/1.1 200 OK\r\n\r\n") as portal:
        relays = [("a", honest), ("b", portal)]
        assert await find_portal(relays, system_entropy) is True


async def test_handshake_times() -> None:
    async with http(relay) as at:
        node = RelayNode(addrs=[str(at)], server_name="a")
        bad = RelayNode(addrs=["127.0.0.1:1"], server_name="b")
        found = await handshake_times({1: [node], 2: [bad], 3: []}, SystemClock())
    assert set(found) == {1}
    assert 0 < found[1] < 1


async def test_times_through_a_proxy() -> None:
    """The proxy is asked for the relay by name, then by address; one that refuses gives no time."""
    asked: list[bytes] = []

    def proxy(head: bytes) -> bytes:
        asked.append(head.split(b"\r\n")[0])
        good = b"192.0.2.1:443" in head
        return b"HTTP/1.1 200 Connected\r\n\r\n" if good else b"HTTP/1.1 502 no\r\n\r\n"

    async with http(proxy) as at:
        near, far = (
            RelayNode(addrs=[f"{ip}:443"], server_name="a", proxy=str(at))
            for ip in ("192.0.2.1", "192.0.2.2")
        )
        dead = RelayNode(addrs=["192.0.2.1:443"], server_name="b", proxy="127.0.0.1:1")
        found = await handshake_times({1: [near], 2: [far], 3: [dead]}, SystemClock())
    assert set(found) == {1} and 0 < found[1] < 1
    assert sorted(asked) == [
        b"CONNECT 192.0.2.1:443 HTTP/1.1",
        b"CONNECT 192.0.2.2:443 HTTP/1.1",
        b"CONNECT a:443 HTTP/1.1",
        b"CONNECT a:443 HTTP/1.1",
    ]


async def test_an_examination_over_loopback() -> None:
    loop = asyncio.get_running_loop()
    group = group_places([Endpoint.parse("127.0.0.1:34880"), Endpoint.parse("127.0.0.2:34881")])[0]
    places = Places(group, SystemClock().now)
    transports = [
        (
            await loop.create_datagram_endpoint(
                partial(StunServer, places, at), local_addr=(str(at.ip), at.port)
            )
        )[0]
        for at in group
    ]
    own = {ip_address("127.0.0.1")}
    found = await examine(group[:1], own, SystemClock(), system_entropy)
    for transport in transports:
        transport.close()
    assert found is not None
    assert found.translated is False
    assert found.filtering is Dependence.NOTHING
    assert found.mtu_bytes == 1500
    assert explain(found)[:2] == ("no NAT, no firewall", "open")
    assert found.dropped == {}


async def test_nobody_to_ask() -> None:
    assert await examine([], (), SystemClock(), system_entropy) is None


async def test_nobody_answers() -> None:
    found = await examine([Endpoint.parse("127.0.0.1:9")], (), SystemClock(), system_entropy)
    assert found is not None
    assert not found.udp
    assert explain(found).difficulty == "blocked"
