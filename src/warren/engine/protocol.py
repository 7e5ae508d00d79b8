"""The door between Python, which decides, and the engine, which moves packets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from warren.engine.commands import AnyCommand
from warren.engine.events import AnyEvent


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is fixed for the life of an engine.

    tun: name of the TUN device to create, or None for the userspace stack.
    port: UDP port for both families; 0 takes any.
    loopback_forward: userspace mode hands inbound TCP to the same port on 127.0.0.1.
    threads: threads that take packets in, and as many that send; 0 takes what suits the machine.
    """

    tun: str | None
    port: int = 0
    mtu_bytes: int = 1280
    loopback_forward: bool = True
    threads: int = 0


class PeerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one peer. Times are milliseconds ago, or None for never."""

    key: bytes
    rx_bytes: int
    tx_bytes: int
    handshake_ago_ms: int | None
    tx_ago_ms: int | None
    rx_ago_ms: int | None
    direct: str | None
    """Address of the leased direct path while its lease is valid."""
    mtu_bytes: int | None = None
    """The largest packet inside the tunnel that this path carries; a relay carries any."""


class ForwardStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a `SetForward` session carried; when each end was last heard, None for never."""

    vni: int
    packets: int
    bytes: int
    a_ago_ms: int | None
    b_ago_ms: int | None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of the engine. `drops` names each reason for which a packet was dropped."""

    port4: int
    port6: int
    tun_name: str | None
    offloads: list[str]
    """What was detected and is in use: `tun-tso`, `tun-uso`, `udp-gso`, `udp-gro`."""
    threads: int = 1
    """Each way, in use."""
    peers: list[PeerStats]
    drops: dict[str, int]
    regions: dict[int, bool]
    """Relay regions with a connection under way or up → whether it is up."""
    forwards: list[ForwardStats] = []


class Engine(Protocol):
    """A packet engine: the Rust one, or the in-memory twin that tests use."""

    def apply(self, commands: Sequence[AnyCommand], generation: int = 0) -> None:
        """Queue commands in order. Raises ValueError for what the engine cannot read."""

    def poll(self) -> list[AnyEvent]:
        """Drain the waiting events; never blocks."""

    def fileno(self) -> int:
        """A descriptor that is readable while events wait."""

    def snapshot(self) -> Snapshot:
        """Counters now."""

    def close(self) -> None:
        """Stop the threads, close sockets and the TUN device. Idempotent."""
