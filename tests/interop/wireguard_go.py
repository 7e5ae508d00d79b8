"""Our engine in one host of a lab and wireguard-go in another: what tests start and send."""

from __future__ import annotations

import base64
import os
import select
import socket
import threading
from dataclasses import dataclass, field

from warren.engine.commands import (
    DstSpan,
    FilterRule,
    Peer,
    SetFilter,
    SetIdentity,
    SetPeers,
    Span,
)
from warren.engine.events import AnyEvent, Handshake
from warren.engine.native import NativeEngine
from warren.engine.protocol import EngineConfig
from warren.keys import NodePrivate
from warren.lab.program import Program
from warren.lab.world import Part, World

PORT = 51820
OURS, THEIRS = "10.9.0.1", "10.9.0.2"
OURS6, THEIRS6 = "fd09::1", "fd09::2"
ANY = [
    Span(first="0.0.0.0", last="255.255.255.255"),
    Span(first="::", last="ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
]
EVERYONE = FilterRule(
    sources=ANY,
    destinations=[DstSpan(span=span, first_port=0, last_port=65535) for span in ANY],
    protocols=[1, 6, 17, 58],
)

# Its control socket lives in /run, which an ordinary user may not write: a /run of its own.
START = """
conf=$(cat "$1")
mount -t tmpfs run /run
mkdir -p /run/wireguard
export LOG_LEVEL=verbose WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1
wireguard-go -f wgo &
until printf '%s\\n' "$conf" | wg setconf wgo /dev/stdin 2>/dev/null; do sleep 0.05; done
ip address add "$2" dev wgo
ip address add "$3" dev wgo nodad
ip link set wgo up mtu 1280
echo configured
wait
"""


@dataclass
class Pair:
    """Our engine in one part, wireguard-go in another."""

    engine: NativeEngine
    ours: Part
    theirs: Part
    program: Program
    private: NodePrivate
    key: bytes
    """wireguard-go's public key."""
    events: list[AnyEvent] = field(default_factory=list)

    def handshakes(self) -> int:
        """How many sessions our engine has established."""
        while select.select([self.engine], [], [], 0)[0]:
            self.events += self.engine.poll()
        return sum(event == Handshake(peer=self.key) for event in self.events)

    def began(self) -> int:
        """How many initiations wireguard-go sent."""
        return self.program.output().count("Sending handshake initiation")

    def took(self) -> int:
        """How many initiations wireguard-go received."""
        return self.program.output().count("Received handshake initiation")


def start(world: World, number: int, way: tuple[str, str] | None = None) -> Pair:
    ours, theirs = world[f"ours{number}"], world[f"theirs{number}"]
    # Where each finds the other: `way`, or the other itself.
    to_ours, to_theirs = way or (f"{ours.address}:{PORT}", f"{theirs.address}:{PORT}")
    us, them = (NodePrivate.from_entropy(os.urandom(32)) for _ in range(2))

    def text(raw: bytes) -> str:
        return base64.b64encode(raw).decode()

    conf = world.scratch / f"wireguard-go-{number}.conf"
    conf.write_text(
        f"[Interface]\nPrivateKey = {text(them.reveal())}\nListenPort = {PORT}\n"
        f"[Peer]\nPublicKey = {text(us.public().raw)}\nAllowedIPs = {OURS}/32, {OURS6}/128\n"
        f"Endpoint = {to_ours}\n"
    )
    argv = ["sh", "-c", START, "sh", str(conf), f"{THEIRS}/24", f"{THEIRS6}/64"]
    program = theirs.spawn(argv, "wireguard-go")
    program.wait_output("configured", 10)
    engine = start_engine(ours, to_theirs, us, them.public().raw)
    return Pair(engine, ours, theirs, program, us, them.public().raw)


def start_engine(ours: Part, endpoint: str, private: NodePrivate, key: bytes) -> NativeEngine:
    engine = ours.inside(lambda: NativeEngine(EngineConfig(tun="wt0", port=PORT)))
    for line in (
        "link set wt0 up",
        f"addr add {OURS}/24 dev wt0",
        f"addr add {OURS6}/64 dev wt0 nodad",
    ):
        ours.run(["ip", *line.split()])
    peer = Peer(
        key=key, allowed_ips=[f"{THEIRS}/32", f"{THEIRS6}/128"], roams=True, endpoint=endpoint
    )
    engine.apply(
        [
            SetIdentity(private_key=private.reveal(), addresses=[f"{OURS}/32", f"{OURS6}/128"]),
            SetFilter(rules=[EVERYONE]),
            SetPeers(upsert=[peer]),
        ]
    )
    return engine


def ping(part: Part, to: str, count: int, every_s: float) -> str:
    options = ["-n", "-c", str(count), "-i", str(every_s), "-W", "3"]
    return part.run(["ping", *options, to], timeout_s=count * every_s + 15)


def transfer(source: Part, sink: Part, to: str, size: int) -> int:
    """Send random bytes over TCP from one part to another; how many came, all as they were."""
    listener = sink.socket(socket.SOCK_STREAM)
    listener.bind((to, 0))
    listener.listen(1)
    came = bytearray()

    def receive() -> None:
        connection, _ = listener.accept()
        with connection:
            while chunk := connection.recv(1 << 16):
                came.extend(chunk)

    receiver = threading.Thread(target=receive)
    receiver.start()
    sent = os.urandom(size)
    with source.socket(socket.SOCK_STREAM) as sender:
        sender.settimeout(20)
        sender.connect(listener.getsockname())
        sender.sendall(sent)
    receiver.join(30)
    listener.close()
    assert came == sent
    return len(came)


def datagram_sockets(pair: Pair, *, back: bool, v6: bool) -> tuple[socket.socket, socket.socket]:
    """A bound receiver at one end, a socket at the other that is connected to it."""
    source, sink = (pair.theirs, pair.ours) if back else (pair.ours, pair.theirs)
    to = (OURS6 if back else THEIRS6) if v6 else (OURS if back else THEIRS)
    family = socket.AF_INET6 if v6 else socket.AF_INET
    receiver = sink.socket(socket.SOCK_DGRAM, family)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    receiver.settimeout(10)
    receiver.bind((to, 0))
    sender = source.socket(socket.SOCK_DGRAM, family)
    sender.connect(receiver.getsockname()[:2])
    return sender, receiver
