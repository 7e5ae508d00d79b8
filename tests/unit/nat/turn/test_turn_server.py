"""The TURN server's machine: who may come, what is granted, what is never relayed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from turn_world import ALICE, BOB, PEER, PEER_V6, RELAY_V4, RELAY_V6, World, flow_of

from warren.nat.stun import TxId
from warren.nat.turn.allocation import Flow, ToPeer, Transport
from warren.nat.turn.credentials import Credentials, TimedAccounts, long_term_key, timed_credentials
from warren.nat.turn.events import Allocated, Failed, Received, Refused
from warren.nat.turn.framing import encode_channel_data
from warren.nat.turn.message import Message, encode_message, parse_message_untrusted, peer_value
from warren.nat.turn.numbers import Algorithm, Attribute, Class, Method
from warren.netmap.endpoint import Endpoint

TX = TxId(bytes(range(12)))
UDP_WANTED = (int(Attribute.REQUESTED_TRANSPORT), b"\x11\0\0\0")


class Asker:
    """A client that says exactly what a test wants."""

    def __init__(self, world: World, flow: Flow, credentials: Credentials = ALICE) -> None:
        self.world, self.flow, self.credentials = world, flow, credentials
        self.nonce = b""
        self.realm = "warren"
        self.count = 0

    def sign(
        self, method: Method, *attributes: tuple[int, bytes], tx_id: TxId | None = None
    ) -> bytes:
        name, password = self.credentials
        self.count += 1
        key = long_term_key(name, self.realm, password, Algorithm.MD5)
        signed = [
            *attributes,
            (Attribute.USERNAME, name.encode()),
            (Attribute.REALM, self.realm.encode()),
            (Attribute.NONCE, self.nonce),
        ]
        return encode_message(
            method, Class.REQUEST, tx_id or TxId(self.count.to_bytes(12, "big")), signed, key
        )

    def ask(self, method: Method, *attributes: tuple[int, bytes]) -> Message:
        if not self.nonce:
            bare = encode_message(Method.ALLOCATE, Class.REQUEST, TX, [UDP_WANTED])
            challenge = parse_message_untrusted(self.world.ask(self.flow, bare)[0])
            self.nonce = challenge.get(Attribute.NONCE) or b""
        (answer,) = self.world.ask(self.flow, self.sign(method, *attributes))
        return parse_message_untrusted(answer)

    def code(self, method: Method, *attributes: tuple[int, bytes]) -> int:
        """Ask; return the error code, 0 for success."""
        answer = self.ask(method, *attributes)
        if answer.kind is Class.SUCCESS:
            return 0
        return answer.error()[0]

    def peer(self, endpoint: Endpoint) -> tuple[int, bytes]:
        return peer_value(endpoint, TxId((self.count + 1).to_bytes(12, "big")))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def asker(world: World) -> Asker:
    made = Asker(world, flow_of())
    assert made.code(Method.ALLOCATE, UDP_WANTED) == 0
    return made


def channel(number: int) -> tuple[int, bytes]:
    return Attribute.CHANNEL_NUMBER, number.to_bytes(2, "big") + bytes(2)


def family(number: int) -> tuple[int, bytes]:
    return Attribute.REQUESTED_ADDRESS_FAMILY, bytes([number, 0, 0, 0])


def test_nobody_gets_more_back_than_a_trickle_without_a_signature(world: World) -> None:
    bare = encode_message(Method.ALLOCATE, Class.REQUEST, TX, [UDP_WANTED])
    sent = received = 0
    for _ in range(20_000):
        world.now += 0.001
        sent += len(bare)
        received += sum(len(answer) for answer in world.ask(flow_of(), bare))
    # 20 s of a flood from one forged address: 130 answers.
    assert received < sent / 10
    assert world.server.counters.silenced > 19_000
    assert len(world.server) == 0 and not world.open


def test_streams_are_not_silenced_since_they_cannot_be_forged(world: World) -> None:
    bare = encode_message(Method.ALLOCATE, Class.REQUEST, TX, [UDP_WANTED])
    flow = flow_of(1, Transport.TCP)
    assert sum(len(world.ask(flow, bare)) for _ in range(100)) == 100


def test_a_binding_request_is_answered(world: World) -> None:
    (answer,) = world.ask(flow_of(), encode_message(Method.BINDING, Class.REQUEST, TX, []))
    message = parse_message_untrusted(answer)
    assert message.endpoint(Attribute.XOR_MAPPED_ADDRESS) == flow_of().client
    change = encode_message(Method.BINDING, Class.REQUEST, TX, [(0x0003, bytes(4))])
    assert parse_message_untrusted(world.ask(flow_of(), change)[0]).error()[0] == 420


def test_signatures(world: World) -> None:
    asker = Asker(world, flow_of())
    wrong, stranger = Credentials("alice", "x"), Credentials("nobody", "x")
    for credentials in (wrong, stranger):
        bad = Asker(world, flow_of(), credentials)
        assert bad.code(Method.ALLOCATE, UDP_WANTED) == 401
    asker.nonce = b"obMatJos2AAAB" + b"0" * 32
    assert asker.code(Method.ALLOCATE, UDP_WANTED) == 438
    asker.nonce = b""
    assert asker.code(Method.ALLOCATE, (0x7777, b"")) == 420
    elsewhere = Asker(world, flow_of(2))
    elsewhere.nonce = asker.nonce
    assert elsewhere.code(Method.ALLOCATE, UDP_WANTED) == 438
    asker.realm = "elsewhere"
    assert asker.code(Method.ALLOCATE, UDP_WANTED) == 401
    asker.realm = "warren"
    world.now += 601
    assert asker.code(Method.ALLOCATE, UDP_WANTED) == 438
    assert len(world.server) == 0 and world.server.counters.unauthenticated >= 7


def test_a_signature_without_a_name_is_a_bad_request(world: World) -> None:
    data = encode_message(Method.ALLOCATE, Class.REQUEST, TX, [UDP_WANTED], bytes(16))
    assert parse_message_untrusted(world.ask(flow_of(), data)[0]).error()[0] == 400


def test_a_removed_choice_of_algorithms_is_noticed(world: World) -> None:
    asker = Asker(world, flow_of())
    asker.ask(Method.ALLOCATE, (0x7777, b""))
    weaker = (int(Attribute.PASSWORD_ALGORITHMS), b"\0\1\0\0")
    chosen = (int(Attribute.PASSWORD_ALGORITHM), b"\0\1\0\0")
    assert asker.code(Method.ALLOCATE, UDP_WANTED, weaker, chosen) == 400
    assert asker.code(Method.ALLOCATE, UDP_WANTED, chosen) == 400


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ([], 400),
        ([(Attribute.REQUESTED_TRANSPORT, b"")], 400),
        ([(Attribute.REQUESTED_TRANSPORT, b"\6\0\0\0")], 442),
        ([UDP_WANTED, family(3)], 440),
        ([UDP_WANTED, (Attribute.DONT_FRAGMENT, b"")], 420),
        ([UDP_WANTED, (Attribute.LIFETIME, b"\0")], 400),
        ([UDP_WANTED, (Attribute.RESERVATION_TOKEN, bytes(8))], 508),
        ([UDP_WANTED, family(1), (Attribute.RESERVATION_TOKEN, bytes(8))], 400),
        ([UDP_WANTED, family(1), (Attribute.ADDITIONAL_ADDRESS_FAMILY, b"\2\0\0\0")], 400),
        ([UDP_WANTED, (Attribute.ADDITIONAL_ADDRESS_FAMILY, b"\1\0\0\0")], 400),
        ([UDP_WANTED, (Attribute.EVEN_PORT, b"")], 400),
    ],
)
def test_allocations_that_are_refused(
    world: World, attributes: list[tuple[int, bytes]], code: int
) -> None:
    assert Asker(world, flow_of()).code(Method.ALLOCATE, *attributes) == code
    assert len(world.server) == 0 and not world.open


def test_a_second_allocation_is_refused_but_a_repeated_request_gets_its_answer(
    world: World, asker: Asker
) -> None:
    assert asker.code(Method.ALLOCATE, UDP_WANTED) == 437
    other = Asker(world, flow_of(2))
    other.ask(Method.ALLOCATE, (0x7777, b""))
    request = other.sign(Method.ALLOCATE, UDP_WANTED)
    assert world.ask(other.flow, request) == world.ask(other.flow, request)
    assert len(world.server) == 2 == len(world.open)


def test_quotas() -> None:
    world = World(max_per_user=2, max_allocations=3)
    codes = [Asker(world, flow_of(n)).code(Method.ALLOCATE, UDP_WANTED) for n in range(1, 4)]
    assert codes == [0, 0, 486]
    codes = [Asker(world, flow_of(n), BOB).code(Method.ALLOCATE, UDP_WANTED) for n in range(4, 6)]
    assert codes == [0, 508]
    assert world.server.counters.refused_quota == 2
    bare = World()
    bare.ports_left = 0
    assert Asker(bare, flow_of()).code(Method.ALLOCATE, UDP_WANTED) == 508
    assert len(bare.server) == 0 and not bare.open


def test_pairs_of_ports(world: World) -> None:
    first = Asker(world, flow_of(1))
    answer = first.ask(Method.ALLOCATE, UDP_WANTED, (Attribute.EVEN_PORT, b"\x80"))
    relayed = answer.endpoint(Attribute.XOR_RELAYED_ADDRESS)
    token = answer.get(Attribute.RESERVATION_TOKEN)
    assert relayed is not None and token is not None and relayed.port % 2 == 0
    reserved = (int(Attribute.RESERVATION_TOKEN), token)
    assert Asker(world, flow_of(2), BOB).code(Method.ALLOCATE, UDP_WANTED, reserved) == 508
    second = Asker(world, flow_of(3)).ask(Method.ALLOCATE, UDP_WANTED, reserved)
    assert second.endpoint(Attribute.XOR_RELAYED_ADDRESS) == Endpoint(RELAY_V4, relayed.port + 1)
    Asker(world, flow_of(4)).ask(Method.ALLOCATE, UDP_WANTED, (Attribute.EVEN_PORT, b"\x80"))
    assert len(world.open) == 4
    world.after(32)
    assert len(world.open) == 3


def test_both_families_in_one_allocation(world: World) -> None:
    both = (int(Attribute.ADDITIONAL_ADDRESS_FAMILY), b"\2\0\0\0")
    asker = Asker(world, flow_of())
    answer = asker.ask(Method.ALLOCATE, UDP_WANTED, both)
    found = answer.endpoints(Attribute.XOR_RELAYED_ADDRESS)
    assert [endpoint.ip for endpoint in found] == [RELAY_V4, RELAY_V6]
    assert asker.code(Method.CREATE_PERMISSION, asker.peer(PEER_V6)) == 0
    assert asker.code(Method.REFRESH, family(1), (Attribute.LIFETIME, bytes(4))) == 0
    assert asker.code(Method.CREATE_PERMISSION, asker.peer(PEER)) == 443
    assert asker.code(Method.REFRESH, family(1), (Attribute.LIFETIME, bytes(4))) == 443
    assert asker.code(Method.REFRESH, family(2), (Attribute.LIFETIME, bytes(4))) == 0
    assert len(world.server) == 0 and not world.open


@pytest.mark.parametrize("text", ["127.0.0.1:22", "10.0.0.1:1", "169.254.9.9:80", "224.0.0.1:9"])
def test_peers_that_are_out_of_reach(asker: Asker, text: str) -> None:
    peer = Endpoint.parse(text)
    assert asker.code(Method.CREATE_PERMISSION, asker.peer(peer)) == 403
    assert asker.code(Method.CHANNEL_BIND, channel(0x4000), asker.peer(peer)) == 403
    # One forbidden peer among others: nothing is granted.
    assert asker.code(Method.CREATE_PERMISSION, asker.peer(PEER), asker.peer(peer)) == 403
    send(asker, PEER, b"x")
    send(asker, peer, b"x")
    assert not asker.world.to_peers


def test_requests_about_peers_that_are_refused(asker: Asker) -> None:
    assert asker.code(Method.CREATE_PERMISSION) == 400
    assert asker.code(Method.CREATE_PERMISSION, asker.peer(PEER_V6)) == 443
    assert asker.code(Method.CREATE_PERMISSION, (Attribute.XOR_PEER_ADDRESS, b"\0\1")) == 400
    assert asker.code(Method.CHANNEL_BIND, channel(0x4000)) == 400
    for number in (0, 0x3FFF, 0x7FFF, 0xFFFF):
        assert asker.code(Method.CHANNEL_BIND, channel(number), asker.peer(PEER)) == 400
    assert asker.code(Method.CHANNEL_BIND, channel(0x4000), asker.peer(PEER)) == 0
    assert asker.code(Method.CHANNEL_BIND, channel(0x4000), asker.peer(PEER)) == 0
    assert asker.code(Method.CHANNEL_BIND, channel(0x4001), asker.peer(PEER)) == 400
    other = Endpoint(PEER.ip, PEER.port + 1)
    assert asker.code(Method.CHANNEL_BIND, channel(0x4000), asker.peer(other)) == 400
    assert asker.code(Method.CHANNEL_BIND, channel(0x4002), asker.peer(Endpoint(PEER.ip, 0))) == 400
    nobody = Asker(asker.world, flow_of(5))
    assert nobody.code(Method.CREATE_PERMISSION, nobody.peer(PEER)) == 437


def test_what_one_allocation_holds_is_bounded() -> None:
    world = World(max_permissions=3, max_channels=2)
    asker = Asker(world, flow_of())
    assert asker.code(Method.ALLOCATE, UDP_WANTED) == 0
    peers = [Endpoint.parse(f"9.9.9.{n}:9") for n in range(1, 6)]
    assert asker.code(Method.CHANNEL_BIND, channel(0x4000), asker.peer(peers[0])) == 0
    assert asker.code(Method.CHANNEL_BIND, channel(0x4001), asker.peer(peers[1])) == 0
    assert asker.code(Method.CHANNEL_BIND, channel(0x4002), asker.peer(peers[2])) == 508
    assert asker.code(Method.CREATE_PERMISSION, asker.peer(peers[3])) == 0
    assert asker.code(Method.CREATE_PERMISSION, asker.peer(peers[4])) == 508
    world.after(301)
    assert asker.code(Method.CREATE_PERMISSION, asker.peer(peers[4])) == 0


def send(asker: Asker, peer: Endpoint, data: bytes, *more: tuple[int, bytes]) -> None:
    attributes = [peer_value(peer, TX), (int(Attribute.DATA), data), *more]
    asker.world.ask(asker.flow, encode_message(Method.SEND, Class.INDICATION, TX, attributes))


def test_data_needs_a_permission_and_that_ends(asker: Asker) -> None:
    world = asker.world
    (relayed,) = world.open
    send(asker, PEER, b"early")
    assert asker.code(Method.CREATE_PERMISSION, asker.peer(PEER)) == 0
    send(asker, PEER, b"right")
    send(asker, Endpoint(PEER.ip, 7), b"another port")
    send(asker, PEER, b"do not fragment", (Attribute.DONT_FRAGMENT, b""))
    assert [one.data for one in world.to_peers] == [b"right", b"another port"]
    world.server.receive_from_peer(relayed, PEER, b"back", world.now)
    world.server.receive_from_peer(relayed, Endpoint.parse("9.9.9.8:99"), b"who", world.now)
    world.answers.clear()
    world.run()
    (answer,) = world.answers
    message = parse_message_untrusted(answer.data)
    assert message.kind is Class.INDICATION and message.get(Attribute.DATA) == b"back"
    assert message.endpoint(Attribute.XOR_PEER_ADDRESS) == PEER
    world.after(301)
    send(asker, PEER, b"late")
    world.server.receive_from_peer(relayed, PEER, b"late", world.now)
    assert len(world.to_peers) == 2 and world.server.poll_transmit() is None
    assert world.server.counters.dropped_unpermitted == 4


def test_a_channel_carries_both_ways_and_outlives_its_permission_for_nobody(asker: Asker) -> None:
    world = asker.world
    (relayed,) = world.open
    assert asker.code(Method.CHANNEL_BIND, channel(0x4000), asker.peer(PEER)) == 0
    world.ask(asker.flow, encode_channel_data(0x4000, b"there", padded=False))
    world.ask(asker.flow, encode_channel_data(0x4001, b"unbound", padded=False))
    world.ask(flow_of(9), encode_channel_data(0x4000, b"a stranger's", padded=False))
    assert world.to_peers == [ToPeer(relayed, PEER, b"there")]
    world.server.receive_from_peer(relayed, PEER, b"back", world.now)
    world.answers.clear()
    world.run()
    assert world.answers[0].data == b"\x40\0\0\4back"
    world.after(301)  # the permission has ended, the channel not
    world.ask(asker.flow, encode_channel_data(0x4000, b"late", padded=False))
    assert len(world.to_peers) == 1


def test_the_servers_own_address_is_reached_only_where_a_client_is(world: World) -> None:
    for flow in (flow_of(1), flow_of(2)):
        world.client(flow)
    here, there = (event for flow in world.clients for event in world.told(flow))
    assert isinstance(here, Allocated) and isinstance(there, Allocated)
    one, two = world.clients.values()
    one.permit(RELAY_V4, world.now)
    two.permit(RELAY_V4, world.now)
    world.run()
    for port in (22, 53, 3478, 8080):
        assert one.send(Endpoint(RELAY_V4, port), b"to a service of the server")
    assert one.send(there.relayed, b"to a neighbour")
    world.run()
    assert not world.to_peers and world.server.counters.refused_peers == 4
    assert world.told(flow_of(2))[-1] == Received(here.relayed, b"to a neighbour")


def test_a_user_cannot_send_faster_than_its_rate() -> None:
    world = World(bytes_per_s=10_000)
    asker = Asker(world, flow_of())
    asker.ask(Method.ALLOCATE, UDP_WANTED)
    asker.ask(Method.CREATE_PERMISSION, asker.peer(PEER))
    second = Asker(world, flow_of(2))
    second.ask(Method.ALLOCATE, UDP_WANTED)
    second.ask(Method.CREATE_PERMISSION, second.peer(PEER))
    for _ in range(10):
        send(asker, PEER, bytes(1000))
        send(second, PEER, bytes(1000))
    assert len(world.to_peers) == 10 and world.server.counters.dropped_rate == 10


def test_refresh_and_its_end(asker: Asker) -> None:
    world = asker.world
    world.after(500)
    asker.ask(Method.REFRESH, (Attribute.LIFETIME, (1 << 31).to_bytes(4, "big")))
    world.after(2000)
    assert len(world.server) == 1
    asker.nonce = b""
    asker.ask(Method.REFRESH)
    world.after(602)
    assert len(world.server) == 0 and not world.open
    assert world.server.next_timeout() is None
    asker.nonce = b""
    assert asker.code(Method.REFRESH) == 437


def test_only_the_same_user_may_change_an_allocation(asker: Asker) -> None:
    asker.credentials = BOB
    assert asker.code(Method.REFRESH, (Attribute.LIFETIME, bytes(4))) == 441
    asker.credentials = ALICE
    assert asker.code(Method.REFRESH, (Attribute.LIFETIME, bytes(4))) == 0
    assert not asker.world.open
    assert asker.code(Method.REFRESH, (Attribute.LIFETIME, bytes(4))) == 437


def test_time_limited_names_are_one_user_and_end(world: World) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    wall, known = [start], {"node7"}
    accounts = TimedAccounts([b"s3cret"], lambda: wall[0], known.__contains__)
    world = World(accounts, max_per_user=1)
    end = int(start.timestamp()) + 60
    asker = Asker(world, flow_of(), timed_credentials(b"s3cret", "node7", end))
    assert asker.code(Method.ALLOCATE, UDP_WANTED) == 0
    newer = timed_credentials(b"s3cret", "node7", end + 600)
    assert Asker(world, flow_of(2), newer).code(Method.ALLOCATE, UDP_WANTED) == 486
    wall[0] += timedelta(seconds=61)
    assert asker.code(Method.REFRESH) == 401
    asker.credentials = newer
    assert asker.code(Method.REFRESH) == 0
    known.clear()
    assert asker.code(Method.REFRESH) == 401
    for name in ("node7", ":node7", "x:node7", "99999999999999:node7", "-1:node7"):
        asker.credentials = Credentials(name, "x")
        assert asker.code(Method.REFRESH) == 401


def test_a_streams_allocation_goes_with_it(world: World) -> None:
    flow = flow_of(1, Transport.TLS)
    world.client(flow)
    assert len(world.open) == 1 and flow in world.server
    world.server.gone(flow)
    del world.clients[flow]
    world.run()
    assert not world.open and flow not in world.server


def test_a_stream_that_ends_before_its_socket_is_open_leaves_nothing(world: World) -> None:
    asker = Asker(world, flow_of(1, Transport.TCP))
    asker.ask(Method.ALLOCATE, (0x7777, b""))
    world.server.receive(asker.flow, asker.sign(Method.ALLOCATE, UDP_WANTED), world.now)
    world.server.gone(asker.flow)
    world.run()
    assert not world.open and len(world.server) == 0


def test_garbage_is_counted_and_leaves_nothing(world: World) -> None:
    import random

    generator = random.Random(2)
    for _ in range(2000):
        world.ask(flow_of(), generator.randbytes(generator.randrange(100)))
    counters = world.server.counters
    assert counters.malformed + counters.unexpected == 2000
    for method, kind in (
        (Method.DATA, Class.INDICATION),
        (Method.ALLOCATE, Class.SUCCESS),
        (Method.SEND, Class.ERROR),
    ):
        world.ask(flow_of(), encode_message(method, kind, TX, []))
    assert world.server.counters.unexpected >= 3
    assert not world.answers and len(world.server) == 0


def test_the_client_is_told_what_was_refused(world: World) -> None:
    world.client(flow_of(), Credentials("alice", "wrong"))
    (failed,) = world.told(flow_of())
    assert isinstance(failed, Failed) and failed.code == 401
    client = world.client(flow_of(2))
    world.told(flow_of(2))
    client.open_channel(Endpoint.parse("10.0.0.1:5"), world.now)
    world.run()
    (refused,) = world.told(flow_of(2))
    assert isinstance(refused, Refused) and refused.code == 403
