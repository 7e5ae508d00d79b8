"""The sockets and timers of an examination of the NAT in front of this machine.

What is asked and concluded is `warren.nat.behaviour`'s. It has sockets of its own: the engine's
has talked to everybody, so that a NAT would let in through it what it would else keep out.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.edge.linux.whole_datagrams import open_whole
from warren.nat.behaviour import SOCKETS, Discovery, NatBehaviour
from warren.netmap.endpoint import Endpoint

_MAX_DATAGRAM_BYTES = 2048
_BATCH = 64


async def examine(
    servers: Sequence[Endpoint],
    own: Collection[IPv4Address | IPv6Address],
    clock: Clock,
    entropy: Entropy,
) -> NatBehaviour | None:
    """Examine the NAT of one IP family, in at most four seconds.

    servers: all of that family, the most trusted first. own: this machine's addresses. None
    where the machine has no such IP, or there is nobody to ask.
    """
    if not servers:
        return None
    sockets: list[socket.socket] = []
    try:
        for _ in range(SOCKETS):
            sockets.append(open_whole(servers[0].ip.version))
        ports = [sock.getsockname()[1] for sock in sockets]
        machine = Discovery(servers, ports, own, entropy, clock.now())
        return await _drive(machine, sockets, clock)
    except OSError:
        return None
    finally:
        for sock in sockets:
            sock.close()


async def _drive(
    machine: Discovery, sockets: Sequence[socket.socket], clock: Clock
) -> NatBehaviour:
    loop = asyncio.get_running_loop()
    moved = asyncio.Event()

    def readable(number: int) -> None:
        for data, src in _read(sockets[number]):
            machine.receive(number, data, src, clock.now())
        moved.set()

    for number, sock in enumerate(sockets):
        loop.add_reader(sock, readable, number)
    try:
        while True:
            while (sending := machine.poll_transmit()) is not None:
                # No route, or larger than the link: an answer that never comes says the same.
                with suppress(OSError):
                    to = (str(sending.to.ip), sending.to.port)
                    sockets[sending.socket].sendto(sending.data, to)
            if (found := machine.poll_event()) is not None:
                return found
            moved.clear()
            if (due := machine.next_timeout()) is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due[0] - clock.now())):
                        await moved.wait()
            machine.handle_timeout(clock.now())
    finally:
        for sock in sockets:
            loop.remove_reader(sock)


def _read(sock: socket.socket) -> list[tuple[bytes, Endpoint]]:
    """Return what waits, a bounded number of datagrams."""
    found = []
    for _ in range(_BATCH):
        try:
            data, address = sock.recvfrom(_MAX_DATAGRAM_BYTES)
        except OSError:  # nothing more, or an ICMP error of an earlier sending
            break
        with suppress(ValueError):
            found.append((data, Endpoint.of(ip_address(address[0]), address[1])))
    return found
