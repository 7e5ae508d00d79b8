"""Which relays died lately: such a home is left at once, and such a region is avoided for a while.

A relay that says that it restarts is waited for a little longer.
"""

from __future__ import annotations

from collections.abc import Set

from warren.edge.clock import Clock
from warren.node.measuring import AVOID_S

HOME_GRACE_S = 1.0
"""A home relay whose connection was cut is back by then; one that is not loses its place …"""
RESTART_GRACE_S = 5.0
"""… and one that said that it restarts is waited for so long."""


class RelayHealth:
    """What became of the regions' relays, for `AVOID_S` after each death."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._restarting: set[int] = set()
        self._dead: dict[int, float] = {}

    @property
    def dead(self) -> Set[int]:
        """The regions whose relay died lately."""
        now = self._clock.now()
        self._dead = {region: until for region, until in self._dead.items() if until > now}
        return self._dead.keys()

    def note_connected(self, region: int, health: str) -> bool:
        """A region's relay serves us; health: what it says of itself. True: it was dead."""
        # It says something while it serves: it will not for long.
        (self._restarting.add if health else self._restarting.discard)(region)
        return self._dead.pop(region, None) is not None

    def note_dead(self, region: int) -> bool:
        """A region's relay died, and not our network. True: that is news."""
        known = region in self.dead
        self._dead[region] = self._clock.now() + AVOID_S
        return not known

    def grace_s(self, region: int) -> float:
        """Return how long a relay whose connection was cut is waited for."""
        return RESTART_GRACE_S if region in self._restarting else HOME_GRACE_S

    def forget_dead(self) -> None:
        """This machine's network changed: what could not be reached from the old one may be."""
        self._dead.clear()
