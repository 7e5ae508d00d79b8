"""The relay's seam: `relay-config.hex` and `relay-commands.hex` are what Python writes;
`relay-events.hex` and `relay-snapshot.hex` are what Rust writes.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from warren.engine.relay import (
    Admit,
    Adopt,
    Arrival,
    Command,
    Event,
    Fault,
    Kick,
    Left,
    Listen,
    Login,
    RelayConfig,
    RelaySnapshot,
    SetCertificate,
    SetProof,
    Stop,
)

VECTORS = Path(__file__).parents[2] / "vectors"

CONFIG = RelayConfig(private_key=b"\x07" * 32, derp=False, threads=2)
COMMANDS: list[Command] = [
    Listen(3),
    SetCertificate(b"chain", b"key"),
    SetProof("a.test", b"chain", b"key"),
    Adopt(4, b"rest", True),
    Admit((1 << 64) - 1, True),
    Kick(1 << 56),
    Stop(500, 30_000),
]
EVENTS: list[Event] = [
    Login((1 << 64) - 1, b"\x09" * 32),
    Left(1),
    Arrival(5, "[2001:db8::1]:443"),
    Fault("sorry"),
]


def sample(name: str) -> bytes:
    return bytes.fromhex((VECTORS / name).read_text())


def test_what_goes_down_is_as_rust_reads_it() -> None:
    assert msgspec.msgpack.encode(CONFIG) == sample("relay-config.hex")
    assert msgspec.msgpack.encode(COMMANDS) == sample("relay-commands.hex")


def test_what_comes_up_is_read() -> None:
    events = msgspec.msgpack.decode(sample("relay-events.hex"), type=list[Event])
    assert events == EVENTS
    snapshot = msgspec.msgpack.decode(sample("relay-snapshot.hex"), type=RelaySnapshot)
    assert snapshot == RelaySnapshot(counters={"bytes": 2, "packets": 1}, queued_bytes=3)
