"""A network without IPv4 inside, as its policy says: machines reach each other all the same."""

from __future__ import annotations

import time

import pytest
from by_hand import addresses, join

from warren.lab import sandbox
from warren.lab.mesh import Server
from warren.lab.plan import Host, Plan
from warren.lab.world import World

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.skipif(not sandbox.tun_available(), reason="no TUN device can be made here"),
]

PLAN = Plan(
    routers=(),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("one", address="198.51.100.20"),
        Host("two", address="198.51.100.30"),
    ),
)
POLICY = """{
  "grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}],
  "nodeAttrs": [{"target": ["*"], "ipPool": ["100.90.0.0/24"]}],
  %s
}"""


def test_machines_without_ipv4_and_with_it_again() -> None:
    with World(PLAN) as world:
        server = Server(world["server"], world.scratch / "server")
        server.start()
        server.create_user("t")
        key = server.create_key("t", "--reusable")
        policy = world.scratch / "policy.hujson"

        def enforce(line: str) -> None:
            policy.write_text(POLICY % line)
            server.admin("policy", "set", str(policy))

        enforce('"disableIPv4": true,')
        one = join(world["one"], world.scratch / "one", "one", server.url, key)
        two = join(world["two"], world.scratch / "two", "two", server.url, key)
        assert [len(one), len(two)] == [1, 1] and all(":" in text for text in (*one, *two))
        world["one"].run(["ping", "-6", "-c", "2", "-W", "5", *two], 20)
        assert "inet 100." not in world["one"].run(["ip", "address", "show", "one"])
        enforce("")
        # From the pool of the policy, which they had all the while.
        mine = world["two"], world.scratch / "two"
        deadline = time.monotonic() + 20
        while len(found := addresses(*mine)) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert found[0] == "100.90.0.1" and found[1:] == two
        world["one"].run(["ping", "-c", "2", "-W", "5", "100.90.0.1"], 20)
