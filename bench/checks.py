"""What must be on while a tunnel is measured, tried on the very nodes that were measured.

Each check does what it forbids, from the outside, and asks the node's own counters: nothing gets
faster by leaving one out without the bench failing.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from warren.lab.mesh import Node, Server
from warren.lab.world import Part

CLOSED_PORT = 65_001
"""No rule of POLICY lets anybody begin to talk to it."""
POLICY = {
    "grants": [
        {"src": ["*"], "dst": ["*"], "ip": ["icmp:*", f"tcp:1-{CLOSED_PORT - 1}"]},
        {"src": ["*"], "dst": ["*"], "ip": [f"udp:1-{CLOSED_PORT - 1}"]},
    ]
}
_OPEN_PORT = 40_123
_STRANGER = "100.100.100.200"
_DEADLINE_S = 10.0
_FLOOD = 5_000
_ETH_P_IP = 0x0800
_UDP_AT = 20
_DATA = b"\x04\x00\x00\x00"


class CheckMissing(Exception):
    """A check is not in force. The text is a sentence."""


@dataclass(frozen=True)
class Pair:
    """Two nodes with TUN devices and a direct path between them; b is tried, a does the trying."""

    a: Node
    b: Node

    def drops(self, name: str) -> int:
        """How many packets b's node has dropped for this reason."""
        return int(self.b.status()["drops"].get(name, 0))


def set_policy(server: Server, place: Path) -> None:
    """Put POLICY in force, so that there is something to filter."""
    place.write_text(json.dumps(POLICY))
    server.admin("policy", "set", str(place))


def prove(pair: Pair) -> list[dict[str, Any]]:
    """Try every check; return what each is and how often it counted. Raises CheckMissing."""
    proofs = []
    for what, counter, attempt in _ATTEMPTS:
        before = pair.drops(counter)
        attempt(pair)
        end = time.monotonic() + _DEADLINE_S
        while (counted := pair.drops(counter) - before) == 0:
            if time.monotonic() > end:
                raise CheckMissing(
                    f"the measured node does not do its {what}: {counter} counts nothing"
                )
            time.sleep(0.1)
        proofs.append({"what": what, "counter": counter, "counted": counted})
    _answered(pair)
    proofs.append({"what": "reply tracking", "counter": "", "counted": 1})
    sent = _count_bytes(pair)
    proofs.append({"what": "counters of bytes", "counter": "rx_bytes", "counted": sent})
    return proofs


def _closed(pair: Pair) -> None:
    with _udp(pair.a, pair.a.address) as sock:
        sock.sendto(b"let me in", (pair.b.address, CLOSED_PORT))


def _strange(pair: Pair) -> None:
    """As if from a machine that a is not."""
    part, device = pair.a.part, str(pair.a.status()["tun"])
    part.run(["ip", "address", "add", f"{_STRANGER}/32", "dev", device])
    try:
        with _udp(pair.a, _STRANGER) as sock:
            sock.sendto(b"somebody else", (pair.b.address, _OPEN_PORT))
    finally:
        part.run(["ip", "address", "del", f"{_STRANGER}/32", "dev", device])


def _again(pair: Pair) -> None:
    """A datagram of the tunnel, caught on b's wire, and sent a second time."""
    datagram = _caught(pair)
    with _raw(pair.a.part) as wire:
        wire.sendto(datagram, (str(pair.b.part.address), 0))


def _changed(pair: Pair) -> None:
    """The same with one bit of the sealed part changed and a counter that was not yet used."""
    datagram = bytearray(_caught(pair))
    counter = _UDP_AT + 8 + 8
    ahead = int.from_bytes(datagram[counter : counter + 8], "little") + 100_000
    datagram[counter : counter + 8] = ahead.to_bytes(8, "little")
    datagram[-1] ^= 1
    with _raw(pair.a.part) as wire:
        wire.sendto(bytes(datagram), (str(pair.b.part.address), 0))


def _flood(pair: Pair) -> None:
    """More of what Python must judge than one second lets through."""
    port = int(pair.b.status()["port"])
    with pair.a.part.socket(socket.SOCK_DGRAM) as sock:
        for number in range(_FLOOD):
            message = b"TS\xf0\x9f\x92\xac" + number.to_bytes(4, "big") * 8 + bytes(60)
            sock.sendto(message, (str(pair.b.part.address), port))


_ATTEMPTS: tuple[tuple[str, str, Callable[[Pair], None]], ...] = (
    ("packet filter", "filter-no-rule", _closed),
    ("source check", "wrong-source", _strange),
    ("replay window", "wireguard-replayed", _again),
    ("authentication", "wireguard-forged", _changed),
    ("rate limit", "rate-limit", _flood),
)


def _answered(pair: Pair) -> None:
    """The closed port is open to whom b wrote from it."""
    with (
        _udp(pair.a, pair.a.address, _OPEN_PORT) as a,
        _udp(pair.b, pair.b.address, CLOSED_PORT) as b,
    ):
        for _ in range(20):
            b.sendto(b"question", (pair.a.address, _OPEN_PORT))
            with contextlib.suppress(TimeoutError):
                _, source = a.recvfrom(100)
                a.sendto(b"answer", source)
                b.recvfrom(100)
                return
    raise CheckMissing("the measured node does not let the answers to its own packets in")


def _count_bytes(pair: Pair) -> int:
    """How many bytes b counts of ten datagrams of 1,000. Raises CheckMissing if fewer."""
    before = _received(pair)
    with _udp(pair.a, pair.a.address) as sock:
        for _ in range(10):
            sock.sendto(bytes(1_000), (pair.b.address, _OPEN_PORT))
    end = time.monotonic() + _DEADLINE_S
    while (more := _received(pair) - before) < 10_000:
        if time.monotonic() > end:
            raise CheckMissing(f"the measured node counts {more} of 10,000 bytes")
        time.sleep(0.1)
    return more


def _received(pair: Pair) -> int:
    known = next(one for one in pair.b.status()["peers"] if one["name"] == pair.a.name)
    return int(known["rx_bytes"])


def _caught(pair: Pair) -> bytes:
    """An IPv4 packet with a data message from a to b; UDP's checksum, which the sender had left to
    a network card that is none, is left out."""
    tap = pair.b.part.inside(
        lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
    )
    ours = IPv4Address(str(pair.b.part.address)).packed
    with tap, _udp(pair.a, pair.a.address) as sock:
        tap.settimeout(0.5)
        end = time.monotonic() + _DEADLINE_S
        while time.monotonic() < end:
            sock.sendto(b"to be caught", (pair.b.address, _OPEN_PORT))
            with contextlib.suppress(TimeoutError):
                packet = tap.recv(2048)
                if packet[16:20] == ours and packet[_UDP_AT + 8 :].startswith(_DATA):
                    return packet[: _UDP_AT + 6] + bytes(2) + packet[_UDP_AT + 8 :]
    raise CheckMissing("no datagram of the tunnel was seen on the wire")


@contextlib.contextmanager
def _udp(node: Node, address: str, port: int = 0) -> Iterator[socket.socket]:
    with node.part.socket(socket.SOCK_DGRAM) as sock:
        sock.bind((address, port))
        sock.settimeout(0.5)
        yield sock


def _raw(part: Part) -> socket.socket:
    """A socket whose IP headers are written by the sender."""
    return part.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
