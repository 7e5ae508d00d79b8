"""`python -m bench.policy`: a policy of 200 groups and 500 rules over 100 to 10,000 machines.

`compile` reads the policy and makes filter, SSH policy and the list of peers of every machine.
What a single change costs is measured on the policy in force: a machine gets another tag, joins,
or only reports endpoints, until everyone whom it concerns has their new filter and peers.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Address
from typing import Any

from msgspec.structs import replace
from rich.console import Console

from bench import report as reports
from bench.__main__ import show
from bench.figure import Figure
from warren.coordinator.addresses import v6_beside
from warren.coordinator.change import Change, Facet
from warren.coordinator.delta import Delta
from warren.coordinator.enforcement import Enforcement
from warren.coordinator.mapper import Mapper
from warren.coordinator.records import NodeRecord, PolicyRecord, UserRecord
from warren.coordinator.settings import Settings
from warren.coordinator.snapshot import Snapshot
from warren.keys import MachinePublic, NodePublic
from warren.netmap.derpmap import DERPMap
from warren.netmap.node import Hostinfo

GROUPS, RULES, TAGS = 200, 500, 100
SIZES = (100, 1000, 10_000)
_TAGGED = 0.4
_WALL = datetime(2026, 1, 1, tzinfo=UTC)


def policy(users: int, seed: random.Random) -> dict[str, Any]:
    """Return a policy of a company: teams reach services, services each other, people their own."""
    team = max(2, users // GROUPS * 2)
    groups = {
        f"group:{n}": [f"u{seed.randrange(users)}@example.com" for _ in range(team)]
        for n in range(GROUPS)
    }
    tag = [f"tag:t{n}" for n in range(TAGS)]
    rules: list[dict[str, Any]] = [
        {"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]}
    ]
    while len(rules) < RULES:
        source = f"group:{seed.randrange(GROUPS)}" if len(rules) % 5 else seed.choice(tag)
        port = seed.choice((22, 80, 443, 5432))
        rules.append({"action": "accept", "src": [source], "dst": [f"{seed.choice(tag)}:{port}"]})
    ssh = [
        {"action": "accept", "src": [f"group:{n}"], "dst": [tag[n]], "users": ["root"]}
        for n in range(10)
    ]
    return {"groups": groups, "tagOwners": {one: [] for one in tag}, "acls": rules, "ssh": ssh}


def node(number: int, users: int, seed: random.Random) -> NodeRecord:
    """Return a machine: of a person, or tagged."""
    ipv4 = IPv4Address("100.64.0.0") + number
    key = number.to_bytes(32, "big")
    tags = (f"tag:t{seed.randrange(TAGS)}",) if seed.random() < _TAGGED else ()
    return NodeRecord(
        id=number,
        stable_id=f"n{number}",
        user_id=1 + seed.randrange(users),
        machine_key=MachinePublic(key),
        node_key=NodePublic(key),
        ipv4=ipv4,
        ipv6=v6_beside(ipv4),
        name=f"host-{number}",
        created=_WALL,
        tags=tags,
        hostinfo=Hostinfo(hostname=f"host-{number}", os="linux"),
    )


def network(size: int) -> Snapshot:
    """Return `size` machines of a third as many people, and the policy."""
    seed, users = random.Random(1), max(10, size // 3)
    people = {
        n: UserRecord(id=n, name=f"u{n - 1}@example.com", display_name="", created=_WALL)
        for n in range(1, users + 1)
    }
    text = json.dumps(policy(users, seed))
    record = PolicyRecord(id=1, text=text, author="bench", created=_WALL)
    nodes = {n: node(n, users, seed) for n in range(1, size + 1)}
    return Snapshot(users=people, nodes=nodes, policies={1: record})


def everyone(snapshot: Snapshot) -> tuple[Enforcement, int]:
    """Compile, and make what every machine is told; return how many peers they see in all, too."""
    enforced, shown = Enforcement(snapshot, _WALL), 0
    for record in snapshot.nodes.values():
        enforced.filters(record)
        enforced.ssh(record)
        shown += len(enforced.peers(record) or ())
    return enforced, shown


def measure(size: int, runs: int) -> list[Figure]:
    """Return the figures for one size."""
    full = Figure(f"policy-compile-{size}", f"{size} machines: compile for all", "ms",
                  "< 5000 ms" if size == SIZES[-1] else "")  # fmt: skip
    view = Figure(f"policy-view-{size}", f"{size} machines: one whole view", "ms")
    tag = Figure(f"policy-tag-{size}", f"{size} machines: one gets another tag", "ms")
    join = Figure(f"policy-join-{size}", f"{size} machines: one joins", "ms")
    report = Figure(f"policy-report-{size}", f"{size} machines: one reports endpoints", "ms")
    for run in range(runs):
        snapshot = network(size)
        gc.collect()
        enforced, shown = timed(full, partial(everyone, snapshot))
        full.note = f"{shown / size:.0f} peers each"
        mapper = Mapper(Settings(url="http://x"), DERPMap(regions={}))
        some = snapshot.nodes[1 + run]
        timed(view, partial(mapper.view, some, snapshot, enforced, _WALL))
        for figure, record in (
            (tag, replace(some, tags=("tag:t7",))),
            (join, node(size + 1, len(snapshot.users), random.Random(run))),
            (report, replace(some, endpoints=("192.0.2.1:1",), tags=("tag:t7",))),
        ):
            snapshot = snapshot.after(Delta(nodes=(record,)))
            change = Change.of(record.id, Facet.OWNER, "bench")
            timed(figure, partial(settle, enforced, snapshot, change))
    return [full, view, tag, join, report]


def settle(enforced: Enforcement, snapshot: Snapshot, change: Change) -> None:
    """Follow a change, and make the filters of all whom it concerns."""
    spread = enforced.follow(snapshot, change, _WALL)
    for number, viewers in spread.viewers.items():
        enforced.filters(snapshot.nodes[number])
        for viewer in viewers or ():
            enforced.filters(snapshot.nodes[viewer])
    for number in snapshot.nodes if spread.others is None else spread.others:
        enforced.filters(snapshot.nodes[number])


def timed(figure: Figure, work: Callable[[], Any]) -> Any:
    """Do it once and keep the time in milliseconds."""
    started = time.perf_counter()
    result = work()
    figure.samples.append((time.perf_counter() - started) * 1000)
    return result


def main() -> int:
    """Measure, print, keep."""
    words = argparse.ArgumentParser(prog="python -m bench.policy", description=__doc__)
    words.add_argument("--runs", type=int, default=3, help="samples of each figure")
    reports.add_arguments(words)
    chosen = words.parse_args()
    console = Console(stderr=chosen.json)
    report = reports.begin(offloads=[])
    figures: list[Figure] = []
    with console.status("compiling") as status:
        for size in SIZES:
            status.update(f"compiling for {size} machines")
            figures += measure(size, chosen.runs)
    reports.finish(report, figures)
    reports.keep(report, chosen, "policy", console, lambda: show(console, report, figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
