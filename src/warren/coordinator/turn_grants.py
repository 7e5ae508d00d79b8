"""Which machines may use TURN servers, ours and others': credentials that a server can check
without a list.

Only Warren's own nodes are told; a stock client has no use for them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from warren.coordinator.records import NodeRecord
from warren.coordinator.snapshot import Snapshot
from warren.keys import NodePrivate
from warren.nat.turn.credentials import TimedAccounts
from warren.nat.turn.grants import CAPABILITY, TurnPlace, encode, issue, turnover
from warren.netmap.node import CapMap

_WARREN_VERSION = "-warren"
_PURPOSE = b"warren turn credentials 1"


class TurnGrants:
    """Makes a node's grants, and knows what our TURN server must check.

    relay: our relay's key. places: of our own server. external: the servers of others, and the
    secret that is shared with them.
    """

    def __init__(
        self,
        relay: NodePrivate,
        places: Sequence[TurnPlace],
        external: tuple[bytes, Sequence[TurnPlace]] = (b"", ()),
    ) -> None:
        # One more file with a secret would be one more to lose: this one follows the relay's key.
        self._secret = hmac.digest(relay.reveal(), _PURPOSE, hashlib.sha256)
        servers = ((self._secret, tuple(places)), (external[0], tuple(external[1])))
        self._servers = [(secret, places) for secret, places in servers if places]

    def capability(self, node: NodeRecord, wall: datetime) -> CapMap:
        """Return what a node's own map entry says beside its other capabilities."""
        warren = node.hostinfo.ipn_version.endswith(_WARREN_VERSION)
        if not (self._servers and warren and node.in_force(wall)):
            return {}
        grants = [issue(secret, node.stable_id, places, wall) for secret, places in self._servers]
        return {CAPABILITY: [msgspec.json.decode(encode(grant)) for grant in grants]}

    def accounts(
        self, snapshot: Callable[[], Snapshot], wall: Callable[[], datetime]
    ) -> TimedAccounts:
        """Return who the TURN server lets in: nodes that are in force at that time."""

        def belongs(owner: str) -> bool:
            nodes = snapshot().nodes.values()
            return any(node.stable_id == owner and node.in_force(wall()) for node in nodes)

        return TimedAccounts([self._secret], wall, belongs)

    def changes_in_s(self, wall: datetime) -> float | None:
        """Return when all grants become others; None where there are none."""
        return (turnover(wall) - wall).total_seconds() if self._servers else None
