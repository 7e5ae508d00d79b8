"""Who is connected to this relay, and which connection a packet goes to (PROTOCOL §4.3).

Keys are raw bytes in here: the hub looks at two of them for each packet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from warren.derp.frames import GONE_DISCONNECTED, PeerGone, Restarting, encode_frame
from warren.keys import NodePrivate, NodePublic

if TYPE_CHECKING:
    from warren.relay.client import RelayClient

# Whether a node key may use this relay.
Admit = Callable[[NodePublic], bool]


@dataclass
class Counters:
    """What a relay did since it started; names are those of the metrics."""

    packets: int = 0
    bytes: int = 0
    dropped_unknown: int = 0
    """The destination is not connected here."""
    dropped_full: int = 0
    """The destination reads too slowly."""
    refused_clients: int = 0
    malformed_clients: int = 0
    stalled_clients: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return all counters by name."""
        return asdict(self)


class Hub:
    """The connected clients of one relay."""

    def __init__(self, key: NodePrivate, admit: Admit, max_clients: int = 20_000) -> None:
        self.key = key
        self.counters = Counters()
        self._admit = admit
        self._max_clients = max_clients
        # The connection of each key that was active last: packets go there.
        self.active: dict[bytes, RelayClient] = {}
        # All connections of a key, where it has more than one.
        self._twins: dict[bytes, list[RelayClient]] = {}
        self._dirty: dict[RelayClient, None] = {}

    def __len__(self) -> int:
        """How many keys are connected."""
        return len(self.active)

    def join(self, client: RelayClient, key: NodePublic) -> bool:
        """Let a client in that has proven its key; return False where it may not come."""
        if not self._admit(key) or len(self.active) >= self._max_clients:
            self.counters.refused_clients += 1
            return False
        raw = key.raw
        present = self.active.get(raw)
        if present is not None:
            self._twins.setdefault(raw, [present]).append(client)
        self.active[raw] = client
        return True

    def activate(self, client: RelayClient) -> None:
        """This connection of its key was the last to send: packets go here from now on."""
        self.active[client.raw_key] = client

    def leave(self, client: RelayClient) -> None:
        """A connection is gone. Whoever got packets from its key is told if it was the last."""
        raw = client.raw_key
        twins = self._twins.get(raw)
        if twins is not None:
            twins.remove(client)
            if self.active.get(raw) is client:
                self.active[raw] = twins[-1]
            twins[-1].reached |= client.reached
            if len(twins) == 1:
                del self._twins[raw]
            return
        if self.active.get(raw) is client:
            del self.active[raw]
            gone = encode_frame(PeerGone(NodePublic(raw), GONE_DISCONNECTED))
            for reached in client.reached:
                peer = self.active.get(reached)
                if peer is not None:
                    peer.tell(gone)
            self.flush()

    def kick(self, key: NodePublic) -> None:
        """Close the connections of a key that may not come any more."""
        raw = key.raw
        present = self.active.get(raw)
        for client in list(self._twins.get(raw, [present] if present else [])):
            client.close()

    def wrote(self, client: RelayClient) -> None:
        """A client has something to send at the next `flush`."""
        self._dirty[client] = None

    def flush(self) -> None:
        """Send what was collected: one write for each client, not one for each packet."""
        dirty, self._dirty = self._dirty, {}
        for client in dirty:
            client.flush()

    def stop(self, reconnect_in_ms: int, try_for_ms: int) -> None:
        """Tell every client to come back later, and close."""
        farewell = encode_frame(Restarting(reconnect_in_ms, try_for_ms))
        clients = {*self.active.values(), *(c for twins in self._twins.values() for c in twins)}
        for client in clients:
            client.tell(farewell)
        self.flush()
        for client in clients:
            client.close()
