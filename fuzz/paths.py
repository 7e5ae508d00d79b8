"""One peer's paths and its punching take all kinds of packets together, in any order, with time.

The first byte tells what both NATs are like; then each step is a byte for what happens and how
much time passes, and what the step needs. Pongs of our own pings can't be guessed by mutating, so
some steps answer them: only after those may a path be there.
"""

from __future__ import annotations

import random
from collections import deque
from contextlib import suppress

from warren.disco.malformed import MalformedDisco
from warren.disco.messages import (
    CallMeMaybe,
    Message,
    Ping,
    Pong,
    TxId,
    encode_message,
    parse_message_untrusted,
)
from warren.disco.punching import PunchEnd, PunchInvite
from warren.keys import NodePublic
from warren.nat.stun import MalformedStun, binding_response, parse_binding_response_untrusted
from warren.nat.stun import TxId as StunTxId
from warren.netmap.endpoint import Endpoint, MalformedEndpoint
from warren.paths.candidates import CANDIDATES_MAX
from warren.paths.machine import Lease, Relay, Transmit
from warren.paths.mtu import BASE_MTU_BYTES
from warren.paths.punching.puncher import ATTEMPTS_KEPT, PunchingPaths
from warren.paths.punching.roles import OwnSide, PeerSide
from warren.paths.punching.sockets import (
    Aside,
    AsideLease,
    AsideTransmit,
    CloseSockets,
    KeepSocket,
    OpenSockets,
    StunAsk,
)

_KEY = NodePublic(bytes([11]) * 32)
_HOME, _ELSEWHERE = Endpoint.parse("9.9.9.9:41641"), Endpoint.parse("7.7.7.7:7")
_OWN = Endpoint.parse("8.8.8.8:41641")
_SERVERS = (Endpoint.parse("6.6.6.6:3478"), Endpoint.parse("5.5.5.5:3478"))
_STEPS_MAX = 40
_BURST = 1500
"""Messages that one step may cause: sockets that open, and lists of candidates, at the most."""
_STEPS_S = (0.0, 0.02, 0.3, 1.0, 3.0, 7.0, 45.0, 130.0)


class _Bench:
    """The machine, and what it has in the engine."""

    def __init__(self, kind: int) -> None:
        self.own = OwnSide(random.Random(1).randbytes, hard=bool(kind & 1), stun_servers=_SERVERS)
        self.own.enabled = kind & 8 == 0
        self.paths = PunchingPaths(_KEY, self.own)
        self.now = 1000.0
        self.answered = False
        self.groups: dict[int, int] = {}
        self.pings: deque[tuple[Ping, Endpoint | Aside]] = deque(maxlen=64)
        self.answered_bytes = 0
        """The longest padding of ours that was answered."""
        self.asks: deque[StunTxId] = deque(maxlen=64)
        peer = PeerSide(understands=bool(kind & 2), hard=bool(kind & 4), udp=True)
        self.paths.set_own_endpoints([_OWN], self.now)
        self.paths.set_peer([_HOME], 1, peer, self.now)
        self.collect()

    def collect(self) -> None:
        """Take what the machine says and does, and check it."""
        said = 0
        while (out := self.paths.poll_transmit()) is not None:
            said += 1
            if isinstance(out, OpenSockets):
                assert out.group not in self.groups
                self.groups[out.group] = out.count
            elif isinstance(out, KeepSocket):
                assert out.index < self.groups[out.group]
            elif isinstance(out, CloseSockets):
                del self.groups[out.group]
            elif isinstance(out, AsideTransmit):
                assert out.to.index < self.groups[out.to.group], "from a socket that is open"
                self._note(out)
            else:
                encode_message(out.message)
                self._note(out)
        assert said <= _BURST, "what is sent is bounded"
        while (event := self.paths.poll_event()) is not None:
            if isinstance(event, Lease | AsideLease) and event.lease_ms:
                assert self.answered, "no lease without a pong to a ping of ours"
                # 124 bytes of a ping and 28 of headers were sent, 60 around data will be.
                most = max(BASE_MTU_BYTES, self.answered_bytes + 124 + 28 - 60)
                assert BASE_MTU_BYTES <= event.mtu_bytes <= most, "no size without its pong"
        assert len(self.paths.paths.candidates) <= CANDIDATES_MAX
        assert len(self.paths.attempts) <= ATTEMPTS_KEPT
        assert sum(self.groups.values()) <= 2 * 256

    def _note(self, out: Transmit | AsideTransmit) -> None:
        if isinstance(out.message, StunAsk):
            self.asks.append(out.message.tx_id)
        elif isinstance(out.message, Ping) and not isinstance(out.to, Relay):
            self.pings.append((out.message, out.to))

    def pass_time(self, seconds: float) -> None:
        """Let timers fire in turn."""
        end = self.now + seconds
        for _ in range(4000):
            due = self.paths.next_timeout()
            if due is None or due[0] > end:
                break
            self.now = max(self.now, due[0])
            self.paths.handle_timeout(self.now)
            self.collect()
        else:
            raise AssertionError("timers fire all the time")
        self.now = end

    def step(self, kind: int, body: bytes) -> None:
        """Let one thing happen."""
        via: Endpoint | Relay | Aside = (_HOME, _ELSEWHERE, Relay(1))[kind % 3]
        message = _parse(body)
        if kind == 6:
            self.paths.note_active(self.now)
        elif kind == 7 and self.pings:
            ping, at = self.pings.pop()
            self.answered = True
            self.answered_bytes = max(self.answered_bytes, ping.padding)
            self.paths.receive(Pong(ping.tx_id, _OWN), at, self.now)
        elif kind == 8 and self.asks:
            port = int.from_bytes(body[:2], "big") or 1
            data = binding_response(self.asks.popleft(), Endpoint(_OWN.ip, port))
            self.paths.receive_stun(*parse_binding_response_untrusted(data), self.now)
        elif kind == 9:
            with suppress(MalformedStun):
                self.paths.receive_stun(*parse_binding_response_untrusted(body), self.now)
        elif kind == 10:
            self.paths.network_changed(self.now)
        elif kind == 11 and isinstance(message, CallMeMaybe):
            self.paths.set_peer(message.endpoints, 1, PeerSide(True, False, True), self.now)
        elif kind == 12:
            self.paths.ping(self.now)
        elif message is not None:
            if kind > 12:
                group = next(reversed(self.groups), 1)
                via = Aside(group, body[0] if body else 0, (_HOME, _ELSEWHERE)[kind % 2])
            self.paths.receive(message, via, self.now)
        self.collect()


def entry(data: bytes) -> None:
    """Play the script, then let the peer go: nothing of it stays open."""
    bench = _Bench(data[0] if data else 0)
    at = 1
    for _ in range(_STEPS_MAX):
        if at + 2 > len(data):
            break
        kind, length = data[at], data[at + 1]
        body = data[at + 2 : at + 2 + length]
        at += 2 + length
        bench.pass_time(_STEPS_S[kind >> 5])
        bench.step(kind % 16, body)
        assert bench.answered or bench.paths.path(bench.now) is None
    bench.pass_time(10.0)
    bench.paths.close(bench.now)
    bench.collect()
    assert not bench.groups, "every socket is closed"


def scripts() -> list[bytes]:
    """Both sides of punching, ordinary paths, and each kind of packet by each way."""
    call = encode_message(CallMeMaybe((_HOME, _ELSEWHERE)))
    ping, pong = Ping(TxId(bytes(12)), _KEY), Pong(TxId(bytes(12)), _OWN)
    invite = PunchInvite(7, 256, _OWN, _HOME, (41641, 5000), ((1024, 2047),))
    kinds: list[Message] = [ping, pong, invite, PunchEnd(7, 1), PunchEnd(7, 3)]
    packets = [encode_message(kind) for kind in kinds] + [call]
    stun = binding_response(StunTxId(bytes(12)), _OWN)
    every = b"".join(
        _steps((way, packet)) for way in (0, 1, 2, 13, 14) for packet in (*packets, stun)
    )
    talk = _steps((6, b""), (6 | 2 << 5, b""), (2, call), (7, b""), (0, packets[0]), (6, b""))
    hard = _steps((6, b""), *[(6 | 2 << 5, b"")] * 2, *[(8, bytes([200, n])) for n in range(8)])
    hard += _steps((6 | 2 << 5, b""), (13 | 1 << 5, packets[0]), (7, b""), (6 | 2 << 5, b""))
    easy = _steps((6, b""), (2, packets[2]), (6 | 3 << 5, b""), (1, packets[0]), (7, b""))
    rest = _steps((9, stun), (10 | 3 << 5, b""), (11, call), (12, b""), (6 | 7 << 5, b""))
    # A path, its size, a larger one, and then none of them any more.
    sizes = _steps((6, b""), (0, packets[0]), (7, b""), (6 | 3 << 5, b""), (7, b""), (7, b""))
    sizes += _steps((6 | 3 << 5, b""), *[(7, b"")] * 6, (6 | 3 << 5, b""), (6 | 4 << 5, b""))
    bodies = (talk + rest, hard + talk + rest, easy + talk + rest, every)
    return [bytes([kind]) + body for kind, body in zip((0, 3, 6, 2), bodies, strict=True)] + [
        bytes([1]) + hard + rest,
        bytes([11]) + hard + every,
        bytes([2]) + sizes,
    ]


def _steps(*steps: tuple[int, bytes]) -> bytes:
    return b"".join(bytes([kind, len(body)]) + body for kind, body in steps)


def _parse(data: bytes) -> Message | None:
    with suppress(MalformedDisco, MalformedEndpoint):
        return parse_message_untrusted(data)
    return None
