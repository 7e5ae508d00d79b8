"""When things happen on paths (PROTOCOL §5.3), in seconds."""

from __future__ import annotations

HEARTBEAT_S = 3.0
"""The best path of an active peer is pinged this often …"""
BUSY_HEARTBEAT_S = 1.2
"""… and this often while traffic flows, so that a dead one is left within 3 s."""
BUSY_S = 5.0
"""Traffic flows for this long after the engine said so; it says so every 2 s."""
WARM_EVERY_S = 15.0
"""The next best paths are pinged this often: their NATs stay open, for when they are needed."""
WARM_PATHS = 2
TRUST_S = 6.5
"""A pong is good for this long; the engine's lease has the same length."""
ACTIVE_S = 45.0
"""A peer is active for this long after something was sent to it."""
PING_TIMEOUT_S = 5.0
ENDPOINTS_FRESH_S = 27.0
"""Own endpoints older than this are measured again before the peer is called."""
ENDPOINTS_WAIT_S = 0.5
"""How long a call waits for that measuring."""
UPGRADE_S = 60.0
"""How often a better path than a working one is looked for."""
GOOD_ENOUGH_S = 0.005
"""A path this fast is not improved upon."""

# A search for a direct path: pings at these offsets, then ever less often while it stays relayed.
SEARCH_OFFSETS_S = (0.0, 0.3, 0.9, 2.0, 4.0)
SEARCH_EVERY_S = 5.0
SEARCH_SLOW_AFTER_S = 60.0
SEARCH_SLOW_EVERY_S = 15.0
SEARCH_SLOWEST_AFTER_S = 300.0
SEARCH_SLOWEST_EVERY_S = 30.0
CALL_EVERY_S = 0.8
"""A peer is not called more often than this."""
REPING_S = 1.0
"""A peer's own ping makes us ping that address, but not more often than this."""

# A heartbeat without a pong: ask again, and the other candidates too, before the path is left.
SUSPECT_AFTER_S = 0.45
SUSPECT_EVERY_S = 0.25
SUSPECT_TRIES = 4
SWITCH_PAUSE_S = 10.0
"""After a switch, only a much better path makes another one."""
RETURN_S = 300.0
"""For this long only a much better one leads back to a path that was left for another."""
NUDGE_AFTER_S = 0.1
"""A peer that called, answers, and has not pinged by then is called back, so that it does."""
NUDGE_EVERY_S = 10.0


def search_pause_s(round_number: int, elapsed_s: float) -> float:
    """Return how long after round `round_number` (from 0) of a search the next one comes."""
    if round_number + 1 < len(SEARCH_OFFSETS_S):
        return SEARCH_OFFSETS_S[round_number + 1] - SEARCH_OFFSETS_S[round_number]
    if elapsed_s < SEARCH_SLOW_AFTER_S:
        return SEARCH_EVERY_S
    return SEARCH_SLOW_EVERY_S if elapsed_s < SEARCH_SLOWEST_AFTER_S else SEARCH_SLOWEST_EVERY_S
