"""A client that nobody here wrote, in a Warren network: the Tailscale node inside Caddy."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest

from warren.lab import sandbox, stock
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.program import ProgramFailed
from warren.lab.stock import StockClient
from warren.lab.web import WebServer, get
from warren.lab.world import World

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.interop,
    pytest.mark.usefixtures("stock_client"),
]

WEB_PORT = 8000
PLAN = Plan(
    routers=(
        Router("home-a", kind="port-restricted", address="203.0.113.10"),
        Router("home-b", kind="port-restricted", address="203.0.113.20"),
        Router("cafe", kind="port-restricted", address="192.0.2.40"),
    ),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("alice", behind="home-a"),
        Host("bob", behind="home-b"),
        Host("dave", behind="cafe"),
    ),
)


class Mesh:
    """A server, a Warren node "alice" and a stock client "dave" that has joined."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.server = Server(world["server"], world.scratch / "server")
        self.server.start()
        self.server.create_user("tester")
        self.key = self.server.create_key("tester", "--reusable")
        self.alice = self.join("alice")
        self.dave = self.client("dave", self.key)
        self.dave.start()
        self.dave.wait_joined()

    def join(self, name: str) -> Node:
        node = Node(self.world[name], name, self.world.scratch / name, tun=sandbox.tun_available())
        node.start()
        node.wait_daemon()
        node.up(self.server.url, self.key)
        return node

    def client(self, name: str, key: str | None, *, ephemeral: bool = False) -> StockClient:
        return StockClient(
            self.world["dave"],
            name,
            server=self.server.url,
            state=self.world.scratch / name,
            auth_key=key,
            ephemeral=ephemeral,
        )

    def address_of_dave(self) -> str:
        peer = self.world.wait(lambda: self.alice.peer("dave"), 10, "alice knows dave")
        return next(text for text in peer["addresses"] if ":" not in text)

    def both_ways(self, deadline_s: float = 20.0) -> None:
        """HTTP from alice to dave, and from dave to alice."""
        address = self.address_of_dave()

        def inward() -> bool:
            try:
                page = get(self.alice.route(), address, stock.WEB_PORT, timeout_s=8)
            except (OSError, http.client.HTTPException):
                return False
            assert page.seen_from == self.alice.address
            return page.body == self.dave.page

        def outward() -> bool:
            try:
                page = self.dave.get_from_peer(f"{self.alice.address}:{WEB_PORT}", timeout_s=8)
            except (OSError, http.client.HTTPException):
                return False
            return page.body == b"hello from alice"

        self.world.wait(inward, deadline_s, "alice fetches from the stock client")
        with WebServer(self.alice.part, WEB_PORT, "hello from alice"):
            self.world.wait(outward, deadline_s, "the stock client fetches from alice")


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with World(PLAN) as world:
        try:
            yield Mesh(world)
        finally:
            for program in world.programs:
                assert "Traceback" not in program.output(), program.tail(60)


def test_http_over_the_relay_then_directly(mesh: Mesh) -> None:
    """With UDP dead at its router everything goes over the relay; then they meet directly."""
    mesh.world["cafe"].block_udp()
    mesh.both_ways()
    assert mesh.alice.ping("dave").via == "relay"
    mesh.world["cafe"].allow_udp()
    pong = mesh.alice.ping_until_direct("dave", 40)
    assert pong.path is not None and pong.path.startswith("192.0.2.40:")
    mesh.both_ways()


def test_it_is_asked_like_one_of_ours_and_says_that_it_cannot_tell(mesh: Mesh) -> None:
    """`c2n` reaches it; the explanation of a path is Warren's own."""
    assert mesh.server.admin("nodes", "why", "alice", "dave")["peer"] == "dave"
    with pytest.raises(ProgramFailed, match=r"dave cannot explain its paths: it runs 1\."):
        mesh.server.admin("nodes", "why", "dave", "alice")


def test_a_new_node_appears_without_reconnecting(mesh: Mesh) -> None:
    polls = mesh.dave.map_polls()
    bob = mesh.join("bob")
    mesh.world.wait(lambda: mesh.dave.heard_of(bob.address), 10, "dave hears of bob")
    assert mesh.dave.map_polls() == polls

    def fetched() -> bool:
        try:
            page = mesh.dave.get_from_peer(f"{bob.address}:{WEB_PORT}", timeout_s=8)
        except (OSError, http.client.HTTPException):
            return False
        return page.body == b"hello from bob"

    with WebServer(bob.part, WEB_PORT, "hello from bob"):
        mesh.world.wait(fetched, 20, "dave fetches from bob")
    bob.run("logout")
    assert bob.stop() == 0, bob.program.tail()


def test_it_takes_the_networks_resolvers(mesh: Mesh) -> None:
    """It says what it would tell its system, each time that it hears of another choice."""
    mesh.server.admin("dns", "search", "corp.example")
    mesh.server.admin("dns", "split", "corp.example", "10.0.0.53")
    mesh.server.admin("dns", "nameservers", "9.9.9.9", "--override")

    def told() -> str:
        return next((line for line in reversed(mesh.dave.messages()) if "dns: Set:" in line), "")

    mesh.world.wait(lambda: "9.9.9.9" in told(), 10, "the stock client has the nameserver")
    assert "corp.example.:[10.0.0.53]" in told()
    assert "SearchDomains:[warren.internal. corp.example.]" in told()


def test_a_policy_change_stops_and_allows_without_reconnecting(mesh: Mesh) -> None:
    """Filters change under both: packets are refused by the one that receives them."""
    mesh.both_ways()
    alice, dave, polls = mesh.alice.address, mesh.address_of_dave(), mesh.dave.map_polls()

    def fetched_by_dave() -> bool:
        try:
            return mesh.dave.get_from_peer(f"{alice}:{WEB_PORT}", timeout_s=2).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def fetched_by_alice() -> bool:
        try:
            page = get(mesh.alice.route(), dave, stock.WEB_PORT, timeout_s=2)
        except (OSError, http.client.HTTPException):
            return False
        return page.body == mesh.dave.page

    def one_way(source: str, target: str) -> dict[str, object]:
        return {"acls": [{"action": "accept", "src": [source], "dst": [f"{target}:*"]}]}

    with WebServer(mesh.alice.part, WEB_PORT, "hello from alice"):
        set_policy(mesh, one_way(alice, dave))
        mesh.world.wait(lambda: not fetched_by_dave(), 15, "the stock client is refused")
        mesh.world.wait(fetched_by_alice, 15, "alice is not")
        set_policy(mesh, one_way(dave, alice))
        mesh.world.wait(lambda: not fetched_by_alice(), 15, "the stock client refuses")
        mesh.world.wait(fetched_by_dave, 15, "and is let in")
    set_policy(mesh, {})
    mesh.both_ways()
    assert mesh.dave.map_polls() == polls


def set_policy(mesh: Mesh, policy: dict[str, object]) -> None:
    file = mesh.world.scratch / "policy.json"
    file.write_text(json.dumps(policy))
    mesh.server.admin("policy", "set", str(file))


def test_it_survives_a_restart_of_the_server(mesh: Mesh) -> None:
    polls = mesh.dave.map_polls()
    address = mesh.address_of_dave()
    mesh.server.program.kill()
    mesh.server.start()
    mesh.world.wait(lambda: mesh.dave.map_polls() > polls, 60, "the stock client polls again")
    mesh.world.wait(
        lambda: (mesh.server.node("dave") or {}).get("online"), 60, "the server sees it online"
    )
    assert mesh.address_of_dave() == address
    assert mesh.dave.states()[-1] == "Running"
    mesh.both_ways(40)


def test_restarted_it_is_the_same_machine(mesh: Mesh) -> None:
    address = mesh.address_of_dave()
    mesh.dave.stop()
    mesh.dave = mesh.client("dave", None)
    mesh.dave.start()
    mesh.dave.wait_joined(30)
    assert mesh.address_of_dave() == address
    mesh.both_ways()


def test_expired_it_needs_to_log_in_and_comes_back_with_a_key(mesh: Mesh) -> None:
    node = mesh.server.node("dave")
    assert node is not None
    mesh.server.admin("nodes", "expire", str(node["id"]))
    mesh.dave.wait_state("NeedsLogin", 15)
    mesh.dave.stop()
    mesh.dave = mesh.client("dave", mesh.key)
    mesh.dave.start()
    mesh.dave.wait_joined(30)
    again = mesh.server.node("dave")
    assert again is not None
    assert again["addresses"] == node["addresses"]
    mesh.both_ways()


def test_ephemeral_it_logs_out_when_it_stops(mesh: Mesh) -> None:
    mesh.dave.stop()
    key = mesh.server.create_key("tester", "--ephemeral")
    guest = mesh.client("guest", key, ephemeral=True)
    guest.start()
    guest.wait_joined()
    assert mesh.server.node("guest") is not None
    mesh.world.wait(lambda: mesh.alice.peer("guest"), 10, "alice knows the guest")
    guest.stop()
    mesh.world.wait(lambda: mesh.server.node("guest") is None, 10, "the guest is forgotten")
    mesh.world.wait(lambda: mesh.alice.peer("guest") is None, 10, "alice forgets the guest")


def test_a_bad_key_is_refused(mesh: Mesh) -> None:
    thief = mesh.client("thief", "warren-auth-wrong")
    thief.start()
    mesh.world.wait(
        lambda: any("Received error" in line for line in thief.messages()), 15, "it is refused"
    )
    assert "Running" not in thief.states()
    assert mesh.server.node("thief") is None
    thief.stop()
