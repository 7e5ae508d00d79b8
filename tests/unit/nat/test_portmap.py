"""Asking a router for a port: which protocol, for how long, and what is known when it fails."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from fake_router import IP_V2, LOCAL, PORT, ROUTER, WAN, FakeRouter, Rig, entropy

from warren.nat.mapping import Datagram, Finding, MapProtocol, Outcome, sentence, why_unreachable
from warren.nat.portmap import PROBE_EVERY_S, Portmapper
from warren.netmap.endpoint import Endpoint

NATPMP, PCP, UPNP = MapProtocol.NATPMP, MapProtocol.PCP, MapProtocol.UPNP
ONLY = {NATPMP: "natpmp", PCP: "pcp", UPNP: "upnp"}
HERE = Endpoint(ROUTER, 5351)


def only(protocol: MapProtocol, **options: Any) -> FakeRouter:
    return FakeRouter(**{ONLY[protocol]: True}, **options)


@pytest.mark.parametrize("protocol", ONLY)
def test_a_mapping_by_each_protocol_alone(protocol: MapProtocol) -> None:
    rig = Rig(only(protocol))
    rig.advance(0.3)
    mapping = rig.mapper.mapping
    assert mapping is not None
    assert (mapping.protocol, mapping.external) == (protocol, Endpoint(WAN, PORT))
    assert rig.finding(protocol) is Finding.MAPPED
    assert [rig.finding(other) for other in ONLY if other is not protocol] == [Finding.SILENT] * 2
    event = rig.mapper.poll_event()
    assert event is not None and event.mapping == mapping
    assert rig.mapper.poll_event() is None


def test_nat_pmp_first_without_waiting_for_the_rest() -> None:
    rig = Rig(FakeRouter(natpmp=True, pcp=True, upnp=True))
    rig.advance(0.02)
    assert rig.mapper.mapping is not None and rig.mapper.mapping.protocol is NATPMP
    assert (rig.finding(PCP), rig.finding(UPNP)) == (Finding.SPOKEN, Finding.SPOKEN)
    assert list(rig.router.mapped) == [PORT], "one mapping is enough"


def test_a_router_that_answers_nothing_costs_one_timeout_in_ten_minutes() -> None:
    rig = Rig(FakeRouter())
    rig.advance(0.25)
    assert [o.finding for o in rig.mapper.outcomes] == [Finding.SILENT] * 3
    sent = rig.sent
    assert sent <= 10
    due = rig.mapper.next_timeout()
    assert due is not None and due[0] == pytest.approx(100.0 + PROBE_EVERY_S)
    rig.advance(PROBE_EVERY_S - 1)
    assert rig.sent == sent
    rig.advance(2)
    assert rig.sent == 2 * sent


def test_what_was_switched_on_is_found_ten_minutes_later() -> None:
    rig = Rig(FakeRouter())
    rig.advance(1)
    rig.router.upnp = True
    rig.advance(PROBE_EVERY_S)
    assert rig.external == f"{WAN}:{PORT}"


def test_slow_answers_still_count() -> None:
    rig = Rig(only(UPNP, delay_s=0.9))
    rig.advance(0.5)
    assert rig.finding(UPNP) is Finding.SILENT
    rig.advance(10)
    assert rig.finding(UPNP) is Finding.MAPPED
    late = Rig(only(NATPMP, delay_s=6.0))
    late.advance(30)
    assert late.mapper.mapping is None
    assert late.mapper.drops["NAT-PMP: not asked for"] > 0


def test_disabled_protocols_are_not_asked() -> None:
    rig = Rig(FakeRouter(natpmp=True, pcp=True, upnp=True), disabled=(NATPMP, UPNP))
    rig.advance(1)
    assert rig.mapper.mapping is not None and rig.mapper.mapping.protocol is PCP
    assert rig.finding(UPNP) is Finding.DISABLED
    assert not [line for line in rig.router.asked if "pcp" not in line]
    none = Rig(FakeRouter(natpmp=True), disabled=tuple(ONLY))
    none.advance(2000)
    assert none.sent == 0


@pytest.mark.parametrize("protocol", ONLY)
def test_renewed_at_half_of_the_lease(protocol: MapProtocol) -> None:
    rig = Rig(only(protocol))
    rig.advance(1)
    rig.router.asked.clear()
    rig.advance(3590)
    assert not [line for line in rig.router.asked if "map " in line or "AddPort" in line]
    rig.advance(20)
    assert [line for line in rig.router.asked if "map " in line or "AddPort" in line]
    rig.advance(40_000)
    assert rig.external == f"{WAN}:{PORT}"


@pytest.mark.parametrize("protocol", [NATPMP, PCP])
def test_short_leases(protocol: MapProtocol) -> None:
    rig = Rig(only(protocol, lease_s=60))
    rig.advance(600)
    asked = len([line for line in rig.router.asked if "map" in line])
    assert rig.mapper.mapping is not None and 19 <= asked <= 22
    rig = Rig(only(protocol, lease_s=2))
    rig.advance(600)
    assert rig.mapper.mapping is None
    assert rig.finding(protocol) is Finding.REFUSED and "2 s" in rig.detail(protocol)
    assert len([line for line in rig.router.asked if "map" in line]) <= 2


@pytest.mark.parametrize("protocol", ONLY)
def test_a_router_that_dies_takes_its_mapping_along(protocol: MapProtocol) -> None:
    rig = Rig(only(protocol))
    rig.advance(1)
    setattr(rig.router, ONLY[protocol], False)
    rig.router.http_port = 1
    rig.advance(7000)
    assert rig.mapper.mapping is not None, "the lease still runs"
    rig.advance(300)
    assert rig.mapper.mapping is None
    assert rig.finding(protocol) in (Finding.BROKEN, Finding.SILENT)
    setattr(rig.router, ONLY[protocol], True)
    rig.router.http_port = 5000
    rig.advance(PROBE_EVERY_S + 1)
    assert rig.mapper.mapping is not None


@pytest.mark.parametrize("protocol", ONLY)
def test_a_restart_is_seen_at_the_next_probe(protocol: MapProtocol) -> None:
    rig = Rig(only(protocol))
    rig.advance(60)
    rig.router.restart(rig.now)
    rig.router.http_port = 5001
    rig.advance(PROBE_EVERY_S)
    assert list(rig.router.mapped) == [PORT]
    assert rig.external == f"{WAN}:{PORT}"


@pytest.mark.parametrize("protocol", [NATPMP, PCP])
def test_a_restart_that_is_announced_is_seen_at_once(protocol: MapProtocol) -> None:
    rig = Rig(only(protocol))
    rig.advance(60)
    rig.router.restart(rig.now)
    announce(rig, protocol)
    rig.advance(0.1)
    assert list(rig.router.mapped) == [PORT]
    asked = len(rig.router.asked)
    for _ in range(1000):
        rig.router.started = rig.now
        announce(rig, protocol)
        rig.router.started = rig.now - 500
        announce(rig, protocol)
        rig.advance(0.01)
    assert len(rig.router.asked) - asked <= 4, "an impostor does not make us busy"


@pytest.mark.parametrize("protocol", [NATPMP, PCP])
def test_a_router_that_restarts_slowly_is_asked_until_it_answers(protocol: MapProtocol) -> None:
    rig = Rig(only(protocol))
    rig.advance(60)
    rig.router.restart(rig.now)
    announce(rig, protocol)
    setattr(rig.router, ONLY[protocol], False)
    rig.router.mapped.clear()
    rig.advance(20)
    setattr(rig.router, ONLY[protocol], True)
    rig.advance(30)
    assert list(rig.router.mapped) == [PORT], "not only when half of the lease is over"


def announce(rig: Rig, protocol: MapProtocol) -> None:
    if protocol is NATPMP:
        data = struct.pack("!BBHI", 0, 128, 0, rig.router.epoch(rig.now)) + rig.router.wan.packed
    else:
        data = struct.pack("!BBBBII12x", 2, 128, 0, 0, 0, rig.router.epoch(rig.now))
    rig.mapper.receive(data, HERE, rig.now, announced=True)
    rig.pump()


def test_upnp_notices_are_news_after_a_restart_only() -> None:
    def notify(boot_id: int) -> None:
        text = f"NOTIFY * HTTP/1.1\r\nNTS: ssdp:alive\r\nBOOTID.UPNP.ORG: {boot_id}\r\n\r\n"
        rig.mapper.receive(text.encode(), Endpoint(ROUTER, 1900), rig.now, announced=True)
        rig.advance(1)

    rig = Rig(only(UPNP))
    rig.advance(30)
    for _ in range(20):
        notify(1)
    asked = len(rig.router.asked)
    rig.router.restart(rig.now)
    notify(1)
    assert len(rig.router.asked) == asked
    notify(2)
    rig.advance(10)
    assert list(rig.router.mapped) == [PORT]
    sent = rig.sent
    for number in range(100):
        notify(number)
    assert rig.sent - sent <= 10 * 10, "once in ten seconds at most"


def test_an_announcement_ends_the_ten_minutes_of_silence() -> None:
    rig = Rig(FakeRouter())
    rig.advance(60)
    rig.router.natpmp = True
    announce(rig, NATPMP)
    rig.advance(0.1)
    assert rig.external == f"{WAN}:{PORT}"


@pytest.mark.parametrize("protocol", ONLY)
def test_another_address_outside(protocol: MapProtocol) -> None:
    rig = Rig(only(protocol))
    rig.advance(1)
    rig.router.wan = IPv4Address("198.51.100.7")
    rig.advance(PROBE_EVERY_S if protocol is not PCP else 3600)
    assert rig.external == f"198.51.100.7:{PORT}"


@pytest.mark.parametrize("protocol", [NATPMP, PCP])
def test_a_port_that_is_taken(protocol: MapProtocol) -> None:
    rig = Rig(only(protocol, taken={PORT, PORT + 1}))
    rig.advance(1)
    assert rig.external == f"{WAN}:{PORT + 2}"
    rig.router.restart(rig.now)
    rig.advance(4000)
    assert rig.external == f"{WAN}:{PORT + 2}", "the same port is wished for again"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("192.168.0.5", "private"),
        ("100.72.3.4", "carrier"),
        ("0.0.0.0", "internet"),
        ("169.254.1.1", "internet"),
        ("127.0.0.1", "internet"),
        ("224.0.0.1", "internet"),
        ("255.255.255.255", "internet"),
    ],
)
@pytest.mark.parametrize("protocol", ONLY)
def test_a_second_nat(protocol: MapProtocol, address: str, why: str) -> None:
    rig = Rig(only(protocol, wan=IPv4Address(address)))
    rig.advance(5)
    assert rig.mapper.mapping is None
    assert rig.finding(protocol) is Finding.SECOND_NAT
    assert address in rig.detail(protocol) and why in rig.detail(protocol)
    assert not rig.router.mapped, "nothing is left behind"
    rig.router.wan = WAN
    rig.advance(PROBE_EVERY_S)
    assert rig.external == f"{WAN}:{PORT}"
    rig.router.wan = IPv4Address(address)
    rig.advance(3700)
    assert rig.mapper.mapping is None


@pytest.mark.parametrize(
    ("protocol", "options", "word"),
    [
        (NATPMP, {"natpmp_result": 2}, "switched off"),
        (NATPMP, {"natpmp_result": 4}, "no more"),
        (NATPMP, {"natpmp_result": 77}, "77"),
        (PCP, {"pcp_result": 2}, "switched off"),
        (PCP, {"pcp_result": 12}, "another NAT"),
        (PCP, {"pcp_result": 99}, "99"),
        (UPNP, {"faults": {"AddPortMapping": 606}}, "not allow"),
        (UPNP, {"faults": {"AddPortMapping": 728}}, "no more"),
        (UPNP, {"faults": {"GetExternalIPAddress": 501}}, "outside address"),
    ],
)
def test_refusals_are_remembered(protocol: MapProtocol, options: dict[str, Any], word: str) -> None:
    rig = Rig(only(protocol, **options))
    rig.advance(60)
    assert rig.mapper.mapping is None
    assert rig.finding(protocol) is Finding.REFUSED
    assert word in rig.detail(protocol)
    asked = len(rig.router.asked)
    rig.advance(500)
    assert len(rig.router.asked) == asked, "no is no for ten minutes"


@pytest.mark.parametrize(
    ("protocol", "options"),
    [(NATPMP, {"natpmp_result": 3}), (PCP, {"pcp_result": 7})],
)
def test_a_router_that_says_it_has_no_address(
    protocol: MapProtocol, options: dict[str, Any]
) -> None:
    rig = Rig(only(protocol, **options))
    rig.advance(60)
    assert rig.mapper.mapping is None
    assert rig.finding(protocol) is Finding.SECOND_NAT
    assert rig.detail(protocol) == "it has no address of the internet"
    rig.router.natpmp_result = rig.router.pcp_result = 0
    rig.advance(PROBE_EVERY_S)
    assert rig.external == f"{WAN}:{PORT}"


def test_the_next_protocol_after_a_refusal() -> None:
    rig = Rig(FakeRouter(natpmp=True, pcp=True, upnp=True, natpmp_result=2, pcp_result=8))
    rig.advance(1)
    assert rig.mapper.mapping is not None and rig.mapper.mapping.protocol is UPNP
    assert rig.finding(NATPMP) is rig.finding(PCP) is Finding.REFUSED


def test_a_renewal_that_is_refused_moves_to_another_protocol() -> None:
    rig = Rig(FakeRouter(natpmp=True, upnp=True))
    rig.advance(1)
    rig.router.natpmp_result = 2
    rig.advance(PROBE_EVERY_S)
    assert rig.mapper.mapping is not None and rig.mapper.mapping.protocol is UPNP
    assert rig.finding(NATPMP) is Finding.REFUSED


@pytest.mark.parametrize("protocol", ONLY)
def test_given_back_at_the_end(protocol: MapProtocol) -> None:
    rig = Rig(only(protocol))
    rig.advance(1)
    assert rig.router.mapped
    rig.mapper.stop(rig.now)
    rig.pump()
    assert not rig.mapper.settled
    rig.advance(0.1)
    assert rig.mapper.settled and not rig.router.mapped and rig.mapper.mapping is None
    rig.advance(10_000)
    assert not rig.router.mapped


@pytest.mark.parametrize("protocol", ONLY)
def test_given_back_to_nobody(protocol: MapProtocol) -> None:
    rig = Rig(only(protocol))
    rig.advance(1)
    setattr(rig.router, ONLY[protocol], False)
    rig.router.http_port = 1
    rig.mapper.stop(rig.now)
    rig.pump()
    rig.advance(1)
    assert rig.mapper.settled


@pytest.mark.parametrize("protocol", ONLY)
def test_stopped_while_asking(protocol: MapProtocol) -> None:
    rig = Rig(only(protocol, delay_s=0.2))
    while not rig.router.mapped:
        rig.advance(0.01)
    assert rig.mapper.mapping is None
    rig.mapper.stop(rig.now)
    rig.pump()
    rig.advance(2)
    assert not rig.router.mapped and rig.mapper.settled


def test_upnp_version_2_is_given_any_port() -> None:
    rig = Rig(only(UPNP, service=IP_V2, taken={PORT}))
    rig.advance(1)
    assert rig.external == f"{WAN}:{PORT + 1}"
    assert f"AddAnyPortMapping {PORT}" in rig.router.asked
    rig.advance(4000)
    assert f"AddPortMapping {PORT + 1}" in rig.router.asked, "renewed where it is"


def test_upnp_version_2_without_the_new_action() -> None:
    rig = Rig(only(UPNP, service=IP_V2, faults={"AddAnyPortMapping": 401}))
    rig.advance(1)
    assert rig.external == f"{WAN}:{PORT}"


def test_upnp_clash_takes_another_port_and_gives_up_after_a_few() -> None:
    rig = Rig(only(UPNP, taken={PORT}))
    rig.advance(1)
    assert rig.mapper.mapping is not None and rig.mapper.mapping.external.port >= 1024
    assert rig.mapper.mapping.external.port != PORT
    rig = Rig(only(UPNP, faults={"AddPortMapping": 718}))
    rig.advance(10)
    assert rig.finding(UPNP) is Finding.REFUSED and "another machine" in rig.detail(UPNP)
    assert len([line for line in rig.router.asked if "AddPort" in line]) == 4


def test_upnp_that_only_maps_for_good() -> None:
    rig = Rig(only(UPNP, permanent_only=True))
    rig.advance(1)
    assert rig.mapper.mapping is not None and rig.mapper.mapping.expires_at is None
    rig.advance(20_000)
    assert rig.router.mapped == {PORT: (str(LOCAL), PORT, 0)}
    rig.mapper.stop(rig.now)
    rig.pump()
    rig.advance(1)
    assert not rig.router.mapped


def test_upnp_mapping_that_somebody_took() -> None:
    rig = Rig(only(UPNP))
    rig.advance(1)
    rig.router.mapped[PORT] = ("192.168.1.99", PORT, 0)
    rig.router.taken.add(PORT)
    rig.advance(PROBE_EVERY_S)
    assert rig.mapper.mapping is not None and rig.mapper.mapping.external.port != PORT


def test_foreign_datagrams_are_dropped_and_counted() -> None:
    rig = Rig(FakeRouter())
    stranger = Endpoint(IPv4Address("192.168.1.66"), 5351)
    good = struct.pack("!BBHI", 0, 128, 0, 5) + WAN.packed
    assert not rig.mapper.receive(good, stranger, rig.now)
    assert not rig.mapper.receive(good, Endpoint(ROUTER, 5352), rig.now)
    assert not rig.mapper.receive(b"", HERE, rig.now)
    assert not rig.mapper.receive(b"\x07" * 30, HERE, rig.now)
    assert not rig.mapper.receive(bytes(5000), HERE, rig.now)
    assert not rig.mapper.receive(b"\x00\x81" + bytes(14), HERE, rig.now)
    elsewhere = b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.66:80/\r\n\r\n"
    assert not rig.mapper.receive(elsewhere, Endpoint(ROUTER, 1900), rig.now)
    nonce = struct.pack("!BBBBII12x", 2, 129, 0, 0, 7200, 5) + struct.pack(
        "!12sB3xHH16s", bytes(12), 17, PORT, PORT, bytes(16)
    )
    assert not rig.mapper.receive(nonce, HERE, rig.now)
    assert sum(rig.mapper.drops.values()) == 8
    assert rig.mapper.drops["from another machine than the router"] == 1
    assert rig.mapper.drops["UPnP: names another machine"] == 1
    assert rig.mapper.drops["PCP: another nonce or internal port"] == 1
    assert rig.mapper.mapping is None


def test_a_flood_of_devices_is_bounded() -> None:
    rig = Rig(FakeRouter())
    for number in range(500):
        text = f"HTTP/1.1 200 OK\r\nLOCATION: http://{ROUTER}:{number + 1}/\r\n\r\n"
        rig.mapper.receive(text.encode(), Endpoint(ROUTER, 1900), rig.now)
    rig.advance(30)
    assert rig.mapper.drops["UPnP: too many"] == 496
    assert rig.finding(UPNP) is Finding.BROKEN
    assert rig.sent < 20


def test_answers_to_the_other_version_are_no_answers() -> None:
    """A router with NAT-PMP only says to PCP, in NAT-PMP's format, that it knows it not."""
    rig = Rig(FakeRouter())
    rig.mapper.receive(struct.pack("!BBHI", 0, 128, 1, 5), HERE, rig.now)
    rig.mapper.receive(struct.pack("!BBBBII12x", 2, 128, 0, 1, 0, 5), HERE, rig.now)
    rig.advance(1)
    assert (rig.finding(NATPMP), rig.finding(PCP)) == (Finding.SILENT, Finding.SILENT)


def test_every_outcome_has_a_sentence() -> None:
    for finding in Finding:
        for protocol in MapProtocol:
            said = sentence(Outcome(protocol, finding, "why"))
            assert said.endswith(".") and protocol.value in said
    assert (
        sentence(Outcome(UPNP, Finding.SILENT)) == "Your router's UPnP is off: it does not answer."
    )


def test_reachable_addresses() -> None:
    for text in ("8.8.8.8", "100.63.255.255", "172.32.0.1", "203.0.113.1"):
        assert why_unreachable(IPv4Address(text)) is None


def test_a_router_of_ipv6_is_asked_by_pcp_for_a_hole() -> None:
    router, own = IPv6Address("fe80::1"), IPv6Address("2001:db8::5")
    mapper = Portmapper(router, own, PORT, entropy, 0.0, [UPNP])
    here = Endpoint(router, 5351)

    def answer(now: float) -> list[str]:
        """Answer all that it asks, as a firewall does; what was asked."""
        asked = []
        while (sent := mapper.poll_transmit(now)) is not None:
            assert isinstance(sent, Datagram) and sent.to == here
            assert (sent.data[0], sent.data[8:24]) == (2, own.packed)
            body = sent.data[24:] and sent.data[24:40] + sent.data[40:42] * 2 + own.packed
            lifetime_s = int.from_bytes(sent.data[4:8], "big")
            asked.append(f"{'map' if body else 'announce'} {lifetime_s}")
            head = struct.pack(
                "!BBBBII12x", 2, 128 + sent.data[1], 0, 0, lifetime_s, 100 + int(now)
            )
            stranger = Endpoint(IPv6Address("fe80::2"), 5351)
            assert not mapper.receive(head + body, stranger, now)
            assert mapper.receive(head + body, here, now)
        return asked

    assert answer(0.01) == ["announce 0", "map 7200"]
    assert mapper.mapping is not None
    assert mapper.mapping.external == Endpoint(own, PORT)
    assert [(o.protocol, o.finding) for o in mapper.outcomes] == [
        (PCP, Finding.MAPPED),
        (UPNP, Finding.DISABLED),
    ]
    assert mapper.drops == {"from another machine than the router": 2}
    mapper.handle_timeout(3600.5)
    assert "map 7200" in answer(3600.5)
    mapper.stop(3601)
    assert answer(3601.1) == ["map 0"]
    assert mapper.settled and mapper.mapping is None


@pytest.mark.parametrize(
    ("text", "reachable"),
    [("2001:db8::5", True), ("2a00::5", True), ("fe80::5", False), ("fd00::5", False)],
)
def test_ipv6_addresses_that_the_internet_reaches(text: str, reachable: bool) -> None:
    assert (why_unreachable(IPv6Address(text)) is None) is reachable
