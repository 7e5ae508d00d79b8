"""Who connects to a relay: ServerKey → ClientInfo → ServerInfo, the latter two sealed.

Both machines take typed frames from a `FrameReader` and are fed until `done`; what they want to
send waits in `poll_transmit`. A nonce is 24 random bytes and used once (PROTOCOL §4.2).
"""

from __future__ import annotations

import msgspec
import nacl.bindings
import nacl.exceptions

from warren.derp.frames import (
    PROTOCOL_VERSION,
    ClientInfoBox,
    Frame,
    ServerInfoBox,
    ServerKey,
    encode_frame,
)
from warren.derp.malformed import MalformedDerp
from warren.keys import MalformedKey, MeshKey, NodePrivate, NodePublic

NONCE_BYTES = 24
_BOX_OVERHEAD_BYTES = 16
_MAX_NAME_CHARACTERS = 256


class ClientInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a client says of itself. `mesh_key` makes it a relay of the same region."""

    version: int = PROTOCOL_VERSION
    can_ack_pings: bool = True
    is_prober: bool = False
    app_name: str = ""
    mesh_key: MeshKey | None = None


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of itself; 0 bytes means no limit."""

    version: int = PROTOCOL_VERSION
    token_bucket_bytes_per_second: int = 0
    token_bucket_bytes_burst: int = 0


class ClientLogin:
    """The client's end.

    With `server`, its key as the meta certificate told it, the client speaks first (fast start).
    """

    def __init__(
        self, node: NodePrivate, info: ClientInfo, nonce: bytes, server: NodePublic | None = None
    ) -> None:
        self._node = node
        self._info = info
        self._nonce = nonce
        self._out = b""
        self.server: NodePublic | None = None
        self.server_info: ServerInfo | None = None
        if server is not None:
            self._introduce(server)

    @property
    def done(self) -> bool:
        """Whether the server has let us in; packets may flow."""
        return self.server_info is not None

    def receive(self, frame: Frame) -> None:
        """Take one frame of the server. Raises MalformedDerp; the login has then failed."""
        if isinstance(frame, ServerKey):
            if self.server is None:
                self._introduce(frame.key)
            elif frame.key != self.server:
                raise MalformedDerp("the relay's key is not the one in its certificate")
        elif isinstance(frame, ServerInfoBox) and self.server is not None:
            data = _open(frame.sealed, self.server, self._node)
            self.server_info = _parse_server_info(data)
        elif not self.done:
            raise MalformedDerp(f"a {type(frame).__name__} frame before the end of the login")

    def poll_transmit(self) -> bytes:
        """Return the bytes to send now."""
        out, self._out = self._out, b""
        return out

    def _introduce(self, server: NodePublic) -> None:
        self.server = server
        box = _seal(_encode_client_info(self._info), server, self._node, self._nonce)
        self._out += encode_frame(ClientInfoBox(self._node.public(), box))


class ServerLogin:
    """The server's end; `client` and `client_info` are set once it is `done`."""

    def __init__(self, server: NodePrivate, info: ServerInfo, nonce: bytes) -> None:
        self._server = server
        self._info = info
        self._nonce = nonce
        self._out = encode_frame(ServerKey(server.public()))
        self.client: NodePublic | None = None
        self.client_info: ClientInfo | None = None

    @property
    def done(self) -> bool:
        """Whether the client has shown that it holds its key."""
        return self.client_info is not None

    def receive(self, frame: Frame) -> None:
        """Take one frame of the client. Raises MalformedDerp; the login has then failed."""
        if self.done or not isinstance(frame, ClientInfoBox):
            raise MalformedDerp(f"a {type(frame).__name__} frame where ClientInfo is due")
        if frame.key.is_zero:
            raise MalformedDerp("the zero key is no client")
        self.client_info = _parse_client_info(_open(frame.sealed, frame.key, self._server))
        self.client = frame.key
        box = _seal(_encode_server_info(self._info), frame.key, self._server, self._nonce)
        self._out += encode_frame(ServerInfoBox(box))

    def poll_transmit(self) -> bytes:
        """Return the bytes to send now."""
        out, self._out = self._out, b""
        return out


class _ClientInfoJson(msgspec.Struct, omit_defaults=True):
    version: int
    can_ack_pings: bool = msgspec.field(name="CanAckPings", default=False)
    is_prober: bool = msgspec.field(name="IsProber", default=False)
    app_name: str = msgspec.field(name="AppName", default="")
    mesh_key: str = msgspec.field(name="meshKey", default="")


class _ServerInfoJson(msgspec.Struct, omit_defaults=True):
    version: int
    rate: int = msgspec.field(name="TokenBucketBytesPerSecond", default=0)
    burst: int = msgspec.field(name="TokenBucketBytesBurst", default=0)


def _encode_client_info(info: ClientInfo) -> bytes:
    mesh = info.mesh_key.reveal_text() if info.mesh_key else ""
    return msgspec.json.encode(
        _ClientInfoJson(info.version, info.can_ack_pings, info.is_prober, info.app_name, mesh)
    )


def _parse_client_info(data: bytes) -> ClientInfo:
    try:
        found = msgspec.json.decode(data, type=_ClientInfoJson)
        mesh = MeshKey.parse(found.mesh_key) if found.mesh_key.strip("0") else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MalformedKey) as error:
        raise MalformedDerp("the client's info is not the JSON that it must be") from error
    return ClientInfo(
        version=found.version,
        can_ack_pings=found.can_ack_pings,
        is_prober=found.is_prober,
        app_name=found.app_name[:_MAX_NAME_CHARACTERS],
        mesh_key=mesh,
    )


def _encode_server_info(info: ServerInfo) -> bytes:
    rate, burst = info.token_bucket_bytes_per_second, info.token_bucket_bytes_burst
    return msgspec.json.encode(_ServerInfoJson(info.version, rate, burst))


def _parse_server_info(data: bytes) -> ServerInfo:
    try:
        found = msgspec.json.decode(data, type=_ServerInfoJson)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedDerp("the server's info is not the JSON that it must be") from error
    return ServerInfo(
        version=found.version,
        token_bucket_bytes_per_second=found.rate,
        token_bucket_bytes_burst=found.burst,
    )


def _seal(data: bytes, receiver: NodePublic, sender: NodePrivate, nonce: bytes) -> bytes:
    return nonce + nacl.bindings.crypto_box_afternm(data, nonce, _shared(receiver, sender))


def _open(sealed: bytes, sender: NodePublic, receiver: NodePrivate) -> bytes:
    if len(sealed) < NONCE_BYTES + _BOX_OVERHEAD_BYTES:
        raise MalformedDerp("a sealed info is cut")
    nonce, box = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        return nacl.bindings.crypto_box_open_afternm(box, nonce, _shared(sender, receiver))
    except nacl.exceptions.CryptoError as error:
        raise MalformedDerp("a sealed info does not open: it is not from that key") from error


def _shared(public: NodePublic, private: NodePrivate) -> bytes:
    try:
        return nacl.bindings.crypto_box_beforenm(public.raw, private.reveal())
    except (nacl.exceptions.CryptoError, RuntimeError) as error:
        raise MalformedDerp("the other side's key is a low-order point") from error
