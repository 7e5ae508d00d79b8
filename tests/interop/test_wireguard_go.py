"""The engine against wireguard-go: each of them initiates and renews, in bulk and at rest."""

from __future__ import annotations

import base64
import os
import select
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from warren.engine.commands import (
    DstSpan,
    FilterRule,
    Peer,
    Rebind,
    SetFilter,
    SetIdentity,
    SetPeers,
    Span,
)
from warren.engine.events import AnyEvent, Handshake
from warren.engine.native import NativeEngine
from warren.engine.protocol import EngineConfig
from warren.keys import NodePrivate
from warren.lab.plan import Host, Plan
from warren.lab.program import Program, wait_until
from warren.lab.world import Part, World

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.interop,
    pytest.mark.skipif(
        shutil.which("wireguard-go") is None or shutil.which("wg") is None,
        reason="needs wireguard-go and wg: apt-get install wireguard-go wireguard-tools",
    ),
]

# Two pairs, so that both renewals can be waited for at once: ours begins in one, theirs in the
# other.
PLAN = Plan(
    hosts=(
        Host("ours1", address="198.51.100.10"),
        Host("theirs1", address="203.0.113.10"),
        Host("ours2", address="198.51.100.20"),
        Host("theirs2", address="203.0.113.20"),
    )
)
PORT = 51820
OURS, THEIRS = "10.9.0.1", "10.9.0.2"
REKEY_AFTER_S = 120
ANY = Span(first="0.0.0.0", last="255.255.255.255")
EVERYONE = FilterRule(
    sources=[ANY],
    destinations=[DstSpan(span=ANY, first_port=0, last_port=65535)],
    protocols=[1, 6, 17],
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


def start(world: World, number: int) -> Pair:
    ours, theirs = world[f"ours{number}"], world[f"theirs{number}"]
    us, them = (NodePrivate.from_entropy(os.urandom(32)) for _ in range(2))

    def text(raw: bytes) -> str:
        return base64.b64encode(raw).decode()

    conf = world.scratch / f"wireguard-go-{number}.conf"
    conf.write_text(
        f"[Interface]\nPrivateKey = {text(them.reveal())}\nListenPort = {PORT}\n"
        f"[Peer]\nPublicKey = {text(us.public().raw)}\nAllowedIPs = {OURS}/32\n"
        f"Endpoint = {ours.address}:{PORT}\n"
    )
    program = theirs.spawn(["sh", "-c", START, "sh", str(conf), f"{THEIRS}/24"], "wireguard-go")
    program.wait_output("configured", 10)
    engine = start_engine(ours, theirs, us, them.public().raw)
    return Pair(engine, ours, theirs, program, us, them.public().raw)


def start_engine(ours: Part, theirs: Part, private: NodePrivate, key: bytes) -> NativeEngine:
    engine = ours.inside(lambda: NativeEngine(EngineConfig(tun="wt0", port=PORT)))
    for line in ("link set wt0 up", f"addr add {OURS}/24 dev wt0"):
        ours.run(["ip", *line.split()])
    peer = Peer(
        key=key, allowed_ips=[f"{THEIRS}/32"], roams=True, endpoint=f"{theirs.address}:{PORT}"
    )
    engine.apply(
        [
            SetIdentity(private_key=private.reveal(), addresses=[f"{OURS}/32"]),
            SetFilter(rules=[EVERYONE]),
            SetPeers(upsert=[peer]),
        ]
    )
    return engine


@pytest.fixture(scope="module")
def pairs() -> Iterator[tuple[Pair, Pair]]:
    with World(PLAN) as world:
        made = start(world, 1), start(world, 2)
        try:
            yield made
        finally:
            for pair in made:
                pair.engine.close()


def ping(part: Part, to: str, count: int, every_s: float) -> str:
    options = ["-n", "-c", str(count), "-i", str(every_s), "-W", "3"]
    return part.run(["ping", *options, to], timeout_s=count * every_s + 15)


def transfer(source: Part, sink: Part, to: str, size: int) -> int:
    """Send bytes over TCP from one part to another; how many came."""
    listener = sink.socket(socket.SOCK_STREAM)
    listener.bind((to, 0))
    listener.listen(1)
    came = 0

    def receive() -> None:
        nonlocal came
        connection, _ = listener.accept()
        with connection:
            while chunk := connection.recv(1 << 16):
                came += len(chunk)

    receiver = threading.Thread(target=receive)
    receiver.start()
    with source.socket(socket.SOCK_STREAM) as sender:
        sender.settimeout(20)
        sender.connect(listener.getsockname())
        sender.sendall(os.urandom(size))
    receiver.join(20)
    listener.close()
    return came


def test_either_side_begins_and_renews(pairs: tuple[Pair, Pair]) -> None:
    ours_begins, theirs_begins = pairs
    assert "3 received" in ping(ours_begins.ours, THEIRS, 3, 0.2)
    assert (ours_begins.took(), ours_begins.began(), ours_begins.handshakes()) == (1, 0, 1)
    assert "3 received" in ping(theirs_begins.theirs, OURS, 3, 0.2)
    assert (theirs_begins.took(), theirs_begins.began(), theirs_begins.handshakes()) == (0, 1, 1)

    # Nothing of either tunnel may be lost while its keys are renewed.
    count = REKEY_AFTER_S + 10
    said: dict[str, str] = {}

    def rest(name: str, part: Part, to: str) -> None:
        said[name] = ping(part, to, count, 1)

    threads = [
        threading.Thread(target=rest, args=("ours", ours_begins.ours, THEIRS)),
        threading.Thread(target=rest, args=("theirs", theirs_begins.theirs, OURS)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert f"{count} received" in said["ours"]
    assert f"{count} received" in said["theirs"]
    assert (ours_begins.took(), ours_begins.began(), ours_begins.handshakes()) == (2, 0, 2)
    assert (theirs_begins.took(), theirs_begins.began(), theirs_begins.handshakes()) == (0, 2, 2)


def test_bulk_both_ways(pairs: tuple[Pair, Pair]) -> None:
    pair, _ = pairs
    size = 8 << 20
    assert transfer(pair.ours, pair.theirs, THEIRS, size) == size
    assert transfer(pair.theirs, pair.ours, OURS, size) == size
    drops = pair.engine.snapshot().drops
    assert not {name for name in drops if name.startswith("wireguard")}, drops


def test_both_follow_a_peer_that_moves(pairs: tuple[Pair, Pair]) -> None:
    pair, _ = pairs
    before = pair.engine.snapshot().port4
    pair.engine.apply([Rebind(port=before + 1)])
    wait_until(lambda: pair.engine.snapshot().port4 == before + 1, 5, "the engine moves")
    assert "3 received" in ping(pair.ours, THEIRS, 3, 0.2)
    assert "3 received" in ping(pair.theirs, OURS, 3, 0.2), "it answers where we are now"


def test_a_restarted_engine_is_heard_again(pairs: tuple[Pair, Pair]) -> None:
    _, pair = pairs
    pair.engine.close()
    del pair.engine  # its TUN device goes with it
    pair.engine = start_engine(pair.ours, pair.theirs, pair.private, pair.key)
    # wireguard-go still has the old session; our initiation's timestamp must be newer than any.
    assert "3 received" in ping(pair.ours, THEIRS, 3, 0.2)
    assert "3 received" in ping(pair.theirs, OURS, 3, 0.2)
