"""A machine of the network relays for others: both sides Warren's, and between stock clients.

Both clients sit behind symmetric NATs, so that no direct path can be.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from watched import watched

from warren.lab import sandbox
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.program import wait_until
from warren.lab.stock import StockClient
from warren.lab.web import WebServer, get
from warren.lab.world import World

pytestmark = pytest.mark.netlab

WEB_PORT = 8000
RELAY = "198.51.100.20"
PLAN = Plan(
    routers=(
        Router("home-a", kind="symmetric", address="203.0.113.10", lan="192.168.1.0/24"),
        Router("home-b", kind="symmetric", address="203.0.113.20", lan="192.168.2.0/24"),
    ),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("relay", address=RELAY),
        Host("alice", behind="home-a"),
        Host("bob", behind="home-b"),
    ),
)


class Mesh:
    """A world with a server and a relay that a person turned on."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.server = Server(world["server"], world.scratch / "server")
        self.server.start()
        self.server.create_user("tester")
        self.key = self.server.create_key("tester", "--reusable")
        self.relay = self.node("relay")
        self.relay.run("up", "--relay-server")

    def node(self, name: str, key: str = "") -> Node:
        """A Warren node that has joined."""
        state = self.world.scratch / name
        node = Node(self.world[name], name, state, tun=sandbox.tun_available())
        node.start()
        node.wait_daemon()
        node.up(self.server.url, key or self.key)
        return node

    def stock(self, name: str) -> StockClient:
        """A stock client that has joined."""
        client = StockClient(
            self.world[name],
            name,
            server=self.server.url,
            state=self.world.scratch / name,
            auth_key=self.key,
        )
        client.start()
        client.wait_joined()
        return client

    def address_of(self, name: str) -> str:
        """The IPv4 address of a machine in the network."""
        return next(str(peer["addresses"][0]) for peer in self.peers() if peer["name"] == name)

    def peers(self) -> list[dict[str, object]]:
        """What the relay's node knows of the others."""
        return list(self.relay.status()["peers"])


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with watched(PLAN) as world:
        yield Mesh(world)


def relayed(client: Node, to: Node) -> bool:
    """Whether a peer relay carries the traffic, after some more of it."""
    client.talk(to.name)
    return client.path_kind(to.name) == "peer-relay"


def test_two_nodes_meet_at_a_relay_and_survive_its_end(mesh: Mesh) -> None:
    alice, bob = mesh.node("alice"), mesh.node("bob")
    wait_until(lambda: relayed(alice, bob), 15, "a peer relay is used", mesh.relay.program.tail)
    wait_until(lambda: relayed(bob, alice), 15, "both ways", mesh.relay.program.tail)
    found = alice.peer("bob")
    assert found is not None
    assert found["path"]["address"].startswith(f"{RELAY}:")
    assert alice.ping("bob").via == "peer-relay"
    with WebServer(bob.part, WEB_PORT, "hello through the relay"):
        page = get(alice.route(), bob.address, WEB_PORT)
    assert page.body == b"hello through the relay"

    mesh.relay.kill()
    began = time.monotonic()
    wait_until(
        lambda: alice.path_kind("bob") == "relay", 12, "DERP instead", mesh.relay.program.tail
    )
    assert time.monotonic() - began < 10
    alice.talk("bob")


def test_a_relay_serves_its_owners_machines_only(mesh: Mesh) -> None:
    mesh.server.create_user("other")
    key = mesh.server.create_key("other", "--reusable")
    alice, bob = mesh.node("alice", key), mesh.node("bob", key)
    for _ in range(8):
        assert not relayed(alice, bob)
        time.sleep(0.5)
    assert alice.path_kind("bob") == "relay"


def test_two_stock_clients_meet_at_our_relay(mesh: Mesh) -> None:
    alice, bob = mesh.stock("alice"), mesh.stock("bob")
    address = mesh.address_of("bob")
    used = re.compile(rf"now using {re.escape(RELAY)}:41641:vni:\d+")

    def met() -> bool:
        assert alice.get_from_peer(address).status == 200
        return any(used.search(line) for line in alice.messages())

    wait_until(met, 20, "the stock clients use the relay", mesh.relay.program.tail)
    assert alice.get_from_peer(address).body == bob.page
