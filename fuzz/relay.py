"""The relay server in Rust: what comes before a login, what a client says, and request heads.

A relay of one thread in this process. After every few inputs two clients must still reach each
other through it.
"""

from __future__ import annotations

import itertools
import select
import socket
import ssl
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache

from warren.derp.frames import (
    CLIENT_MAX_PAYLOAD_BYTES,
    ClosePeer,
    Frame,
    FrameReader,
    NotePreferred,
    Ping,
    RecvPacket,
    SendPacket,
    encode_frame,
)
from warren.derp.login import ClientInfo, ClientLogin
from warren.derp.upgrade import ClientUpgrade
from warren.edge.tls import make_self_signed
from warren.engine.relay import Admit, Adopt, Arrival, Listen, Login, NativeRelay, RelayConfig
from warren.engine.relay import SetCertificate as Show
from warren.keys import NodePrivate

_KEY, _ONE, _TWO, _FUZZ = (NodePrivate.from_entropy(bytes([n]) * 32) for n in (1, 2, 3, 4))
_CHECK_EVERY = 64
_WAIT_S = 20.0


class _Client:
    """A client on one end of a pair of sockets that has logged in."""

    def __init__(self, relay: _Relay, node: NodePrivate) -> None:
        self.node = node
        self.sock = relay.stream()
        self.reader = FrameReader(CLIENT_MAX_PAYLOAD_BYTES)
        self.frames: list[Frame] = []
        login = ClientLogin(node, ClientInfo(), bytes(24), _KEY.public())
        self.sock.sendall(login.poll_transmit())
        end = time.monotonic() + _WAIT_S
        while not login.done and time.monotonic() < end:
            relay.answer()
            for frame in self.receive():
                login.receive(frame)
        assert login.done, "the relay lets nobody in any more"

    def receive(self) -> list[Frame]:
        if not select.select([self.sock], [], [], 0.02)[0]:
            return []
        return self.reader.receive(self.sock.recv(65536))


class _Relay:
    def __init__(self) -> None:
        self.native = NativeRelay(RelayConfig(private_key=_KEY.reveal(), threads=1))
        self.numbers = itertools.count(1)
        self.native.apply([Show(*make_self_signed("fuzz.test", datetime.now(UTC)))])
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.native.apply([Listen(listener.detach())])
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.one, self.two = _Client(self, _ONE), _Client(self, _TWO)

    def stream(self) -> socket.socket:
        ours, relays = socket.socketpair()
        self.native.apply([Adopt(relays.detach(), b"", True)])
        return ours

    def answer(self) -> None:
        """Admit everybody; close what is not the relay's."""
        for event in self.native.poll():
            if isinstance(event, Login):
                self.native.apply([Admit(event.client, True)])
            elif isinstance(event, Arrival):
                socket.socket(fileno=event.fd).close()

    def check(self) -> None:
        """Raise unless a packet goes from one client to the other."""
        number = next(self.numbers)
        self.answer()
        if number % _CHECK_EVERY:
            return
        packet = RecvPacket(_ONE.public(), number.to_bytes(4, "big"))
        self.one.sock.sendall(encode_frame(SendPacket(_TWO.public(), packet.packet)))
        end = time.monotonic() + _WAIT_S
        while packet not in self.two.receive():
            assert time.monotonic() < end, "the relay forwards no more"
        self.one.receive()


@cache
def _relay() -> _Relay:
    return _Relay()


def _say(sock: socket.socket, data: bytes) -> None:
    with sock, suppress(ConnectionError):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(_WAIT_S)
        while sock.recv(65536):
            pass


def stranger(data: bytes) -> None:
    """Send bytes where a login is due."""
    relay = _relay()
    sock = relay.stream()
    sock.setblocking(False)
    with sock, suppress(OSError):
        sock.send(data)
    relay.check()


def client(data: bytes) -> None:
    """Log in and send bytes."""
    relay = _relay()
    _say(_Client(relay, _FUZZ).sock, data)
    relay.check()


def head(data: bytes) -> None:
    """Send bytes as a request inside TLS."""
    relay = _relay()
    with (
        socket.create_connection(relay.address) as sock,
        relay.context.wrap_socket(sock, server_hostname="fuzz.test") as tls,
    ):
        tls.settimeout(_WAIT_S)
        with suppress(OSError):
            tls.sendall(data[:65_000])
    relay.check()


def logins() -> list[bytes]:
    """What may come before a login."""
    login = ClientLogin(_FUZZ, ClientInfo(), bytes(24), _KEY.public())
    good = login.poll_transmit()
    return [good, good[:-1], good + encode_frame(Ping(b"12345678")), good[:5] + bytes(len(good))]


def frames() -> list[bytes]:
    """What a client says."""
    peers = (_TWO.public(), _FUZZ.public(), _KEY.public())
    said: list[Frame] = [SendPacket(peer, bytes(size)) for peer in peers for size in (0, 99)]
    said += [SendPacket(_KEY.public(), b"TS\xf0\x9f\x92\xac" + bytes(100)), NotePreferred(True)]
    said += [Ping(b"12345678"), ClosePeer(_TWO.public())]
    return [encode_frame(frame) for frame in said] + [b"".join(map(encode_frame, said[:8]))]


def heads() -> list[bytes]:
    """Requests that open DERP, and others."""
    derp = [ClientUpgrade("x", fast_start=fast).request() for fast in (False, True)]
    return [*derp, derp[1] + logins()[0], b"GET /key HTTP/1.1\r\nHost: x\r\n\r\n"]
