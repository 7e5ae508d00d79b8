"""The packet engine's entries: datagrams at its UDP socket, from a TURN server and relay client;
and what a TURN server sends on a stream.

The engine runs in userspace mode in this process, on loopback. After every few inputs it must
still hand a datagram up.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import time
from functools import cache

from fuzz import seeds
from warren.engine.commands import (
    OpenSockets,
    OpenStream,
    Peer,
    RelayNode,
    SetForward,
    SetIdentity,
    SetPeers,
    SetTurn,
)
from warren.engine.events import Datagram, Fault, StreamState
from warren.engine.native import NativeEngine
from warren.engine.protocol import EngineConfig
from warren.keys import NodePrivate

_VNI = 0x010203
_CHANNEL = b"\x40\x01"
_CHECK_EVERY = 64
_WAIT_S = 10.0
_ONE, _TWO = (NodePrivate.from_entropy(bytes([n]) * 32) for n in (1, 2))


class _Target:
    def __init__(self) -> None:
        self.engine = NativeEngine(EngineConfig(tun=None))
        self.sender = self._socket()
        self.other = self._socket()
        self.to = ("127.0.0.1", self.engine.snapshot().port4)
        ends = ["{}:{}".format(*end.getsockname()) for end in (self.sender, self.other)]
        peer = Peer(key=_TWO.public().raw, allowed_ips=["100.64.0.2/32"])
        self.engine.apply(
            [
                SetIdentity(private_key=_ONE.reveal(), addresses=["100.64.0.1/32"]),
                SetPeers(upsert=[peer]),
                SetTurn(server=ends[0]),
                SetForward(vni=_VNI, a=ends[0], b=ends[1]),
                OpenSockets(group=1, count=4),
            ]
        )
        self.numbers = itertools.count(1)

    def _socket(self) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.1", 0))
        return made

    def take(self, data: bytes) -> None:
        self.sender.sendto(data[:65_000], self.to)
        number = next(self.numbers)
        if number % _CHECK_EVERY == 0:
            self.check(number)

    def check(self, number: int) -> None:
        """Raise unless a STUN datagram comes up; the rate limit may cost a few tries."""
        stun = bytes.fromhex("000100002112a442") + number.to_bytes(12, "big")
        end = time.monotonic() + _WAIT_S
        while time.monotonic() < end:
            self.sender.sendto(stun, self.to)
            select.select([self.engine], [], [], 0.05)
            events = self.engine.poll()
            if any(isinstance(event, Fault) for event in events):
                raise AssertionError(f"the engine tells a fault: {events}")
            if any(isinstance(event, Datagram) and event.data == stun for event in events):
                self.engine.snapshot()
                return
        raise AssertionError("the engine takes no more datagrams")


@cache
def _target() -> _Target:
    return _Target()


def datagram(data: bytes) -> None:
    """Send one datagram to an engine that knows its sender well."""
    _target().take(data)


class _StreamTarget:
    def __init__(self) -> None:
        self.engine = NativeEngine(EngineConfig(tun=None))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(_WAIT_S)
        self.at = "{}:{}".format(*self.listener.getsockname())
        self.engine.apply([SetTurn(server=self.at)])
        self.groups = itertools.count(1)

    def take(self, data: bytes) -> None:
        """Raise unless the engine takes the stream to its end, and tells of that."""
        group = next(self.groups)
        to = RelayNode(addrs=[self.at], server_name="turn.example", plain=True)
        self.engine.apply([OpenStream(group=group, to=to)])
        with self.listener.accept()[0] as stream, contextlib.suppress(ConnectionError):
            stream.sendall(data)
        end = time.monotonic() + _WAIT_S
        while time.monotonic() < end:
            select.select([self.engine], [], [], 0.05)
            events = self.engine.poll()
            if any(isinstance(event, Fault) for event in events):
                raise AssertionError(f"the engine tells a fault: {events}")
            states = (event for event in events if isinstance(event, StreamState))
            if any(state.group == group and not state.open for state in states):
                return
        raise AssertionError("the engine does not tell the end of a stream")


@cache
def _stream_target() -> _StreamTarget:
    return _StreamTarget()


def stream(data: bytes) -> None:
    """Be a TURN server by TCP that sends this and closes."""
    _stream_target().take(data[:65_000])


def datagrams() -> list[bytes]:
    """Every kind of datagram, plain and wrapped."""
    wireguard = [
        bytes([kind, 0, 0, 0]) + bytes(range(4, size))
        for kind, size in ((1, 148), (2, 92), (3, 64))
    ]
    wireguard += [b"\4\0\0\0" + bytes(size) for size in (28, 60, 1400)]
    disco = seeds.disco_packets()[:4]
    inside = wireguard + disco
    headers = [
        flags + protocol + vni + b"\0"
        for flags in (b"\0\0", b"\0\x80")
        for protocol in (b"\x7a\x11", b"\x7a\x12")
        for vni in (_VNI.to_bytes(3, "big"), b"\0\0\7")
    ]
    geneve = [header + data for header in headers for data in inside]
    channels = [_CHANNEL + len(data).to_bytes(2, "big") + data for data in inside]
    return inside + seeds.stun() + geneve + channels
