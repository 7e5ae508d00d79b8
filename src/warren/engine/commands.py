"""What Python tells the packet engine: one frozen value per command.

The seam is MessagePack: `encode_commands` writes a list of maps, each with its `type`; the Rust
side mirrors these names in `rust/core/src/seam.rs`. Addresses are text (`192.0.2.1:41641`,
`[2001:db8::1]:41641`), prefixes are CIDR text, keys are 32 raw bytes, times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Command(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of every command; its class name is the tag on the seam."""


class SetIdentity(Command, frozen=True, tag=True, kw_only=True):
    """Who this node is. A new `private_key` drops every session.

    addresses: this node's own tailnet addresses, as `/32` and `/128` prefixes.
    """

    private_key: bytes
    addresses: list[str]

    def __repr__(self) -> str:
        return f"SetIdentity(private_key=(secret), addresses={self.addresses!r})"


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One WireGuard peer.

    allowed_ips: prefixes that may come from, and are routed to, this peer (longest wins).
    home_region: the relay region where the peer can be reached; 0 when unknown.
    roams: take the source of authenticated datagrams as its endpoint (plain WireGuard peers,
        which speak no disco). `endpoint` is then where to start.
    keepalive_s: persistent keepalive, 0 for none.
    """

    key: bytes
    allowed_ips: list[str]
    home_region: int = 0
    roams: bool = False
    endpoint: str | None = None
    keepalive_s: int = 0


class SetPeers(Command, frozen=True, tag=True, kw_only=True):
    """Add or replace `upsert` by key, then drop `remove`. Sessions of kept keys live on."""

    upsert: list[Peer] = []
    remove: list[bytes] = []


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """An inclusive range of addresses of one family, both ends as text."""

    first: str
    last: str


class DstSpan(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses and inclusive ports that a rule lets in."""

    span: Span
    first_port: int
    last_port: int


class FilterRule(msgspec.Struct, frozen=True, kw_only=True):
    """One inbound rule (PROTOCOL §3.8): any source, any destination, any listed protocol.

    protocols: IP protocol numbers, never empty here (the default set is filled in by Python).
    """

    sources: list[Span]
    destinations: list[DstSpan]
    protocols: list[int]


class SetFilter(Command, frozen=True, tag=True, kw_only=True):
    """Replace the inbound packet filter. No rules: nothing comes in but replies."""

    rules: list[FilterRule]
    shields_up: bool = False


class SetPath(Command, frozen=True, tag=True, kw_only=True):
    """Lease a direct path to a peer for `lease_ms` from now; `addr` None takes it away.

    When the lease lapses, or its socket is closed, packets take the relay again (DESIGN, path
    leases).

    group, index: the socket that the path's packets leave by; 0, 0 is the main one.
    vni: `addr` is a peer relay's, and packets are wrapped for this session (PROTOCOL §5.12);
        8 bytes more on the wire.
    channel: `addr` is a TURN server's, and packets go as ChannelData (RFC 8656 §12.4) on this
        channel, 0x4000 to 0x4FFF; 4 bytes more on the wire.
    mtu_bytes: the largest packet inside the tunnel that the path carries. Larger TCP segments are
        cut anew; other packets are dropped, counted, and answered by an ICMP error.
    """

    peer: bytes
    addr: str | None
    lease_ms: int
    group: int = 0
    index: int = 0
    vni: int = 0
    channel: int = 0
    mtu_bytes: int = 1280


class RelayNode(msgspec.Struct, frozen=True, kw_only=True):
    """One relay server of a region, in order of preference.

    addrs: `ip:port` to try in order; resolved by Python.
    server_name: SNI and the Host header.
    cert_sha256: SHA-256 of the leaf certificate in DER when it is pinned, instead of its name.
    plain: speak without TLS (labs only); `insecure`: accept any certificate (labs only).
    proxy: HTTP proxy `ip:port` to pass by CONNECT.
    """

    addrs: list[str]
    server_name: str
    cert_sha256: bytes | None = None
    plain: bool = False
    insecure: bool = False
    proxy: str | None = None


class SetRegion(Command, frozen=True, tag=True, kw_only=True):
    """Define or redefine a relay region; a changed one is reconnected. No nodes: forget it."""

    region: int
    nodes: list[RelayNode]


class SetHome(Command, frozen=True, tag=True, kw_only=True):
    """Keep a connection to this region always, and say there that it is home; 0 for none."""

    region: int


class SendDatagram(Command, frozen=True, tag=True, kw_only=True):
    """Send STUN or disco bytes from one of the engine's UDP sockets, the main one by default.

    vni, channel: wrap them as in `SetPath`. control: the O bit of the peer relay's header, for
    the bind messages of the relay itself (PROTOCOL §5.12). whole: Don't Fragment, whatever the
    kernel believes of the path; what the first link does not carry is silently lost.
    """

    to: str
    data: bytes
    group: int = 0
    index: int = 0
    vni: int = 0
    control: bool = False
    channel: int = 0
    whole: bool = False


class SendRelayed(Command, frozen=True, tag=True, kw_only=True):
    """Send disco bytes to a peer through a relay region, connecting to it when needed."""

    region: int
    peer: bytes
    data: bytes


class SendPacket(Command, frozen=True, tag=True, kw_only=True):
    """Send one whole IP packet into the tunnel (an ICMP echo or TSMP ping from this node).

    Its ICMP echo reply (same identifier) or TSMP pong comes back as `ProbeReply`.
    """

    packet: bytes


class Rebind(Command, frozen=True, tag=True, kw_only=True):
    """Open the UDP sockets anew (the machine's network changed). Port 0: any."""

    port: int


class Dial(Command, frozen=True, tag=True, kw_only=True):
    """Userspace mode: open a TCP connection through the tunnel; `Dialed` answers with `id`."""

    id: int
    to: str


class Splice(Command, frozen=True, tag=True, kw_only=True):
    """Join a dialed connection with a socket; the engine owns the file descriptor from here."""

    id: int
    fd: int


class Hangup(Command, frozen=True, tag=True, kw_only=True):
    """Drop a dialed connection that was not spliced."""

    id: int


class OpenSockets(Command, frozen=True, tag=True, kw_only=True):
    """Open `count` IPv4 UDP sockets (1 to 512), each on any port, as `group` (from 1).

    All are opened or none: then a `Fault` says why (1,024 in all groups is the most). Indices
    count from 0.
    """

    group: int
    count: int


class OpenStream(Command, frozen=True, tag=True, kw_only=True):
    """Open a TCP or TLS stream to a TURN server as `group`, whose one socket has index 0.

    to: one address; TLS, pin and proxy as for a relay. `StreamState` answers, and tells of the
    end. Messages of TURN go and come as datagrams of that socket do (RFC 8656 §12.5); what finds
    no room is dropped, never waited for. Four streams at most; `CloseSockets` closes one.
    """

    group: int
    to: RelayNode


class CloseSockets(Command, frozen=True, tag=True, kw_only=True):
    """Close every socket of a group; a path that leaves by one of them takes the relay."""

    group: int


class KeepSocket(Command, frozen=True, tag=True, kw_only=True):
    """Close all sockets of a group but one, which keeps its index."""

    group: int
    index: int


class SetForward(Command, frozen=True, tag=True, kw_only=True):
    """As a peer relay, pass on the datagrams of a session between two addresses, unopened.

    Those of the same VNI from elsewhere are dropped and counted; bind messages (control bit)
    still come up as `Datagram`. An address None: end the session. What is passed on leaves by
    the socket that it came in by. 4,096 sessions at most.
    """

    vni: int
    a: str | None
    b: str | None


class SetTurn(Command, frozen=True, tag=True, kw_only=True):
    """Take TURN messages and ChannelData from this server (RFC 8656), or no longer.

    From anyone else they are dropped and counted. 64 servers at most.
    """

    server: str
    on: bool = True


AnyCommand = (
    SetIdentity
    | SetPeers
    | SetFilter
    | SetPath
    | SetRegion
    | SetHome
    | SendDatagram
    | SendRelayed
    | SendPacket
    | Rebind
    | Dial
    | Splice
    | Hangup
    | OpenSockets
    | OpenStream
    | CloseSockets
    | KeepSocket
    | SetForward
    | SetTurn
)

_encoder = msgspec.msgpack.Encoder()


def encode_commands(commands: Sequence[AnyCommand], generation: int) -> bytes:
    """Write commands for the seam: a map with `generation` and the `commands` in order.

    The engine applies them in one go and answers with `Applied(generation)` when the packet
    path uses them; generation 0 asks for no answer.
    """
    return _encoder.encode({"generation": generation, "commands": list(commands)})
