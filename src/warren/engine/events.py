"""What the packet engine tells Python: one frozen value per event.

Written by Rust as MessagePack maps with a `type`, drained whole by `decode_events`.
"""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of every event; its class name is the tag on the seam."""


class Applied(Event, frozen=True, tag=True, kw_only=True):
    """The packet path now uses everything up to this generation."""

    generation: int


class Bound(Event, frozen=True, tag=True, kw_only=True):
    """The UDP sockets are open on these ports; 0 where a family is missing."""

    port4: int
    port6: int


class Datagram(Event, frozen=True, tag=True, kw_only=True):
    """STUN or disco bytes that came in by UDP, after the rate limit.

    group, index: the socket that they came in by; 0, 0 is the main one.
    vni, control: they came in a peer relay's header, which is taken off (PROTOCOL §5.12); 0 for
        none.
    channel: they came as a TURN server's ChannelData on this channel; 0 for none. `src` is the
        server.
    """

    src: str
    data: bytes
    group: int = 0
    index: int = 0
    vni: int = 0
    control: bool = False
    channel: int = 0


class Relayed(Event, frozen=True, tag=True, kw_only=True):
    """Disco bytes that came in through a relay."""

    region: int
    peer: bytes
    data: bytes


class RegionState(Event, frozen=True, tag=True, kw_only=True):
    """A relay connection came up or went down; `error` is one sentence, or empty."""

    region: int
    connected: bool
    error: str = ""
    health: str = ""


class StreamState(Event, frozen=True, tag=True, kw_only=True):
    """An `OpenStream` succeeded, failed, or came to an end that was not asked for.

    error: why it is not open, in one sentence.
    """

    group: int
    open: bool
    error: str = ""


class PeerGone(Event, frozen=True, tag=True, kw_only=True):
    """The relay says that a peer is not there (PROTOCOL §4.2, reason codes)."""

    region: int
    peer: bytes
    reason: int


class Active(Event, frozen=True, tag=True, kw_only=True):
    """Traffic is being sent to this peer; at most once every 2 s a peer.

    direct: whether a valid lease carried it.
    """

    peer: bytes
    direct: bool


class Handshake(Event, frozen=True, tag=True, kw_only=True):
    """A WireGuard session with this peer was established or renewed."""

    peer: bytes


class ProbeReply(Event, frozen=True, tag=True, kw_only=True):
    """The answer to a `SendPacket` probe: the whole IP packet."""

    packet: bytes


class Dialed(Event, frozen=True, tag=True, kw_only=True):
    """A `Dial` succeeded (`error` empty) or failed."""

    id: int
    error: str = ""


class Fault(Event, frozen=True, tag=True, kw_only=True):
    """Something that a person should hear about; `fatal` means that the engine stopped."""

    message: str
    fatal: bool = False


AnyEvent = (
    Applied
    | Bound
    | Datagram
    | Relayed
    | RegionState
    | StreamState
    | PeerGone
    | Active
    | Handshake
    | ProbeReply
    | Dialed
    | Fault
)

_decoder = msgspec.msgpack.Decoder(list[AnyEvent])


def decode_events(data: bytes) -> list[AnyEvent]:
    """Read what `Engine.poll` gave."""
    return _decoder.decode(data)
