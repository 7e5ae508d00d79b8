"""Packets that the engine's filter lets in are exactly those that a plain reading of a policy does.

Policies and packets are drawn from a seed; `tests/vectors/policy-packets.jsonl` holds the engine's
command for each node and the packets with the verdict of the plain reading. `cargo test` puts
those packets through the engine's gate (`rust/core/src/filter/policies.rs`). To draw anew:
`python tests/property/test_policy_packets.py`.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parent))

from test_policy import GROUPS, NODES, PEOPLE, PORTS, SOURCES, USERS, accepts

from warren.engine.commands import SetFilter, encode_commands
from warren.netmap.filterrule import FilterRule
from warren.node.filtering import compile_filter
from warren.policy.verdict import verdict_untrusted

FILE = Path(__file__).parents[1] / "vectors" / "policy-packets.jsonl"
CASES, PACKETS = 40, 24
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
DEFAULT = (TCP, UDP, ICMP, ICMP6)
BY_NAME = {"": DEFAULT, "tcp": (TCP,), "udp": (UDP,), "icmp": (ICMP,)}


def draw(seed: random.Random) -> dict[str, Any]:
    """Return one rule as `accepts` reads it, with a protocol."""
    protocol = seed.choice(["", "", "tcp", "udp", "icmp"])
    ports = ["*"] if protocol == "icmp" else sorted(PORTS)
    if seed.random() < 0.25:
        people = seed.sample(PEOPLE, seed.randint(1, 2))
        return {"src": people, "dst": [("autogroup:self", seed.choice(ports))], "proto": protocol}
    ends = seed.sample(SOURCES, seed.randint(0, 3))
    return {
        "src": seed.sample(SOURCES, seed.randint(1, 3)),
        "dst": [(word, seed.choice(ports)) for word in ends],
        "proto": protocol,
    }


def wanted(rules: list[dict[str, Any]], one: str, other: str, protocol: int, port: int) -> bool:
    """The plain reading: a rule of the packet's protocol, sources, target and port."""
    if protocol in (ICMP, ICMP6):
        # An echo request matches by addresses alone: any rule that joins the two (PROTOCOL §3.8).
        return any(accepts(rules, one, other, port) for port in (1, 22, 85, 443))
    fitting = [rule for rule in rules if protocol in BY_NAME[rule["proto"]]]
    return accepts(fitting, one, other, port)


def packet(source: str, target: str, protocol: int, port: int) -> bytes:
    """Return a first packet: a TCP SYN, a UDP datagram or an echo request."""
    one, other = ip_address(source), ip_address(target)
    if protocol == TCP:
        upper = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 0x50, 0x02, 1024, 0, 0)
    elif protocol == UDP:
        upper = struct.pack("!HHHH", 40000, port, 8, 0)
    else:
        upper = struct.pack("!BBHHH", 8 if protocol == ICMP else 128, 0, 0, 1, 1)
    if one.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(upper), 1, 0, 64, protocol, 0)
    else:
        head = struct.pack("!IHBB", 6 << 28, len(upper), protocol, 64)
    return head + one.packed + other.packed + upper


def lines() -> list[str]:
    """Return the cases."""
    seed = random.Random(12)
    users = [{"name": name, "email": login} for name, login in USERS.items()]
    made = []
    while len(made) < CASES:
        rules = [draw(seed) for _ in range(seed.randint(1, 4))]
        policy = {
            "groups": GROUPS,
            "tagOwners": {"tag:s": [], "tag:t": []},
            "acls": [
                {"action": "accept", "src": r["src"], "dst": [f"{w}:{p}" for w, p in r["dst"]],
                 "proto": r["proto"]}
                for r in rules
            ],
        }  # fmt: skip
        answer = verdict_untrusted({"policy": policy, "topology": {"users": users, "nodes": NODES}})
        assert answer["http_code"] == 200, answer["http_message"]
        target = seed.choice(sorted(NODES))
        told = answer["nodes"][target]["packet_filter_rules"] or []
        command = SetFilter(
            rules=compile_filter(msgspec.convert(told, list[FilterRule]), ()), shields_up=False
        )
        packets = []
        for _ in range(PACKETS):
            source = seed.choice([name for name in NODES if name != target])
            family = seed.choice(("ipv4", "ipv6"))
            protocol = seed.choice((TCP, TCP, UDP, ICMP if family == "ipv4" else ICMP6))
            port = seed.choice((1, 22, 85, 443))
            data = packet(NODES[source][family], NODES[target][family], protocol, port)
            # A rule that names an IPv4 address is not for the same node's IPv6 one.
            four_only = any("100.64.0.3" in (*r["src"], *(w for w, _ in r["dst"])) for r in rules)
            if family == "ipv6" and four_only:
                continue
            packets.append([data.hex(), wanted(rules, source, target, protocol, port)])
        made.append(json.dumps({"commands": encode_commands([command], 1).hex(),
                                "packets": packets}))  # fmt: skip
    return made


def test_the_samples_are_of_this_compiler() -> None:
    assert FILE.read_text().splitlines() == lines()
    verdicts = [verdict for line in lines() for _, verdict in json.loads(line)["packets"]]
    assert 0.2 < sum(verdicts) / len(verdicts) < 0.8, "both verdicts are tried"


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n")
