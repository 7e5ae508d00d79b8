"""The HTTP/1.1 upgrade of DERP, both ends."""

from __future__ import annotations

import pytest

from warren.derp.malformed import MalformedDerp
from warren.derp.upgrade import (
    ClientUpgrade,
    UpgradeRefused,
    UpgradeWish,
    parse_upgrade_untrusted,
    switching_response,
)
from warren.keys import NodePrivate

SERVER = NodePrivate.from_entropy(bytes(range(32))).public()


def test_a_client_asks_and_is_answered() -> None:
    upgrade = ClientUpgrade("relay.example", fast_start=True, ideal_node="1a")
    assert upgrade.request() == (
        b"GET /derp HTTP/1.1\r\nHost: relay.example\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"
        b"Derp-Fast-Start: 1\r\nIdeal-Node: 1a\r\n\r\n"
    )
    stream = switching_response(SERVER) + b"frames"
    assert ClientUpgrade("h").receive(stream) == b"frames"
    slow = ClientUpgrade("h")
    pieces = [slow.receive(stream[at : at + 1]) for at in range(len(stream) - len(b"frames"))]
    assert pieces[-1] == b""
    assert set(pieces[:-1]) == {None}
    assert slow.server_key == SERVER


def test_a_server_reads_the_wish() -> None:
    good = [("upgrade", "derp"), ("connection", "Upgrade")]
    assert parse_upgrade_untrusted(good) == UpgradeWish(fast_start=False, ideal_node="")
    wishes = [*good, ("DERP-Fast-Start", "1"), ("ideal-node", "x" * 1000)]
    assert parse_upgrade_untrusted(wishes) == UpgradeWish(fast_start=True, ideal_node="x" * 256)
    assert parse_upgrade_untrusted([]) is None
    assert parse_upgrade_untrusted([("upgrade", "websocket"), good[1]]) is None
    assert parse_upgrade_untrusted([("upgrade", "DERP")]) is None


def test_a_server_without_a_key_in_its_head() -> None:
    upgrade = ClientUpgrade("h")
    head = b"HTTP/1.1 101 x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n"
    assert upgrade.receive(head) == b""
    assert upgrade.server_key is None


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 x\r\n\r\n",
        b"HTTP/1.1 101 x\r\nUpgrade: DERP\r\nDerp-Public-Key: 00\r\n\r\n",
        b"HTTP/1.1 101 x\r\nUpgrade: DERP\r\nDerp-Public-Key: \xff\r\n\r\n",
        b"\x01\x00\x00\x00\x28DERP\r\n\r\n",
        b"HTTP/1.1 101 x\r\nA: " + b"x" * 200_000,
        b"",
    ],
)
def test_what_is_not_the_answer(answer: bytes) -> None:
    with pytest.raises(MalformedDerp):
        ClientUpgrade("h").receive(answer)


def test_a_refusal_is_told() -> None:
    with pytest.raises(UpgradeRefused, match="426"):
        ClientUpgrade("h").receive(b"HTTP/1.1 426 Upgrade Required\r\n\r\n")
