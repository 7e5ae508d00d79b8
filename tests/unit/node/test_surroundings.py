"""Which changes of the network end everything, and which only promise better paths."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from warren.edge.linux.gateways import DefaultRoute, default_routes
from warren.edge.linux.interfaces import LocalAddress, local_addresses
from warren.node.surroundings import Change, Surroundings

LOOPBACK = ("127.0.0.1", "lo")
HOME = ("192.168.1.5", "wlan0")
V6 = ("2001:db8::5", "wlan0")
HOME_ROUTER = ("wlan0", "192.168.1.1")


def at(*addresses: tuple[str, str], way_out: tuple[str, str] | None = None) -> Surroundings:
    return Surroundings(frozenset(addresses), way_out)


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        (at(LOOPBACK, HOME, way_out=HOME_ROUTER), at(LOOPBACK, way_out=None), Change.OTHER),
        # The cable was out for a while: what waits for a retry is to try at once.
        (at(LOOPBACK), at(LOOPBACK, HOME), Change.OTHER),
        (at(LOOPBACK, HOME), at(LOOPBACK, HOME, way_out=HOME_ROUTER), Change.OTHER),
        # Another network that gives the same address.
        (
            at(HOME, way_out=HOME_ROUTER),
            at(HOME, way_out=("wlan0", "192.168.1.254")),
            Change.OTHER,
        ),
        (
            at(HOME, way_out=HOME_ROUTER),
            at((HOME[0], "eth0"), way_out=("eth0", HOME_ROUTER[1])),
            Change.OTHER,
        ),
        # A cable beside the radio takes over the traffic.
        (
            at(HOME, way_out=HOME_ROUTER),
            at(HOME, ("10.0.0.4", "eth0"), way_out=("eth0", "10.0.0.1")),
            Change.OTHER,
        ),
        (at(HOME, way_out=HOME_ROUTER), at(HOME, V6, way_out=HOME_ROUTER), Change.MORE),
        (at(HOME, V6, way_out=HOME_ROUTER), at(HOME, way_out=HOME_ROUTER), Change.OTHER),
        (at(HOME, way_out=HOME_ROUTER), at(HOME, way_out=HOME_ROUTER), Change.NONE),
    ],
)
def test_what_a_change_is(before: Surroundings, after: Surroundings, change: Change) -> None:
    assert before.change_to(after) is change


def test_what_counts_of_what_the_kernel_says() -> None:
    addresses = [
        LocalAddress(ip_address("192.168.1.5"), "wlan0", is_tun=False),
        LocalAddress(ip_address("100.64.0.1"), "warren0", is_tun=True),
        LocalAddress(ip_address("fe80::1"), "wlan0", is_tun=False),
    ]
    v6 = DefaultRoute("wlan0", "fe80::2", is_v6=True)
    both = Surroundings.of(addresses, [v6, DefaultRoute(*HOME_ROUTER, is_v6=False)])
    assert both == at(HOME, way_out=HOME_ROUTER)
    assert Surroundings.of(addresses, [v6]).way_out == ("wlan0", "fe80::2")
    assert Surroundings.of([], []) == at()


def test_this_machine_can_be_read() -> None:
    found = Surroundings.of(local_addresses(), default_routes())
    assert found.change_to(Surroundings.of(local_addresses(), default_routes())) is Change.NONE
