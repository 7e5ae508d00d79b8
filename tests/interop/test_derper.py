"""The stock relay in our map: it asks our coordinator whom to serve, and carries our nodes."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from warren.derp.frames import CLIENT_MAX_PAYLOAD_BYTES, FrameReader
from warren.derp.login import ClientInfo, ClientLogin
from warren.derp.upgrade import ClientUpgrade
from warren.keys import NodePrivate
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.web import WebServer, get
from warren.lab.world import Part, World

pytestmark = [pytest.mark.netlab, pytest.mark.interop]

FAR = "192.0.2.10"
PLAN = Plan(
    routers=(
        Router("home-a", kind="udp-blocked", address="203.0.113.10"),
        Router("home-b", kind="port-restricted", address="203.0.113.20"),
    ),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("far", address=FAR),
        Host("alice", behind="home-a"),
        Host("bob", behind="home-b"),
    ),
)


@pytest.fixture
def derper() -> str:
    built = Path(__file__).parents[2] / ".build/bin/derper"
    found = str(built) if built.exists() else shutil.which("derper")
    if found is None:
        pytest.skip("derper is not here; `make go-peers` builds it")
    return found


@pytest.fixture
def world(lab_rights: None) -> Iterator[World]:
    with World(PLAN) as built:
        try:
            yield built
        except BaseException:
            print(built.tails(30))
            raise


def test_it_admits_and_carries_our_nodes(world: World, derper: str) -> None:
    regions = world.scratch / "regions.json"
    regions.write_text("{}")
    server = Server(world["server"], world.scratch / "server", more=("--derp-map", str(regions)))
    server.start()
    stock = world["far"].spawn(
        [derper, "-a", f"{FAR}:443", "-hostname", FAR, "-certmode", "manual", "-http-port", "-1",
         "-certdir", str(world.scratch), "-c", str(world.scratch / "derper.json"),
         "-verify-client-url", f"{server.url}/verify", "-verify-client-url-fail-open=false"],
        "derper",
    )  # fmt: skip
    stock.wait_output("sha256-raw:", 15)
    pin = re.search(r"sha256-raw:[0-9a-f]{64}", stock.output())
    assert pin, stock.tail()
    relay = {"HostName": FAR, "IPv4": FAR, "IPv6": "none", "CertName": pin[0]}
    found = {
        "omitDefaultRegions": True,
        "Regions": {"901": {"RegionCode": "far", "Nodes": [relay]}},
    }
    regions.write_text(json.dumps(found))
    world.wait(lambda: list(server.admin("regions")["sources"]) == ["901"], 15, "only its region")

    server.create_user("tester")
    key = server.create_key("tester", "--reusable")
    nodes = []
    for name in ("alice", "bob"):
        node = Node(world[name], name, world.scratch / name, tun=False)
        node.start()
        node.wait_daemon()
        node.up(server.url, key)
        nodes.append(node)
    alice, bob = nodes
    with WebServer(bob.part, 8000, "hello"):

        def fetched() -> bool:
            with contextlib.suppress(OSError):
                return get(alice.route(), bob.address, 8000, timeout_s=3).body == b"hello"
            return False

        world.wait(fetched, 15, "alice fetches from bob through the stock relay")
    assert alice.ping("bob").region == "far"
    # Its STUN answers bob, who has UDP.
    assert json.loads(bob.run("netcheck", "--json"))["regions"][0]["latency_ms"] is not None

    knock(world["server"], NodePrivate.from_entropy(secrets.token_bytes(32)))
    stock.wait_output("rejected: admission controller", 10)


def knock(part: Part, key: NodePrivate) -> None:
    """Log in to the relay with a key that nobody has in the network, until it hangs up."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    login = ClientLogin(key, ClientInfo(), secrets.token_bytes(24))
    upgrade, frames = ClientUpgrade(FAR), FrameReader(CLIENT_MAX_PAYLOAD_BYTES)
    with part.socket(socket.SOCK_STREAM) as plain:
        plain.settimeout(10)
        plain.connect((FAR, 443))
        with context.wrap_socket(plain) as stream:
            stream.sendall(upgrade.request())
            rest: bytes | None = None
            while rest is None:
                rest = upgrade.receive(stream.recv(4096))
            data = rest
            while not login.done:
                for frame in frames.receive(data):
                    login.receive(frame)
                stream.sendall(login.poll_transmit())
                if not (data := stream.recv(4096)):
                    break
            assert not login.done
