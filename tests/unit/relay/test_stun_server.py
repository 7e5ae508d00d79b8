"""The STUN server with other addresses and ports (RFC 5780), over real loopback sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from warren.nat.places import abilities, group_places
from warren.nat.stun import TxId, binding_request
from warren.nat.stun5780 import (
    MAX_REQUEST_BYTES,
    DiscoveryResponse,
    discovery_request,
    parse_discovery_response_untrusted,
)
from warren.netmap.endpoint import Endpoint
from warren.relay.stun_server import ANSWERED, DROPPED, Places, StunServer

TX = TxId(b"123456789012")


def at(text: str) -> Endpoint:
    return Endpoint.parse(text)


class Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.put_nowait((data, addr))


@asynccontextmanager
async def serving(
    *texts: str, now: float = 0.0
) -> AsyncIterator[tuple[list[Endpoint], list[StunServer]]]:
    loop = asyncio.get_running_loop()
    servers, transports = [], []
    group = group_places([at(text) for text in texts])[0]
    places = Places(group, lambda: now)
    for place in group:
        transport, server = await loop.create_datagram_endpoint(
            partial(StunServer, places, place), local_addr=(str(place.ip), place.port)
        )
        transports.append(transport)
        servers.append(server)
    try:
        yield group, servers
    finally:
        for transport in transports:
            transport.close()


async def ask(to: Endpoint, data: bytes) -> tuple[DiscoveryResponse, Endpoint] | None:
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_datagram_endpoint(Client, local_addr=("127.0.0.1", 0))
    try:
        transport.sendto(data, (str(to.ip), to.port))
        async with asyncio.timeout(0.2):
            answer, source = await client.heard.get()
        assert client.heard.empty()
        return parse_discovery_response_untrusted(answer), at(f"{source[0]}:{source[1]}")
    except TimeoutError:
        return None
    finally:
        transport.close()


async def test_it_answers_from_where_it_is_asked_to() -> None:
    async with serving("127.0.0.1:34780", "127.0.0.2:34790") as (group, servers):
        assert [str(place) for place in group] == [
            "127.0.0.1:34780", "127.0.0.1:34790", "127.0.0.2:34780", "127.0.0.2:34790",
        ]  # fmt: skip
        first = group[0]
        for change_ip, change_port, expected in (
            (False, False, first),
            (False, True, group[1]),
            (True, False, group[2]),
            (True, True, group[3]),
        ):
            request = discovery_request(TX, change_ip=change_ip, change_port=change_port)
            found = await ask(first, request)
            assert found is not None
            answer, source = found
            assert source == answer.origin == expected
            assert answer.other == group[3]
            assert answer.tx_id == TX
        assert sum(server.counts[ANSWERED] for server in servers) == 4


async def test_another_port_only() -> None:
    async with serving("127.0.0.1:34781", "127.0.0.1:34782") as (group, _):
        found = await ask(group[0], discovery_request(TX, change_port=True))
        assert found is not None
        assert (found[1], found[0].other) == (group[1], group[1])
        assert await ask(group[0], discovery_request(TX, change_ip=True)) is None
        assert await ask(group[0], discovery_request(TX, change_ip=True, change_port=True)) is None


async def test_padding_is_taken_and_not_given_back() -> None:
    async with serving("127.0.0.1:34783", "127.0.0.2:34783") as (group, servers):
        assert group[1].port == 34784, "the same port twice: the next one is the other"
        assert await ask(group[0], discovery_request(TX, size_bytes=MAX_REQUEST_BYTES)) is not None
        too_long = discovery_request(TX, size_bytes=MAX_REQUEST_BYTES) + bytes(4)
        assert await ask(group[0], too_long) is None
        assert servers[0].counts[DROPPED] == 1


async def test_a_flood_from_one_source_gets_short_answers_only() -> None:
    async with serving("127.0.0.1:34785", "127.0.0.2:34786") as (group, _):
        places = Places(group, lambda: 7.0)
        allowed = sum(places.allow(at("192.0.2.1:1").ip) for _ in range(1000))
        assert allowed == 200
        assert places.allow(at("192.0.2.2:1").ip), "others are served"
        for _ in range(200):
            found = await ask(group[0], binding_request(TX))
            assert found is not None
            assert found[0].other is not None
        found = await ask(group[0], binding_request(TX))
        assert found is not None, "the short answer is for everybody"
        assert (found[0].origin, found[0].other) == (None, None)
        assert await ask(group[0], discovery_request(TX, change_port=True)) is None


async def test_what_was_refilled_is_bounded() -> None:
    now = [0.0]
    places = Places([at("127.0.0.1:1"), at("127.0.0.1:2")], lambda: now[0])
    for number in range(10_000):
        now[0] += 0.001
        places.allow(at(f"10.0.{number // 250}.{number % 250}:1").ip)
    assert len(places._sources) == 4096


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["127.0.0.1:1", "127.0.0.1:1"], "twice"),
        (["0.0.0.0:1", "0.0.0.0:2"], "address each"),
        (["127.0.0.1:1", "127.0.0.2:1", "127.0.0.3:1"], "more than two"),
    ],
)
def test_places_that_make_no_sense(given: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        group_places([at(text) for text in given])


def test_both_families_are_groups_of_their_own() -> None:
    groups = group_places(
        [
            at("192.0.2.1:3478"),
            at("192.0.2.2:3478"),
            at("[2001:db8::1]:3478"),
            at("[2001:db8::2]:3480"),
        ]
    )
    assert [len(group) for group in groups] == [4, 4]
    assert abilities(groups) == "with mapping and filtering tests"
    assert abilities(group_places([at("192.0.2.1:3478")])) == ""
