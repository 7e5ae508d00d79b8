"""Names and resolvers: chosen over the API, kept, and told to machines."""

from __future__ import annotations

import pytest
from api_office import Office
from coordinator_world import CountedEntropy

from warren.coordinator.dns import DnsChoice, Nameserver, chosen, dns_config
from warren.coordinator.enforcement import Enforcement
from warren.coordinator.mapper import Mapper
from warren.coordinator.session import Maps
from warren.netmap.derpmap import DERPMap
from warren.netmap.dnsconfig import Resolver

AT = "/tailnet/-/dns"


async def test_every_part_and_the_whole(office: Office) -> None:
    assert await office.told("GET", f"{AT}/nameservers") == {"dns": []}
    told = await office.told(
        "POST", f"{AT}/nameservers", json={"dns": ["9.9.9.9", " 2620:FE::9 ", "9.9.9.9"]}
    )
    assert told == {"dns": ["9.9.9.9", "2620:fe::9"], "magicDNS": True}
    paths = {"searchPaths": ["Corp.Example.", "lab.example"]}
    assert (await office.told("POST", f"{AT}/searchpaths", json=paths))["searchPaths"] == [
        "corp.example",
        "lab.example",
    ]
    given = {"corp.example": ["10.0.0.53"], "x.example": ["10.0.0.54:5353"]}
    assert await office.told("PUT", f"{AT}/split-dns", json=given) == given
    patched = {"X.example.": None, "y.example": ["https://dns.y.example/q"]}
    told = await office.told("PATCH", f"{AT}/split-dns", json=patched)
    assert told == {"corp.example": ["10.0.0.53"], "y.example": ["https://dns.y.example/q"]}
    assert await office.told("GET", f"{AT}/split-dns") == told
    whole = await office.told("GET", f"{AT}/configuration")
    assert whole["preferences"] == {"overrideLocalDNS": False, "magicDNS": True}
    assert whole["nameservers"][0] == {"address": "9.9.9.9", "useWithExitNode": False}
    whole["preferences"]["overrideLocalDNS"] = True
    whole["nameservers"][1]["useWithExitNode"] = True
    assert await office.told("POST", f"{AT}/configuration", json=whole) == whole
    again = await office.told("POST", f"{AT}/preferences", json={"magicDNS": False})
    assert again == {"magicDNS": False}
    kept = chosen(office.store.load().settings)
    assert kept.nameservers[1] == Nameserver("2620:fe::9", True) and not kept.magic
    log = (await office.told("GET", "/tailnet/-/logging/configuration"))["logs"]
    assert [entry["target"]["id"] for entry in log][-2:] == ["dns.override_local", "dns.magic"]
    assert await office.told("POST", f"{AT}/configuration", json={}) == {
        "nameservers": [],
        "splitDNS": {},
        "searchPaths": [],
        "preferences": {"overrideLocalDNS": False, "magicDNS": False},
    }


@pytest.mark.parametrize(
    ("part", "body"),
    [
        ("nameservers", {"dns": ["nine"]}),
        ("nameservers", {"dns": ["0.0.0.0"]}),
        ("nameservers", {"dns": ["224.0.0.251"]}),
        ("nameservers", {"dns": ["100.100.100.100"]}),
        ("nameservers", {"dns": ["9.9.9.9:0"]}),
        ("nameservers", {"dns": ["https://"]}),
        ("nameservers", {"dns": ["https://user@x/"]}),
        ("nameservers", {"dns": [f"10.0.0.{n}" for n in range(33)]}),
        ("searchpaths", {"searchPaths": ["a b"]}),
        ("searchpaths", {"searchPaths": ["bücher.example"]}),
        ("searchpaths", {"searchPaths": ["x" * 64 + ".example"]}),
        ("searchpaths", {"searchPaths": [f"d{n}.example" for n in range(33)]}),
        ("configuration", {"splitDNS": {"warren.internal": [{"address": "9.9.9.9"}]}}),
        ("configuration", {"splitDNS": {f"d{n}": [] for n in range(1001)}}),
    ],
)
async def test_what_makes_no_sense(office: Office, part: str, body: object) -> None:
    answer = await office.ask("POST", f"{AT}/{part}", json=body)
    assert answer.status_code == 400 and len(answer.json()["message"]) < 200
    assert not any(name.startswith("dns.") for name in office.registry.snapshot.settings)


async def test_machines_are_told(office: Office) -> None:
    registry, clock = office.registry, office.world.clock
    policy = Enforcement(registry.snapshot, clock.wall())
    mapper = Mapper(office.world.settings, DERPMap(regions={}))
    maps = Maps(registry, mapper, policy, clock, CountedEntropy())
    node = int(office.node)
    before = maps.whole(node)
    assert before is not None and before.dns.domains == ["warren.internal"]
    changes = []
    registry.listen(changes.append)
    await office.told("POST", f"{AT}/nameservers", json={"dns": ["9.9.9.9"]})
    await office.told("PUT", f"{AT}/split-dns", json={"corp.example": ["10.0.0.53"]})
    await office.told("PUT", f"{AT}/split-dns", json={"corp.example": ["10.0.0.53"]})
    assert [change.everything for change in changes] == [True, True], "no change, no word"
    after = maps.whole(node)
    assert after is not None and after.dns.fallback_resolvers == [Resolver(addr="9.9.9.9")]
    assert after.dns.resolvers == []
    assert after.dns.routes["corp.example"] == [Resolver(addr="10.0.0.53")]
    assert after.dns.routes["warren.internal"] == []


def test_what_each_choice_means() -> None:
    one = (Nameserver("9.9.9.9", True),)
    told = dns_config("x.internal", DnsChoice(nameservers=one, override_local=True, magic=False))
    assert told.resolvers == [Resolver(addr="9.9.9.9", use_with_exit_node=True)]
    assert (told.fallback_resolvers, told.routes, told.proxied) == ([], {}, False)
    assert told.domains == []
    told = dns_config("x.internal", DnsChoice(split={"64.100.in-addr.arpa": one}))
    assert told.routes["64.100.in-addr.arpa"], "what was chosen goes before our own zone"
    assert told.domains == ["x.internal"] and told.proxied
