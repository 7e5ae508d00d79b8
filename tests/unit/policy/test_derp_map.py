"""Relay regions in files and in a policy: read with their places, merged, every bad one refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warren.netmap.derpmap import DERPMap, DERPNode, DERPRegion
from warren.policy.derpmap import MAX_NODES, MAX_REGIONS, merge, parse_derp_map_untrusted
from warren.policy.document import parse_policy_untrusted
from warren.policy.malformed import MalformedPolicy

NODE = {"HostName": "fra.example.com"}
# As the real service's public map has it: names of the wire, and one that nobody here knows.
PUBLIC = """{"Regions": {"4": {"RegionID": 4, "RegionCode": "fra", "RegionName": "Frankfurt",
  "Latitude": 50.1109, "Longitude": 8.6821, "Nodes": [
    {"Name": "4f", "RegionID": 4, "HostName": "derp4f.example.com", "IPv4": "192.0.2.1",
     "IPv6": "2001:db8::1", "CanPort80": true},
    {"Name": "4g", "RegionID": 4, "HostName": "derp4g.example.com", "STUNOnly": true}]}}}"""
# As Headscale's users have it in their files, in JSON.
LOWER = """{"regions": {"900": {"regionid": 900, "regioncode": "custom", "regionname": "My Region",
  "nodes": [{"name": "900a", "regionid": 900, "hostname": "relay.example.com",
  "ipv4": "198.51.100.1", "stunport": 0, "stunonly": false, "derpport": 0}]}, "1": null}}"""
TOML = """omitDefaultRegions = true
[regions.901]
regionCode = "ber"
[[regions.901.nodes]]
hostName = "ber.example.com"
derpPort = 8443
"""


def region(number: int, host: str = "a.example") -> DERPRegion:
    node = DERPNode(name=f"{number}a", region_id=number, host_name=host)
    return DERPRegion(region_id=number, region_code=str(number), nodes=[node])


def test_the_forms_that_people_have() -> None:
    public = (parse_derp_map_untrusted(PUBLIC).regions or {})[4]
    assert public is not None
    assert (public.region_name, public.latitude) == ("Frankfurt", 50.1109)
    assert [(n.host_name, n.stun_only, n.can_port80) for n in public.nodes] == [
        ("derp4f.example.com", False, True),
        ("derp4g.example.com", True, False),
    ]
    lower = parse_derp_map_untrusted(LOWER).regions or {}
    assert lower[1] is None
    assert lower[900] is not None
    assert lower[900].nodes[0].ipv4 == "198.51.100.1"
    read = parse_derp_map_untrusted(TOML, toml=True)
    assert read.omit_default_regions
    made = (read.regions or {})[901]
    assert made is not None
    assert (made.region_id, made.nodes[0].name, made.nodes[0].derp_port) == (901, "901a", 8443)


def test_a_file_of_others_may_hold_what_nobody_here_knows() -> None:
    newer = PUBLIC.replace('"CanPort80"', '"Hologram": [1], "CanPort80"')
    with pytest.raises(MalformedPolicy, match="unknown field"):
        parse_derp_map_untrusted(newer)
    assert parse_derp_map_untrusted(newer, strict=False) == parse_derp_map_untrusted(PUBLIC)


def _one(**members: Any) -> str:
    return json.dumps({"Regions": {"901": {"Nodes": [NODE | members]}}})


def _region(**members: Any) -> str:
    return json.dumps({"Regions": {"901": {"Nodes": [NODE]} | members}})


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "the DERP map ends too early"),
        ("[]", "the DERP map: expected an object"),
        ('{"Regions": []}', "Regions: expected an object with the regions by number"),
        ('{"Regions": {"0": null}}', '"0" is no region; its number is 1 to 65535'),
        ('{"Regions": {"65536": null}}', '"65536" is no region'),
        ('{"Regions": {"fra": null}}', '"fra" is no region'),
        ('{"Regions": {"1": null, "01": null}}', "region 1 is given twice"),
        ('{"Regions": {}, "regions": {}}', '"Regions" is given twice'),
        ('{"Regions": {"901": []}}', 'Regions["901"]: expected an object'),
        ('{"Regions": {"901": {}}}', "Nodes: expected a list with at least one node"),
        ('{"OmitDefaultRegions": 1}', "OmitDefaultRegions: expected true or false"),
        ('{"HomeParams": {"RegionScore": {"1": 0}}}', "expected a number above 0"),
        ('{"HomeParams": {"RegionScore": {"1": true}}}', "expected a number above 0"),
        ('{"HomeParams": []}', "HomeParams: expected an object"),
        (_region(RegionID=902), "RegionID: it is 901 by its key"),
        (_region(Latitude=91), "Latitude: not beyond 90"),
        (_region(RegionCode=7), "RegionCode: expected a string"),
        (_region(RegionName="x" * 300), "RegionName: longer than 256"),
        (_region(Nodes=[]), "expected a list with at least one node"),
        (_region(Nodes=[NODE] * (MAX_NODES + 1)), f"more than {MAX_NODES}"),
        (_region(Nodes=[{}]), "HostName: it is missing"),
        (_region(Nodes=[NODE | {"Name": "a"}] * 2), 'there are two nodes "a"'),
        (_one(STUNOnly=True), "all are STUNOnly"),
        (_one(HostNam="x"), 'unknown field "HostNam" (did you mean "HostName"?)'),
        (_one(HostName="no host"), '"no host" is no host name'),
        (_one(Name="a b"), "Name: expected a word without spaces"),
        (_one(RegionID=7), "Nodes[0].RegionID: its region is 901"),
        (_one(IPv4="::1"), 'IPv4: expected an IPv4 address or "none"'),
        (_one(IPv6="none at all"), 'IPv6: expected an IPv6 address or "none"'),
        (_one(STUNPort=-2), "STUNPort: expected -1 to 65535"),
        (_one(STUNPort="3478"), "STUNPort: expected a whole number"),
        (_one(STUNPort=True), "STUNPort: expected a whole number"),
        (_one(DERPPort=70000), "DERPPort: expected 0 to 65535"),
        (_one(CertName="sha256-raw:12"), "CertName: expected a host name, or sha256-raw:"),
        (_one(STUNTestIP="x"), "STUNTestIP: expected an address"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_its_place(source: str, said: str) -> None:
    with pytest.raises(MalformedPolicy) as caught:
        parse_derp_map_untrusted(source)
    assert said in caught.value.sentence()
    assert caught.value.sentence().startswith("line 1, column ")


def test_the_place_of_a_wrong_value() -> None:
    source = '{"Regions": {"901": {"Nodes": [\n  {"HostName": "a",\n   "IPv4": "1.2"}]}}}'
    with pytest.raises(MalformedPolicy) as caught:
        parse_derp_map_untrusted(source)
    assert caught.value.place == (3, 12)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("[regions", "this is not TOML"),
        ("[regions.901]\nnodes = [{hostName = 1}]", "Nodes[0].HostName: expected a string"),
        (f"regions{'.a' * 20_000} = 1", "a line with more than 500 dots"),
        ("regions.1 = 2020-01-01", "expected an object"),
    ],
)
def test_toml_names_the_member(source: str, said: str) -> None:
    with pytest.raises(MalformedPolicy) as caught:
        parse_derp_map_untrusted(source, toml=True)
    assert said in caught.value.sentence()


def test_a_file_does_not_grow_the_map_without_bound() -> None:
    many = json.dumps({"Regions": {str(n): {"Nodes": [NODE]} for n in range(1, MAX_REGIONS + 2)}})
    with pytest.raises(MalformedPolicy, match=f"more than {MAX_REGIONS}"):
        parse_derp_map_untrusted(many)


def test_merging_replaces_adds_and_removes_whole_regions() -> None:
    base = DERPMap(regions={1: region(1), 2: region(2), 3: region(3)})
    added = DERPMap(regions={2: region(2, "b.example"), 3: None, 4: region(4)})
    merged = merge(base, added)
    assert list(merged.regions or {}) == [1, 2, 4]
    assert (merged.regions or {})[2] == region(2, "b.example")
    assert merged.omit_default_regions
    assert merge(base, None) is base


def test_merging_can_leave_out_what_was_there() -> None:
    base = DERPMap(regions={1: region(1)})
    only = merge(base, DERPMap(regions={9: region(9)}, omit_default_regions=True))
    assert list(only.regions or {}) == [9]
    assert merge(base, DERPMap(omit_default_regions=True)).regions == {}


def test_a_policy_reads_its_derp_map_with_places() -> None:
    policy = parse_policy_untrusted(
        '{"derpMap": {"regions": {"900": {"nodes": [{"hostName": "x"}]}}}}'
    )
    assert policy.derp_map is not None
    assert (policy.derp_map.regions or {})[900] is not None
    with pytest.raises(MalformedPolicy) as caught:
        parse_policy_untrusted('{"derpMap": {\n "Regions": {"900": {"Nodes": 1}}}}')
    assert caught.value.sentence() == (
        'line 2, column 31: derpMap.Regions["900"].Nodes: expected a list with at least one node'
    )
