"""The HTTP/1.1 upgrade of ts2021, both ends."""

from __future__ import annotations

import pytest

from warren.control.upgrade import (
    ClientUpgrade,
    MalformedUpgrade,
    UpgradeRefused,
    initiation_from_headers_untrusted,
    initiation_from_target_untrusted,
    switching_response,
    websocket_target,
)

INITIATION = bytes(range(101))
GOOD = {
    "upgrade": "tailscale-control-protocol",
    "CONNECTION": "keep-alive, Upgrade",
    "x-tailscale-handshake": (
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BBQkNE"
        "RUZHSElKS0xNTk9QUVJTVFVWV1hZWltcXV5fYGFiY2Q="
    ),
}


def test_a_request_is_understood() -> None:
    assert initiation_from_headers_untrusted("POST", GOOD.items()) == INITIATION


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("upgrade", ""),
        ("upgrade", "websocket"),
        ("CONNECTION", "close"),
        ("x-tailscale-handshake", ""),
        ("x-tailscale-handshake", "AAEC"),
        ("x-tailscale-handshake", "not base64!"),
        ("x-tailscale-handshake", "ÄÖÜ"),
        ("x-tailscale-handshake", "AAEC" * 100_000),
    ],
)
def test_a_request_that_is_not_the_upgrade(name: str, value: str) -> None:
    with pytest.raises(MalformedUpgrade):
        initiation_from_headers_untrusted("POST", {**GOOD, name: value}.items())


def test_only_a_post() -> None:
    with pytest.raises(MalformedUpgrade):
        initiation_from_headers_untrusted("GET", GOOD.items())
    with pytest.raises(MalformedUpgrade):
        initiation_from_headers_untrusted("POST", [])


def test_the_websocket_target() -> None:
    target = websocket_target(bytes(range(155, 256)))
    assert initiation_from_target_untrusted(target) == bytes(range(155, 256))
    assert "+" not in target
    for wrong in ("/ts2021", "/ts2021?X-Tailscale-Handshake=", "http://[", "/?" + "&a=b" * 100):
        with pytest.raises(MalformedUpgrade):
            initiation_from_target_untrusted(wrong)


def test_our_answer_and_what_follows_it() -> None:
    stream = switching_response() + b"\x02noise"
    assert ClientUpgrade("h", INITIATION).receive(stream) == b"\x02noise"
    upgrade = ClientUpgrade("h", INITIATION)
    got = [upgrade.receive(stream[at : at + 1]) for at in range(len(switching_response()))]
    assert got == [None] * (len(got) - 1) + [b""]


def test_a_refusal_is_told() -> None:
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 8\r\n\r\ntoo\x1bold\n"
    with pytest.raises(UpgradeRefused) as caught:
        ClientUpgrade("h", INITIATION).receive(answer)
    assert (caught.value.status, caught.value.text) == (400, "too old")
    with pytest.raises(UpgradeRefused, match="answered 502 to the upgrade: no reason"):
        ClientUpgrade("h", INITIATION).receive(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: Tailscale-Control-Protocol\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"\x16\x03\x01 this is TLS\r\n\r\n",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 101 x\r\nA: " + b"x" * 200_000,
        b"",
    ],
)
def test_what_is_not_the_answer(answer: bytes) -> None:
    with pytest.raises(MalformedUpgrade):
        ClientUpgrade("h", INITIATION).receive(answer)


def test_the_server_hangs_up_in_the_middle() -> None:
    for at in range(1, len(switching_response()) - 1):
        upgrade = ClientUpgrade("h", INITIATION)
        assert upgrade.receive(switching_response()[:at]) is None
        with pytest.raises(MalformedUpgrade):
            upgrade.receive(b"")
