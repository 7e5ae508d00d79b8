"""A second client that nobody here wrote: the official Rust implementation, from crates.io.

Building it takes minutes, so it is tried only where it was built before (`make rust-client`, or
`cargo build` in `rust-client/`), or where WARREN_TEST_RUST_CLIENT asks for it.
"""

from __future__ import annotations

import http.client
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from warren.lab import sandbox
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.web import WebServer, get
from warren.lab.world import World

pytestmark = [pytest.mark.netlab, pytest.mark.interop]

CRATE = Path(__file__).parent / "rust-client"
BINARY = CRATE / "target" / "debug" / "rust-client"
PLAN = Plan(
    routers=(
        Router("home-a", kind="port-restricted", address="203.0.113.10"),
        Router("home-b", kind="port-restricted", address="203.0.113.20"),
    ),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("alice", behind="home-a"),
        Host("rusty", behind="home-b"),
    ),
)


@pytest.fixture(scope="module")
def binary() -> Path:
    if os.environ.get("WARREN_TEST_RUST_CLIENT"):
        subprocess.run(["cargo", "build", "--locked"], cwd=CRATE, check=True)
    if not BINARY.exists():
        pytest.skip(f"not built; cargo build in {CRATE.relative_to(Path.cwd())} builds it")
    return BINARY


@pytest.fixture
def world() -> Iterator[World]:
    with World(PLAN) as built:
        yield built


def test_it_joins_and_exchanges_http_with_a_node(world: World, binary: Path) -> None:
    server = Server(world["server"], world.scratch / "server")
    server.start()
    server.create_user("tester")
    key = server.create_key("tester", "--reusable")
    alice = Node(world["alice"], "alice", world.scratch / "alice", tun=sandbox.tun_available())
    alice.start()
    alice.wait_daemon()
    alice.up(server.url, key)
    with WebServer(alice.part, 8000, "hello from alice"):
        argv = [str(binary), server.url, "rusty", str(world.scratch / "rusty.json")]
        client = world["rusty"].spawn(
            [*argv, f"{alice.address}:8000"], "rust", env={"AUTH_KEY": key}
        )
        client.wait_output("joined 100.64.", 20)
        client.wait_output("got hello from alice", 40)
    address = client.output().split("joined ")[1].split()[0]

    def fetched() -> bool:
        try:
            return get(alice.route(), address, 80, timeout_s=5).body == b"hello from rust"
        except (OSError, http.client.HTTPException):
            return False

    world.wait(fetched, 20, "alice fetches from the Rust client")
