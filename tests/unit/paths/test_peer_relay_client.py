"""A way through a relay for one peer: asked for, bound, pinged, kept and lost."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from warren.disco.messages import (
    AllocateUDPRelayEndpointRequest,
    AllocateUDPRelayEndpointResponse,
    BindUDPRelayEndpoint,
    BindUDPRelayEndpointAnswer,
    BindUDPRelayEndpointChallenge,
    CallMeMaybeVia,
    Ping,
    Pong,
    TxId,
    UDPRelayEndpoint,
)
from warren.keys import DiscoPublic, NodePublic
from warren.netmap.endpoint import Endpoint
from warren.paths import timing
from warren.paths.peer_relay import limits
from warren.paths.peer_relay.client import (
    RelayNode,
    ToPeer,
    ToRelay,
    ViaEvent,
    ViaLease,
    ViaPaths,
    ViaPonged,
)
from warren.paths.peer_relay.handshake import Through
from warren.paths.peer_relay.server import RelayServer

OWN, PEER, SERVER, RELAY_NODE = (DiscoPublic(bytes([n]) * 32) for n in (1, 2, 8, 9))
KEY, PEER_KEY, RELAY_KEY = (NodePublic(bytes([n]) * 32) for n in (11, 12, 19))
AT, ELSEWHERE = Endpoint.parse("198.51.100.20:40000"), Endpoint.parse("198.51.100.99:40000")
RELAY = RelayNode(RELAY_KEY, RELAY_NODE, 1)
OFFER = UDPRelayEndpoint(SERVER, (OWN, PEER), 4, 77, 30 * 10**9, 300 * 10**9, (AT,))
CHALLENGE = bytes(range(32))


def counted() -> Callable[[int], bytes]:
    """Bytes that differ with every call and are the same in every run."""
    calls = iter(range(10**9))
    return lambda size: sha256(b"%d" % next(calls)).digest()[:size]


def make() -> ViaPaths:
    """A machine with one relay."""
    way = ViaPaths(KEY, OWN, PEER, counted())
    way.set_relays([RELAY])
    return way


def said(way: ViaPaths) -> list[ToRelay | ToPeer | Through]:
    """Everything that it wants to send."""
    found = []
    while (item := way.poll_transmit()) is not None:
        found.append(item)
    return found


def leases(way: ViaPaths) -> list[ViaEvent]:
    """Every lease, and whatever else happened."""
    found = []
    while (item := way.poll_event()) is not None:
        found.append(item)
    return found


def call(way: ViaPaths, now: float, offer: UDPRelayEndpoint = OFFER) -> list[BindUDPRelayEndpoint]:
    """The peer tells of a session; what is sent to bind at it."""
    way.receive_call(CallMeMaybeVia(offer), now)
    binds = []
    for item in said(way):
        assert isinstance(item, Through)
        assert item.control
        assert isinstance(item.message, BindUDPRelayEndpoint)
        binds.append(item.message)
    return binds


def answer(way: ViaPaths, bind: BindUDPRelayEndpoint, now: float) -> Ping:
    """The relay challenges; the ping that follows the answer."""
    challenge = BindUDPRelayEndpointChallenge(bind.vni, bind.generation, bind.remote, CHALLENGE)
    way.receive(challenge, SERVER, AT, bind.vni, now)
    first, second = said(way)
    assert isinstance(first, Through)
    assert isinstance(second, Through)
    told = BindUDPRelayEndpointAnswer(bind.vni, bind.generation, bind.remote, CHALLENGE)
    assert (first.to, first.vni, first.receiver, first.message) == (AT, 77, SERVER, told)
    assert (second.to, second.receiver, second.control) == (AT, PEER, False)
    assert isinstance(second.message, Ping)
    return second.message


def connect(way: ViaPaths, now: float) -> None:
    """All the way to a session that works."""
    (bind,) = call(way, now)
    ping = answer(way, bind, now)
    way.receive(Pong(ping.tx_id, AT), PEER, AT, 77, now + 0.02)


def test_relays_are_asked_while_nothing_is_direct() -> None:
    way = make()
    way.note_active(10.0)
    way.handle_timeout(10.0)
    assert said(way) == []
    way.handle_timeout(10.0 + limits.DISCOVER_AFTER_S)
    (asked,) = said(way)
    assert isinstance(asked, ToRelay)
    assert asked.relay == RELAY
    assert asked.message.clients == (OWN, PEER)
    assert asked.message.generation
    way.handle_timeout(10.0 + limits.DISCOVER_AFTER_S + limits.ALLOCATE_RETRY_S)
    assert said(way) == [asked]


def test_no_relay_is_asked_while_a_path_is_direct() -> None:
    way = make()
    way.set_direct(True, 10.0)
    way.note_active(10.0)
    way.handle_timeout(20.0)
    assert said(way) == []
    way.set_direct(False, 20.0)
    way.handle_timeout(20.0 + limits.DISCOVER_AFTER_S)
    assert len(said(way)) == 1


def test_what_a_relay_grants_is_told_and_bound() -> None:
    way = make()
    way.note_active(0.0)
    way.handle_timeout(limits.DISCOVER_AFTER_S)
    (asked,) = said(way)
    assert isinstance(asked, ToRelay)
    generation = asked.message.generation
    wrong = AllocateUDPRelayEndpointResponse(generation + 1, OFFER)
    way.receive_allocated(RELAY_KEY, wrong, 1.0)
    way.receive_allocated(PEER_KEY, AllocateUDPRelayEndpointResponse(generation, OFFER), 1.0)
    assert said(way) == []
    way.receive_allocated(RELAY_KEY, AllocateUDPRelayEndpointResponse(generation, OFFER), 1.0)
    told, bind = said(way)
    assert told == ToPeer(CallMeMaybeVia(OFFER))
    assert isinstance(bind, Through)
    assert (bind.to, bind.vni, bind.receiver, bind.control) == (AT, 77, SERVER, True)


def test_a_session_that_answers_is_leased() -> None:
    way = make()
    connect(way, 5.0)
    assert leases(way) == [ViaLease(AT, 77, int(timing.TRUST_S * 1000))]
    session = way.path(6.0)
    assert session is not None
    assert round(session.latency_s, 3) == 0.02
    assert way.path(5.1 + timing.TRUST_S) is None


def test_a_lost_bind_is_repeated_and_comes_to_an_end() -> None:
    way = make()
    call(way, 0.0)
    sent = []
    for tenth in range(1, 400):
        way.handle_timeout(tenth / 10)
        sent += [tenth / 10 for _ in said(way)]
    assert sent == list(limits.BIND_OFFSETS_S[1:])
    assert way.next_timeout() is None
    assert way.is_idle()


def test_the_peers_ping_is_answered_and_asked_back() -> None:
    way = make()
    ping = Ping(TxId(bytes(12)), PEER_KEY)
    way.receive(ping, PEER, AT, 77, 0.0)
    assert said(way) == []
    (bind,) = call(way, 0.0)
    way.receive(ping, PEER, AT, 77, 0.0)
    assert said(way) == []
    answer(way, bind, 0.0)
    way.receive(ping, PEER, AT, 77, 0.0)
    pong, back = said(way)
    assert pong == Through(AT, 77, PEER, False, Pong(ping.tx_id, AT))
    assert isinstance(back, Through)
    assert isinstance(back.message, Ping)


def test_pings_that_answer_pings_come_to_an_end() -> None:
    way = make()
    (bind,) = call(way, 0.0)
    answer(way, bind, 0.0)
    sent = 0
    for number in range(100):
        way.receive(Ping(TxId(number.to_bytes(12, "big")), PEER_KEY), PEER, AT, 77, number * 0.2)
        sent += sum(isinstance(i, Through) and isinstance(i.message, Ping) for i in said(way))
    assert sent < limits.PINGS_MAX


def test_only_a_challenge_of_this_handshake_is_answered_and_only_one() -> None:
    way = make()
    (bind,) = call(way, 0.0)
    good = BindUDPRelayEndpointChallenge(bind.vni, bind.generation, bind.remote, CHALLENGE)
    for wrong in (good._replace(generation=5), good._replace(vni=78), good._replace(remote=OWN)):
        way.receive(wrong, SERVER, AT, wrong.vni, 0.0)
    way.receive(good, SERVER, ELSEWHERE, 77, 0.0)
    way.receive(good, PEER, AT, 77, 0.0)
    way.receive(good, SERVER, AT, 78, 0.0)
    assert said(way) == []
    answer(way, bind, 0.0)
    way.receive(good, SERVER, AT, 77, 0.0)
    assert said(way) == []


def test_offers_for_others_or_that_can_be_none_are_dropped() -> None:
    way = make()
    for offer in (
        OFFER._replace(clients=(OWN, SERVER)),
        OFFER._replace(vni=0),
        OFFER._replace(vni=1 << 24),
        OFFER._replace(server=OWN),
        OFFER._replace(server=DiscoPublic.zero()),
        OFFER._replace(endpoints=(Endpoint.parse("224.0.0.1:5"), Endpoint.parse("0.0.0.0:5"))),
    ):
        # More than the rate allows at once, so they are spread.
        assert call(way, 10.0 * offer.vni, offer) == []
    assert sum(way.dropped.values()) == 6


def test_calls_are_rate_limited_and_addresses_bounded() -> None:
    way = make()
    many = tuple(Endpoint.parse(f"198.51.100.{n}:7") for n in range(1, 200))
    sent = 0
    for number in range(50):
        server = DiscoPublic((99 + number).to_bytes(32, "big"))
        offer = OFFER._replace(server=server, lamport_id=number, endpoints=many)
        sent += len(call(way, 0.0, offer))
    assert sent == int(limits.CALLS_BURST) * limits.ADDRESSES_MAX


def test_a_newer_session_of_the_same_relay_takes_over() -> None:
    way = make()
    assert call(way, 0.0)
    assert call(way, 1.0) == []
    (bind,) = call(way, 2.0, OFFER._replace(lamport_id=5, vni=78))
    assert bind.vni == 78
    assert not way.awaits(SERVER, 77)


def test_a_session_in_use_is_not_bound_again() -> None:
    way = make()
    connect(way, 0.0)
    assert call(way, 1.0) == []
    assert call(way, 20.0) != []


def test_an_active_session_is_kept_and_left_when_it_dies() -> None:
    way = make()
    way.note_active(0.0)
    connect(way, 0.0)
    leases(way)
    now = 0.0
    pings: list[float] = []
    while way.path(now) is not None and now < 20:
        due = way.next_timeout()
        assert due is not None
        now = due[0]
        way.handle_timeout(now)
        pings += [now for i in said(way) if isinstance(i, Through)]
    assert pings[0] <= timing.BUSY_HEARTBEAT_S + 0.1
    assert now < 3, "left within 3 s"
    assert leases(way) == [ViaLease(None, 0, 0)]


def test_a_dead_session_gives_way_to_another_and_relays_are_asked() -> None:
    way = make()
    way.note_active(0.0)
    connect(way, 0.0)
    for _ in range(100):
        due = way.next_timeout()
        assert due is not None
        if due[0] > 10:
            break
        way.handle_timeout(due[0])
    assert any(isinstance(item, ToRelay) for item in said(way))


def test_an_idle_peer_costs_nothing() -> None:
    way = make()
    way.note_active(0.0)
    connect(way, 0.0)
    now = 0.0
    for _ in range(10_000):
        due = way.next_timeout()
        if due is None:
            break
        now = max(now, due[0])
        way.handle_timeout(now)
        for item in said(way):
            if isinstance(item, Through) and isinstance(item.message, Ping):
                way.receive(Pong(item.message.tx_id, AT), PEER, AT, 77, now + 0.01)
    assert way.next_timeout() is None
    assert now < timing.ACTIVE_S + limits.STEADY_S + 5


def test_two_machines_and_a_server_find_each_other() -> None:
    server = RelayServer(SERVER, counted(), 0.0)
    server.set_addresses([AT])
    keys = {
        OWN: ViaPaths(KEY, OWN, PEER, counted()),
        PEER: ViaPaths(PEER_KEY, PEER, OWN, counted()),
    }
    homes = {OWN: Endpoint.parse("203.0.113.1:1"), PEER: Endpoint.parse("203.0.113.2:2")}
    keys[OWN].set_relays([RELAY])
    keys[OWN].note_active(0.0)
    ends: tuple[Endpoint, Endpoint] | None = None
    for tick in range(400):
        now = tick * 0.01
        for own, way in keys.items():
            other = PEER if own == OWN else OWN
            way.handle_timeout(now)
            for item in said(way):
                if isinstance(item, ToRelay):
                    granted = server.allocate(item.message, own, now)
                    assert granted is not None
                    way.receive_allocated(RELAY_KEY, granted, now)
                elif isinstance(item, ToPeer):
                    keys[other].receive_call(item.message, now)
                elif item.control:
                    server.receive(item.message, own, item.vni, homes[own], now)
                    while (challenge := server.poll_transmit()) is not None:
                        way.receive(challenge.message, SERVER, AT, challenge.vni, now)
                    while (event := server.poll_event()) is not None:
                        ends = event.ends
                elif ends is not None and homes[own] in ends:
                    keys[other].receive(item.message, own, AT, item.vni, now)
    assert all(way.path(3.99) is not None for way in keys.values())


def test_a_request_names_the_pair_sorted() -> None:
    way = ViaPaths(PEER_KEY, PEER, OWN, counted())
    way.set_relays([RELAY])
    way.note_active(0.0)
    way.handle_timeout(1.0)
    (asked,) = said(way)
    assert isinstance(asked, ToRelay)
    assert isinstance(asked.message, AllocateUDPRelayEndpointRequest)
    assert asked.message.clients == (OWN, PEER)


def test_a_persons_ping_goes_through_the_session_in_use() -> None:
    way = make()
    assert way.ping(0.0) is None
    connect(way, 0.0)
    leases(way)
    tx_id = way.ping(1.0)
    assert tx_id is not None
    way.receive(Pong(TxId(bytes(12)), AT), PEER, AT, 77, 1.1)
    way.receive(Pong(tx_id, AT), PEER, ELSEWHERE, 77, 1.1)
    assert leases(way) == []
    way.receive(Pong(tx_id, AT), PEER, AT, 77, 1.25)
    ponged, lease = leases(way)
    assert isinstance(ponged, ViaPonged)
    assert (ponged.tx_id, ponged.rtt_s) == (tx_id, 0.25)
    assert isinstance(lease, ViaLease)
    way.set_direct(True, 2.0)
    assert way.ping(2.0) is None
