"""WireGuard through a TURN server: coturn, and our own. The other side knows nothing of TURN."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest
from engine_ends import LEASE_MS, PLAN, PORT, End, pair_in, transfer

from warren.engine.commands import SendDatagram, SetPath, SetTurn
from warren.engine.events import Datagram
from warren.keys import DiscoPrivate
from warren.lab.world import Part, World
from warren.nat.turn.credentials import Credentials, StaticAccounts
from warren.nat.turn.events import Allocated, ChannelOpen
from warren.nat.turn.keeper import KeeperEvent, Server, Trying, TurnKeeper
from warren.nat.turn.reach import Reach
from warren.netmap.endpoint import Endpoint
from warren.relay.turn_doors import open_turn

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.interop,
    pytest.mark.skipif(
        shutil.which("turnserver") is None, reason="needs coturn: apt-get install coturn"
    ),
]

USER = Credentials("alice", "wonderland")
TURN_PORT = 3478
# The lab's internet is made of networks for documentation, which no server relays to unasked.
LAB = ["198.51.100.0/24", "203.0.113.0/24"]


class Seat:
    """The keeper on an engine's socket, as a node would have it."""

    def __init__(self, end: End) -> None:
        self.end = end
        self.keeper = TurnKeeper(os.urandom)
        self.told: list[KeeperEvent] = []
        self.taken = 0

    def serve(self) -> None:
        """Carry what is there, both ways."""
        self.end.poll()
        now = time.monotonic()
        for event in self.end.events[self.taken :]:
            if isinstance(event, Datagram) and not event.channel:
                self.keeper.receive(event.data, Server(Endpoint.parse(event.src)), now)
        self.taken = len(self.end.events)
        self.keeper.handle_timeout(now)
        while (event_or_none := self.keeper.poll_event()) is not None:
            self.told.append(event_or_none)
            if isinstance(event_or_none, Trying):
                self.end.apply(SetTurn(server=str(event_or_none.server.at)))
        while (out := self.keeper.poll_transmit()) is not None:
            self.end.engine.apply([SendDatagram(to=str(out.to.at), data=out.data)])

    def wait(self, kind: type[KeeperEvent]) -> KeeperEvent:
        end = time.monotonic() + 10
        while True:
            self.serve()
            for event in self.told:
                if isinstance(event, kind):
                    return event
            assert time.monotonic() < end, self.told
            time.sleep(0.01)


@contextmanager
def coturn(part: Part, scratch: Path) -> Iterator[None]:
    at = str(part.address)
    command = [
        *("turnserver", "-n", "--no-cli", "-L", at, "-E", at, "-p", str(TURN_PORT), "-m", "1"),
        *("--lt-cred-mech", "--user", ":".join(USER), "--realm", "example.org", "--no-tls"),
        *("--no-dtls", "-v", "--log-file", "stdout"),
        *("--pidfile", str(scratch / "turn.pid"), "--db", str(scratch / "turn.sqlite")),
    ]
    program = part.spawn(command, "coturn")
    program.wait_output("UDP listener opened on", 10)
    yield


@contextmanager
def ours(part: Part, scratch: Path) -> Iterator[None]:
    ready, end = threading.Event(), threading.Event()

    async def serve() -> None:
        site = open_turn(
            [Endpoint.parse(f"{part.address}:{TURN_PORT}")],
            "warren",
            StaticAccounts(dict((USER,))),
            Reach(allow=[ip_network(text) for text in LAB]),
            None,
            os.urandom,
        )
        async with asyncio.TaskGroup() as tasks:
            doors = tasks.create_task(site.doors.run())
            ready.set()
            await asyncio.to_thread(end.wait)
            doors.cancel()
        site.service.close()

    thread = threading.Thread(target=lambda: part.inside(lambda: asyncio.run(serve())))
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        end.set()
        thread.join(10)


@pytest.mark.parametrize("server", [coturn, ours])
def test_the_tunnel_through_a_turn_server(
    server: Callable[[Part, Path], AbstractContextManager[None]],
) -> None:
    with (
        World(PLAN) as world,
        server(world["relay"], world.scratch),
        pair_in(world) as (a, b),
    ):
        turn = Endpoint.parse(f"{world['relay'].address}:{TURN_PORT}")
        peer = Endpoint.parse(f"{b.part.address}:{PORT}")
        seat = Seat(a)
        seat.keeper.set_servers({Server(turn): USER}, time.monotonic())
        allocated = seat.wait(Allocated)
        assert isinstance(allocated, Allocated) and allocated.relayed.ip == turn.ip
        assert str(allocated.mapped) == f"{a.part.address}:{PORT}"
        seat.keeper.open_channel(peer, time.monotonic())
        opened = seat.wait(ChannelOpen)
        assert isinstance(opened, ChannelOpen)

        # Disco by way of the relayed address, and back.
        disco = (
            b"TS\xf0\x9f\x92\xac" + DiscoPrivate.from_entropy(bytes(32)).public().raw + bytes(60)
        )
        b.engine.apply([SendDatagram(to=str(allocated.relayed), data=disco)])
        came = a.wait(lambda e: isinstance(e, Datagram) and e.data == disco)
        assert isinstance(came, Datagram) and (came.src, came.channel) == (
            str(turn),
            opened.channel,
        )
        a.engine.apply([SendDatagram(to=str(turn), data=disco, channel=opened.channel)])
        back = b.wait(lambda e: isinstance(e, Datagram) and e.data == disco)
        assert isinstance(back, Datagram) and back.src == str(allocated.relayed)

        # The tunnel: one side by its channel, the other as to anybody.
        through = SetPath(peer=b.key, addr=str(turn), lease_ms=LEASE_MS, channel=opened.channel)
        a.apply(through)
        b.apply(SetPath(peer=a.key, addr=str(allocated.relayed), lease_ms=LEASE_MS))
        assert "3 received" in a.ping(b.v4)
        assert "3 received" in b.ping(a.v6)
        went, sunk = transfer(a, b, b.v4, 4 << 20)
        assert went == sunk
        assert a.drops().get("turn-stranger", 0) == 0
        seat.serve()
