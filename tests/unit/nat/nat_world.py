"""A NAT, STUN servers and a virtual clock for the tests of `warren.nat.behaviour`."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address

from warren.nat.behaviour import Discovery, NatBehaviour, Sending
from warren.nat.stun5780 import discovery_response, parse_discovery_request_untrusted
from warren.netmap.endpoint import Endpoint

OUTSIDE, INSIDE = "203.0.113.7", "192.168.1.5"
START = 1000.0


@dataclass
class Nat:
    """mapping, filtering: how many of (address, port) of the other side count: 0, 1 or 2."""

    mapping: int = 0
    filtering: int = 2
    give: Callable[[int], int] = field(default=lambda local: local)
    hairpin: bool = False
    udp: bool = True
    mtu_bytes: int = 1500
    translates: bool = True

    def __post_init__(self) -> None:
        self.outside: dict[tuple[int, tuple[object, ...]], int] = {}
        self.owner: dict[int, int] = {}
        self.written: set[tuple[int, tuple[object, ...]]] = set()

    def out(self, local: int, to: Endpoint) -> Endpoint:
        key = (local, tuple(to)[: self.mapping])
        if key not in self.outside:
            self.outside[key] = self.give(local)
            self.owner[self.outside[key]] = local
        port = self.outside[key]
        self.written.add((port, tuple(to)[: self.filtering]))
        return Endpoint.parse(f"{OUTSIDE if self.translates else INSIDE}:{port}")

    def comes_in(self, port: int, src: Endpoint) -> int | None:
        """The inside port that a packet from `src` to an outside port reaches."""
        if (port, tuple(src)[: self.filtering]) not in self.written:
            return None
        return self.owner[port]


@dataclass
class Server:
    """One STUN server. other: its second address; says: a lie about what it saw."""

    first: Endpoint
    other: Endpoint | None = None
    says: Endpoint | None = None
    obeys: bool = True
    rtt_s: float = 0.02

    def places(self) -> set[Endpoint]:
        if self.other is None:
            return {self.first}
        return {
            Endpoint(i.ip, p.port)
            for i in (self.first, self.other)
            for p in (self.first, self.other)
        }

    def answer(self, at: Endpoint, data: bytes, src: Endpoint) -> tuple[Endpoint, bytes] | None:
        try:
            request = parse_discovery_request_untrusted(data)
        except ValueError:
            return None
        origin = at
        other = None
        if self.other is not None:
            twin = {self.first.ip: self.other.ip, self.other.ip: self.first.ip}
            port = {self.first.port: self.other.port, self.other.port: self.first.port}
            other = Endpoint(twin[at.ip], port[at.port])
            if self.obeys:
                origin = Endpoint(
                    other.ip if request.change_ip else at.ip,
                    other.port if request.change_port else at.port,
                )
        elif request.change_ip or request.change_port:
            return None
        return origin, discovery_response(request.tx_id, self.says or src, origin, other)


def full_server(address: str = "198.51.100.10", other: str = "198.51.100.20") -> Server:
    return Server(Endpoint.parse(f"{address}:3478"), Endpoint.parse(f"{other}:3479"))


def plain_server(number: int) -> Server:
    return Server(Endpoint.parse(f"198.51.100.{30 + number}:3478"))


def entropy() -> Callable[[int], bytes]:
    counter = itertools.count(1)
    return lambda size: next(counter).to_bytes(size, "big")


def examine(nat: Nat, servers: list[Server], loss: float = 0.0, seed: int = 1) -> NatBehaviour:
    """Run one examination to its end."""
    locals_ = [40000 + 7 * n for n in range(16)]
    rng = random.Random(seed)
    now, number = START, itertools.count()
    arrivals: list[tuple[float, int, int, Endpoint, bytes]] = []
    check = Discovery([s.first for s in servers], locals_, {ip_address(INSIDE)}, entropy(), now)

    def send(sent: Sending) -> None:
        if not nat.udp or rng.random() < loss:
            return
        if len(sent.data) + 28 > nat.mtu_bytes:
            return
        src = nat.out(locals_[sent.socket], sent.to)
        if str(sent.to.ip) == OUTSIDE:
            inside = (
                nat.comes_in(sent.to.port, src)
                if nat.hairpin and sent.to.port in nat.owner
                else None
            )
            if inside is not None:
                heapq.heappush(
                    arrivals, (now + 0.001, next(number), locals_.index(inside), src, sent.data)
                )
            return
        for server in servers:
            if sent.to in server.places() and (answer := server.answer(sent.to, sent.data, src)):
                origin, data = answer
                inside = nat.comes_in(src.port, origin)
                if inside is not None and rng.random() >= loss:
                    due = now + server.rtt_s
                    heapq.heappush(
                        arrivals, (due, next(number), locals_.index(inside), origin, data)
                    )

    while True:
        while (sent := check.poll_transmit()) is not None:
            send(sent)
        if (result := check.poll_event()) is not None:
            assert check.next_timeout() is None
            return result
        timeout = check.next_timeout()
        assert timeout is not None
        if arrivals and arrivals[0][0] <= timeout[0]:
            now, _, socket, src, data = heapq.heappop(arrivals)
            check.receive(socket, data, src, now)
        else:
            now = max(now, timeout[0])
            check.handle_timeout(now)
        assert now - START < 10


def random_ports(seed: int = 5, first: int = 1024, last: int = 65535) -> Callable[[int], int]:
    rng = random.Random(seed)
    return lambda local: rng.randint(first, last)


def sequential_ports(step: int = 1, first: int = 30000) -> Callable[[int], int]:
    counter = itertools.count(first, step)
    return lambda local: next(counter)


ADDRESS = IPv4Address(OUTSIDE)
