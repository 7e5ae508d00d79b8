"""A policy at work: who hears of a change of it, of a machine, of a route, and who does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from coordinator_network import DB, WEB, Network

from warren.coordinator import policies
from warren.coordinator.change import Change, Facet
from warren.coordinator.delta import Delta
from warren.coordinator.enforcement import Enforcement
from warren.coordinator.mapper import Mapper
from warren.coordinator.records import PolicyRecord, UserRecord
from warren.coordinator.settings import Settings
from warren.netmap.codec import decode_json_untrusted
from warren.netmap.derpmap import DERPMap, DERPRegion
from warren.netmap.messages import MapResponse
from warren.netmap.node import Hostinfo
from warren.netmap.view import View


async def test_a_change_reaches_those_whom_it_concerns(network: Network) -> None:
    fakes = network.fakes
    assert fakes["pc"].peers() == {"web", "db", "r1", "r2"}, "everyone, as long as nothing is said"
    await network.put(acls=[WEB, DB])
    assert fakes["pc"].peers() == {"web"}
    assert fakes["web"].peers() == {"pc", "db"}
    assert fakes["r1"].peers() == set()
    # One rule more: only its two ends hear of it.
    log_in = {"action": "accept", "src": ["tag:web"], "dst": ["tag:db:22"]}
    assert await network.put(acls=[WEB, DB, log_in]) == {"db"}
    assert await network.put(acls=[WEB, log_in, DB]) == {"db"}, "the order of its rules changed"
    assert await network.put(acls=[WEB, log_in, DB], groups={"group:x": []}) == set()
    # A machine that nobody may see comes and goes unseen.
    assert await network.set("r1", endpoints=("192.0.2.1:1",)) <= {"r1"}
    assert await network.set("web", endpoints=("192.0.2.2:1",)) <= {"web", "pc", "db"}
    # With another tag it leaves one rule's reach.
    assert await network.set("web", Facet.OWNER, tags=("tag:db",)) == {"pc", "web", "db"}
    assert fakes["pc"].peers() == set()
    assert [rule.src_ips for rule in fakes["db"].view.rules()] == []


async def test_a_route_passes_to_the_next_router(network: Network) -> None:
    approve = {"routes": {"10.0.0.0/8": ["tag:router"]}, "exitNode": ["tag:router"]}
    reach = {"action": "accept", "src": ["ann@"], "dst": ["10.1.0.0/16:443"]}
    await network.put(acls=[reach], autoApprovers=approve)
    lan = Hostinfo(hostname="r1", routable_ips=["10.1.0.0/16", "192.168.0.0/24"])
    await network.set("r1", hostinfo=lan, online=True)
    await network.set("r2", hostinfo=lan, online=True)
    pc, r1 = network.fakes["pc"], network.fakes["r1"]
    assert pc.peer("r1").primary_routes == ["10.1.0.0/16"]
    assert "192.168.0.0/24" not in (pc.peer("r1").allowed_ips or []), "nobody approved that one"
    assert pc.peer("r2").primary_routes == []
    assert r1.view.node is not None and r1.view.node.primary_routes == ["10.1.0.0/16"]
    assert [end.ip for rule in r1.view.rules() for end in rule.dst_ports] == ["10.1.0.0/16"]
    await network.set("r1", Facet.PRESENCE, online=False)
    assert pc.peer("r2").primary_routes == ["10.1.0.0/16"]
    assert pc.peer("r1").primary_routes == []
    assert pc.peer("r1").allowed_ips == pc.peer("r1").addresses


async def test_postures_capabilities_and_log_ins(network: Network) -> None:
    posture = {"posture:new": ["node:os == 'linux'", "custom:managed == true"]}
    ssh = {"action": "accept", "src": ["ann@"], "dst": ["tag:web"], "users": ["root"]}
    await network.put(
        acls=[WEB | {"srcPosture": ["posture:new"]}],
        postures=posture,
        ssh=[ssh],
        nodeAttrs=[{"target": ["tag:web"], "attr": ["warren.dev/cap/disable-punching"]}],
        randomizeClientPort=True,
    )
    pc, web = network.fakes["pc"], network.fakes["web"]
    assert web.view.rules() == [] and pc.peers() == set()
    assert await network.set("pc", attributes={"custom:managed": True}) == {"pc", "web"}
    assert len(web.view.rules()) == 1 and pc.peers() == {"web"}
    assert web.view.ssh_policy is not None and len(web.view.ssh_policy["rules"]) == 1
    assert web.view.node is not None and pc.view.node is not None
    assert "warren.dev/cap/disable-punching" in web.view.node.cap_map
    assert "randomize-client-port" in pc.view.node.cap_map
    assert "https://tailscale.com/cap/is-owner" in pc.view.node.cap_map
    assert "warren.dev/cap/disable-punching" not in pc.view.node.cap_map
    await network.put()
    assert web.view.ssh_policy == {"rules": []} and pc.peers() == {"web", "db", "r1", "r2"}


async def test_a_policy_that_says_who_relays(network: Network) -> None:
    await network.set("r1", hostinfo=Hostinfo(hostname="r1", peer_relay=True))
    names = [sorted(cap for rule in fake.view.rules() for grant in rule.cap_grant
                    for cap in grant.cap_map) for fake in network.fakes.values()]  # fmt: skip
    assert sum(map(len, names)) == 5, "a tagged machine relays for all as long as nothing is said"
    grant = {"src": ["tag:web"], "dst": ["tag:router"], "app": {"tailscale.com/cap/relay": []}}
    await network.put(grants=[grant])
    told = {name: [cap for rule in fake.view.rules() for grant in rule.cap_grant
                   for cap in grant.cap_map] for name, fake in network.fakes.items()}  # fmt: skip
    relay, target = "tailscale.com/cap/relay", "tailscale.com/cap/relay-target"
    assert told == {"pc": [], "web": [target], "db": [], "r1": [relay], "r2": [relay]}


async def test_the_policys_regions_reach_every_node(network: Network) -> None:
    """`derpMap` adds, replaces, removes, and leaves out what the server has; and goes again."""
    own = DERPRegion(region_id=900, region_code="own", nodes=[])
    network.maps._mapper.derp_map = DERPMap(regions={900: own}, omit_default_regions=True)
    node = {"HostName": "fra.example"}

    def told() -> set[tuple[int, ...]]:
        return {tuple(fake.view.derp_map.regions or {}) for fake in network.fakes.values()}

    heard = await network.put(derpMap={"Regions": {"901": {"Nodes": [node]}}})
    assert heard == set(network.fakes)
    assert told() == {(900, 901)}
    await network.put(derpMap={"Regions": {"900": None, "902": {"Nodes": [node]}}})
    assert told() == {(902,)}
    await network.put(derpMap={"omitDefaultRegions": True, "regions": {"903": {"nodes": [node]}}})
    assert told() == {(903,)}
    await network.put()
    assert told() == {(900,)}


async def test_a_stored_policy_that_cannot_be_read_lets_nobody_through(network: Network) -> None:
    """A version that checked less may have taken it; the server must start, to have it mended."""
    wall = network.clock.wall()
    text = '{"tagOwners": {"tag:web": []},\n "grants": [{"src": ["*"], "ip": 7}]}'
    record = PolicyRecord(id=1, text=text, author="ann", created=wall)
    known = network.registry.snapshot.after(Delta(policies=(record,)))
    policy = Enforcement(known, wall)
    assert policy.problem.startswith("line 2, column ")
    mapper = Mapper(Settings(url="http://x"), DERPMap(regions={}))
    for node in known.nodes.values():
        view = mapper.view(node, known, policy, wall)
        assert not view.peers and not any(view.packet_filters.values())
    assert not policies.may_tag(known, 1, "tag:web")
    mended = known.after(policies.set_policy(known, '{"acls": []}', "ann", wall))
    policy.follow(mended, Change(everything=True), wall)
    assert not policy.problem


async def test_a_stored_policy_that_is_wrong_in_places_is_in_force_without_them(
    network: Network,
) -> None:
    """After an upgrade the network goes on; what is misspelt stands for nobody, and is told of."""
    wall = network.clock.wall()
    text = """{"tagOwners": {"tag:web": ["group:ops", "*"]},
      "grants": [{"src": ["tag:wep"], "dst": ["*"], "ip": ["*"]},
                 {"src": ["*"], "dst": ["*"], "ip": ["tcp:22"]}]}"""
    record = PolicyRecord(id=1, text=text, author="ann", created=wall)
    member = UserRecord(id=99, name="mem", display_name="", created=wall)
    known = network.registry.snapshot.after(Delta(policies=(record,), users=(member,)))
    policy = Enforcement(known, wall)
    assert not policy.problem and len(policy.left_out) == 3
    assert any('group not found: "group:ops"' in said for said in policy.left_out)
    assert any("line 2, column" in said and "tag:web" in said for said in policy.left_out)
    assert all("policy get" in said for said in policy.problems())
    for node in known.nodes.values():
        (rule,) = policy.filters(node)["base"]
        assert {port.ports.first for port in rule.dst_ports} == {22}
    assert not policies.may_tag(known, member.id, "tag:web"), "`*` owns nothing"
    with pytest.raises(policies.PolicyRefused):
        policies.check_policy(known, text)


async def test_an_edit_that_is_the_same_for_all_is_written_once(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def to_port(port: str) -> dict[str, Any]:
        return {"grants": [{"src": ["*"], "dst": ["*"], "ip": [f"tcp:{port}"]}]}

    await network.put(**to_port("80"))
    write, written = network.maps._writer.write, list[bytes]()

    def noted(response_json: bytes, *, compressed: bool = True) -> bytes:
        written.append(response_json)
        return write(response_json, compressed=compressed)

    monkeypatch.setattr(network.maps._writer, "write", noted)
    assert await network.put(**to_port("443")) == set(network.fakes)
    [message] = written
    told = decode_json_untrusted(message, MapResponse)
    assert told.packet_filters and not (told.peers or told.peers_changed or told.node)
    for fake in network.fakes.values():
        [rule] = fake.view.rules()
        assert [end.ports.first for end in rule.dst_ports] == [443]


async def test_what_messages_begin_with_alike_is_compressed_once(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def to_port(*ports: str) -> dict[str, Any]:
        sources = [f"10.0.{n}.0/24" for n in range(20)]
        ends = ["tag:web", "tag:db", "tag:router"]
        return {"grants": [{"src": sources, "dst": ends, "ip": [f"tcp:{one}" for one in ports]}]}

    async def put(*ports: str) -> list[bytes]:
        finish, rests = network.maps._writer.finish, list[bytes]()

        def noted(begun: bytes, rest: bytes) -> bytes:
            rests.append(rest)
            return finish(begun, rest)

        with monkeypatch.context() as patched:
            patched.setattr(network.maps._writer, "finish", noted)
            assert await network.put(**to_port(*ports)) == {"web", "db", "r1", "r2"}
        for node in network.registry.snapshot.nodes.values():
            wanted = network.maps.whole(node.id)
            assert wanted is not None
            assert network.fakes[node.name].view.rules() == wanted.rules()
        return rests

    await network.put(acls=[])
    # One of the four is written whole: nobody knew yet that others would begin so.
    assert len(set(await put("80"))) == 3
    assert len(set(await put("443"))) == 3
    assert not await put(*(str(port) for port in range(1, 40))), "the rest is worth compressing"


async def test_who_reads_slowly_hears_late_and_once(network: Network) -> None:
    await network.put(acls=[DB])
    slow, other = network.fakes["web"], network.fakes["db"]
    slow.full, before = True, (slow.frames, other.frames)
    for endpoint in ("192.0.2.1:1", "192.0.2.1:2"):
        for name in ("web", "db"):
            await network.tell(name, endpoints=(endpoint,))
        await asyncio.sleep(0.3)
    assert (slow.frames, other.frames) == (before[0], before[1] + 2)
    slow.full = False
    await network.heard()
    assert slow.frames == before[0] + 1
    assert slow.peer("db").endpoints == ["192.0.2.1:2"]


async def test_one_that_fails_in_a_round_fails_alone(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    await network.put(acls=[DB, WEB])
    broken, told = network.fakes["pc"], network.maps.told_alike
    its = broken.session._view

    def failing(before: View, *words: Any) -> bytes | None:
        if before is its:
            raise ZeroDivisionError
        return told(before, *words)

    monkeypatch.setattr(network.maps, "told_alike", failing)
    await network.tell("web", endpoints=("192.0.2.1:1",))
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(broken.task, 5)
    del network.fakes["pc"]
    await network.heard()
    assert network.fakes["db"].peer("web").endpoints == ["192.0.2.1:1"]
