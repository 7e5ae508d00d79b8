"""One simulated machine of the swarm: our own ts2021, a long poll, little else.

Noise, records and the early payload are `warren.control`'s. HTTP/2 is what a client of three
requests needs of RFC 9113 and no more, so that ten thousand of them fit in one process and one
core: header blocks are the same bytes each time, windows are opened once and for good.
"""

from __future__ import annotations

import asyncio
import base64
import os
from typing import Protocol, cast

import hpack
import msgspec
import zstandard

from warren.control.early import EarlyReader
from warren.control.handshake import Initiator, reply_length_untrusted
from warren.control.malformed import MalformedControl
from warren.control.records import RecordLayer
from warren.control.upgrade import HANDSHAKE_HEADER, PATH, UPGRADE
from warren.keys import DiscoPublic, MachinePrivate, MachinePublic, NodePublic
from warren.netmap.codec import encode_json
from warren.netmap.messages import MapRequest
from warren.netmap.node import Hostinfo, NetInfo
from warren.netmap.register import Auth, RegisterRequest

CAPABILITY_VERSION = 131
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_STATUS_200 = 0x88  # RFC 7541, entry 8 of the static table
_WHOLE_WINDOW = 2**31 - 1


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload


_HELLO = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    # No push; each stream's window, then the connection's, as wide as they get.
    + _frame(_SETTINGS, 0, 0, b"\0\2\0\0\0\0" + b"\0\4" + _WHOLE_WINDOW.to_bytes(4, "big"))
    + _frame(8, 0, 0, (_WHOLE_WINDOW - 65535).to_bytes(4, "big"))
)


def _header_block(path: str) -> bytes:
    lines = ((":method", "POST"), (":path", path), (":scheme", "https"), (":authority", "unused"))
    # Never indexed, so that the block means the same however often it is sent.
    never = [(name, value, True) for name, value in lines]
    return bytes(hpack.Encoder().encode(never))


_REGISTER, _MAP = _header_block("/machine/register"), _header_block("/machine/map")
_decompressor = zstandard.ZstdDecompressor()


class PeerTold(msgspec.Struct, rename={"id": "ID", "online": "Online", "endpoints": "Endpoints"}):
    """Of a whole peer, what is measured."""

    id: int
    online: bool = False
    endpoints: list[str] | None = None


class PatchTold(
    msgspec.Struct, rename={"id": "NodeID", "online": "Online", "endpoints": "Endpoints"}
):
    """Of a patch, what is measured."""

    id: int
    online: bool | None = None
    endpoints: list[str] | None = None


class Told(
    msgspec.Struct,
    rename={
        "keep_alive": "KeepAlive",
        "node": "Node",
        "peers": "Peers",
        "changed": "PeersChanged",
        "removed": "PeersRemoved",
        "patches": "PeersChangedPatch",
        "online": "OnlineChange",
        "filter": "PacketFilter",
        "filters": "PacketFilters",
    },
):
    """A map message, as far as it is measured."""

    keep_alive: bool = False
    node: PeerTold | None = None
    peers: list[PeerTold] | None = None
    changed: list[PeerTold] | None = None
    removed: list[int] | None = None
    patches: list[PatchTold] | None = None
    online: dict[int, bool] | None = None
    filter: msgspec.Raw = msgspec.Raw()
    filters: msgspec.Raw = msgspec.Raw()


class _Registered(
    msgspec.Struct, rename={"error": "Error", "url": "AuthURL", "authorized": "MachineAuthorized"}
):
    error: str = ""
    url: str = ""
    authorized: bool = False


_told = msgspec.json.Decoder(Told)
_registered = msgspec.json.Decoder(_Registered)


class Ears(Protocol):
    """Who is told what machines hear."""

    def heard(self, node: SwarmNode, told: Told) -> None:
        """A map message came."""
        ...

    def failed(self, node: SwarmNode, why: str) -> None:
        """The connection ended, or the server refused; `node` is idle again."""
        ...


class Line(asyncio.Protocol):
    """One connection of a machine; once there is another, this one's word counts no more."""

    __slots__ = ("_node", "_transport")

    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if the machine still wants to."""
        self._transport = cast(asyncio.Transport, transport)
        if self._node.line is self:
            self._node.opened(self._transport)
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take stream bytes."""
        if self._node.line is self:
            self._node.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the machine."""
        if self._node.line is self:
            self._node.lost(str(exc) if exc else "closed")

    def abort(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()


class SwarmNode:
    """A machine: keys, and a connection while there is one. tags: which it asks for."""

    __slots__ = (
        "_auth_key", "_body", "_buffer", "_early", "_ears", "_frames", "_hostinfo", "_initiator",
        "_map", "_poll_stream", "_records", "_server", "_stream", "_transport", "_why",
        "disco", "id", "known", "line", "machine", "mapped", "node_key", "number",
        "online", "registered",
    )  # fmt: skip

    def __init__(
        self, number: int, server: MachinePublic, ears: Ears, auth_key: str, tags: list[str]
    ) -> None:
        self.number = number
        self.machine = MachinePrivate.from_entropy(os.urandom(32))
        # Nobody here opens a tunnel, so nobody needs the private halves.
        self.node_key = NodePublic(os.urandom(32))
        self.disco = DiscoPublic(os.urandom(32))
        self._server = server
        self._ears = ears
        self._auth_key = auth_key
        self._hostinfo = _hostinfo(number, tags)
        self.registered = False
        self.id = 0
        self.known: set[int] = set()
        self.online: set[int] = set()
        self.line: Line | None = None
        self._forget()

    def _forget(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._initiator: Initiator | None = None
        self._records: RecordLayer | None = None
        self._early: EarlyReader | None = None
        self._buffer = bytearray()
        self._frames = bytearray()
        self._map = bytearray()
        self._body = b""
        self._stream = 1
        self._poll_stream = 0
        self._why = ""
        self.mapped = False

    # What is asked of it.

    def report(self, endpoints: list[str]) -> None:
        """Send a lite update: where the machine can be reached now."""
        request = MapRequest(
            version=CAPABILITY_VERSION,
            node_key=self.node_key,
            disco_key=self.disco,
            hostinfo=self._hostinfo,
            endpoints=endpoints,
            omit_peers=True,
        )
        self._request(_MAP, encode_json(request))

    def dial(self) -> Line:
        """Return what takes part in a new connection; an older one ends."""
        self.close()
        self.line = Line(self)
        return self.line

    def close(self) -> None:
        """Leave without a word."""
        line, self.line = self.line, None
        self._forget()
        if line is not None:
            line.abort()

    # The connection.

    def opened(self, transport: asyncio.Transport) -> None:
        """Send the upgrade with the Noise initiation."""
        self._transport = transport
        self._initiator = Initiator(self.machine, self._server, CAPABILITY_VERSION, os.urandom(32))
        self._early = EarlyReader()
        message = base64.b64encode(self._initiator.message()).decode()
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: swarm\r\nUpgrade: {UPGRADE}\r\nConnection: upgrade\r\n"
            f"{HANDSHAKE_HEADER}: {message}\r\nContent-Length: 0\r\n\r\n"
        )
        self._transport.write(head.encode())

    def lost(self, why: str) -> None:
        """Tell who listens."""
        why = self._why or why
        self.line = None
        self._forget()
        self._ears.failed(self, why)

    def receive(self, data: bytes) -> None:
        """Take stream bytes."""
        try:
            if self._records is None:
                self._buffer += data
                data = self._shake_hands()
            if self._records is not None and data:
                for plaintext in self._records.receive(data):
                    self._receive(plaintext)
        except (MalformedControl, msgspec.DecodeError, zstandard.ZstdError) as error:
            self._fail(str(error))

    def _shake_hands(self) -> bytes:
        """Read the answer to the upgrade and the Noise response; return what follows them."""
        head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not end:
            return b""
        if not head.startswith(b"HTTP/1.1 101"):
            self._fail(head.partition(b"\r\n")[0].decode("latin-1"))
            return b""
        length = reply_length_untrusted(rest)
        if length is None or len(rest) < length:
            return b""
        assert self._initiator is not None
        self._records = self._initiator.finish(rest[:length])
        self._initiator = None
        self._buffer.clear()
        self._write(_HELLO)
        if self.registered:
            self._poll()
        else:
            self._register()
        return rest[length:]

    def _receive(self, plaintext: bytes) -> None:
        if self._early is not None:
            _, plaintext = self._early.receive(plaintext)
            if not self._early.done:
                return
            self._early = None
        frames = self._frames
        frames += plaintext
        at = 0
        while len(frames) - at >= 9:
            end = at + 9 + int.from_bytes(frames[at : at + 3], "big")
            if end > len(frames):
                break
            stream = int.from_bytes(frames[at + 5 : at + 9], "big")
            self._take(frames[at + 3], frames[at + 4], stream, bytes(frames[at + 9 : end]))
            at = end
        del frames[:at]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            if stream == self._poll_stream:
                self._map += payload
                self._read_map()
            elif not self.registered:
                self._body += payload
        elif kind == _HEADERS and payload[:1] != bytes([_STATUS_200]):
            told = dict(hpack.Decoder().decode(payload, raw=True))
            self._fail(f"the server answered {told.get(b':status', b'nothing').decode()}")
            return
        elif kind == _SETTINGS and not flags & _ACK:
            self._write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, payload))
        elif kind in (_RST, _GOAWAY):
            self._fail("the server ended the stream")
            return
        if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
            self._ended(stream)

    def _ended(self, stream: int) -> None:
        if stream == self._poll_stream:
            self._fail("the server ended the poll")
        if self.registered:
            return
        answer = _registered.decode(self._body)
        self._body = b""
        if answer.error or answer.url or not answer.authorized:
            self._fail(answer.error or "the server wants a person to approve this machine")
            return
        self.registered = True
        self._poll()

    # Requests.

    def _register(self) -> None:
        request = RegisterRequest(
            version=CAPABILITY_VERSION,
            node_key=self.node_key,
            auth=Auth(auth_key=self._auth_key),
            hostinfo=self._hostinfo,
        )
        self._request(_REGISTER, encode_json(request))

    def _poll(self) -> None:
        self.known.clear()
        self.online.clear()
        request = MapRequest(
            version=CAPABILITY_VERSION,
            compress="zstd",
            keep_alive=True,
            node_key=self.node_key,
            disco_key=self.disco,
            stream=True,
            hostinfo=self._hostinfo,
        )
        self._poll_stream = self._stream
        self._request(_MAP, encode_json(request))

    def _request(self, block: bytes, body: bytes) -> None:
        stream, self._stream = self._stream, self._stream + 2
        head = _frame(_HEADERS, _END_HEADERS, stream, block)
        self._write(head + _frame(_DATA, _END_STREAM, stream, body))

    def _write(self, data: bytes) -> None:
        if self._transport is not None and self._records is not None:
            self._transport.write(self._records.seal(data))

    def _read_map(self) -> None:
        buffer, at = self._map, 0
        while len(buffer) - at >= 4:
            end = at + 4 + int.from_bytes(buffer[at : at + 4], "little")
            if end > len(buffer):
                break
            data = bytes(buffer[at + 4 : end])
            # Go's encoder streams: such a frame does not say how long it is.
            plain = _decompressor.decompressobj().decompress(data)
            self._hear(_told.decode(plain))
            at = end
        del buffer[:at]

    def _hear(self, told: Told) -> None:
        if told.keep_alive:
            return
        if told.node is not None:
            self.id = told.node.id
        for peer in (told.peers or []) + (told.changed or []):
            self.known.add(peer.id)
            (self.online.add if peer.online else self.online.discard)(peer.id)
        for patch in told.patches or ():
            if patch.online is not None:
                (self.online.add if patch.online else self.online.discard)(patch.id)
        for number, online in (told.online or {}).items():
            (self.online.add if online else self.online.discard)(number)
        for number in told.removed or ():
            self.known.discard(number)
            self.online.discard(number)
        self.mapped = True
        self._ears.heard(self, told)

    def _fail(self, why: str) -> None:
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.abort()
            self._why = why


def _hostinfo(number: int, tags: list[str]) -> Hostinfo:
    """Return what a stock client on Linux says of itself, about as long."""
    return Hostinfo(
        ipn_version="1.90.6-t1b2c3d4e5-g6f7a8b9c0",
        backend_log_id="f" * 64,
        os="linux",
        os_version="6.1.0-28-amd64",
        distro="debian",
        distro_version="12",
        distro_code_name="bookworm",
        hostname=f"swarm-{number}",
        machine="x86_64",
        go_arch="amd64",
        go_version="go1.25.3",
        request_tags=tags,
        net_info=NetInfo(
            mapping_varies_by_dest_ip=False,
            working_ipv6=False,
            os_has_ipv6=True,
            working_udp=True,
            preferred_derp=1,
            derp_latency={"1-v4": 0.012},
            firewall_mode="nft-default",
        ),
        userspace=False,
    )
