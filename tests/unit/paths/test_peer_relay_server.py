"""The relay's sessions: who gets one, who is bound, and when it ends."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2s, sha256

from warren.disco.messages import (
    AllocateUDPRelayEndpointRequest,
    BindUDPRelayEndpoint,
    BindUDPRelayEndpointAnswer,
    Ping,
    TxId,
    UDPRelayEndpoint,
)
from warren.keys import DiscoPublic, NodePublic
from warren.netmap.endpoint import Endpoint
from warren.paths.peer_relay import limits
from warren.paths.peer_relay.server import Forward, RelayServer

A, B, EVE, KEY = (DiscoPublic(bytes([n]) * 32) for n in (1, 2, 3, 9))
AT_A, AT_B, AT_EVE, OWN = (Endpoint.parse(f"192.0.2.{n}:{n}00") for n in (1, 2, 3, 9))


def counted() -> Callable[[int], bytes]:
    """Bytes that differ with every call and are the same in every run."""
    calls = iter(range(10**9))
    return lambda size: sha256(b"%d" % next(calls)).digest()[:size]


def make() -> RelayServer:
    """A server that knows its address."""
    server = RelayServer(KEY, counted(), 0.0)
    server.set_addresses([OWN])
    return server


def allocate(
    server: RelayServer, now: float = 0.0, pair: tuple[DiscoPublic, DiscoPublic] = (A, B)
) -> UDPRelayEndpoint:
    """A session, as its first client gets it."""
    answer = server.allocate(AllocateUDPRelayEndpointRequest(pair, 7), pair[0], now)
    assert answer is not None
    assert answer.generation == 7
    return answer.endpoint


def bind(
    server: RelayServer, vni: int, who: DiscoPublic, src: Endpoint, now: float, generation: int = 1
) -> None:
    """The whole handshake of one side."""
    other = B if who == A else A
    server.receive(BindUDPRelayEndpoint(vni, generation, other), who, vni, src, now)
    challenge = server.poll_transmit()
    assert challenge is not None
    assert (challenge.to, challenge.receiver) == (src, who)
    answer = BindUDPRelayEndpointAnswer(*challenge.message)
    server.receive(answer, who, vni, src, now)


def test_a_pair_is_bound_and_forwarded() -> None:
    server = make()
    offer = allocate(server)
    assert offer.server == KEY
    assert offer.endpoints == (OWN,)
    assert 1 <= offer.vni <= limits.VNI_MAX
    bind(server, offer.vni, A, AT_A, 1.0)
    assert server.poll_event() is None
    bind(server, offer.vni, B, AT_B, 2.0)
    assert server.poll_event() == Forward(offer.vni, (AT_A, AT_B))


def test_a_pair_has_one_session_in_whatever_order_it_is_named() -> None:
    server = make()
    first = allocate(server)
    assert allocate(server, 1.0, (B, A)) == first
    assert allocate(server, 1.0, (A, EVE)).vni != first.vni


def test_only_the_two_clients_may_ask_and_bind() -> None:
    server = make()
    request = AllocateUDPRelayEndpointRequest((A, B), 1)
    assert server.allocate(request, EVE, 0.0) is None
    assert server.allocate(AllocateUDPRelayEndpointRequest((A, A), 1), A, 0.0) is None
    assert server.allocate(AllocateUDPRelayEndpointRequest((A, KEY), 1), A, 0.0) is None
    vni = allocate(server).vni
    server.receive(BindUDPRelayEndpoint(vni, 1, B), EVE, vni, AT_EVE, 0.0)
    server.receive(BindUDPRelayEndpoint(vni, 1, EVE), A, vni, AT_A, 0.0)
    server.receive(BindUDPRelayEndpoint(vni + 1, 1, B), A, vni, AT_A, 0.0)
    server.receive(Ping(TxId(bytes(12)), NodePublic.zero()), A, vni, AT_A, 0.0)
    assert server.poll_transmit() is None


def test_nothing_is_offered_before_an_address_is_known() -> None:
    server = RelayServer(KEY, counted(), 0.0)
    assert server.allocate(AllocateUDPRelayEndpointRequest((A, B), 1), A, 0.0) is None
    assert len(server) == 0


def test_an_answer_counts_only_from_the_challenged_address() -> None:
    server = make()
    vni = allocate(server).vni
    bind(server, vni, B, AT_B, 0.0)
    server.receive(BindUDPRelayEndpoint(vni, 1, B), A, vni, AT_A, 0.0)
    challenge = server.poll_transmit()
    assert challenge is not None
    answer = BindUDPRelayEndpointAnswer(*challenge.message)
    server.receive(answer, A, vni, AT_EVE, 0.0)
    server.receive(answer._replace(generation=2), A, vni, AT_A, 0.0)
    server.receive(answer._replace(challenge=bytes(32)), A, vni, AT_A, 0.0)
    assert server.poll_event() is None
    server.receive(answer, A, vni, AT_A, 0.0)
    assert server.poll_event() is not None
    server.receive(answer, A, vni, AT_A, 1.0)
    assert server.dropped["answer of no handshake"] == 2


def test_the_challenge_is_a_keyed_blake2s_of_what_it_binds() -> None:
    server = RelayServer(KEY, lambda size: bytes(range(size)), 0.0)
    server.set_addresses([OWN])
    vni = allocate(server).vni
    server.receive(BindUDPRelayEndpoint(vni, 5, B), A, vni, AT_A, 0.0)
    challenge = server.poll_transmit()
    assert challenge is not None
    text = vni.to_bytes(4, "big") + (5).to_bytes(4, "big") + B.raw + AT_A.pack()
    assert challenge.message.challenge == blake2s(text, key=bytes(range(32))).digest()


def test_the_secret_before_the_last_one_is_good_no_more() -> None:
    for wait_s, accepted in ((limits.SECRET_S + 1, True), (2 * limits.SECRET_S + 1, False)):
        server = make()
        vni = allocate(server).vni
        bind(server, vni, B, AT_B, 0.0)
        server.receive(BindUDPRelayEndpoint(vni, 1, B), A, vni, AT_A, 0.0)
        challenge = server.poll_transmit()
        assert challenge is not None
        server.receive(BindUDPRelayEndpointAnswer(*challenge.message), A, vni, AT_A, wait_s)
        assert (server.poll_event() is not None) is accepted


def test_a_side_that_binds_anew_moves_the_session() -> None:
    server = make()
    vni = allocate(server).vni
    bind(server, vni, A, AT_A, 0.0)
    bind(server, vni, B, AT_B, 0.0)
    server.poll_event()
    bind(server, vni, A, AT_EVE, 1.0, generation=2)
    assert server.poll_event() == Forward(vni, (AT_EVE, AT_B))


def test_sessions_end() -> None:
    server = make()
    vni = allocate(server).vni
    assert server.next_timeout() == (limits.BIND_S, "a session ends")
    server.handle_timeout(limits.BIND_S)
    assert server.clients(vni) is None
    assert server.poll_event() is None

    vni = allocate(server, 100.0).vni
    bind(server, vni, A, AT_A, 100.0)
    bind(server, vni, B, AT_B, 100.0)
    server.poll_event()
    server.note_heard(vni, 10.0, None, 400.0)
    server.handle_timeout(399.9)
    assert server.clients(vni) == (A, B)
    server.handle_timeout(100.0 + limits.STEADY_S)
    assert server.poll_event() == Forward(vni, None)
    assert server.next_timeout() is None


def test_traffic_keeps_a_session() -> None:
    server = make()
    vni = allocate(server).vni
    bind(server, vni, A, AT_A, 0.0)
    bind(server, vni, B, AT_B, 0.0)
    server.note_heard(vni, 1.0, 2.0, 299.0)
    server.handle_timeout(300.0)
    assert server.clients(vni) == (A, B)


def test_one_client_cannot_take_all_sessions() -> None:
    server = make()
    for n in range(limits.SESSIONS_PER_CLIENT_MAX + 5):
        other = DiscoPublic((1000 + n).to_bytes(32, "big"))
        server.allocate(AllocateUDPRelayEndpointRequest((A, other), 1), A, 0.0)
    assert len(server) == limits.SESSIONS_PER_CLIENT_MAX
    assert server.allocate(AllocateUDPRelayEndpointRequest((B, EVE), 1), B, 0.0) is not None


def test_all_sessions_together_are_bounded() -> None:
    server = make()
    for n in range(limits.SESSIONS_MAX + 5):
        client, other = (DiscoPublic((k + n).to_bytes(32, "big")) for k in (10_000, 50_000))
        server.allocate(AllocateUDPRelayEndpointRequest((client, other), 1), client, 0.0)
    assert len(server) == limits.SESSIONS_MAX


def test_closing_ends_what_is_forwarded() -> None:
    server = make()
    vni = allocate(server).vni
    bind(server, vni, A, AT_A, 0.0)
    bind(server, vni, B, AT_B, 0.0)
    server.poll_event()
    server.close()
    assert server.poll_event() == Forward(vni, None)
    assert len(server) == 0


def test_what_the_engine_could_not_yet_pass_on_is_passed_on_here() -> None:
    server = make()
    vni = allocate(server).vni
    bind(server, vni, A, AT_A, 0.0)
    assert server.across(vni, AT_A) is None
    bind(server, vni, B, AT_B, 0.0)
    assert server.across(vni, AT_A) == AT_B
    assert server.across(vni, AT_B) == AT_A
    assert server.across(vni, AT_EVE) is None
    assert server.across(vni + 1, AT_A) is None
