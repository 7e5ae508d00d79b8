"""The engine's relay connection through a middlebox that lets WebSockets pass and nothing else.

The middlebox is the library `websockets`, both ways: what it accepts from the engine it carries to
a relay of ours, cut into other messages.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from warren.edge.http import Door, Lobby, Routes
from warren.engine.commands import Rebind, RelayNode, SendRelayed, SetHome, SetIdentity, SetRegion
from warren.engine.events import AnyEvent, RegionState, Relayed
from warren.engine.native import NativeEngine
from warren.engine.protocol import EngineConfig
from warren.engine.relay import NativeRelay, RelayConfig
from warren.keys import NodePrivate
from warren.relay import serve as relay_serve
from warren.relay.hub import Hub

DISCO = b"TS\xf0\x9f\x92\xac" + bytes(120)
HOME = 7


class Box:
    """The middlebox, and the relay behind it."""

    def __init__(self) -> None:
        self.opened = 0
        self.inner: list[ServerConnection] = []
        self.turned_away = 0

    async def start(self) -> None:
        config = RelayConfig(private_key=bytes(range(32)), threads=1)
        self.hub = Hub(NativeRelay(config), lambda key: True)
        routes = Routes(relay_serve.answers(), relay_serve.takers(self.hub))
        lobby = Lobby()
        loop = asyncio.get_running_loop()
        self.running = loop.create_task(self.hub.run())
        self.relay = await loop.create_server(lambda: Door(routes, lobby), "127.0.0.1", 0)
        self.server: Server = await serve(
            self.carry,
            "127.0.0.1",
            0,
            subprotocols=["derp"],  # type: ignore[list-item]
            process_request=self.look,
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    def look(self, connection: ServerConnection, request: object) -> None:
        if "websocket" not in str(request).lower():
            self.turned_away += 1

    async def carry(self, inner: ServerConnection) -> None:
        self.opened += 1
        self.inner.append(inner)
        port = self.relay.sockets[0].getsockname()[1]
        derp = ["derp"]
        async with connect(
            f"ws://127.0.0.1:{port}/derp",
            subprotocols=derp,  # type: ignore[arg-type]
            compression=None,
        ) as outer:
            with suppress(ConnectionClosed):
                await asyncio.gather(pump(inner, outer), pump(outer, inner))

    async def stop(self) -> None:
        self.server.close()
        self.running.cancel()
        self.hub.close()
        self.relay.close()
        await self.server.wait_closed()


async def pump(
    source: ServerConnection | ClientConnection, sink: ServerConnection | ClientConnection
) -> None:
    async for message in source:
        assert isinstance(message, bytes)
        for start in range(0, len(message), 50):
            await sink.send(message[start : start + 50])
    await sink.close()


class End:
    """An engine without a device, and what it told."""

    def __init__(self, name: str) -> None:
        self.private = NodePrivate.from_entropy(hashlib.sha256(name.encode()).digest())
        self.engine = NativeEngine(EngineConfig(tun=None))
        self.events: list[AnyEvent] = []

    def join(self, address: str) -> None:
        relay = RelayNode(addrs=[address], server_name="relay.test", plain=True)
        self.engine.apply(
            [
                SetIdentity(private_key=self.private.reveal(), addresses=[]),
                SetRegion(region=HOME, nodes=[relay]),
                SetHome(region=HOME),
            ]
        )

    async def wait(self, wanted: Callable[[AnyEvent], bool]) -> AnyEvent:
        async with asyncio.timeout(20):
            while True:
                self.events += self.engine.poll()
                for event in self.events:
                    if wanted(event):
                        return event
                await asyncio.sleep(0.01)


@asynccontextmanager
async def ends(*names: str) -> AsyncIterator[list[End]]:
    made = [End(name) for name in names]
    try:
        yield made
    finally:
        for end in made:
            await asyncio.to_thread(end.engine.close)


@pytest.fixture
async def box() -> AsyncIterator[Box]:
    made = Box()
    await made.start()
    yield made
    await made.stop()


def is_up(event: AnyEvent) -> bool:
    return isinstance(event, RegionState) and event.connected


async def test_a_relay_behind_a_box_that_only_knows_websocket(box: Box) -> None:
    async with ends("alice", "bob") as (alice, bob):
        for end in (alice, bob):
            end.join(box.address)
            await end.wait(is_up)
        assert box.opened == 2
        assert box.turned_away == 2, "the native upgrade is tried first"
        for sender, receiver in ((alice, bob), (bob, alice)):
            peer = receiver.private.public().raw
            sender.engine.apply([SendRelayed(region=HOME, peer=peer, data=DISCO)])
            came = await receiver.wait(lambda event: isinstance(event, Relayed))
            assert isinstance(came, Relayed)
            assert (came.peer, came.data) == (sender.private.public().raw, DISCO)


async def test_the_way_in_is_remembered_as_long_as_the_network_is_the_same(box: Box) -> None:
    async with ends("alice") as (alice,):
        alice.join(box.address)
        await alice.wait(is_up)
        for moved, turned_away in ((False, 1), (True, 2), (False, 2)):
            opened = box.opened
            alice.events.clear()
            if moved:
                alice.engine.apply([Rebind(port=0)])
            await box.inner[-1].close()
            await alice.wait(is_up)
            assert (box.opened, box.turned_away) == (opened + 1, turned_away)


async def test_a_box_that_lets_nothing_pass_is_named_with_both_reasons() -> None:
    def refuse(connection: ServerConnection, request: object) -> object:
        return connection.respond(403, "not here\n")

    async def never(connection: ServerConnection) -> None:
        raise AssertionError("it was opened")

    async with (
        serve(never, "127.0.0.1", 0, process_request=refuse) as server,  # type: ignore[arg-type]
        ends("alice") as (alice,),
    ):
        alice.join(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        event = await alice.wait(lambda event: isinstance(event, RegionState))
        assert isinstance(event, RegionState)
        assert not event.connected
        assert "WebSocket" in event.error and "403" in event.error, event.error
