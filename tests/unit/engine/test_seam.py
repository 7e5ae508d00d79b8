"""The seam to the Rust engine, pinned by samples that `cargo test` reads and writes too.

`engine-commands.hex` and `engine-config.hex` are what Python writes; `engine-events.hex` and
`engine-snapshot.hex` are what Rust writes.
"""

from pathlib import Path

import msgspec
import pytest

from warren.engine.commands import (
    AnyCommand,
    CloseSockets,
    Dial,
    DstSpan,
    FilterRule,
    Hangup,
    KeepSocket,
    OpenSockets,
    OpenStream,
    Peer,
    Rebind,
    RelayNode,
    SendDatagram,
    SendPacket,
    SendRelayed,
    SetFilter,
    SetForward,
    SetHome,
    SetIdentity,
    SetPath,
    SetPeers,
    SetRegion,
    SetTurn,
    Span,
    Splice,
    encode_commands,
)
from warren.engine.events import (
    Active,
    Applied,
    Bound,
    Datagram,
    Dialed,
    Fault,
    Handshake,
    PeerGone,
    ProbeReply,
    RegionState,
    Relayed,
    StreamState,
    decode_events,
)
from warren.engine.protocol import EngineConfig, ForwardStats, PeerStats, Snapshot

VECTORS = Path(__file__).parents[2] / "vectors"


def sample(name: str) -> bytes:
    """The bytes of one sample."""
    return bytes.fromhex((VECTORS / name).read_text())


def key(n: int) -> bytes:
    """A key that is easy to see in a dump."""
    return bytes([n]) * 32


COMMANDS: list[AnyCommand] = [
    SetIdentity(private_key=key(1), addresses=["100.64.0.1/32", "fd7a:115c:a1e0::1/128"]),
    SetPeers(
        upsert=[
            Peer(key=key(2), allowed_ips=["100.64.0.2/32"], home_region=7),
            Peer(
                key=key(3),
                allowed_ips=["10.0.0.0/8", "::/0"],
                roams=True,
                endpoint="[2001:db8::1]:51820",
                keepalive_s=25,
            ),
        ],
        remove=[key(4)],
    ),
    SetPeers(),
    SetFilter(
        rules=[
            FilterRule(
                sources=[Span(first="0.0.0.0", last="255.255.255.255")],
                destinations=[
                    DstSpan(
                        span=Span(first="100.64.0.1", last="100.64.0.1"),
                        first_port=0,
                        last_port=65535,
                    )
                ],
                protocols=[6, 17, 1, 58],
            )
        ],
        shields_up=True,
    ),
    SetPath(peer=key(2), addr="192.0.2.1:41641", lease_ms=6500),
    SetPath(peer=key(2), addr=None, lease_ms=0),
    SetRegion(
        region=900,
        nodes=[
            RelayNode(
                addrs=["192.0.2.9:443", "[2001:db8::9]:443"],
                server_name="relay.example",
                cert_sha256=key(5),
                insecure=True,
                proxy="192.0.2.8:3128",
            ),
            RelayNode(addrs=[], server_name="x"),
        ],
    ),
    SetRegion(region=901, nodes=[]),
    SetHome(region=900),
    SendDatagram(to="192.0.2.1:3478", data=b"\x00\x01"),
    SendRelayed(region=900, peer=key(2), data=b"disco"),
    SendPacket(packet=b"\x45\x00"),
    Rebind(port=41641),
    Dial(id=1, to="100.64.0.2:80"),
    Splice(id=1, fd=9),
    Hangup(id=2**40),
    OpenSockets(group=3, count=256),
    SendDatagram(to="192.0.2.1:9", data=b"\x01", group=3, index=255),
    KeepSocket(group=3, index=255),
    CloseSockets(group=3),
    SetPath(peer=key(2), addr="192.0.2.7:3478", lease_ms=1, group=3, index=255, channel=0x4000),
    SendDatagram(to="192.0.2.1:9", data=b"", vni=2**24 - 1, control=True),
    SetForward(vni=1, a="192.0.2.1:9", b="[2001:db8::1]:9"),
    SetForward(vni=1, a=None, b=None),
    SetTurn(server="192.0.2.7:3478", on=False),
    OpenStream(
        group=9,
        to=RelayNode(addrs=["[2001:db8::7]:5349"], server_name="turn.example", cert_sha256=key(6)),
    ),
    SetPath(peer=key(2), addr="192.0.2.1:41641", lease_ms=6500, mtu_bytes=1440),
    SendDatagram(to="192.0.2.1:9", data=b"\x01", whole=True),
]


def test_commands_are_what_rust_reads() -> None:
    assert encode_commands(COMMANDS, 3) == sample("engine-commands.hex")


def test_config_is_what_rust_reads() -> None:
    config = EngineConfig(tun="warren0", port=41641, threads=2)
    assert msgspec.msgpack.encode(config) == sample("engine-config.hex")


def test_events_of_rust_are_read() -> None:
    assert decode_events(sample("engine-events.hex")) == [
        Applied(generation=3),
        Bound(port4=41641, port6=0),
        Datagram(src="[2001:db8::1]:3478", data=b"\x01\x01"),
        Datagram(
            src="192.0.2.1:3478",
            data=b"disco",
            group=3,
            index=255,
            vni=1,
            control=True,
            channel=0x4000,
        ),
        Relayed(region=900, peer=key(2), data=b"disco"),
        RegionState(region=900, connected=False, error="refused", health=""),
        StreamState(group=9, open=False, error="refused"),
        PeerGone(region=900, peer=key(2), reason=1),
        Active(peer=key(2), direct=True),
        Handshake(peer=key(2)),
        ProbeReply(packet=b"\x45\x00"),
        Dialed(id=2**40, error=""),
        Fault(message="the TUN device is gone", fatal=True),
    ]


def test_snapshot_of_rust_is_read() -> None:
    assert msgspec.msgpack.decode(sample("engine-snapshot.hex"), type=Snapshot) == Snapshot(
        port4=41641,
        port6=0,
        tun_name=None,
        offloads=["udp-gso"],
        threads=2,
        peers=[
            PeerStats(
                key=key(2),
                rx_bytes=2**40,
                tx_bytes=0,
                handshake_ago_ms=5,
                tx_ago_ms=None,
                rx_ago_ms=None,
                direct="192.0.2.1:41641",
                mtu_bytes=1440,
            )
        ],
        drops={"no-route": 1},
        regions={900: True},
        forwards=[ForwardStats(vni=5, packets=2, bytes=200, a_ago_ms=7, b_ago_ms=None)],
    )


@pytest.mark.parametrize("name", ["engine-commands.hex", "engine-events.hex"])
def test_samples_are_one_line(name: str) -> None:
    assert (VECTORS / name).read_text().count("\n") == 1
