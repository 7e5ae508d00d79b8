"""The policy's word on punching, from the map to the sentence that a person reads."""

from __future__ import annotations

import os

from warren.engine.commands import OpenSockets
from warren.engine.memory import MemoryEngine, MemoryNetwork
from warren.engine.protocol import EngineConfig
from warren.keys import DiscoPrivate, NodePrivate, NodePublic
from warren.netmap.endpoint import Endpoint
from warren.netmap.node import Hostinfo, NetInfo, Node
from warren.netmap.view import View
from warren.node.dataplane import Dataplane
from warren.node.why import explain
from warren.node.why_facts import gather
from warren.paths.punching.roles import ATTRIBUTE_OFF, MARK

HARD = NetInfo(mapping_varies_by_dest_ip=True, working_udp=True)
EASY = NetInfo(mapping_varies_by_dest_ip=False, working_udp=True)


class Hands:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return self.seconds


def view(attributes: dict[str, list[object] | None]) -> View:
    own, peer = NodePrivate.from_entropy(bytes(32)).public(), machine_key()
    disco = DiscoPrivate.from_entropy(b"p" * 32).public()
    there = Hostinfo(ipn_version=f"1{MARK}", net_info=EASY)
    return View(
        node=Node(id=1, key=own, addresses=["100.64.0.1/32"], cap_map=attributes),
        peers={
            2: Node(
                id=2,
                name="bob.example.",
                key=peer,
                disco_key=disco,
                addresses=["100.64.0.2/32"],
                endpoints=["203.0.113.9:41641"],
                home_derp=1,
                hostinfo=there,
            )
        },
    )


def machine_key() -> NodePublic:
    return NodePrivate.from_entropy(b"b" * 32).public()


async def test_the_attribute_keeps_sockets_shut_and_why_names_it() -> None:
    clock, network = Hands(), MemoryNetwork(lambda: clock.seconds)
    engine = MemoryEngine(EngineConfig(tun=None), network, Endpoint.parse("198.51.100.1:41641"))
    dataplane = Dataplane(engine, clock, os.urandom, DiscoPrivate.from_entropy(b"d" * 32))
    own, bob = view({}).node, view({}).peers[2]
    assert own is not None

    def use(attributes: dict[str, list[object] | None]) -> tuple[bool, str]:
        """Some seconds of traffic under a policy: whether sockets were opened, and the advice."""
        dataplane.set_view(view(attributes), own.key)
        dataplane.own_side.hard = True
        engine.commands.clear()
        for _ in range(4):
            clock.seconds += 1.0
            engine.traffic(bob.key.raw)
            dataplane.drain()
        told = explain(
            gather(
                view(attributes),
                bob,
                None,
                dataplane.paths_of(bob.key),
                HARD,
                [],
                [],
                clock.seconds,
                dataplane.punching_of(bob.key),
            )
        )
        opened = any(isinstance(command, OpenSockets) for command in engine.commands)
        assert told.cause == "hard"
        return opened, " ".join([*told.punching, *told.advice])

    opened, text = use({ATTRIBUTE_OFF: None})
    assert not opened
    assert f"No ports were guessed: the policy's node attribute {ATTRIBUTE_OFF}" in text
    assert f"Let ports be guessed: the policy's node attribute {ATTRIBUTE_OFF}" in text
    opened, text = use({})
    assert opened and ATTRIBUTE_OFF not in text
    opened, text = use({ATTRIBUTE_OFF: None})
    assert not opened and ATTRIBUTE_OFF in text, "an attempt of before is no excuse"
    dataplane.turns.close()
