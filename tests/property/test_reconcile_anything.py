"""`reconcile` leads an engine from any configuration to any other, shown on the twin."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from warren.engine.commands import FilterRule, Peer, RelayNode, Span
from warren.engine.memory import MemoryEngine, MemoryNetwork
from warren.engine.protocol import EngineConfig
from warren.keys import DiscoPublic, NodePrivate
from warren.netmap.endpoint import Endpoint
from warren.node.reconcile import NOTHING, Desired, reconcile

KEYS = [NodePrivate.from_entropy(bytes([n]) * 32) for n in range(1, 6)]
peer_keys = st.sampled_from([key.public().raw for key in KEYS])
regions = st.integers(1, 4)
relays = st.lists(
    st.builds(RelayNode, addrs=st.just(["192.0.2.1:443"]), server_name=st.sampled_from("ab")),
    min_size=1,
    max_size=2,
)
rules = st.lists(
    st.builds(
        FilterRule,
        sources=st.just([Span(first="10.0.0.1", last="10.0.0.2")]),
        destinations=st.just([]),
        protocols=st.lists(st.integers(1, 99), min_size=1, max_size=2),
    ),
    max_size=2,
)


@st.composite
def configurations(draw: st.DrawFn) -> Desired:
    """A configuration as `desire` may give it, or none at all."""
    if draw(st.integers(0, 5)) == 0:
        return NOTHING
    keys = draw(st.sets(peer_keys, max_size=5))
    known = draw(st.dictionaries(regions, relays, max_size=3))
    return Desired(
        private_key=draw(st.sampled_from(KEYS)).reveal(),
        addresses=draw(st.sampled_from([["100.64.0.1/32"], ["100.64.0.2/32"]])),
        peers={
            key: Peer(
                key=key,
                allowed_ips=draw(st.sampled_from([["100.64.0.9/32"], []])),
                home_region=draw(regions),
            )
            for key in sorted(keys)
        },
        discos={
            key: draw(st.sampled_from([DiscoPublic(bytes([n]) * 32) for n in range(3)]))
            for key in sorted(keys)
        },
        rules=draw(rules),
        shields_up=draw(st.booleans()),
        regions=known,
        home_region=draw(st.sampled_from([0, *known])),
    )


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(configurations(), min_size=1, max_size=6))
def test_the_engine_is_what_was_desired_last(steps: list[Desired]) -> None:
    network = MemoryNetwork(lambda: 0.0)
    engine = MemoryEngine(EngineConfig(tun=None), network, Endpoint.parse("192.0.2.9:1"))
    try:
        before = NOTHING
        for desired in steps:
            engine.apply(reconcile(before, desired))
            before = desired
            assert engine.peers == desired.peers
            assert engine.home == desired.home_region
            assert set(engine.regions) <= set(desired.regions)
            assert engine.filter is not None or desired is NOTHING
            if engine.filter is not None:
                assert engine.filter.rules == desired.rules
                assert engine.filter.shields_up == desired.shields_up
            if desired.private_key:
                private = NodePrivate(desired.private_key)
                assert engine.public_key == private.public().raw
                assert engine.addresses == desired.addresses
        assert reconcile(before, before) == [] or before is NOTHING
    finally:
        engine.close()


@given(desired=configurations())
def test_the_same_twice_is_nothing(desired: Desired) -> None:
    if desired is not NOTHING:
        assert reconcile(desired, desired) == []
