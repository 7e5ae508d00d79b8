"""Loads `wire-captures.jsonl.gz`, the recording of stock software that every layer is tested on."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from warren.keys import (
    ChallengePublic,
    DiscoPrivate,
    DiscoPublic,
    MachinePrivate,
    MachinePublic,
    NodePrivate,
    NodePublic,
)
from warren.netmap.endpoint import Endpoint

FILE = Path(__file__).with_name("wire-captures.jsonl.gz")


@dataclass(frozen=True)
class Capture:
    """One bare client's session; `out` is what it sent, `in` what stock software sent."""

    name: str
    machine: MachinePrivate
    node: NodePrivate
    disco: DiscoPrivate
    ephemeral: bytes
    server: MachinePublic
    version: int
    early_challenge: ChallengePublic
    control: list[tuple[str, bytes]]
    map_responses: list[dict[str, Any]]
    peer: dict[str, Any]
    derp: list[tuple[str, bytes]]
    derp_frames: list[tuple[int, bytes]]
    udp: list[tuple[str, Endpoint, bytes]]

    @property
    def peer_node(self) -> NodePublic:
        """The stock peer's node key."""
        return NodePublic.parse(self.peer["Key"])

    @property
    def peer_disco(self) -> DiscoPublic:
        """The stock peer's disco key."""
        return DiscoPublic.parse(self.peer["DiscoKey"])


@dataclass(frozen=True)
class StunDatagram:
    """One datagram of a stock client (`to_server`) or of a stock server."""

    to_server: bool
    client_port: int
    data: bytes


@cache
def _lines() -> dict[str, dict[str, Any]]:
    with gzip.open(FILE, "rt") as lines:
        return {line["name"]: line for line in map(json.loads, lines)}


def sessions() -> list[Capture]:
    """Return the two sessions, `direct` and `relayed`."""
    return [_session(line) for line in _lines().values() if line["name"] != "stun"]


def stun_datagrams() -> list[StunDatagram]:
    """Return the STUN datagrams in the order in which they were seen."""
    found = []
    for item in _lines()["stun"]["datagrams"]:
        to_server = item["to_port"] == 3478
        port = item["from_port"] if to_server else item["to_port"]
        found.append(StunDatagram(to_server, port, bytes.fromhex(item["hex"])))
    return found


def _session(line: dict[str, Any]) -> Capture:
    def raw(name: str) -> bytes:
        return bytes.fromhex(line[name])

    def stream(name: str) -> list[tuple[str, bytes]]:
        return [(way, bytes.fromhex(data)) for way, data in line[name]]

    return Capture(
        name=line["name"],
        machine=MachinePrivate(raw("machine_private")),
        node=NodePrivate(raw("node_private")),
        disco=DiscoPrivate(raw("disco_private")),
        ephemeral=raw("noise_ephemeral_private"),
        server=MachinePublic(raw("server_noise_public")),
        version=line["capability_version"],
        early_challenge=ChallengePublic.parse(line["early_payload"]["nodeKeyChallenge"]),
        control=stream("control_bytes"),
        map_responses=line["map_responses"],
        peer=line["peer"],
        derp=stream("derp_bytes"),
        derp_frames=[(kind, bytes.fromhex(data)) for kind, data in line["derp_frames_received"]],
        udp=[
            (way, Endpoint.parse(address), bytes.fromhex(data))
            for way, address, data in line["udp"]
        ],
    )
