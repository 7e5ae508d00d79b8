"""The search for a path's packet size, over a modelled path in virtual time."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.disco.messages import Ping, Pong, TxId, encode_message
from warren.keys import NodePrivate, NodePublic
from warren.netmap.endpoint import Endpoint
from warren.paths.machine import Lease, Transmit
from warren.paths.mtu import (
    BASE_MTU_BYTES,
    MTU_MAX_BYTES,
    WIRE_SIZES,
    inside_bytes,
    ip_and_udp_bytes,
)
from warren.paths.punching.puncher import PunchingPaths
from warren.paths.punching.roles import OwnSide
from warren.paths.punching.sockets import Aside
from warren.paths.sizes import PROBE_EVERY_S, RAISE_AFTER_S, SETTLE_S, PathSize

OWN: NodePublic = NodePrivate.from_entropy(bytes(32)).public()
V4 = Endpoint.parse("198.51.100.7:41641")
V6 = Endpoint.parse("[2001:db8::7]:41641")
SEALED_BYTES = 6 + 32 + 24 + 16
"""What stands around a disco message."""
RTT_S = 0.02


class Model:
    """A path that carries IP packets of up to `mtu` bytes, and a peer that answers pings."""

    def __init__(self, via: Endpoint | Aside = V4, mtu: int = 1500, loss: float = 0.0) -> None:
        counter = itertools.count(1)
        self.size = PathSize(OWN, lambda count: next(counter).to_bytes(count, "big"))
        self.via, self.mtu, self.loss = via, mtu, loss
        self.random = random.Random(7)
        self.now = 100.0
        self.busy = True
        self.sent: list[tuple[float, int]] = []
        self.found: list[tuple[float, int]] = []
        self.pongs: list[tuple[float, TxId]] = []
        self.follow()

    @property
    def mtu_bytes(self) -> int:
        return self.size.mtu_of(self.via)

    def follow(self, via: Endpoint | Aside | None = None) -> None:
        self.size.follow(
            via or self.via,
            self.now,
            latency_s=RTT_S,
            busy=self.busy,
        )

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due = self.size.next_timeout()
            times = [at for at, _ in self.pongs] + ([due[0]] if due else [])
            when = min(times, default=end + 1)
            if when > end:
                self.now = end
                return
            self.now = max(self.now, when)
            for at, tx_id in [pong for pong in self.pongs if pong[0] <= self.now]:
                self.pongs.remove((at, tx_id))
                assert self.size.receive(Pong(tx_id, V4), self.via, self.now)
            self.size.handle_timeout(self.now)
            self.collect()
            self.follow()
            if not self.found or self.found[-1][1] != self.mtu_bytes:
                self.found.append((self.now, self.mtu_bytes))

    def collect(self) -> None:
        while (probe := self.size.poll_transmit()) is not None:
            assert probe.to == self.via
            endpoint = self.via.endpoint if isinstance(self.via, Aside) else self.via
            payload = SEALED_BYTES + len(encode_message(probe.message))
            wire = payload + ip_and_udp_bytes(endpoint)
            assert wire in WIRE_SIZES or not probe.message.padding
            self.sent.append((self.now, wire))
            if wire <= self.mtu and self.random.random() >= self.loss:
                self.pongs.append((self.now + RTT_S, probe.message.tx_id))


@pytest.mark.parametrize(
    ("via", "mtu", "inside"),
    [
        (V4, 1500, 1440),
        (V6, 1500, 1420),
        (V4, 1400, 1340),
        (V4, 1492, 1432),
        (V4, 1499, 1432),
        (V6, 9000, 8920),
        (V4, 9001, 8941),
        (V4, 65_535, MTU_MAX_BYTES),
        (V4, 1300, 1280),
        (V6, 1280, 1280),
        (Aside(3, 1, V4), 1500, 1440),
    ],
)
def test_the_size_of_a_path_is_found_in_at_most_three_rounds(
    via: Endpoint | Aside, mtu: int, inside: int
) -> None:
    model = Model(via, mtu)
    assert model.mtu_bytes == BASE_MTU_BYTES, "nothing is believed before it is confirmed"
    model.run(SETTLE_S + RTT_S)
    if mtu in (1500, 9000, 9001) or mtu > 9001:
        assert model.mtu_bytes == inside, "usual ones in one round trip"
    model.run(2 * PROBE_EVERY_S)
    assert model.mtu_bytes == inside
    model.run(30)
    assert model.mtu_bytes == inside


def test_a_search_is_bounded_and_comes_again_after_ten_minutes() -> None:
    model = Model(mtu=1300)
    model.run(RAISE_AFTER_S - 1)
    assert len(model.sent) <= len(WIRE_SIZES) + 8
    searched = len(model.sent)
    model.mtu = 1500
    model.run(10)
    assert len(model.sent) > searched
    assert model.mtu_bytes == 1440


def test_a_black_hole_is_left_within_seconds_for_the_size_that_works() -> None:
    model = Model(mtu=1500)
    model.run(60)
    model.mtu = 1400
    since = model.now
    model.run(3)
    assert [size for _, size in model.found] == [BASE_MTU_BYTES, 1440, BASE_MTU_BYTES, 1340]
    assert model.found[-1][0] - since < 1.5
    assert model.size.fallbacks == 1


def test_a_path_that_answers_nothing_keeps_its_size() -> None:
    """It is left for the relay, which carries any size; it comes back as it was, or is asked."""
    model = Model()
    model.run(5)
    model.mtu = 0
    model.run(4)
    assert model.mtu_bytes == 1440
    assert len([at for at, _ in model.sent if at > model.now - 4]) <= 20
    model.size.follow(None, model.now)
    model.mtu = 1400
    model.follow()
    model.run(3)
    assert [size for _, size in model.found] == [BASE_MTU_BYTES, 1440, BASE_MTU_BYTES, 1340]


def test_without_traffic_nothing_is_asked_and_with_it_at_once() -> None:
    model = Model()
    model.run(5)
    model.busy = False
    model.follow()
    model.run(5)
    asked = len(model.sent)
    model.run(60)
    assert len(model.sent) == asked
    model.mtu, model.busy = 1300, True
    model.follow()
    model.run(1.5)
    assert model.mtu_bytes == BASE_MTU_BYTES


def test_a_pause_does_not_forget_but_another_path_and_another_network_do() -> None:
    model = Model()
    model.run(5)
    model.size.follow(None, model.now)
    assert model.size.next_timeout() is None
    model.now += 60
    model.follow()
    assert model.mtu_bytes == 1440
    model.run(1)
    assert model.size.fallbacks == 0
    model.follow(V6)
    assert model.size.mtu_of(V6) == model.size.mtu_of(V4) == BASE_MTU_BYTES
    model.size.forget()
    model.follow(V6)
    assert model.size.mtu_of(V6) == BASE_MTU_BYTES


def test_only_the_path_itself_confirms() -> None:
    model = Model()
    model.size.handle_timeout(model.now + SETTLE_S)
    probe = model.size.poll_transmit()
    assert probe is not None
    assert not model.size.receive(Ping(probe.message.tx_id, OWN), V4, model.now)
    assert not model.size.receive(Pong(TxId(bytes(12)), V4), V4, model.now)
    assert model.size.receive(Pong(probe.message.tx_id, V4), V6, model.now), "it is no other's"
    assert model.mtu_bytes == BASE_MTU_BYTES
    assert not model.size.receive(Pong(probe.message.tx_id, V4), V4, model.now), "once only"


@given(
    st.integers(1280, 9100),
    st.floats(0.0, 0.3),
    st.lists(st.tuples(st.integers(1280, 9100), st.floats(0.1, 20.0)), max_size=6),
)
def test_whatever_the_path_does_the_size_follows(
    mtu: int, loss: float, changes: list[tuple[int, float]]
) -> None:
    model = Model(mtu=mtu, loss=loss)
    model.run(3)
    for mtu, seconds in changes:
        model.mtu = mtu
        model.run(seconds)
    model.loss = 0.0
    model.run(10)
    # Never more than the path carries, once there was time to notice; after the next search
    # all of it.
    assert model.mtu_bytes <= max(BASE_MTU_BYTES, inside_bytes(model.mtu, V4))
    model.run(RAISE_AFTER_S + 5)
    fits = [size for size in WIRE_SIZES if size <= model.mtu]
    best = inside_bytes(fits[0], V4) if fits else BASE_MTU_BYTES
    assert model.mtu_bytes == max(BASE_MTU_BYTES, best)


def test_leases_say_what_was_found() -> None:
    counter = itertools.count(1)
    paths = PunchingPaths(OWN, OwnSide(lambda count: next(counter).to_bytes(count, "big")))
    paths.paths.set_peer([V4], 900, 0.0)
    paths.note_active(0.0)
    leases: list[Lease] = []
    now = 0.0
    while now < 4.0:
        while (transmit := paths.poll_transmit()) is not None:
            if isinstance(transmit, Transmit) and isinstance(transmit.message, Ping):
                size = SEALED_BYTES + len(encode_message(transmit.message)) + 28
                if transmit.to == V4 and size <= 1500:
                    paths.receive(Pong(transmit.message.tx_id, V4), V4, now + 0.001)
        while (event := paths.poll_event()) is not None:
            if isinstance(event, Lease):
                leases.append(event)
        due = paths.next_timeout()
        now = max(now + 0.001, min(due[0] if due else 9.0, now + 0.1))
        paths.handle_timeout(now)
    assert leases[0] == Lease(V4, 6500)
    found = [lease.mtu_bytes for lease in leases].index(1440)
    assert 0 < leases[found].lease_ms < 6500, "a lease of its own, at once, as long as the trust"
    assert {lease.mtu_bytes for lease in leases[found:]} == {1440}
    assert paths.mtu_bytes(now) == 1440
    paths.network_changed(now)
    assert paths.mtu_bytes(now) == BASE_MTU_BYTES
