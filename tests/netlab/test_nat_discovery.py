"""RFC 5780 with coturn's ends: its client against our server, ours against its server."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator

import pytest

from warren.lab.kinds import KINDS
from warren.lab.mesh import Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.program import wait_until
from warren.lab.world import World

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.interop,
    pytest.mark.skipif(
        shutil.which("turnutils_natdiscovery") is None,
        reason="needs coturn: apt-get install coturn",
    ),
]

OURS, OURS_OTHER = "198.51.100.10", "198.51.100.11"
COTURN, COTURN_OTHER = "198.51.100.20", "198.51.100.21"
OURS_V6, OURS_OTHER_V6 = "2001:db8:1::10", "2001:db8:1::11"
COTURN_V6, COTURN_OTHER_V6 = "2001:db8:1::20", "2001:db8:1::21"
# A smaller block is no other kind in these terms.
KINDS_HERE = [name for name, kind in KINDS.items() if kind.mapping and name != "carrier-block-512"]
WORDS = {
    "endpoint-independent": "Endpoint Independent",
    "address-dependent": "Address Dependent",
    "address-and-port-dependent": "Address and Port Dependent",
}

EXAMINE = """
import asyncio, json, sys
from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.nat.explain import explain
from warren.netmap.endpoint import Endpoint
from warren.node.natcheck import examine
servers = [Endpoint.parse(text) for text in sys.argv[1:]]
found = asyncio.run(examine(servers, (), SystemClock(), system_entropy))
print(json.dumps({"mapping": found.mapping, "filtering": found.filtering,
    "ports": found.ports.style, "mtu": found.mtu_bytes, "dropped": found.dropped,
    "hairpin": found.hairpin, "server": str(found.discovery_server),
    "name": explain(found).name, "liars": {str(a): str(b) for a, b in found.liars.items()}}))
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    plan = Plan(
        routers=(
            *(
                Router(f"r{number}", kind=kind, address=f"203.0.113.{10 + number}")
                for number, kind in enumerate(KINDS_HERE)
            ),
            Router("wall", kind="firewall", lan=None, lan_v6="2001:db8:6::/64"),
        ),
        hosts=(
            Host("ours", address=OURS, extra=(OURS_OTHER, OURS_OTHER_V6), ipv6=OURS_V6),
            Host("coturn", address=COTURN, extra=(COTURN_OTHER, COTURN_OTHER_V6), ipv6=COTURN_V6),
            Host("walled", behind="wall", ipv6="2001:db8:6::2"),
            Host("open", ipv6="2001:db8:7::2"),
            *(Host(f"h{number}", behind=f"r{number}") for number in range(len(KINDS_HERE))),
        ),
    )
    with World(plan) as built:
        others = (OURS_OTHER, f"[{OURS_V6}]", f"[{OURS_OTHER_V6}]")
        server = Server(built["ours"], built.scratch / "server", stun_others=others)
        server.start()
        argv = ["turnserver", "-n", "--listening-ip", COTURN, "--listening-ip", COTURN_OTHER]
        argv += ["--listening-ip", COTURN_V6, "--listening-ip", COTURN_OTHER_V6]
        argv += ["--listening-port", "3478", "--alt-listening-port", "3479", "--no-auth"]
        argv += ["--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout"]
        argv += ["--pidfile", str(built.scratch / "coturn.pid")]
        argv += ["--userdb", str(built.scratch / "coturn.db")]
        coturn = built["coturn"].spawn(argv, "coturn")
        # It opens its database last.
        wait_until(lambda: "DB connection" in coturn.output(), 10, "coturn runs", coturn.tail)
        yield built


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_coturn_s_client_finds_the_kind_with_our_server(world: World, kind: str) -> None:
    host = world[f"h{KINDS_HERE.index(kind)}"]
    # A port for each, so that one test's packets do not open the filter for the other.
    for flag, port, words, title in (
        ("-m", "5551", WORDS[KINDS[kind].mapping or ""], "Mapping"),
        ("-f", "5552", WORDS[KINDS[kind].filtering or ""], "Filtering"),
    ):
        argv = ["turnutils_natdiscovery", flag, "-L", str(host.address), "-l", port, OURS]
        said = host.run(argv, timeout_s=40)
        assert f"NAT with {words} {title}!" in said, said


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_our_client_finds_the_kind_with_coturn(world: World, kind: str) -> None:
    host, rule = world[f"h{KINDS_HERE.index(kind)}"], KINDS[kind]
    said = host.run([sys.executable, "-c", EXAMINE, f"{COTURN}:3478"], timeout_s=20)
    found = json.loads(said)
    assert found["server"] == f"{COTURN}:3478", said
    assert (found["mapping"], found["filtering"]) == (rule.mapping, rule.filtering)
    assert found["hairpin"] is (rule.hairpin and rule.mapping == "endpoint-independent")
    assert found["dropped"] == {}


@pytest.mark.parametrize(
    ("name", "address", "filtering"),
    [
        ("open", "2001:db8:7::2", "endpoint-independent"),
        ("walled", "2001:db8:6::2", "address-and-port-dependent"),
    ],
)
def test_ipv6_with_coturns_ends(world: World, name: str, address: str, filtering: str) -> None:
    """Nothing is translated; what comes in is the firewall's to say."""
    host = world[name]
    argv = ["turnutils_natdiscovery", "-f", "-L", address, "-l", "5553", OURS_V6]
    said = host.run(argv, timeout_s=40)
    assert f"NAT with {WORDS[filtering]} Filtering!" in said, said
    for server in (COTURN_V6, OURS_V6):
        argv = [sys.executable, "-c", EXAMINE, f"[{server}]:3478"]
        found = json.loads(host.run(argv, timeout_s=20))
        assert found["server"] == f"[{server}]:3478", found
        assert (found["mapping"], found["filtering"]) == ("endpoint-independent", filtering)
        assert found["mtu"] == 1500
        # A question that was sent twice, since the answer took long, is answered twice.
        assert found["dropped"].keys() <= {"unknown transaction"}


def test_a_liar_beside_coturn_and_ours_is_named(world: World) -> None:
    """A server that answers with somebody else's address is outvoted by the two honest ones."""
    lie = """
import socket
from warren.nat.stun import binding_response, parse_binding_request_untrusted
from warren.netmap.endpoint import Endpoint
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("198.51.100.21", 4000))
print("ready", flush=True)
while True:
    data, source = sock.recvfrom(2048)
    sock.sendto(binding_response(parse_binding_request_untrusted(data),
        Endpoint.parse("192.0.2.66:6666")), source)
"""
    liar = world["coturn"].spawn([sys.executable, "-c", lie], "liar")
    wait_until(lambda: "ready" in liar.output(), 10, "the liar listens", liar.tail)
    host = world[f"h{KINDS_HERE.index('port-restricted')}"]
    # The liar's address is coturn's other one, as a server of its own.
    servers = [f"{COTURN_OTHER}:4000", f"{COTURN}:3478", f"{OURS}:3478"]
    found = json.loads(host.run([sys.executable, "-c", EXAMINE, *servers], timeout_s=20))
    assert found["liars"] == {f"{COTURN_OTHER}:4000": "192.0.2.66:6666"}
    assert found["name"] == "port-restricted cone"
    liar.stop()
