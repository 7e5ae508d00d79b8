"""The Rust engine behind the `Engine` protocol."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from warren._engine import Engine as _Binding
from warren.engine.commands import AnyCommand, encode_commands
from warren.engine.events import AnyEvent, decode_events
from warren.engine.protocol import EngineConfig, Snapshot

_snapshots = msgspec.msgpack.Decoder(Snapshot)


class NativeEngine:
    """Threads, sockets and the TUN device, in Rust (see `warren.engine.protocol.Engine`).

    Raises OSError with one sentence when the TUN device or a socket cannot be had.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._binding = _Binding(msgspec.msgpack.encode(config))

    def apply(self, commands: Sequence[AnyCommand], generation: int = 0) -> None:
        """Queue commands in order."""
        self._binding.apply(encode_commands(commands, generation))

    def poll(self) -> list[AnyEvent]:
        """Drain the waiting events; never blocks."""
        return decode_events(self._binding.poll())

    def fileno(self) -> int:
        """A descriptor that is readable while events wait."""
        return self._binding.fileno()

    def snapshot(self) -> Snapshot:
        """Counters now."""
        return _snapshots.decode(self._binding.snapshot())

    def close(self) -> None:
        """Stop the engine."""
        self._binding.close()
