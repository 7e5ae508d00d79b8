"""What the language allows and no recording shows: from its public description."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from test_verdict import BASE, POOLS, TOPOLOGY, ask, rules

from warren.policy.verdict import verdict_untrusted

WEB4, WEB6 = "100.64.0.3", "fd7a:115c:a1e0::3"
VIA6 = "fd7a:115c:a1e0:b1a:0:7:a01:100/120"
ANY = (0, 65535)


def acl(dst: str, src: str = "*", **more: Any) -> dict[str, Any]:
    return {"acls": [{"action": "accept", "src": [src], "dst": [dst], **more}]}


def grant(*ip: str, dst: str = "tag:web", **more: Any) -> dict[str, Any]:
    return {"grants": [{"src": ["*"], "dst": [dst], "ip": list(ip), **more}]}


def ends(sections: dict[str, Any], node: str = "web") -> list[tuple[Any, list[Any]]]:
    """Return the protocols and destinations that a node is told of."""
    answer = ask(**sections)
    assert answer["http_code"] == 200, answer["http_message"]
    return [
        (rule.get("IPProto"), [(end["IP"], *end["Ports"].values()) for end in rule["DstPorts"]])
        for rule in answer["nodes"][node]["packet_filter_rules"] or []
    ]


def both(*ports: tuple[int, int]) -> list[tuple[str, int, int]]:
    return [(ip, *one) for ip in (WEB4, WEB6) for one in ports]


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (acl(f"[{WEB6}]:80"), [(None, [(WEB6, 80, 80)])]),
        (acl(f"{WEB6}:80"), [(None, [(WEB6, 80, 80)])]),
        (acl("100.64.0.3-100.64.0.9:80-90,443"),
         [(None, [("100.64.0.3-100.64.0.9", 80, 90), ("100.64.0.3-100.64.0.9", 443, 443)])]),
        (acl("100.64.0.0/24:*"), [(None, [("100.64.0.0/24", *ANY)])]),
        (acl("tag:web:80", proto="17"), [([17], both((80, 80)))]),
        (acl("tag:web:80", proto="TCP"), [([6], both((80, 80)))]),
        (acl("tag:web:*", proto="47"), [([47], both(ANY))]),
        (acl("tag:web:*", proto="ipv6-icmp"), [([58], both(ANY))]),
        (acl("tag:web:*", proto="255"), [([255], both(ANY))]),
        (acl("tag:web:53", proto="sctp"), [([132], both((53, 53)))]),
        (grant("tcp:80-90", "6:22", "udp:*"), [([6], both((80, 90), (22, 22))), ([17], both(ANY))]),
        (grant("*:80"), [(None, both((80, 80)))]),
        (grant("ICMPv6:*"), [([58], both(ANY))]),
        (acl("tag:web:80", proto=6), [([6], both((80, 80)))]),
        (grant("443", "icmp:*"), [(None, both((443, 443))), ([1], both(ANY))]),
        ({"acls": [{"action": "accept", "users": ["*"], "ports": ["tag:web:80"]}]},
         [(None, both((80, 80)))]),
    ],
)  # fmt: skip
def test_destinations(sections: dict[str, Any], told: list[Any]) -> None:
    assert ends(sections) == told


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        (acl("tag:web:80", proto="gre"), "only tcp, udp and sctp have ports"),
        (acl("tag:web:80", proto="1"), "only tcp, udp and sctp have ports"),
        (acl("tag:web:*", proto="256"), 'proto name "256" not known'),
        (acl("tag:web:*", proto="0"), "leading 0 not permitted"),
        (acl("tag:web:*", proto="06"), "leading 0 not permitted"),
        (acl("tag:web:*", proto="*"), 'proto name "*" not known'),
        (acl("tag:web:0-9"), "first port must be >0"),
        (acl("tag:web:9-8"), "first port must be >= last port"),
        (acl("tag:web:65536"), "invalid first integer"),
        (acl("tag:web:"), 'invalid port list: ""'),
        (acl("tag:web"), "invalid first integer"),
        (acl("*"), 'hostport must contain a colon (":")'),
        (grant("tcp:"), 'invalid port list: ""'),
        (grant(":80"), "empty protocol"),
        (grant(""), "empty string"),
        (grant("tcp:80,90"), "invalid first integer"),
        (grant("*", dst="autogroup:danger-all"), "cannot use autogroup:danger-all as a dst"),
        (grant("*", via=["group:all"]), "via can only be a tag"),
        (acl("*:*", src="autogroup:nonroot"), "is not a known autogroup"),
        (acl("*:*", src="ipset:none"), 'ipset not found: "ipset:none"'),
        (acl("autogroup:self:*", src="autogroup:tagged"), "autogroup:self can only be used"),
    ],
)
def test_what_is_refused(sections: dict[str, Any], reason: str) -> None:
    answer = ask(**sections)
    assert answer["http_code"] == 400 and reason in answer["http_message"], answer["http_message"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("autogroup:danger-all", ["*"]),
        ("autogroup:shared", None),
        ("autogroup:owner", ["100.64.0.1", "fd7a:115c:a1e0::1"]),
        ("autogroup:admin", ["100.64.0.2", "fd7a:115c:a1e0::2"]),
        ("user:*@example.org", ["100.64.0.2", "fd7a:115c:a1e0::2"]),
        ("ANN@example.com", ["100.64.0.1", "fd7a:115c:a1e0::1"]),
        ("net", ["10.0.0.0/8"]),
        ("192.0.2.1-192.0.2.9", ["192.0.2.1-192.0.2.9"]),
        ("zoe@example.com", None),
    ],
)
def test_sources(source: str, told: list[str] | None) -> None:
    found = rules(ask(**acl("tag:web:80", source)), "web")
    assert [one for one, _ in found] == ([told] if told else [])


def test_equal_networks_of_two_sites_are_told_apart_by_4via6() -> None:
    topology = deepcopy(TOPOLOGY)
    topology["nodes"]["router"]["routable_ips"] = [VIA6, VIA6.replace(":7:", ":8:")]
    policy = BASE | {
        "hosts": {"site": VIA6}, **acl("site:443", "ann@example.com"),
        "autoApprovers": {"routes": {"fd7a:115c:a1e0:b1a::/64": ["tag:router"]}},
    }  # fmt: skip
    answer = verdict_untrusted({"policy": policy, "topology": topology})
    assert rules(answer, "router") == [(["100.64.0.1", "fd7a:115c:a1e0::1"], [(VIA6, 443, 443)])]
    seen = answer["nodes"]["ann-pc"]["peers"]["router"]
    assert seen["PrimaryRoutes"] == [VIA6] and VIA6 in seen["AllowedIPs"]
    assert "router" not in answer["nodes"]["bob-pc"]["peers"]


def test_attributes_with_values() -> None:
    app = {"tailscale.com/app-connectors": [{"name": "x", "connectors": ["tag:web"]}]}
    answer = ask(grants=[], nodeAttrs=[{"target": ["tag:web"], "app": app}])
    assert answer["nodes"]["web"]["self"]["CapMap"].items() >= app.items()
    assert not app.keys() & answer["nodes"]["router"]["self"]["CapMap"].keys()


@pytest.mark.parametrize(
    ("protocol", "test", "passes"),
    [
        ("udp", {"accept": ["tag:web:53"]}, True),
        ("udp", {"deny": ["tag:web:53"]}, False),
        ("udp", {"proto": "tcp", "accept": ["tag:web:53"]}, False),
        ("udp", {"proto": "17", "accept": ["tag:web:53"]}, True),
        ("tcp", {"accept": ["tag:web:53"]}, True),
        ("sctp", {"accept": ["tag:web:53"]}, False),
        ("sctp", {"deny": ["tag:web:53"]}, True),
    ],
)
def test_a_test_without_a_protocol_is_of_tcp_or_udp(
    protocol: str, test: dict[str, Any], passes: bool
) -> None:
    sections = acl("tag:web:53", "ann@example.com", proto=protocol)
    answer = ask(**sections, tests=[{"src": "ann@example.com"} | test])
    assert (answer["http_code"] == 200) is passes


def test_everyone_is_never_a_plain_star() -> None:
    assert rules(ask(**acl("tag:web:1")), "web")[0][0] == POOLS
