"""The seam of the relay server: commands down, events up (MessagePack), and the native relay.

The Rust side mirrors this in `rust/core/src/relay/seam.rs`. Descriptors travel as numbers and
change hands with the message: whoever tells one has let go of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from warren._engine import Relay as _Binding


class RelayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is fixed for the life of a relay. Times in milliseconds.

    private_key: 32 raw bytes. derp: whether `/derp` on the TLS ports is served here, else it goes
    to Python as everything else. threads: 0 means one for each core. max_waiting: connections
    that have not said what they want; beyond it the oldest is dropped.
    """

    private_key: bytes
    derp: bool = True
    threads: int = 0
    handshake_ms: int = 10_000
    """For TLS, for the request's head and for the login each."""
    keep_alive_ms: int = 60_000
    keep_alive_jitter_ms: int = 5_000
    silence_ms: int = 150_000
    """A client that can answer pings and says nothing for so long is gone."""
    stall_ms: int = 2_000
    """A client whose socket takes nothing for so long is closed."""
    hold_ms: int = 100
    """How long a sender is held back for one slow client."""
    pair_bytes: int = 128 * 1024
    """What may wait of one sender for one client; from there on the sender is held."""
    client_bytes: int = 1024 * 1024
    """What may wait for one client."""
    total_bytes: int = 256 * 1024 * 1024
    """What may wait in the whole relay."""
    max_waiting: int = 1024


class Listen(msgspec.Struct, frozen=True, tag=True):
    """Serve TLS on a listening socket."""

    fd: int


class SetCertificate(msgspec.Struct, frozen=True, tag=True):
    """Show new connections this chain; both PEM. ValueError where they do not fit together."""

    chain: bytes
    key: bytes


class SetProof(msgspec.Struct, frozen=True, tag=True):
    """Show this chain to whoever asks for `host` by ACME's protocol; an empty one: no more."""

    host: str
    chain: bytes = b""
    key: bytes = b""


class Adopt(msgspec.Struct, frozen=True, tag=True):
    """Serve the relay on a stream whose upgrade was read. rest: what was read behind it."""

    fd: int
    rest: bytes
    fast_start: bool


class Admit(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Login`."""

    client: int
    admitted: bool


class Kick(msgspec.Struct, frozen=True, tag=True):
    """Close a client's connection once what waits for it is sent."""

    client: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Close the ports, tell every client when to come back, and close it."""

    reconnect_in_ms: int
    try_for_ms: int


Command = Listen | SetCertificate | SetProof | Adopt | Admit | Kick | Stop


class Login(msgspec.Struct, frozen=True, tag=True):
    """A client has proven that it holds `key` (32 raw bytes); `Admit` is due."""

    client: int
    key: bytes


class Left(msgspec.Struct, frozen=True, tag=True):
    """A client of a `Login` is gone."""

    client: int


class Arrival(msgspec.Struct, frozen=True, tag=True):
    """A connection on a TLS port that is not the relay's, as plain bytes on a Unix socket.

    source: `ip:port` of the other side.
    """

    fd: int
    source: str


class Fault(msgspec.Struct, frozen=True, tag=True):
    """A thread has ended by an error of its own, a sentence; its connections hang."""

    error: str


Event = Login | Left | Arrival | Fault


class RelaySnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start by name, and the bytes of room that queues have now."""

    counters: dict[str, int]
    queued_bytes: int


_events = msgspec.msgpack.Decoder(list[Event])
_snapshots = msgspec.msgpack.Decoder(RelaySnapshot)


class NativeRelay:
    """Threads that serve TLS and forward packets, in Rust."""

    def __init__(self, config: RelayConfig) -> None:
        self._binding = _Binding(msgspec.msgpack.encode(config))

    def apply(self, commands: Sequence[Command]) -> None:
        """Obey commands in order. Raises ValueError with one sentence for what does not fit."""
        self._binding.apply(msgspec.msgpack.encode(commands))

    def poll(self) -> list[Event]:
        """Drain the waiting events; never blocks."""
        return _events.decode(self._binding.poll())

    def fileno(self) -> int:
        """A descriptor that is readable while events wait."""
        return self._binding.fileno()

    def snapshot(self) -> RelaySnapshot:
        """Counters now."""
        return _snapshots.decode(self._binding.snapshot())

    def close(self) -> None:
        """Close every connection and stop the threads. Idempotent."""
        self._binding.close()
