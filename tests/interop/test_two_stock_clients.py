"""Our server alone, between two clients that nobody here wrote: map, deltas, relay and STUN."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from warren.lab.mesh import Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.stock import StockClient
from warren.lab.world import World

pytestmark = [pytest.mark.netlab, pytest.mark.interop]

PLAN = Plan(
    routers=(
        Router("home-a", kind="port-restricted", address="203.0.113.10"),
        Router("home-b", kind="udp-blocked", address="203.0.113.20"),
        Router("home-c", kind="port-restricted", address="203.0.113.30"),
    ),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("ann", behind="home-a"),
        Host("ben", behind="home-b"),
        Host("cid", behind="home-c"),
    ),
)


@pytest.fixture(scope="module")
def world(stock_client: None) -> Iterator[World]:
    with World(PLAN) as built:
        yield built


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[Server]:
    server = Server(world["server"], world.scratch / "server")
    server.start()
    server.create_user("tester")
    yield server
    assert "Traceback" not in server.program.output(), server.program.tail(80)


def join(world: World, server: Server, name: str) -> StockClient:
    client = StockClient(
        world[name],
        name,
        server=server.url,
        state=world.scratch / name,
        auth_key=server.create_key("tester"),
    )
    client.start()
    client.wait_joined()
    return client


def address(server: Server, name: str) -> str:
    node = server.node(name)
    assert node is not None
    return next(text for text in node["addresses"] if ":" not in text)


def fetches(world: World, client: StockClient, server: Server, peer: StockClient) -> None:
    where = address(server, peer.name)

    def fetched() -> bool:
        try:
            return client.get_from_peer(where, timeout_s=8).body == peer.page
        except (OSError, http.client.HTTPException):
            return False

    world.wait(fetched, 25, f"{client.name} fetches from {peer.name}")


def test_they_meet_in_our_network(world: World, server: Server) -> None:
    """ann learns of the others by deltas on one poll; ben, without UDP, by the relay."""
    ann = join(world, server, "ann")
    polls = ann.map_polls()
    ben = join(world, server, "ben")
    world.wait(lambda: ann.heard_of(address(server, "ben")), 10, "ann hears of ben")
    fetches(world, ann, server, ben)
    fetches(world, ben, server, ann)
    assert not any("now using" in line for line in ben.messages()), "ben has no UDP"

    cid = join(world, server, "cid")
    world.wait(lambda: ann.heard_of(address(server, "cid")), 10, "ann hears of cid")
    fetches(world, ann, server, cid)
    world.wait(
        lambda: any("now using 203.0.113.30:" in line for line in ann.messages()),
        20,
        "ann reaches cid directly",
    )
    fetches(world, cid, server, ann)
    assert ann.map_polls() == polls, "deltas came without reconnecting"

    server.admin("nodes", "delete", "cid")
    cid.wait_state("NeedsLogin", 15)
    assert server.node("cid") is None
    fetches(world, ann, server, ben)
