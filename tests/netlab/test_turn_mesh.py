"""Nodes behind symmetric NATs, or without UDP, meet at a TURN server: coturn, or our own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from watched import watched

from warren.lab import sandbox
from warren.lab.joining import start_proxy
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.program import Program, wait_until
from warren.lab.stock import WEB_PORT as STOCK_PORT
from warren.lab.stock import StockClient
from warren.lab.web import WebServer, download, get
from warren.lab.world import Part, World

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.interop,
    pytest.mark.skipif(
        shutil.which("turnserver") is None, reason="needs coturn: apt-get install coturn"
    ),
]

WEB_PORT = 8000
FILE_BYTES = 2 << 20
OWN_PORT = 5349
# The lab's internet is made of networks for documentation, which no server relays to unasked.
LAB = ("198.51.100.0/24", "203.0.113.0/24")
SERVER = "198.51.100.10"
TURN, TURN_PORT = "198.51.100.20", 3478
UDP_WAY = f"turn:{TURN}:{TURN_PORT}?transport=udp"
SECRET = "shared-with-the-coordinator"
PLAN = Plan(
    routers=(
        Router("home-a", kind="symmetric", address="203.0.113.10", lan="192.168.1.0/24"),
        Router("home-b", kind="symmetric", address="203.0.113.20", lan="192.168.2.0/24"),
    ),
    hosts=(
        Host("server", address=SERVER),
        Host("turn", address=TURN),
        Host("alice", behind="home-a"),
        Host("bob", behind="home-b"),
    ),
)
# The same, but nothing but TCP leaves alice's network.
NO_UDP = Plan(
    routers=(
        Router("home-a", kind="udp-blocked", address="203.0.113.10", lan="192.168.1.0/24"),
        PLAN.routers[1],
    ),
    hosts=PLAN.hosts,
)
TURN_TLS_PORT = 5349


class Mesh:
    """A world with a coordinator that names a TURN server, whether or not one runs there."""

    def __init__(self, world: World, turn: Sequence[str] = (), way: str = UDP_WAY) -> None:
        """turn: the server's flags, to name another than the host `turn`. way: the URI there.

        For TLS there is a certificate of that host, which nodes trust.
        """
        self.certificate = world.scratch / "turn.pem"
        if way.startswith("turns"):
            self_signed(self.certificate)
        self.world = world
        secret = world.scratch / "secret"
        secret.write_text(SECRET)
        others = ("--turn-servers", way)
        self.server = Server(
            world["server"],
            world.scratch / "server",
            tls=("--tls", "self-signed"),
            more=turn or (*others, "--turn-secret", str(secret)),
        )
        self.server.start()
        self.server.create_user("tester")
        self.key = self.server.create_key("tester", "--reusable")

    def node(self, name: str, **env: str) -> Node:
        """A node that has joined."""
        state = self.world.scratch / name
        trust = {"SSL_CERT_FILE": str(self.certificate)} if self.certificate.exists() else {}
        node = Node(self.world[name], name, state, tun=sandbox.tun_available(), env=trust | env)
        node.start()
        node.wait_daemon()
        node.up(self.server.url, self.key)
        return node

    def coturn(self, secret: str = SECRET) -> Program:
        """Run coturn on the host `turn`."""
        part, scratch, pem = self.world["turn"], self.world.scratch, self.certificate
        command = [
            *("turnserver", "-n", "--no-cli", "-L", TURN, "-E", TURN, "-p", str(TURN_PORT)),
            *("-m", "1", "--use-auth-secret", "--static-auth-secret", secret),
            *(("--cert", str(pem), "--pkey", str(pem)) if pem.exists() else ("--no-tls",)),
            *("--tls-listening-port", str(TURN_TLS_PORT), "--realm", "example.org", "--no-dtls"),
            *("-v", "--log-file", "stdout"),
            *("--pidfile", str(scratch / "turn.pid"), "--db", str(scratch / "turn.sqlite")),
        ]
        program = part.spawn(command, "coturn")
        program.wait_output("UDP listener opened on", 10)
        return program


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with watched(PLAN) as world:
        yield Mesh(world)


def by_server(one: Node, other: Node) -> str | None:
    """The TURN server of the way from one to the other, as a person reads it."""
    found = one.peer(other.name)
    return found["path"]["server"] if found else None


def turned(client: Node, to: Node) -> bool:
    """Whether TURN carries the traffic, after some more of it."""
    client.talk(to.name)
    return client.path_kind(to.name) == "turn"


def carried_bytes(part: Part) -> int:
    """What came into a host's namespace by its network interfaces."""
    lines = part.run(["cat", "/proc/net/dev"]).splitlines()[2:]
    counts = dict(line.split(":", 1) for line in lines)
    return sum(int(text.split()[0]) for name, text in counts.items() if name.strip() != "lo")


def derp_takes_over(alice: Node, bob: Node, coturn: Program) -> None:
    """Kill the server under traffic: DERP carries it then, both ways."""
    traffic = alice.begin("ping", "--kind", "tsmp", "--count", "60", "bob", name="traffic")
    traffic.wait_output("pong from bob", 10)
    coturn.kill()
    wait_until(
        lambda: alice.path_kind("bob") == bob.path_kind("alice") == "relay",
        15,
        "DERP instead",
        coturn.tail,
    )
    alice.talk("bob")
    bob.talk("alice")


def test_two_nodes_meet_at_coturn_and_survive_its_end(mesh: Mesh) -> None:
    coturn = mesh.coturn()
    alice, bob = mesh.node("alice"), mesh.node("bob")
    wait_until(lambda: turned(alice, bob), 20, "TURN is used", coturn.tail)
    wait_until(lambda: turned(bob, alice), 20, "both ways", coturn.tail)
    paths = [node.peer(peer)["path"] for node, peer in ((alice, "bob"), (bob, "alice"))]  # type: ignore[index]
    assert paths[0]["address"] == paths[1]["address"], "one relayed address is enough for both"
    assert paths[0]["address"].startswith(f"{TURN}:")
    servers = [path["server"] for path in paths]
    assert sorted(servers, key=str) == [f"{TURN}:{TURN_PORT} (udp)", None]
    assert (alice.ping("bob").via, alice.ping("bob").path) == ("turn", paths[0]["address"])

    before = carried_bytes(mesh.world["turn"])
    with WebServer(bob.part, WEB_PORT, "hello", file_bytes=FILE_BYTES):
        got = download(alice.route(), bob.address, WEB_PORT)
    assert got.size_bytes == FILE_BYTES
    assert carried_bytes(mesh.world["turn"]) - before > FILE_BYTES
    told = alice.run("why", "bob")
    assert "take a TURN server" in told and "is used" in told, told
    derp_takes_over(alice, bob, coturn)


def test_a_server_that_refuses_is_named(mesh: Mesh) -> None:
    coturn = mesh.coturn("another secret")
    alice, bob = mesh.node("alice"), mesh.node("bob")
    refused = f"{TURN}:{TURN_PORT} (udp): the credentials were refused (401)"

    def told() -> bool:
        alice.talk("bob")
        return any(refused in node.run("why", peer) for node, peer in both)

    both = ((alice, "bob"), (bob, "alice"))
    wait_until(told, 20, "the refusal is told", coturn.tail)
    assert alice.path_kind("bob") == bob.path_kind("alice") == "relay"


def test_a_stock_client_meets_a_node_at_coturn(mesh: Mesh) -> None:
    coturn = mesh.coturn()
    alice = mesh.node("alice")
    bob = StockClient(
        mesh.world["bob"],
        "bob",
        server=mesh.server.url,
        state=mesh.world.scratch / "bob",
        auth_key=mesh.key,
    )
    bob.start()
    bob.wait_joined()

    used = re.compile(rf"now using {re.escape(TURN)}:\d+ ")

    def met() -> bool:
        alice.talk("bob")
        stock_too = any(used.search(f"{line} ") for line in bob.messages())
        return alice.path_kind("bob") == "turn" and stock_too

    wait_until(met, 30, "TURN is used", coturn.tail)
    found = alice.peer("bob")
    assert found is not None
    page = get(alice.route(), str(found["addresses"][0]), STOCK_PORT)
    assert page.body == bob.page


def test_our_own_server_serves_too_by_tls_through_a_proxy() -> None:
    """Its certificate is its own, and pinned; nothing but HTTP's CONNECT leaves alice's network."""
    plan = Plan(
        routers=(
            Router("home-a", kind="http-proxy", address="203.0.113.10", lan="192.168.1.0/24"),
            PLAN.routers[1],
        ),
        hosts=PLAN.hosts,
    )
    with World(plan) as world:
        turn = ("--turn", f"{SERVER}:{OWN_PORT}", "--turn-allow", ",".join(LAB))
        mesh = Mesh(world, turn)
        alice, bob = mesh.node("alice", **start_proxy(world, "home-a")), mesh.node("bob")
        wait_until(lambda: turned(alice, bob), 20, "TURN is used", mesh.server.program.tail)
        wait_until(lambda: turned(bob, alice), 20, "both ways", mesh.server.program.tail)
        with WebServer(bob.part, WEB_PORT, "hello", file_bytes=FILE_BYTES):
            got = download(alice.route(), bob.address, WEB_PORT)
        assert got.size_bytes == FILE_BYTES
        relay = mesh.server.admin("status")["relay"]
        assert relay["turn_bytes"] > FILE_BYTES and relay["turn_allocations"]
        # A ping may have been lost behind the download: the way comes back.
        shown = f"{SERVER}:{OWN_PORT} (tls)"
        wait_until(lambda: by_server(alice, bob) == shown, 20, "the server is shown")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (f"turn:{TURN}:{TURN_PORT}?transport=tcp", f"{TURN}:{TURN_PORT} (tcp)"),
        (f"turns:{TURN}:{TURN_TLS_PORT}?transport=tcp", f"{TURN}:{TURN_TLS_PORT} (tls)"),
    ],
)
def test_without_udp_a_node_meets_others_at_coturn_by_a_stream(uri: str, shown: str) -> None:
    with World(NO_UDP) as world:
        mesh = Mesh(world, way=uri)
        coturn = mesh.coturn()
        alice, bob = mesh.node("alice"), mesh.node("bob")
        wait_until(lambda: turned(alice, bob) and turned(bob, alice), 30, "TURN", coturn.tail)
        found = alice.peer("bob")
        assert found is not None and found["path"]["server"] == shown
        before = carried_bytes(world["turn"])
        with WebServer(alice.part, WEB_PORT, "hello", file_bytes=FILE_BYTES):
            got = download(bob.route(), alice.address, WEB_PORT)
        assert got.size_bytes == FILE_BYTES
        assert carried_bytes(world["turn"]) - before > FILE_BYTES
        assert f"TURN: {shown} relays" in alice.run("why", "bob")

        derp_takes_over(alice, bob, coturn)
        refused = f"{shown}: the stream is not open"
        wait_until(
            lambda: refused in alice.run("why", "bob"), 10, "why", lambda: alice.run("why", "bob")
        )


def self_signed(pem: Path) -> None:
    """Write a certificate for both servers, and its key behind it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "turn")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName(
        [x509.IPAddress(ip_address(each)) for each in (SERVER, TURN)]
    )
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    built = built.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=9))
    certificate = built.add_extension(address, critical=False).sign(key, hashes.SHA256())
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, *form)
    )
