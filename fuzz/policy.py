"""Policies, as a person or an API client hands them in."""

from __future__ import annotations

import json
from contextlib import suppress

from warren.policy.derpmap import merge, parse_derp_map_untrusted
from warren.policy.malformed import MalformedPolicy
from warren.policy.verdict import verdict_untrusted

TOPOLOGY = {
    "users": [{"id": 1, "name": "ann", "email": "ann@example.com"}],
    "nodes": {
        "laptop": {"ipv4": "100.64.0.1", "ipv6": "fd7a:115c:a1e0::1", "user": "ann"},
        "router": {
            "ipv4": "100.64.0.2",
            "ipv6": "fd7a:115c:a1e0::2",
            "tags": ["tag:router"],
            "routable_ips": ["10.0.0.0/8"],
        },
    },
}
POLICIES = [
    {
        "groups": {"group:a": ["ann@example.com"], "group:b": []},
        "hosts": {"web": "10.1.2.3", "net": "10.0.0.0/8"},
        "ipsets": {"ipset:x": ["add 10.0.0.0/8", "remove 10.1.0.0/16", "host:web"]},
        "tagOwners": {"tag:router": ["group:a"]},
        "autoApprovers": {"routes": {"10.0.0.0/8": ["tag:router"]}, "exitNode": ["tag:router"]},
        "acls": [
            {"action": "accept", "src": ["*"], "dst": ["web:80,443", "autogroup:self:1-9"]},
            {"action": "accept", "src": ["group:a"], "proto": "udp", "dst": ["ipset:x:*"]},
        ],
        "grants": [
            {
                "src": ["autogroup:member"],
                "dst": ["tag:router"],
                "ip": ["tcp:22", "*"],
                "app": {"example.com/cap/x": [{}], "tailscale.com/cap/drive": [{}]},
            },
            {"src": ["*"], "dst": ["net"], "ip": ["icmp:*"], "via": ["tag:router"]},
        ],
        "ssh": [
            {
                "action": "check",
                "checkPeriod": "1h2m",
                "src": ["autogroup:member"],
                "dst": ["autogroup:self", "tag:router"],
                "users": ["root", "autogroup:nonroot", "localpart:*@example.com"],
            }
        ],
        "nodeAttrs": [{"target": ["*"], "attr": ["funnel"], "app": {"x.y/z": [1]}}],
        "postures": {"posture:p": ["node:os IN ['linux', 'macos']", "node:tsVersion >= '1.60'"]},
        "attrConfig": {"custom:tier": {"type": "string"}},
        "oneCGNATRoute": "mac-never",
        "disableIPv4": False,
        "randomizeClientPort": True,
        "tests": [{"src": "ann@example.com", "accept": ["web:80"], "deny": ["10.9.9.9:22"]}],
        "sshTests": [{"src": "ann@example.com", "dst": ["tag:router"], "check": ["root"]}],
        "derpMap": {"OmitDefaultRegions": True, "Regions": {"1": None}},
    }
]
_REGIONS = {
    "HomeParams": {"RegionScore": {"901": 0.5}},
    "Regions": {
        "1": None,
        "901": {
            "RegionID": 901,
            "RegionCode": "fra",
            "Latitude": 50.1,
            "Nodes": [{"HostName": "fra.example", "IPv4": "192.0.2.1", "IPv6": "none"}],
        },
    },
}


def entry(data: bytes) -> None:
    """Hand in a policy's text; every answer is one, none is an exception."""
    source = data.decode(errors="replace")
    answer = verdict_untrusted({"policy": source, "topology": TOPOLOGY})
    assert answer["http_code"] == 200 or answer["http_message"]


def policies() -> list[bytes]:
    """A policy with every section, whole and in pieces, so that each is read."""
    whole = [json.dumps(policy).encode() for policy in POLICIES]
    pieces = [
        json.dumps({"groups": p["groups"], "tagOwners": p["tagOwners"], name: p[name]}).encode()
        for p in POLICIES
        for name in p
    ]
    return [*whole, *pieces, b'{ // comment\n "acls": [], /* more */ }']


def question(data: bytes) -> None:
    """Ask as `warren policy compile` is asked: a policy, and whom it is for."""
    try:
        asked = json.loads(data)
    except (ValueError, RecursionError):
        return
    answer = verdict_untrusted(asked)
    assert answer["http_code"] == 200 or answer["http_message"]
    json.dumps(answer)


def questions() -> list[bytes]:
    """Users with and without a role, machines with and without a user, routes and attributes."""
    users = [{"name": "ann", "email": "ann@example.com", "role": "auditor", "groups": ["group:g"]}]
    node = {
        "id": 7, "ipv4": "100.64.0.9", "ipv6": "fd7a:115c:a1e0::9", "user": "nobody",
        "routable_ips": ["10.0.0.0/8", "::/0"], "approved_routes": ["10.0.0.0/8"],
        "attributes": {"node:os": "macos", "custom:n": 3},
    }  # fmt: skip
    small = {"users": users, "nodes": {"one": node, "two": {"tags": ["tag:router"]}}}
    asked = [
        {"policy": POLICIES[0], "topology": TOPOLOGY, "id": "x"},
        {"policy": {"grants": []}, "topology": small, "tailnet_settings": {}, "dns_settings": {}},
        {"policy": "{}", "topology": {"nodes": {}}},
    ]
    return [json.dumps(one).encode() for one in asked]


def derp_map(data: bytes) -> None:
    """Read a file of relay regions in both of its forms; what comes of it can be merged."""
    source = data.decode(errors="replace")
    for toml in (False, True):
        with suppress(MalformedPolicy):
            found = parse_derp_map_untrusted(source, toml=toml)
            assert merge(found, found).regions is not None


def derp_maps() -> list[bytes]:
    """A file in JSON and in TOML."""
    toml = b'[regions.901]\nregionCode = "ber"\n[[regions.901.nodes]]\nhostName = "b.example"\n'
    return [json.dumps(_REGIONS).encode(), toml]
