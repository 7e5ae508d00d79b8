"""Our server and our relays, between clients that nobody here wrote: map, deltas, relay, STUN."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest

from warren.lab.mesh import RelayServer, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.stock import StockClient
from warren.lab.world import World

pytestmark = [pytest.mark.netlab, pytest.mark.interop]

PLAN = Plan(
    routers=(
        Router("home-a", kind="port-restricted", address="203.0.113.10"),
        Router("home-b", kind="udp-blocked", address="203.0.113.20"),
        Router("home-c", kind="port-restricted", address="203.0.113.30"),
        Router("home-d", kind="symmetric", address="203.0.113.40"),
    ),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("ann", behind="home-a"),
        Host("ben", behind="home-b"),
        Host("cid", behind="home-c"),
        Host("dan", behind="home-d"),
        Host("far", address="192.0.2.10"),
    ),
)


@pytest.fixture(scope="module")
def world(stock_client: None) -> Iterator[World]:
    with World(PLAN) as built:
        yield built


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[Server]:
    regions = world.scratch / "regions.json"
    server = Server(world["server"], world.scratch / "server", more=("--derp-map", str(regions)))
    far = RelayServer(world["far"], world.scratch / "far", server.url, 901)
    regions.write_text(json.dumps(far.start()))
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


def test_two_regions_tell_a_hard_nat(world: World, server: Server) -> None:
    """One server cannot tell it; a client that asks ours in two places can, and measures both."""
    dan = join(world, server, "dan")

    def report() -> str:
        return next((line for line in dan.messages() if "mapvarydest=true" in line), "")

    world.wait(lambda: "900v4" in report() and "901v4" in report(), 10, "dan knows its NAT")

    def homes() -> dict[str, int]:
        found = server.admin("regions")["homes"]
        return dict(found) if sum(found.values()) >= 3 else {}

    assert set(world.wait(homes, 10, "every client has told its home")) <= {"900", "901"}
