"""The TURN client's machine: its timers, and what it does not believe."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest
from turn_world import ALICE, BOB, PEER, PEER_V6, RELAY_V4, RELAY_V6, World, flow_of

from warren.nat.stun import TxId, encode_xor_address
from warren.nat.turn.allocation import Transport
from warren.nat.turn.client import TurnClient
from warren.nat.turn.credentials import Credentials, long_term_key
from warren.nat.turn.events import (
    Allocated,
    Cause,
    ChannelOpen,
    Failed,
    Lost,
    Permitted,
    Received,
    Released,
)
from warren.nat.turn.framing import encode_channel_data
from warren.nat.turn.holdings import MAX_PEERS
from warren.nat.turn.message import Message, encode_message, parse_message_untrusted
from warren.nat.turn.numbers import Algorithm, Attribute, Class, Method
from warren.netmap.endpoint import Endpoint

REALM = (int(Attribute.REALM), b"somewhere")
NONCE = (int(Attribute.NONCE), b"0123456789")
RELAYED, MAPPED = Endpoint.parse("8.8.4.4:50000"), Endpoint.parse("7.7.7.1:1001")


class Lonely:
    """A client whose server is played by the test."""

    def __init__(
        self, credentials: Credentials = ALICE, reliable: bool = False, family: int = 4
    ) -> None:
        entropy = random.Random(3).randbytes
        self.client = TurnClient(credentials, entropy, 0.0, reliable=reliable, family=family)
        self.key = long_term_key(*ALICE[:1], "somewhere", ALICE.password, Algorithm.MD5)

    def sent(self) -> list[Message]:
        found = []
        while (data := self.client.poll_transmit()) is not None:
            found.append(parse_message_untrusted(data))
        return found

    def told(self) -> list[object]:
        found: list[object] = []
        while (event := self.client.poll_event()) is not None:
            found.append(event)
        return found

    def refuse(
        self, request: Message, code: int, *more: tuple[int, bytes], key: bytes | None = None
    ) -> None:
        value = (int(Attribute.ERROR_CODE), bytes([0, 0, code // 100, code % 100]))
        data = encode_message(request.method, Class.ERROR, request.tx_id, [value, *more], key)
        self.client.receive(data, 1.0)

    def grant(
        self, request: Message, relayed: Endpoint = RELAYED, key: bytes | None = None
    ) -> None:
        attributes = [
            (int(Attribute.XOR_RELAYED_ADDRESS), encode_xor_address(relayed, request.tx_id)),
            (Attribute.XOR_MAPPED_ADDRESS, encode_xor_address(MAPPED, request.tx_id)),
            (Attribute.LIFETIME, (600).to_bytes(4, "big")),
        ]
        data = encode_message(request.method, Class.SUCCESS, request.tx_id, attributes, key)
        self.client.receive(data, 1.0)

    def challenged(self) -> Message:
        """Return the signed request that answers a challenge."""
        self.refuse(self.sent()[0], 401, REALM, NONCE)
        return self.sent()[0]


def unanswered(lonely: Lonely, began: float = 0.0) -> list[float]:
    """Let nobody answer; return when each try was given up, in seconds from the first."""
    times = []
    while (due := lonely.client.next_timeout()) is not None:
        if lonely.sent():
            times.append(due - began)
        lonely.client.handle_timeout(due)
    assert lonely.told() == [Failed(Cause.NO_ANSWER)] and lonely.client.ended
    return times


def test_how_often_and_how_long_a_silent_server_is_asked() -> None:
    assert unanswered(Lonely()) == [0.5, 1.5, 3.5, 7.5, 15.5]
    for ask, times in (
        (lambda client: client.check(1.0), [0.5, 1.5, 3.5, 7.5]),
        (
            lambda client: client.permit(PEER.ip, 1.0),
            [0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 39.5],
        ),
    ):
        lonely = Lonely()
        lonely.grant(lonely.challenged(), key=lonely.key)
        assert isinstance(lonely.told()[0], Allocated)
        ask(lonely.client)
        assert unanswered(lonely, began=1.0) == times


def test_who_leaves_gives_back_what_may_just_be_granted() -> None:
    lonely = Lonely()
    lonely.client.close(1.0)
    assert lonely.told() == [Released()] and len(lonely.sent()) == 1, "nobody knows us yet"
    lonely = Lonely()
    lonely.challenged()
    lonely.client.close(1.0)
    (freed,) = lonely.sent()
    assert (freed.method, freed.number(Attribute.LIFETIME, 4)) == (Method.REFRESH, 0)


def test_over_a_stream_nothing_is_sent_again() -> None:
    lonely = Lonely(reliable=True)
    assert len(lonely.sent()) == 1 and lonely.client.next_timeout() == 15.5
    lonely.client.handle_timeout(15.5)
    assert not lonely.sent() and lonely.told() == [Failed(Cause.NO_ANSWER)]


def test_answers_that_are_forged_are_not_believed() -> None:
    lonely = Lonely()
    request = lonely.challenged()
    assert request.verifies(lonely.key, "sha1")
    lonely.grant(request)  # unsigned
    lonely.grant(request, key=bytes(16))
    lonely.refuse(request, 486)  # unsigned
    lonely.refuse(request, 486, key=bytes(16))
    lonely.refuse(request, 401, REALM, NONCE, key=bytes(16))
    assert lonely.client.counters.forged == 5 and not lonely.told()
    lonely.grant(request, key=lonely.key)
    assert lonely.told() == [Allocated(RELAYED, MAPPED, 600)]


@pytest.mark.parametrize("text", ["0.0.0.0:5", "224.0.0.1:5", "8.8.4.4:0", "[ff02::1]:5"])
def test_a_relayed_address_that_cannot_be_one(text: str) -> None:
    lonely = Lonely()
    request = lonely.challenged()
    lonely.grant(request, Endpoint.parse(text), lonely.key)
    assert lonely.client.counters.malformed == 1 and not lonely.told()


def test_a_challenge_whose_choice_of_algorithms_was_removed_is_not_followed() -> None:
    lonely = Lonely()
    lonely.refuse(lonely.sent()[0], 401, REALM, (Attribute.NONCE, b"obMatJos2AAABrest"))
    (failed,) = lonely.told()
    assert isinstance(failed, Failed) and failed.cause is Cause.PROTOCOL
    assert not lonely.sent()


@pytest.mark.parametrize(
    "attributes",
    [
        [],
        [REALM],
        [NONCE],
        [(Attribute.REALM, b"\xff"), NONCE],
        [(Attribute.REALM, b""), NONCE],
        [REALM, (Attribute.NONCE, b"")],
        [REALM, (Attribute.NONCE, bytes(764))],
        [(Attribute.REALM, b"r" * 764), NONCE],
        [REALM, (Attribute.NONCE, b"obMatJos2AAABx"), (Attribute.PASSWORD_ALGORITHMS, b"\0")],
        [REALM, (Attribute.NONCE, b"obMatJos2AAABx"), (Attribute.PASSWORD_ALGORITHMS, b"\0\7\0\0")],
    ],
)
def test_bad_challenges_end_the_client(attributes: list[tuple[int, bytes]]) -> None:
    lonely = Lonely()
    lonely.refuse(lonely.sent()[0], 401, *attributes)
    (failed,) = lonely.told()
    assert isinstance(failed, Failed) and failed.cause is Cause.PROTOCOL


def test_a_server_that_only_challenges_is_left() -> None:
    lonely = Lonely()
    for _ in range(10):
        for request in lonely.sent():
            lonely.refuse(request, 438, REALM, NONCE)
    (failed,) = lonely.told()
    assert isinstance(failed, Failed) and failed.cause is Cause.PROTOCOL


def test_our_own_bad_credentials_are_said_to_be_so() -> None:
    lonely = Lonely(Credentials("", "x"))
    lonely.refuse(lonely.sent()[0], 401, REALM, NONCE)
    (failed,) = lonely.told()
    assert isinstance(failed, Failed) and failed.cause is Cause.CREDENTIALS


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (401, Cause.CREDENTIALS),
        (403, Cause.CREDENTIALS),
        (420, Cause.NOT_OFFERED),
        (440, Cause.NOT_OFFERED),
        (442, Cause.NOT_OFFERED),
        (486, Cause.QUOTA),
        (500, Cause.PROTOCOL),
        (508, Cause.CAPACITY),
        (300, Cause.ALTERNATE),
    ],
)
def test_why_there_is_no_allocation(code: int, cause: Cause) -> None:
    lonely = Lonely()
    lonely.refuse(lonely.challenged(), code, key=lonely.key)
    (failed,) = lonely.told()
    assert isinstance(failed, Failed) and (failed.cause, failed.code) == (cause, code)
    assert lonely.client.next_timeout() is None


def test_a_port_that_stays_occupied() -> None:
    lonely = Lonely()
    lonely.refuse(lonely.challenged(), 437, key=lonely.key)
    (free,) = lonely.sent()
    assert free.method == Method.REFRESH and free.get(Attribute.LIFETIME) == bytes(4)
    lonely.refuse(free, 437, key=lonely.key)
    (again,) = lonely.sent()
    lonely.refuse(again, 437, key=lonely.key)
    (failed,) = lonely.told()
    assert isinstance(failed, Failed) and failed.cause is Cause.PORT_IN_USE


def test_foreign_and_useless_messages_are_counted() -> None:
    lonely = Lonely()
    request = lonely.challenged()
    lonely.grant(request, key=lonely.key)
    lonely.told()
    tx = TxId(bytes(12))
    peer = (int(Attribute.XOR_PEER_ADDRESS), encode_xor_address(PEER, tx))
    for data in (
        encode_message(Method.DATA, Class.INDICATION, tx, [peer, (Attribute.DATA, b"who?")]),
        encode_message(Method.DATA, Class.INDICATION, tx, [peer]),
        encode_message(Method.SEND, Class.INDICATION, tx, [peer, (Attribute.DATA, b"")]),
        encode_message(Method.ALLOCATE, Class.REQUEST, tx, []),
        encode_message(Method.ALLOCATE, Class.SUCCESS, tx, []),
        encode_message(Method.REFRESH, Class.SUCCESS, request.tx_id, []),
        encode_channel_data(0x4000, b"no such channel", padded=False),
    ):
        lonely.client.receive(data, 1.0)
    assert lonely.client.counters.unexpected == 7
    for data in (b"", b"\x40", b"\0\3", bytes(20), b"\xff" * 50):
        lonely.client.receive(data, 1.0)
    assert lonely.client.counters.malformed == 5 and not lonely.told()


def test_a_stream_of_garbage_ends_the_client() -> None:
    lonely = Lonely(reliable=True)
    lonely.client.receive(b"HTTP/1.1 400 Bad Request\r\n", 1.0)
    (failed,) = lonely.told()
    assert isinstance(failed, Failed) and failed.cause is Cause.PROTOCOL
    lonely.client.receive(b"more", 1.0)


@pytest.mark.parametrize("transport", list(Transport))
def test_an_hour_of_relaying(transport: Transport) -> None:
    world = World(nonce_life_s=300)
    flow = flow_of(1, transport)
    client = world.client(flow)
    client.permit(PEER.ip, world.now)
    client.open_channel(PEER, world.now)
    world.run()
    (allocated, *others) = world.told(flow)
    assert isinstance(allocated, Allocated)
    assert set(others) == {Permitted(PEER.ip), ChannelOpen(PEER, 0x4000)}
    for _ in range(12):
        world.after(300)
        assert client.send(PEER, b"out")
        assert client.send(Endpoint(PEER.ip, 1), b"by indication")
        world.run()
        world.server.receive_from_peer(allocated.relayed, PEER, b"in", world.now)
        world.run()
        assert world.told(flow) == [Received(PEER, b"in")]
    assert len(world.to_peers) == 24
    client.close(world.now)
    world.run()
    assert world.told(flow) == [Released()]
    assert not world.open and client.next_timeout() is None


def test_what_is_forgotten_runs_out() -> None:
    world = World()
    client = world.client(flow_of())
    client.permit(PEER.ip, world.now)
    client.open_channel(PEER, world.now)
    world.run()
    client.forget(PEER)
    client.forget(PEER.ip)
    assert not client.send(PEER, b"x") and client.counters.unsent == 1
    world.after(601)
    (allocation,) = world.server._allocations.values()
    assert not allocation.permissions and not allocation.channels
    # The same peer gets its number again, another one the next.
    other = Endpoint(PEER.ip, 1)
    client.open_channel(other, world.now)
    client.open_channel(PEER, world.now)
    world.run()
    assert world.told(flow_of())[-2:] == [ChannelOpen(other, 0x4001), ChannelOpen(PEER, 0x4000)]


def test_a_server_that_forgot_us_is_asked_again() -> None:
    world = World()
    client = world.client(flow_of())
    client.permit(PEER.ip, world.now)
    world.run()
    world.told(flow_of())
    world.server.gone(flow_of())  # as after a restart
    world.after(241)
    lost, allocated = world.told(flow_of())
    assert lost == Lost() and isinstance(allocated, Allocated)
    assert not client.send(PEER, b"x")


def test_new_credentials_of_the_same_user_and_of_another() -> None:
    world = World()
    client = world.client(flow_of())
    world.told(flow_of())
    client.renew(ALICE, world.now)
    world.run()
    assert not world.told(flow_of()) and client.relayed is not None
    client.renew(BOB, world.now)
    world.run()
    lost, allocated = world.told(flow_of())
    assert lost == Lost() and isinstance(allocated, Allocated)
    assert len(world.server) == 1
    client.renew(Credentials("mallory", "x"), world.now)
    world.run()
    (failed,) = world.told(flow_of())
    assert isinstance(failed, Failed) and (failed.cause, failed.code) == (Cause.CREDENTIALS, 401)


def test_closing_before_there_is_anything() -> None:
    lonely = Lonely()
    lonely.client.close(0.0)
    assert lonely.told() == [Released()] and lonely.client.next_timeout() is None
    lonely.client.close(0.0)
    assert not lonely.client.permit(PEER.ip, 0.0) and not lonely.client.send(PEER, b"x")


def test_a_relayed_address_of_ipv6() -> None:
    world = World()
    client = world.client(flow_of(), family=6)
    assert client.relayed is not None and client.relayed.ip == RELAY_V6


def test_relayed_addresses_of_both_families() -> None:
    world = World()
    client = world.client(flow_of(), family=0)
    (allocated,) = world.told(flow_of())
    assert isinstance(allocated, Allocated)
    assert [each.ip for each in allocated.addresses] == [RELAY_V4, RELAY_V6]
    for peer, relayed in zip((PEER, PEER_V6), allocated.addresses, strict=True):
        client.permit(peer.ip, world.now)
        world.run()
        assert world.told(flow_of()) == [Permitted(peer.ip)]
        assert client.send(peer, b"out")
        world.run()
        assert world.to_peers[-1].relayed == relayed


def test_a_server_of_ipv6_alone_is_asked_for_that() -> None:
    lonely = Lonely(family=0)
    request = lonely.challenged()
    assert request.family(Attribute.ADDITIONAL_ADDRESS_FAMILY) == 6
    lonely.refuse(request, 440, key=lonely.key)
    (request,) = lonely.sent()
    assert request.family(Attribute.REQUESTED_ADDRESS_FAMILY) == 6
    assert request.get(Attribute.ADDITIONAL_ADDRESS_FAMILY) is None
    lonely.refuse(request, 440, key=lonely.key)
    (failed,) = lonely.told()
    assert isinstance(failed, Failed) and failed.cause is Cause.NOT_OFFERED


def test_how_many_peers_a_client_has_is_bounded() -> None:
    world = World()
    client = world.client(flow_of())
    asked = [client.permit(ip_address(0x09090000 + n), 0.0) for n in range(600)]
    assert sum(asked) == MAX_PEERS
    assert not client.send(PEER, bytes(70_000))
