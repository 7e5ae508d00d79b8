"""One allocation among several servers: which one, when another, and when none."""

from __future__ import annotations

import random

from turn_world import ALICE, BOB, PEER, World, flow_of

from warren.nat.stun import TxId
from warren.nat.turn.allocation import CloseRelay, Flow, OpenRelay, ToClient, Transport
from warren.nat.turn.credentials import Credentials
from warren.nat.turn.events import Allocated, Cause, ChannelOpen, Failed, Lost
from warren.nat.turn.keeper import KeeperEvent, Server, TurnKeeper, Using
from warren.nat.turn.message import encode_message, parse_message_untrusted
from warren.nat.turn.numbers import Attribute, Class, Method
from warren.netmap.endpoint import Endpoint

FIRST, SECOND, DEAD = (Server(Endpoint.parse(f"5.5.5.{n}:3478")) for n in (1, 2, 3))
CLIENT = Endpoint.parse("7.7.7.1:1001")


class Net:
    """Two servers, one that never answers, and a keeper."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.servers = {FIRST: World(), SECOND: World()}
        self.keeper = TurnKeeper(random.Random(4).randbytes)
        self.events: list[KeeperEvent] = []

    def run(self) -> list[KeeperEvent]:
        """Carry everything; return what the keeper told."""
        flow = Flow(Transport.UDP, CLIENT, 1)
        while (out := self.keeper.poll_transmit()) is not None:
            world = self.servers.get(out.to)
            if world is None:
                continue
            world.now = self.now
            world.server.receive(flow, out.data, self.now)
            while True:
                change, answer = world.server.poll_event(), world.server.poll_transmit()
                if isinstance(change, OpenRelay | CloseRelay):
                    world._sockets(change)
                if isinstance(answer, ToClient):
                    self.keeper.receive(answer.data, out.to, self.now)
                if change is None and answer is None:
                    break
        told = []
        while (event := self.keeper.poll_event()) is not None:
            told.append(event)
        return told

    def after(self, seconds: float) -> list[KeeperEvent]:
        end, told = self.now + seconds, []
        while self.now < end:
            due = self.keeper.next_timeout()
            self.now = min(end, max(due, self.now + 0.01)) if due is not None else end
            self.keeper.handle_timeout(self.now)
            told += self.run()
        return told

    def start(self, *servers: Server, credentials: Credentials = ALICE) -> list[KeeperEvent]:
        self.keeper.set_servers(dict.fromkeys(servers, credentials), self.now)
        return self.run()


def test_the_first_server_that_serves_is_used() -> None:
    net = Net()
    using, allocated = net.start(FIRST, SECOND)
    assert using == Using(FIRST) and isinstance(allocated, Allocated)
    assert net.keeper.server == FIRST and len(net.servers[SECOND].server) == 0
    assert net.keeper.open_channel(PEER, net.now)
    assert net.run() == [ChannelOpen(PEER, 0x4000)]
    client = net.keeper.client
    assert client is not None and client.channel_of(PEER) == 0x4000
    assert client.peer_of(0x4000) == PEER and client.peer_of(0x4001) is None
    assert net.after(7200) == [] and net.keeper.server == FIRST


def test_a_dead_server_is_followed_by_the_next() -> None:
    net = Net()
    assert net.start(DEAD, SECOND) == [Using(DEAD)]
    failed, using, allocated = net.after(40)
    assert isinstance(failed, Failed) and failed.cause is Cause.NO_ANSWER
    assert using == Using(SECOND) and isinstance(allocated, Allocated)


def test_where_no_server_serves_tries_grow_rare() -> None:
    net = Net()
    told = net.start(FIRST, credentials=Credentials("alice", "wrong")) + net.after(7200)
    tries = [event for event in told if event == Using(FIRST)]
    assert 8 <= len(tries) <= 14
    assert isinstance(told[1], Failed) and told[2] == Using(None)
    # The right ones are tried at once.
    *_, allocated = net.start(FIRST)
    assert isinstance(allocated, Allocated)


def test_new_credentials_keep_the_allocation_or_make_another() -> None:
    net = Net()
    net.start(FIRST)
    assert net.start(FIRST, credentials=ALICE) == []
    # Alice's is given back as Alice's, so that the port is free for Bob's.
    lost, allocated = net.start(FIRST, credentials=BOB)
    assert lost == Lost() and isinstance(allocated, Allocated)
    assert len(net.servers[FIRST].server) == 1
    assert net.after(7200) == []


def test_an_old_name_is_given_back_though_its_nonce_has_grown_old() -> None:
    net = Net()
    net.start(FIRST)
    net.after(1500)  # nonces last 600 s, and allocations are refreshed every 540 s
    lost, allocated = net.start(FIRST, credentials=BOB)
    assert lost == Lost() and isinstance(allocated, Allocated)
    assert len(net.servers[FIRST].server) == 1


def test_a_server_that_has_forgotten_us_is_found_out_when_asked() -> None:
    net = Net()
    net.start(FIRST)
    net.keeper.check(net.now)
    assert net.run() == []
    net.servers[FIRST] = World()
    net.keeper.check(net.now)
    lost, allocated = net.run()
    assert lost == Lost() and isinstance(allocated, Allocated)
    del net.servers[FIRST]
    net.keeper.check(net.now)
    assert isinstance(net.after(45)[0], Failed)


def test_servers_that_are_taken_away_and_networks_that_change() -> None:
    net = Net()
    net.start(FIRST)
    told = net.start(SECOND)
    assert told[:3] == [Lost(), Using(None), Using(SECOND)] and isinstance(told[3], Allocated)
    assert not net.servers[FIRST].open
    net.keeper.network_changed(net.now)
    told = net.run()
    assert told[:3] == [Lost(), Using(None), Using(SECOND)] and isinstance(told[3], Allocated)
    net.keeper.set_servers({}, net.now)
    assert net.run() == [Lost(), Using(None)]
    assert net.keeper.next_timeout() is None and not net.servers[SECOND].open
    assert not net.keeper.permit(PEER.ip, net.now)


def test_another_server_that_a_server_names() -> None:
    net = Net()
    net.keeper.set_servers({DEAD: ALICE}, net.now)
    sent = net.keeper.poll_transmit()
    assert sent is not None
    value = b"\0\1" + SECOND.at.port.to_bytes(2, "big") + SECOND.at.ip.packed
    data = encode_message(
        Method.ALLOCATE,
        Class.ERROR,
        parse_message_untrusted(sent.data).tx_id,
        [(Attribute.ERROR_CODE, b"\0\0\3\0"), (Attribute.ALTERNATE_SERVER, value)],
    )
    assert net.keeper.receive(data, DEAD, net.now)
    *_, using, allocated = net.run()
    assert using == Using(SECOND) and isinstance(allocated, Allocated)


def test_others_datagrams_are_left_to_others() -> None:
    net = Net()
    net.start(FIRST)
    data = encode_message(Method.BINDING, Class.SUCCESS, TxId(bytes(12)), [])
    assert not net.keeper.receive(data, SECOND, net.now)
    assert not net.keeper.receive(b"", Server(flow_of().client), net.now)
    assert net.run() == []
