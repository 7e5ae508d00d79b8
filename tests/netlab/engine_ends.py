"""Native engines in namespaces: what the tests of the engine start, lease and measure."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from warren.engine.commands import (
    DstSpan,
    FilterRule,
    Peer,
    SetFilter,
    SetIdentity,
    SetPath,
    SetPeers,
    Span,
)
from warren.engine.events import AnyEvent, Applied
from warren.engine.native import NativeEngine
from warren.engine.protocol import EngineConfig
from warren.keys import NodePrivate
from warren.lab.plan import Host, Plan
from warren.lab.program import wait_until
from warren.lab.world import Part, World

PLAN = Plan(
    hosts=(
        Host("a", address="198.51.100.10"),
        Host("b", address="203.0.113.10"),
        Host("relay", address="192.0.2.10"),
    )
)
PORT = 41641
LEASE_MS = 600_000
EVERYONE = FilterRule(
    sources=[Span(first="0.0.0.0", last="255.255.255.255"), Span(first="::", last="ffff::")],
    destinations=[
        DstSpan(span=Span(first="0.0.0.0", last="255.255.255.255"), first_port=0, last_port=65535),
        DstSpan(
            span=Span(first="::", last="ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            first_port=0,
            last_port=65535,
        ),
    ],
    protocols=[1, 6, 17, 58, 99],
)


@dataclass
class End:
    """One engine, the part it lives in, and every event it has told."""

    part: Part
    engine: NativeEngine
    private: NodePrivate
    v4: str
    v6: str
    events: list[AnyEvent] = field(default_factory=list)
    generation: int = 0

    @property
    def key(self) -> bytes:
        return self.private.public().raw

    def apply(self, *commands: object) -> None:
        """Apply and wait until the packet path uses it."""
        self.generation += 1
        self.engine.apply(commands, self.generation)  # type: ignore[arg-type]
        self.wait(lambda e: isinstance(e, Applied) and e.generation == self.generation)

    def poll(self) -> None:
        while select.select([self.engine], [], [], 0)[0]:
            self.events += self.engine.poll()

    def wait(self, wanted: Callable[[AnyEvent], bool], deadline_s: float = 10) -> AnyEvent:
        def seen() -> AnyEvent | None:
            self.poll()
            for event in self.events:
                if wanted(event):
                    return event
            return None

        return wait_until(seen, deadline_s, "the engine tells an event", lambda: repr(self.events))

    def lease(self, other: End, lease_ms: int = LEASE_MS, mtu_bytes: int = 1280) -> None:
        addr = f"{other.part.address}:{PORT}"
        path = SetPath(peer=other.key, addr=addr, lease_ms=lease_ms, mtu_bytes=mtu_bytes)
        self.apply(path)

    def drops(self) -> dict[str, int]:
        return self.engine.snapshot().drops

    def ping(self, to: str, *options: str) -> str:
        return self.part.run(["ping", "-n", "-c", "3", "-i", "0.1", "-W", "2", *options, to])

    def socket(self, kind: socket.SocketKind, family: int) -> socket.socket:
        made = self.part.socket(kind, family)
        made.settimeout(20)
        return made


def start(
    part: Part, number: int, tun: str | None = "wt0", mtu_bytes: int = 1280, threads: int = 0
) -> End:
    config = EngineConfig(tun=tun, port=PORT, mtu_bytes=mtu_bytes, threads=threads)
    engine = part.inside(lambda: NativeEngine(config))
    v4, v6 = f"100.64.0.{number}", f"fd7a:115c:a1e0::{number}"
    end = End(part, engine, NodePrivate.from_entropy(os.urandom(32)), v4, v6)
    lines = (
        "link set wt0 up",
        f"addr add {v4}/32 dev wt0",
        f"addr add {v6}/128 dev wt0 nodad",
        "route add 100.64.0.0/10 dev wt0",
        "-6 route add fd7a:115c:a1e0::/48 dev wt0",
    )
    for line in lines if tun else ():
        part.run(["ip", *line.split()])
    own = [f"{v4}/32", f"{v6}/128"]
    end.apply(
        SetIdentity(private_key=end.private.reveal(), addresses=own), SetFilter(rules=[EVERYONE])
    )
    return end


def introduce(one: End, other: End, home_region: int = 0) -> None:
    allowed = [f"{other.v4}/32", f"{other.v6}/128"]
    peer = Peer(key=other.key, allowed_ips=allowed, home_region=home_region)
    one.apply(SetPeers(upsert=[peer]))


@contextmanager
def pair_in(world: World) -> Iterator[tuple[End, End]]:
    """Two engines that know each other, without a path."""
    a, b = start(world["a"], 1), start(world["b"], 2)
    try:
        introduce(a, b)
        introduce(b, a)
        yield a, b
    finally:
        a.engine.close()
        b.engine.close()


def transfer(
    source: End, sink: End, to: str, size: int, listen: str | None = None
) -> tuple[str, str]:
    """Send random bytes over TCP; SHA-256 of what went in and of what came out.

    listen: the address that the sink listens on, when it is not `to`.
    """
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    listener = sink.socket(socket.SOCK_STREAM, family)
    listener.bind((listen or to, 0))
    listener.listen(1)
    came = hashlib.sha256()

    def receive() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(20)
            while chunk := connection.recv(1 << 16):
                came.update(chunk)

    receiver = threading.Thread(target=receive)
    receiver.start()
    went = hashlib.sha256()
    with source.socket(socket.SOCK_STREAM, family) as sender:
        sender.connect((to, listener.getsockname()[1]))
        block = os.urandom(1 << 20)
        for index in range(size >> 20):
            piece = block[index:] + block[:index]
            went.update(piece)
            sender.sendall(piece)
    receiver.join(30)
    listener.close()
    return went.hexdigest(), came.hexdigest()
