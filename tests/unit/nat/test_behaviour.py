"""Examining a NAT, on a virtual clock, against models of every kind and servers good and bad."""

from __future__ import annotations

import pytest
from nat_world import (
    ADDRESS,
    START,
    Nat,
    Server,
    entropy,
    examine,
    full_server,
    plain_server,
    random_ports,
    sequential_ports,
)

from warren.nat.allocation import PortSample, Style, judge
from warren.nat.behaviour import MTUS, Dependence, Discovery
from warren.nat.stun import TxId, parse_header_untrusted
from warren.nat.stun5780 import discovery_response
from warren.nat.votes import is_plausible, weigh
from warren.netmap.endpoint import Endpoint

DEPENDENCE = [Dependence.NOTHING, Dependence.ADDRESS, Dependence.ADDRESS_AND_PORT]


@pytest.mark.parametrize("filtering", [0, 1, 2])
@pytest.mark.parametrize("mapping", [0, 1, 2])
def test_every_pair_of_mapping_and_filtering(mapping: int, filtering: int) -> None:
    nat = Nat(mapping, filtering, random_ports())
    found = examine(nat, [full_server(), plain_server(1)])
    assert (found.mapping, found.filtering) == (DEPENDENCE[mapping], DEPENDENCE[filtering])
    assert found.udp
    assert found.translated
    assert found.ports.style is Style.RANDOM
    assert {mapped.ip for mapped in found.mapped} == {ADDRESS}
    assert found.discovery_server == full_server().first
    assert found.dropped == {}


@pytest.mark.parametrize("filtering", [0, 1, 2])
@pytest.mark.parametrize("mapping", [0, 1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_a_tenth_of_the_packets_may_be_lost(mapping: int, filtering: int, seed: int) -> None:
    """Each question is asked three times: a wrong word about filtering is one run in thousands."""
    found = examine(Nat(mapping, filtering, random_ports()), [full_server()], 0.05, seed)
    assert found.udp
    assert found.mapping in (DEPENDENCE[mapping], Dependence.DESTINATION)


def test_no_nat_at_all() -> None:
    nat = Nat(filtering=0, translates=False)
    found = examine(nat, [full_server()])
    assert found.translated is False
    assert found.filtering is Dependence.NOTHING
    assert found.ports.style is Style.UNKNOWN
    assert found.hairpin is None


def test_a_server_with_another_port_only() -> None:
    server = Server(Endpoint.parse("198.51.100.10:3478"), Endpoint.parse("198.51.100.10:3479"))
    assert examine(Nat(0, 0), [server]).filtering is Dependence.NOT_PORT
    assert examine(Nat(0, 2), [server]).filtering is Dependence.ADDRESS_AND_PORT
    assert examine(Nat(2, 2, random_ports()), [server]).mapping is Dependence.ADDRESS_AND_PORT
    assert examine(Nat(0, 2), [server]).mapping is Dependence.NOT_PORT
    second = plain_server(1)
    assert examine(Nat(0, 2), [server, second]).mapping is Dependence.NOTHING
    assert examine(Nat(1, 2, random_ports()), [server, second]).mapping is Dependence.ADDRESS


def test_plain_servers_tell_mapping_but_not_filtering() -> None:
    servers = [plain_server(n) for n in range(3)]
    found = examine(Nat(0, 0), servers)
    assert (found.mapping, found.filtering) == (Dependence.NOTHING, Dependence.UNKNOWN)
    assert examine(Nat(1, 1, random_ports()), servers).mapping is Dependence.DESTINATION
    assert examine(Nat(0, 0), servers[:1]).mapping is Dependence.UNKNOWN
    assert found.mtu_bytes == 0


@pytest.mark.parametrize("step", [1, 2, -3])
def test_sequential_ports(step: int) -> None:
    found = examine(Nat(2, 2, sequential_ports(step)), [full_server()])
    assert (found.ports.style, found.ports.step) == (Style.SEQUENTIAL, step)


def test_ports_of_a_block() -> None:
    found = examine(Nat(2, 2, random_ports(first=20480, last=22527)), [full_server()])
    assert found.ports.style is Style.BLOCK
    assert found.ports.first <= 20600
    assert found.ports.last >= 22400
    assert found.ports.last - found.ports.first <= 4096


def test_kept_ports() -> None:
    assert examine(Nat(), [full_server()]).ports.style is Style.KEPT


@pytest.mark.parametrize("filtering", [0, 1, 2])
def test_hairpin(filtering: int) -> None:
    assert examine(Nat(0, filtering, hairpin=True), [plain_server(1)]).hairpin is True
    assert examine(Nat(0, filtering), [plain_server(1)]).hairpin is False


def test_udp_blocked_ends_soon() -> None:
    found = examine(Nat(udp=False), [full_server(), plain_server(1)])
    assert not found.udp
    assert found.translated is None
    assert found.mapping is Dependence.UNKNOWN
    assert found.mapped == ()


@pytest.mark.parametrize("mtu_bytes", [1500, 1492, 1420, 1300, 600])
def test_mtu(mtu_bytes: int) -> None:
    found = examine(Nat(mtu_bytes=mtu_bytes), [full_server()])
    assert found.mtu_bytes == max((size for size in MTUS if size <= mtu_bytes), default=0)


def test_the_one_liar_of_three_is_named_and_not_believed() -> None:
    lie = Endpoint.parse("192.0.2.66:6666")
    servers = [full_server(), plain_server(1), plain_server(2)]
    servers[2].says = lie
    found = examine(Nat(0, 2), servers)
    assert found.liars == {servers[2].first: lie}
    assert found.mapping is Dependence.NOTHING
    assert lie not in found.mapped
    assert found.filtering is Dependence.ADDRESS_AND_PORT
    # The same where it is the one that could do the most.
    servers[2].says, servers[0].says = None, lie
    found = examine(Nat(0, 2), servers)
    assert found.liars == {servers[0].first: lie}
    assert found.discovery_server is None
    assert found.filtering is Dependence.UNKNOWN


def test_of_a_symmetric_nat_a_lie_about_the_address_is_seen() -> None:
    servers = [full_server(), plain_server(1), plain_server(2)]
    servers[1].says = Endpoint.parse("192.0.2.66:6666")
    found = examine(Nat(2, 2, random_ports()), servers)
    assert set(found.liars) == {servers[1].first}
    assert found.mapping is Dependence.ADDRESS_AND_PORT


@pytest.mark.parametrize(
    "lie", ["0.0.0.0:5", "224.0.0.1:5", "255.255.255.255:5", "127.0.0.1:5", "169.254.1.1:5",
            "203.0.113.7:0", "[2001:db8::1]:5", "0.1.2.3:4"],
)  # fmt: skip
def test_addresses_that_nobody_has_are_dropped_and_counted(lie: str) -> None:
    servers = [plain_server(1), plain_server(2)]
    servers[0].says = Endpoint.parse(lie)
    found = examine(Nat(), servers)
    assert found.dropped["reserved address"] >= 1
    assert found.answered == (servers[1].first,)


def test_a_server_that_does_not_change_says_nothing_of_filtering() -> None:
    server = full_server()
    server.obeys = False
    found = examine(Nat(0, 2), [server])
    assert found.filtering is Dependence.UNKNOWN
    assert found.dropped["not from elsewhere"] == 2


def test_another_address_that_is_dead_says_nothing_of_filtering() -> None:
    class HalfDead(Server):
        def places(self) -> set[Endpoint]:
            return {self.first}

    alive = full_server()
    found = examine(Nat(0, 2), [HalfDead(alive.first, alive.other)])
    assert found.filtering is Dependence.UNKNOWN
    assert found.mapping is Dependence.UNKNOWN


@pytest.mark.parametrize("other", ["127.0.0.1:22", "224.0.0.1:5000", "169.254.1.1:3479"])
def test_a_server_cannot_aim_us_at_reserved_addresses(other: str) -> None:
    check = Discovery([plain_server(1).first], [1, 2, 3, 4], set(), entropy(), START)
    sent = check.poll_transmit()
    assert sent is not None
    tx_id = parse_header_untrusted(sent.data)[1]
    mapped = Endpoint.parse("203.0.113.7:1")
    answer = discovery_response(tx_id, mapped, sent.to, Endpoint.parse(other))
    assert check.receive(0, answer, sent.to, START + 0.01)
    check.handle_timeout(START + 1)
    asked = set()
    while (sent := check.poll_transmit()) is not None:
        asked.add(sent.to.ip)
    assert asked == {plain_server(1).first.ip}


def test_spoofed_and_replayed_answers_are_dropped_and_counted() -> None:
    server = plain_server(1).first
    check = Discovery([server], [1, 2, 3, 4], set(), entropy(), START)
    sent = check.poll_transmit()
    assert sent is not None
    tx_id = parse_header_untrusted(sent.data)[1]
    mapped = Endpoint.parse("203.0.113.7:1")
    answer = discovery_response(tx_id, mapped)
    stranger = Endpoint.parse("192.0.2.9:3478")
    assert not check.receive(0, answer, stranger, START)
    assert not check.receive(1, answer, server, START), "another socket"
    assert not check.receive(0, discovery_response(TxId(b"x" * 12), mapped), server, START)
    assert not check.receive(0, answer[:-1], server, START)
    assert not check.receive(0, b"", server, START)
    assert not check.receive(0, sent.data, server, START), "our own question"
    assert check.receive(0, answer, server, START + 0.01)
    assert not check.receive(0, answer, server, START + 0.02), "a replay"
    now = START
    while (due := check.next_timeout()) is not None:
        now = due[0]
        check.handle_timeout(now)
    found = check.poll_event()
    assert found is not None
    assert found.dropped == {"wrong source": 3, "unknown transaction": 2, "malformed": 2}
    assert now - START < 4.1


def test_what_is_sent_is_bounded() -> None:
    servers = [plain_server(n).first for n in range(200)]
    check = Discovery(servers, list(range(1, 100)), set(), entropy(), START)
    count, largest = 0, 0
    while (due := check.next_timeout()) is not None:
        check.handle_timeout(due[0])
        while (sent := check.poll_transmit()) is not None:
            count += 1
            largest = max(largest, len(sent.data))
    assert count == 15
    assert largest == 40


def test_two_that_disagree_are_both_believed() -> None:
    a, b, c = (plain_server(n).first for n in range(3))
    one, two = Endpoint.parse("203.0.113.7:1"), Endpoint.parse("203.0.113.7:2")
    assert weigh({a: one, b: two}).liars == {}
    assert weigh({a: one, b: two, c: one}) == ({a: one, c: one}, {b: two})
    assert weigh({}).believed == {}


@pytest.mark.parametrize(
    "said", ["240.1.2.3", "10.0.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "0.1.2.3"]
)
def test_nobody_on_the_internet_sees_us_at_an_address_that_is_not_there(said: str) -> None:
    public, inside = Endpoint.parse("9.9.9.9:3478"), Endpoint.parse("10.0.0.53:3478")
    assert not is_plausible(Endpoint.parse(f"{said}:5"), public)
    assert is_plausible(Endpoint.parse("8.8.4.4:5"), public)
    assert is_plausible(Endpoint.parse(f"{said}:5"), inside) is (said[:2] not in ("24", "0."))


def test_loopback_is_plausible_only_from_loopback() -> None:
    assert is_plausible(Endpoint.parse("127.0.0.1:5"), Endpoint.parse("127.0.0.1:3478"))
    assert not is_plausible(Endpoint.parse("127.0.0.1:5"), plain_server(1).first)


def test_few_samples_say_nothing() -> None:
    assert judge([]).style is Style.UNKNOWN
    assert judge([PortSample(1, 2000)] * 9).style is Style.UNKNOWN
    assert judge([PortSample(n, 2000 + 300 * n % 977) for n in range(3)]).style is Style.UNKNOWN


def test_sequence_with_gaps_and_one_jump() -> None:
    ports = [2000, 2001, 2004, 2005, 2009, 2010, 60000, 60001, 60004]
    assert judge([PortSample(1, port) for port in ports]).style is Style.SEQUENTIAL
