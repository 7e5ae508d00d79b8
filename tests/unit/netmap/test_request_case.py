"""Requests are read like Go reads them: names in any case, nothing but MalformedMessage raised."""

from __future__ import annotations

import pytest

from warren.netmap.codec import MalformedMessage, decode_json_untrusted, decode_request_untrusted
from warren.netmap.wire import MapRequest

KEY = "nodekey:" + "11" * 32
RUST = (
    b'{"Version":130,"NodeKey":"' + KEY.encode() + b'","HostInfo":{"IpnVersion":"0.6.1",'
    b'"Hostname":"rusty","NetInfo":{"PreferredDerp":900,"DerpLatency":{"900-v4":0.002}}},'
    b'"endpoints":["203.0.113.20:1"],"unknown":{"a":[1]},"Compress":null}'
)


def test_the_spelling_of_the_rust_client() -> None:
    request = decode_request_untrusted(RUST, MapRequest)
    assert request.hostinfo is not None and request.hostinfo.hostname == "rusty"
    assert request.hostinfo.net_info is not None
    assert request.hostinfo.net_info.preferred_derp == 900
    assert request.hostinfo.net_info.derp_latency == {"900-v4": 0.002}
    assert request.endpoints == ["203.0.113.20:1"]


def test_the_usual_spelling_reads_the_same_both_ways() -> None:
    usual = (
        RUST.replace(b"HostInfo", b"Hostinfo")
        .replace(b"PreferredDerp", b"PreferredDERP")
        .replace(b"DerpLatency", b"DERPLatency")
        .replace(b"IpnVersion", b"IPNVersion")
        .replace(b"endpoints", b"Endpoints")
    )
    assert decode_request_untrusted(RUST, MapRequest) == decode_json_untrusted(usual, MapRequest)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"Version":"x"}',
        RUST[:-1],
        RUST.replace(b"nodekey:", b"nodekez:"),
        RUST.replace(b"900,", b'"900",'),
        b'{"hostinfo":[1]}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"HostInfo":' * 10_000,
    ],
)
def test_bad_requests(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_request_untrusted(data, MapRequest)
