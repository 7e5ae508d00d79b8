"""What a person reads of an examination: no kind without a name, no lie about what works."""

from __future__ import annotations

import pytest

from warren.nat.allocation import PortAllocation, Style
from warren.nat.behaviour import Dependence, NatBehaviour
from warren.nat.explain import explain, ports_in_words
from warren.netmap.endpoint import Endpoint

D = Dependence
MAPPED = (Endpoint.parse("203.0.113.7:41641"),)
SERVER = Endpoint.parse("198.51.100.10:3478")


def seen(
    translated: bool, mapping: Dependence, filtering: Dependence, ports: Style = Style.KEPT
) -> NatBehaviour:
    return NatBehaviour(
        udp=True,
        translated=translated,
        mapped=MAPPED,
        mapping=mapping,
        filtering=filtering,
        ports=PortAllocation(ports, 2, 1024, 2047),
        discovery_server=SERVER,
    )


@pytest.mark.parametrize(
    ("found", "name", "difficulty", "words"),
    [
        (NatBehaviour(), "UDP blocked", "blocked", "relay"),
        (seen(False, D.NOTHING, D.NOTHING), "no NAT, no firewall", "open", "Every peer"),
        (seen(False, D.NOTHING, D.ADDRESS_AND_PORT), "no NAT, a stateful firewall", "easy", ""),
        (seen(False, D.NOTHING, D.UNKNOWN), "no NAT", "easy", ""),
        (seen(True, D.NOTHING, D.NOTHING), "full cone", "easy", "also behind a symmetric"),
        (seen(True, D.NOTHING, D.ADDRESS), "address-restricted cone", "easy", "also behind"),
        (seen(True, D.NOTHING, D.ADDRESS_AND_PORT), "port-restricted cone", "easy", "seconds"),
        (seen(True, D.NOTHING, D.UNKNOWN), "cone NAT", "easy", "seconds"),
        (seen(True, D.ADDRESS, D.ADDRESS, Style.RANDOM), "symmetric NAT", "hard", "random"),
        (
            seen(True, D.DESTINATION, D.UNKNOWN, Style.SEQUENTIAL),
            "symmetric NAT",
            "hard",
            "predict",
        ),
        (seen(True, D.ADDRESS_AND_PORT, D.ADDRESS, Style.BLOCK), "symmetric NAT", "hard", "1024"),
        (
            seen(True, D.UNKNOWN, D.UNKNOWN, Style.UNKNOWN),
            "NAT of unknown kind",
            "unknown",
            "too few",
        ),
        (seen(True, D.UNKNOWN, D.UNKNOWN), "NAT, probably a cone", "unknown", "probably work"),
        (seen(True, D.NOT_PORT, D.NOT_PORT), "NAT, probably a cone", "unknown", "a second server"),
        (
            seen(True, D.UNKNOWN, D.UNKNOWN, Style.RANDOM),
            "NAT, probably symmetric",
            "unknown",
            "only a second server",
        ),
    ],
)
def test_names(found: NatBehaviour, name: str, difficulty: str, words: str) -> None:
    explained = explain(found)
    assert (explained.name, explained.difficulty) == (name, difficulty)
    assert words in " ".join(explained.meaning)
    assert all(sentence.endswith(".") for sentence in explained.meaning)


def test_a_liar_is_named_and_a_small_mtu_told() -> None:
    lie = Endpoint.parse("192.0.2.66:6666")
    found = NatBehaviour(
        udp=True, translated=True, mapped=MAPPED, mtu_bytes=1280, liars={SERVER: lie}
    )
    text = " ".join(explain(found).meaning)
    assert f"{SERVER} says that this machine is {lie}" in text
    assert "1280 bytes do not arrive whole" in text
    assert "--stun can be given two addresses" in text


def test_ports_in_words() -> None:
    words = {
        style: ports_in_words(NatBehaviour(ports=PortAllocation(style, 2, 1024, 2047)))
        for style in Style
    }
    assert words == {
        Style.UNKNOWN: "unknown",
        Style.KEPT: "the same outside as inside",
        Style.SEQUENTIAL: "sequential, step 2",
        Style.BLOCK: "random in the block 1024-2047",
        Style.RANDOM: "random",
    }
