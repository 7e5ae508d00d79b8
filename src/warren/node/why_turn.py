"""What `warren why` says about TURN: where this node has an allocation, what servers refused."""

from __future__ import annotations

from warren.keys import NodePublic
from warren.nat.turn.events import Allocated
from warren.node.turning import Turns
from warren.paths.turning import TurnPaths, Way, WayState

_RECENT_S = 600.0


def turn_sentences(turns: Turns, key: NodePublic, now: float) -> list[str]:
    """Return what TURN did for a peer, or why it did nothing; nothing where it is not needed."""
    machine = turns.machine_of(key)
    if machine is None or not (machine.is_wanted() or machine.path(now)):
        return []
    told: list[str] = []
    if turns.allocated is not None and turns.keeper.server is not None:
        told.append(
            f"TURN: {turns.keeper.server} relays {_list(turns.allocated)} for this machine, "
            f"since {now - turns.allocated_at:.0f} s."
        )
    elif not turns.servers.is_offered:
        told.append(_capital(f"{turns.servers.problem or 'the coordinator names no TURN server'}."))
    elif not turns.servers.servers:
        told.append(_capital(f"{turns.servers.problem or 'no TURN server can be used here'}."))
    elif asked := turns.keeper.asked:
        were = f"{asked[0]} was" if len(asked) == 1 else f"{len(asked)} servers were"
        told.append(f"TURN: {were} asked for a relayed address.")
    for offered in machine.offered():
        told.append(f"TURN: the peer has the relayed address {offered}.")
    told += [_way(machine, way, state, now) for way, state in machine.ways.items()]
    if machine.derp_latency_s is not None and machine.ways:
        told.append(f"TURN: the DERP relay takes {machine.derp_latency_s * 1000:.1f} ms instead.")
    troubles = [(at, text) for at, text in turns.troubles if now - at < _RECENT_S]
    told += [f"TURN: {now - at:.0f} s ago, {text}." for at, text in reversed(troubles)]
    return told


def _way(machine: TurnPaths, way: Way, state: WayState, now: float) -> str:
    name = f"from our relayed address to {way.to}" if way.own else f"to the peer's, {way.to}"
    used = machine.path(now)
    if used is not None and used[0] == way:
        result = "is used"
    elif state.is_trusted(now):
        result = "works, and DERP or another way is faster"
    elif not state.open:
        result = "waits for its channel"
    elif state.ponged_at is not None:
        result = f"answered last {now - state.ponged_at:.0f} s ago"
    else:
        result = f"was pinged {state.pings} times without an answer"
    took = "" if state.latency_s is None else f" ({state.latency_s * 1000:.1f} ms)"
    return f"TURN: the way {name} {result}{took}."


def _list(allocated: Allocated) -> str:
    return " and ".join(str(each) for each in allocated.addresses)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
