"""A server with both families, and nodes that join it: what the grid and `warren lab up` share."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from warren.edge.files import write_private
from warren.edge.tls import make_self_signed
from warren.lab import connect_proxy
from warren.lab.mesh import Node, RelayServer, Server, command_environment
from warren.lab.plan import Host
from warren.lab.program import LabTimeout, ProgramFailed
from warren.lab.stock import StockClient
from warren.lab.world import World

SERVER = "server"
SERVER_NAME = "coordinator.lab"
SERVER_ADDRESS, SERVER_SECOND = "198.51.100.10", "198.51.100.11"
SERVER_ADDRESS_V6, SERVER_SECOND_V6 = "2001:db8:1::10", "2001:db8:1::11"
RELAY = "relay"
RELAY_NAME = "relay.lab"
RELAY_ADDRESS, RELAY_ADDRESS_V6 = "198.51.100.20", "2001:db8:1::20"
NAMES = {SERVER_NAME: (SERVER_ADDRESS, SERVER_ADDRESS_V6)}
"""What every part of a network has to know (`World(names=…)`)."""
NAMES_WITH_RELAY = {**NAMES, RELAY_NAME: (RELAY_ADDRESS, RELAY_ADDRESS_V6)}

_USER = "lab"
_SECOND_REGION = 901
_JOIN_S = 60.0
_PROXY_START_S = 15.0
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


@dataclass(frozen=True)
class Hub:
    """A running server. key: an auth key for any number of nodes. trust: the environment in which
    a program trusts the server's certificate."""

    server: Server
    key: str
    trust: dict[str, str]


def server_hosts(second_relay: bool = False) -> list[Host]:
    """The hosts of a plan that `start_server` needs.

    The server has two addresses of each family, so that nodes find out how their NAT behaves
    (RFC 5780).
    """
    extra = (SERVER_SECOND, SERVER_SECOND_V6)
    hosts = [Host(SERVER, address=SERVER_ADDRESS, extra=extra, ipv6=SERVER_ADDRESS_V6)]
    if second_relay:
        hosts.append(Host(RELAY, address=RELAY_ADDRESS, ipv6=RELAY_ADDRESS_V6))
    return hosts


def start_server(world: World, second_relay: bool = False, ephemeral: bool = False) -> Hub:
    """Start the server on the host `server`, and a relay of a second region on the host `relay`.

    As on the internet it has a URL with https and a certificate that everybody trusts: through a
    proxy that knows CONNECT alone, a stock client asks nothing of a coordinator without TLS. With
    one region alone it asks one STUN server, and cannot know that its NAT is symmetric.
    ephemeral: nodes are forgotten once they go.
    """
    chain, private = make_self_signed(SERVER_NAME, datetime.now(UTC))
    certificate, key = world.scratch / "server.crt", world.scratch / "server.key"
    certificate.write_bytes(chain)
    write_private(key, private)
    trust = {"SSL_CERT_FILE": str(certificate)}
    regions = world.scratch / "regions.json"
    if second_relay:
        state, url = world.scratch / RELAY, f"https://{SERVER_NAME}"
        relay = RelayServer(world[RELAY], state, url, _SECOND_REGION, RELAY_NAME, trust)
        regions.write_text(json.dumps(relay.start()))
    server = Server(
        world[SERVER],
        world.scratch / SERVER,
        tls=("--tls", "files", "--tls-cert", str(certificate), "--tls-key", str(key)),
        stun_others=(SERVER_SECOND, f"[{SERVER_ADDRESS_V6}]", f"[{SERVER_SECOND_V6}]"),
        name=SERVER_NAME,
        scheme="https",
        more=("--derp-map", str(regions)) if second_relay else (),
    )
    server.start()
    server.create_user(_USER)
    auth_key = server.create_key(_USER, "--reusable", *(["--ephemeral"] if ephemeral else []))
    return Hub(server, auth_key, trust)


def start_proxy(world: World, router: str) -> dict[str, str]:
    """Start an HTTP proxy on a router; the variables by which a program behind it finds it."""
    address = world.lan_gateway(router)
    place = f"[{address}]" if address.version == 6 else str(address)
    place += f":{connect_proxy.PORT}"
    argv = [sys.executable, "-m", "warren.lab.connect_proxy", place]
    program = world[router].spawn(argv, "proxy", env=command_environment())
    program.wait_output("listening", _PROXY_START_S)
    return dict.fromkeys(_PROXY_VARIABLES, f"http://{place}")


def join(nodes: Sequence[Node], server: Server, key: str) -> dict[str, str]:
    """Let nodes join, all at once; the names of those that could not, and what they said."""
    failed = {}
    commands = []
    for node in nodes:
        node.start()
    for node in nodes:
        node.wait_daemon()
        commands.append(node.begin_up(server.url, key, _JOIN_S))
    for node, command in zip(nodes, commands, strict=True):
        try:
            node.finish_up(command, _JOIN_S + 5)
        except (ProgramFailed, LabTimeout) as error:
            failed[node.name] = str(error).splitlines()[0]
    return failed


def join_stock(clients: Sequence[StockClient]) -> dict[str, str]:
    """Let stock clients join, all at once; the names of those that could not, and why."""
    failed = {}
    for client in clients:
        client.start()
    for client in clients:
        try:
            client.wait_joined(_JOIN_S)
        except (ProgramFailed, LabTimeout) as error:
            failed[client.name] = str(error).splitlines()[0]
    return failed
