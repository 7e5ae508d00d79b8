"""The NAT models do what their RFC 4787 terms say."""

from __future__ import annotations

import itertools
import random

import pytest

from warren.lab.sim.nats import MODELS, Nat, NatModel, PortRule
from warren.netmap.endpoint import Endpoint

INSIDE = Endpoint.parse("192.168.1.2:41641")
OUTSIDE = Endpoint.parse("198.51.100.1:0")
A, A2, B = (Endpoint.parse(t) for t in ("192.0.2.1:1", "192.0.2.1:2", "192.0.2.9:1"))


def nat(kind: str | NatModel) -> Nat:
    return Nat(MODELS[kind] if isinstance(kind, str) else kind, OUTSIDE, random.Random(1))


@pytest.mark.parametrize(
    ("kind", "lets_in"),
    [
        ("full-cone", (True, True, True)),
        ("address-restricted", (True, True, False)),
        ("port-restricted", (True, False, False)),
        ("symmetric", (True, False, False)),
        ("udp-blocked", (False, False, False)),
    ],
)
def test_filtering(kind: str, lets_in: tuple[bool, ...]) -> None:
    box = nat(kind)
    seen = box.outbound(INSIDE, A, 0.0) or Endpoint(OUTSIDE.ip, 41641)
    found = tuple(box.inbound(src, seen, 1.0) == INSIDE for src in (A, A2, B))
    assert found == lets_in


def test_mapping() -> None:
    cone, symmetric = nat("port-restricted"), nat("symmetric")
    assert len({cone.outbound(INSIDE, to, 0.0) for to in (A, A2, B)}) == 1
    assert len({symmetric.outbound(INSIDE, to, 0.0) for to in (A, A2, B)}) == 3
    assert symmetric.outbound(INSIDE, A, 1.0) == symmetric.outbound(INSIDE, A, 2.0)


def test_a_kept_port_that_is_taken_becomes_another() -> None:
    box = nat("port-restricted")
    first = box.outbound(INSIDE, A, 0.0)
    second = box.outbound(Endpoint.parse("192.168.1.3:41641"), A, 0.0)
    assert first is not None and second is not None
    assert first.port == 41641 != second.port


@pytest.mark.parametrize("step", [1, 3, -2])
def test_sequential_ports(step: int) -> None:
    box = nat(
        NatModel("s", "s", *["address-and-port-dependent"] * 2, PortRule("sequential", step=step))
    )  # type: ignore[list-item]
    ports = []
    for port in range(1, 6):
        seen = box.outbound(INSIDE, Endpoint(A.ip, port), 0.0)
        assert seen is not None
        ports.append(seen.port)
    assert all((b - a) % 64512 == step % 64512 for a, b in itertools.pairwise(ports))


def test_blocks_and_bounds() -> None:
    rule = PortRule("random", first=2000, last=2015)
    box = nat(NatModel("b", "b", *["address-and-port-dependent"] * 2, rule, mappings_max=16))  # type: ignore[list-item]
    seen = {box.outbound(INSIDE, Endpoint(A.ip, port), 0.0) for port in range(1, 17)}
    assert {endpoint.port for endpoint in seen if endpoint} == set(range(2000, 2016))
    assert box.outbound(INSIDE, Endpoint(A.ip, 99), 1.0) is None, "full"
    assert box.outbound(INSIDE, Endpoint(A.ip, 99), 500.0) is not None, "old ones made room"


def test_mappings_expire_and_traffic_keeps_them() -> None:
    box = nat("port-restricted")
    seen = box.outbound(INSIDE, A, 0.0)
    assert seen is not None
    box.outbound(INSIDE, A, 100.0)
    assert box.inbound(A, seen, 210.0) == INSIDE
    assert box.inbound(A, seen, 221.0) is None


def test_without_translation() -> None:
    public, firewall = nat("public"), nat("firewall")
    host = Endpoint.parse("203.0.113.5:7")
    assert public.inbound(A, host, 0.0) == host
    assert firewall.inbound(A, host, 0.0) is None
    assert firewall.outbound(host, A, 0.0) == host
    assert firewall.inbound(A, host, 1.0) == host and firewall.inbound(B, host, 1.0) is None
