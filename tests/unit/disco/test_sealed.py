"""The disco packet: recorded ones open, ours are the same, nothing else gets through."""

from __future__ import annotations

import pytest

from vectors.captures import Capture, sessions
from warren.disco.malformed import MalformedDisco
from warren.disco.messages import (
    CallMeMaybe,
    Ping,
    Pong,
    encode_message,
    parse_message_untrusted,
)
from warren.disco.sealed import (
    HEADER_BYTES,
    MAGIC,
    SharedBox,
    open_untrusted,
    seal,
    sender_of_untrusted,
)
from warren.keys import DiscoPrivate, DiscoPublic

DIRECT, RELAYED = sessions()
ALICE = DiscoPrivate.from_entropy(bytes(range(32)))
BOB = DiscoPrivate.from_entropy(bytes(range(32, 64)))
NONCE = bytes(range(24))


def _from_peer(capture: Capture) -> list[bytes]:
    """Return the disco packets that the stock peer sent, over UDP and the relay."""
    datagrams = [data for way, _, data in capture.udp if way == "in"]
    datagrams += [payload[32:] for kind, payload in capture.derp_frames if kind == 0x05]
    return [data for data in datagrams if sender_of_untrusted(data) is not None]


def test_the_recorded_pings_open_and_name_the_peers_node_key() -> None:
    packets = _from_peer(DIRECT)
    assert len(packets) == 5
    for packet in packets:
        assert sender_of_untrusted(packet) == DIRECT.peer_disco
        assert len(packet) == 124
        opened = open_untrusted(packet, DIRECT.disco, DIRECT.peer_disco)
        ping = parse_message_untrusted(opened)
        assert isinstance(ping, Ping)
        assert (ping.node_key, ping.padding) == (DIRECT.peer_node, 0)
        assert encode_message(ping) == opened


def test_the_recorded_pongs_join_to_their_pings_and_tell_the_source() -> None:
    box = SharedBox(DIRECT.disco, DIRECT.peer_disco)
    pings: list[bytes] = []
    for way, address, data in DIRECT.udp:
        if sender_of_untrusted(data) is None:
            assert data[:4] == b"\x01\x00\x00\x00", "the rest is WireGuard"
        elif way == "in":
            ping = parse_message_untrusted(box.open_untrusted(data))
            assert isinstance(ping, Ping)
            pings.append(ping.tx_id)
        else:
            # What the bare client sent seals again to the same bytes under the same nonce.
            assert data[6:38] == DIRECT.disco.public().raw
            pong = Pong(pings.pop(), address)
            assert box.seal(encode_message(pong), data[38:62]) == data
    assert pings == []


def test_the_recorded_call_me_maybe_came_over_the_relay() -> None:
    packets = _from_peer(RELAYED)
    assert packets
    for packet in packets:
        opened = open_untrusted(packet, RELAYED.disco, RELAYED.peer_disco)
        call = parse_message_untrusted(opened)
        assert isinstance(call, CallMeMaybe)
        assert [str(endpoint) for endpoint in call.endpoints] == ["198.18.2.2:45921"]
        assert encode_message(call) == opened


def test_wireguard_is_not_disco() -> None:
    others = [data for _, _, data in DIRECT.udp if data[0] == 1]
    others += [payload[32:] for _, payload in RELAYED.derp_frames if payload[32] == 1]
    assert len(others) == 3
    assert all(sender_of_untrusted(data) is None for data in others)


def test_sealing_and_opening_are_each_others_inverse() -> None:
    packet = seal(b"hello", ALICE, BOB.public(), NONCE)
    assert packet[:HEADER_BYTES] == MAGIC + ALICE.public().raw + NONCE
    assert open_untrusted(packet, BOB, ALICE.public()) == b"hello"
    assert SharedBox(BOB, ALICE.public()).open_untrusted(packet) == b"hello"


@pytest.mark.parametrize("length", range(HEADER_BYTES + 16 + 5))
def test_a_packet_that_is_cut(length: int) -> None:
    packet = seal(b"hello", ALICE, BOB.public(), NONCE)[:length]
    assert (sender_of_untrusted(packet) is None) == (length < HEADER_BYTES)
    with pytest.raises(MalformedDisco):
        open_untrusted(packet, BOB, ALICE.public())


@pytest.mark.parametrize("at", range(HEADER_BYTES + 16 + 5))
def test_a_changed_byte(at: int) -> None:
    packet = bytearray(seal(b"hello", ALICE, BOB.public(), NONCE))
    packet[at] ^= 1
    with pytest.raises(MalformedDisco):
        open_untrusted(bytes(packet), BOB, ALICE.public())


def test_longer_packets_and_other_keys() -> None:
    packet = seal(b"hello", ALICE, BOB.public(), NONCE)
    with pytest.raises(MalformedDisco):
        open_untrusted(packet + b"\x00", BOB, ALICE.public())
    with pytest.raises(MalformedDisco, match="not from the peer"):
        open_untrusted(packet, ALICE, BOB.public())
    eve = DiscoPrivate.from_entropy(bytes(range(64, 96)))
    with pytest.raises(MalformedDisco, match="does not open"):
        open_untrusted(packet, eve, ALICE.public())


def test_a_low_order_key() -> None:
    with pytest.raises(MalformedDisco, match="low-order"):
        SharedBox(ALICE, DiscoPublic.zero())


def test_nothing_secret_is_shown() -> None:
    box = SharedBox(ALICE, BOB.public())
    assert box._secret.hex() not in repr(box)
    assert ALICE.reveal().hex() not in repr(box)
