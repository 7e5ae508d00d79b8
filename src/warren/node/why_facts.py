"""Gathers what `warren.node.why` explains from the parts of a running node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from warren.engine.protocol import PeerStats
from warren.nat.mapping import Outcome
from warren.nat.targets import measured_regions
from warren.netmap.node import NetInfo, Node
from warren.netmap.view import View
from warren.node import statuses
from warren.node.measuring import (
    TYPE_LOCAL,
    TYPE_PORTMAPPED,
    TYPE_STUN,
    TYPE_STUN_LOCAL_PORT,
    OwnEndpoint,
)
from warren.node.schema import OwnEndpointStatus
from warren.node.turn_peers import TurnPath
from warren.node.why_evidence import Facts
from warren.paths.machine import PeerPaths
from warren.paths.peer_relay.client import Session
from warren.paths.punching.puncher import PunchingPaths
from warren.paths.punching.roles import said_of_mapping

_PAUSE_TOLD_S = 5.0

_Kind = Literal["local", "stun", "port mapping", "stun address with the local port"]
_KINDS: dict[int, _Kind] = {
    TYPE_LOCAL: "local",
    TYPE_STUN: "stun",
    TYPE_PORTMAPPED: "port mapping",
    TYPE_STUN_LOCAL_PORT: "stun address with the local port",
}


def gather(
    view: View,
    node: Node,
    stats: PeerStats | None,
    paths: PeerPaths | None,
    own: NetInfo | None,
    own_endpoints: Sequence[OwnEndpoint],
    outcomes: Sequence[Outcome],
    now: float,
    punching: PunchingPaths | None = None,
    through: Session | TurnPath | None = None,
    turn: Sequence[str] = (),
) -> Facts:
    """Return the facts of this moment about one peer."""
    return Facts(
        peer=statuses.first_name(node),
        address=next(iter(statuses.plain_addresses(node)), ""),
        online=node.online,
        path=statuses.path_status(
            view, node, stats, paths, now, through, punching.size.fallbacks if punching else 0
        ),
        active=paths.is_active(now) if paths else False,
        searching_s=paths.searching_s(now) if paths else None,
        candidates=None if paths is None else list(paths.candidates),
        own=own,
        own_endpoints=[
            OwnEndpointStatus(address=str(each.endpoint), source=_KINDS[each.kind])
            for each in own_endpoints
        ],
        own_ipv6=any(each.endpoint.ip.version == 6 for each in own_endpoints),
        mapped=any(each.kind == TYPE_PORTMAPPED for each in own_endpoints),
        outcomes=outcomes,
        theirs=_net_info(view, node),
        shown=None if punching is None else punching.peer_moved_to,
        punching=[] if punching is None else punching_sentences(punching, now),
        no_punching="" if punching is None else no_punching_sentence(punching, now),
        punching_off="" if punching is None else punching.off_at,
        turn=turn,
        now=now,
    )


def _net_info(view: View, node: Node) -> NetInfo | None:
    info = node.hostinfo.net_info
    if info is None:
        return None
    varies = said_of_mapping(node.hostinfo, measured_regions(view.derp_map))
    return msgspec.structs.replace(info, mapping_varies_by_dest_ip=varies)


def punching_sentences(punching: PunchingPaths, now: float) -> list[str]:
    """Say what punching did, the last attempt first, and when it tries again."""
    told = [attempt.sentence() for attempt in reversed(punching.attempts)]
    pause_s = punching.pause_s(now)
    if told and pause_s > _PAUSE_TOLD_S and punching.path(now) is None:
        told.insert(0, f"Punching is tried again in {pause_s:.0f} s at the earliest.")
    return told


def no_punching_sentence(punching: PunchingPaths, now: float) -> str:
    """Say why there was no attempt; nothing where there was, or none is needed."""
    if punching.attempts or not punching.why or punching.path(now) is not None:
        return ""
    return f"No ports were guessed: {punching.why.rstrip('.')}."
