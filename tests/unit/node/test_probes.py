"""Packets of pings inside the tunnel, checked against values computed by hand."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from warren.node.probes import icmp_echo, parse_answer_untrusted, tsmp_ping

A4, B4 = IPv4Address("100.64.0.1"), IPv4Address("100.64.0.2")
A6, B6 = IPv6Address("fd7a:115c:a1e0::1"), IPv6Address("fd7a:115c:a1e0::2")
NONCE = b"12345678"


def ones_complement_sum(data: bytes) -> int:
    """RFC 1071, the slow way; 0xffff when a checksum inside is right."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_tsmp_over_ipv4() -> None:
    packet = tsmp_ping(A4, B4, NONCE)
    assert ones_complement_sum(packet[:20]) == 0xFFFF
    assert packet[9] == 99
    assert packet[12:20] == A4.packed + B4.packed
    assert packet[20:] == b"p" + NONCE
    assert int.from_bytes(packet[2:4], "big") == len(packet)


@pytest.mark.parametrize("size", [0, 1, 56])
def test_icmp_checksums(size: int) -> None:
    packet = icmp_echo(A4, B4, NONCE, size)
    assert packet[20] == 8
    assert ones_complement_sum(packet[:20]) == 0xFFFF
    assert ones_complement_sum(packet[20:]) == 0xFFFF
    packet = icmp_echo(A6, B6, NONCE, size)
    assert packet[40] == 128
    length = len(packet) - 40
    pseudo = A6.packed + B6.packed + length.to_bytes(4, "big") + b"\0\0\0\x3a"
    assert ones_complement_sum(pseudo + packet[40:]) == 0xFFFF
    assert int.from_bytes(packet[4:6], "big") == length


def test_answers() -> None:
    pong = tsmp_ping(B4, A4, NONCE).replace(b"p" + NONCE, b"o" + NONCE + b"\0\0")
    answer = parse_answer_untrusted(pong)
    assert answer is not None
    assert (answer.source, answer.nonce) == (B4, NONCE)
    for echo, kind, at in ((icmp_echo(B4, A4, NONCE), 0, 20), (icmp_echo(B6, A6, NONCE), 129, 40)):
        reply = echo[:at] + bytes([kind]) + echo[at + 1 :]
        answer = parse_answer_untrusted(reply)
        assert answer is not None
        assert answer.nonce == NONCE
        assert parse_answer_untrusted(echo) is None, "a request is no answer"


def test_garbage_is_no_answer() -> None:
    whole = tsmp_ping(B4, A4, NONCE).replace(b"p" + NONCE, b"o" + NONCE)
    for cut in range(len(whole)):
        assert parse_answer_untrusted(whole[:cut]) is None
    for first in range(256):
        parse_answer_untrusted(bytes([first]) * 60)
