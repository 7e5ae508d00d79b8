"""Memory of a node whose map has a thousand peers that never talk."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from bench.figure import Figure
from bench.machine import resident_mb
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan
from warren.lab.program import ProgramFailed, wait_until
from warren.lab.world import World

PLAN = Plan(hosts=(Host("server", address="198.51.100.10"), Host("alice", address="198.51.100.20")))
PEERS = 1000
_SETTLED_S = 3.0


def measure(world: World, say: Callable[[str], None]) -> Figure:
    """Resident memory of one node, freshly started and up. Build it in a world of PLAN.

    The server's database gets copies of the node's own row, with keys and addresses of their own.
    """
    say(f"memory of a node with {PEERS} peers")
    server = Server(world["server"], world.scratch / "server")
    server.start()
    server.create_user("bench")
    key = server.create_key("bench", "--reusable")
    node = Node(world["alice"], "alice", world.scratch / "alice", tun=True)
    node.start()
    node.wait_daemon()
    node.up(server.url, key)
    node.stop()
    server.program.stop()
    _multiply(world.scratch / "server" / "warren.db")
    server.start()
    node.start()
    node.wait_daemon()

    def whole() -> bool:
        try:
            return len(node.status()["peers"]) == PEERS
        except ProgramFailed:  # it does not run yet
            return False

    wait_until(whole, 60, "the node has the whole map")
    time.sleep(_SETTLED_S)
    figure = Figure("rss_1000_peers", f"a node with {PEERS} peers, at rest", "MB", "90 at most")
    figure.samples.append(resident_mb(node.program.pid))
    return figure


def _multiply(database: Path) -> None:
    """Add PEERS nodes to a server's database, while it does not run."""
    store = sqlite3.connect(database)
    store.row_factory = sqlite3.Row
    row = dict(store.execute("SELECT * FROM nodes").fetchone())
    for number in range(PEERS):
        row |= {
            "id": row["id"] + 1,
            "stable_id": f"nBench{number:05}",
            "machine_key": f"mkey:{os.urandom(32).hex()}",
            "node_key": f"nodekey:{os.urandom(32).hex()}",
            "disco_key": f"discokey:{os.urandom(32).hex()}",
            "ipv4": f"100.65.{number >> 8}.{number & 255}",
            "ipv6": f"fd7a:115c:a1e0::6441:{number:x}",
            "name": f"crowd-{number}",
        }
        marks = ", ".join(f":{column}" for column in row)
        store.execute(f"INSERT INTO nodes ({', '.join(row)}) VALUES ({marks})", row)
    store.commit()
    store.close()
