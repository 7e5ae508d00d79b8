"""HTTP/2 in records: two ends joined without a socket, and what hostile ends do."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.settings
import pytest

from warren.control.channel import (
    MAX_STREAMS,
    WINDOW_BYTES,
    Body,
    ChannelUnavailable,
    ClientChannel,
    Closed,
    Early,
    Ended,
    Event,
    Request,
    Reset,
    Response,
    ServerChannel,
)
from warren.control.early import encode_early
from warren.control.records import RecordLayer
from warren.keys import ChallengePublic

UP, DOWN = bytes(range(32)), bytes(range(32, 64))
CHALLENGE = ChallengePublic(bytes(range(32)))


class Wire:
    """Client and server with a perfect wire between them."""

    def __init__(self, early: bytes | None = None) -> None:
        self.client = ClientChannel(RecordLayer(UP, DOWN))
        self.server = ServerChannel(RecordLayer(DOWN, UP), early)
        self.at_client: list[Event] = []
        self.at_server: list[Event] = []

    def exchange(self, cut: int = 1 << 20) -> None:
        """Carry bytes both ways until nobody has any left."""
        while True:
            up, down = self.client.poll_transmit(), self.server.poll_transmit()
            if not up and not down:
                return
            for at in range(0, len(up), cut):
                self.at_server += self.server.receive(up[at : at + cut])
            for at in range(0, len(down), cut):
                self.at_client += self.client.receive(down[at : at + cut])

    def body_at_client(self, stream: int) -> bytes:
        return b"".join(
            event.data
            for event in self.at_client
            if isinstance(event, Body) and event.stream == stream
        )


@pytest.mark.parametrize("cut", [1, 100, 1 << 20])
def test_a_request_and_its_answer(cut: int) -> None:
    wire = Wire(encode_early(CHALLENGE))
    stream = wire.client.request("POST", "/machine/register", [("Ts-Lb", "a")], b"{}")
    wire.exchange(cut)
    assert wire.at_server == [
        Request(stream, "POST", "/machine/register", (("ts-lb", "a"),)),
        Body(stream, b"{}"),
        Ended(stream),
    ]
    wire.server.respond(stream, 200, [("Content-Type", "application/json")])
    wire.server.send(stream, b"yes", end=True)
    wire.exchange(cut)
    assert wire.at_client == [
        Early(CHALLENGE),
        Response(stream, 200, (("content-type", "application/json"),)),
        Body(stream, b"yes"),
        Ended(stream),
    ]


def test_a_get_with_a_body_and_a_request_without_one() -> None:
    wire = Wire()
    with_body = wire.client.request("GET", "/machine/tka/sync/offer", body=b"{}")
    without = wire.client.request("GET", "/machine/whoami")
    wire.exchange()
    assert wire.at_server == [
        Request(with_body, "GET", "/machine/tka/sync/offer", ()),
        Body(with_body, b"{}"),
        Ended(with_body),
        Request(without, "GET", "/machine/whoami", ()),
        Ended(without),
    ]


def test_a_long_poll_streams_while_others_come_and_go() -> None:
    wire = Wire()
    poll = wire.client.request("POST", "/machine/map", body=b"{}")
    wire.exchange()
    wire.server.respond(poll, 200)
    for round_number in range(200):
        other = wire.client.request("POST", "/machine/map", body=b"{}")
        wire.exchange()
        wire.server.respond(other, 200)
        wire.server.send(other, b"", end=True)
        wire.server.send(poll, bytes([round_number]))
        wire.exchange()
        assert wire.at_client[-1] in (Ended(other), Body(poll, bytes([round_number])))
    assert wire.body_at_client(poll) == bytes(range(200))
    assert not wire.client.closed


def test_a_large_body_waits_for_the_window_both_ways() -> None:
    wire = Wire()
    large = bytes(range(256)) * (5 * WINDOW_BYTES // 256)
    stream = wire.client.request("POST", "/up", body=large)
    assert wire.client.queued(stream) >= len(large) - WINDOW_BYTES
    wire.exchange()
    received = b"".join(event.data for event in wire.at_server if isinstance(event, Body))
    assert received == large
    wire.server.respond(stream, 200)
    wire.server.send(stream, large, end=True)
    waiting = wire.server.queued(stream)
    assert len(large) - 2 * WINDOW_BYTES <= waiting < len(large)
    wire.exchange()
    assert wire.server.queued(stream) == 0
    assert wire.body_at_client(stream) == large
    assert wire.at_client[-1] == Ended(stream)


def test_a_reader_that_stops_holds_back_its_stream_only_here() -> None:
    wire = Wire()
    stream = wire.client.request("GET", "/slow")
    wire.exchange()
    wire.server.respond(stream, 200)
    for _ in range(64):
        wire.server.send(stream, bytes(100_000))
    wire.server.poll_transmit()  # Lost on a transport that does not move.
    assert wire.server.queued(stream) > 64 * 100_000 - 2 * WINDOW_BYTES
    assert wire.server.poll_transmit() == b""
    wire.server.reset(stream)
    assert wire.server.queued(stream) == 0


def test_cancel_reaches_the_server_and_frees_its_queue() -> None:
    wire = Wire()
    stream = wire.client.request("POST", "/machine/map", body=b"{}")
    wire.exchange()
    wire.server.respond(stream, 200)
    wire.server.send(stream, bytes(4 * WINDOW_BYTES))
    wire.client.cancel(stream)
    wire.exchange()
    assert wire.at_server[-1] == Reset(stream)
    assert wire.server.queued(stream) == 0
    wire.server.send(stream, b"late", end=True)
    wire.server.respond(stream, 200)
    wire.server.reset(stream)
    wire.client.cancel(stream)
    wire.exchange()
    assert not wire.client.closed
    assert not wire.server.closed


def test_a_reset_reaches_the_client() -> None:
    wire = Wire()
    stream = wire.client.request("POST", "/machine/map", body=b"{}")
    wire.exchange()
    wire.server.reset(stream)
    wire.exchange()
    assert wire.at_client[-1] == Reset(stream)


def test_goodbye_both_ways() -> None:
    for end in ("client", "server"):
        wire = Wire()
        wire.client.request("GET", "/")
        wire.exchange()
        (wire.client if end == "client" else wire.server).close("enough")
        wire.exchange()
        assert wire.client.closed
        assert wire.server.closed
        last = (wire.at_server if end == "client" else wire.at_client)[-1]
        assert isinstance(last, Closed)
        assert "goodbye" in last.reason
        with pytest.raises(ChannelUnavailable):
            wire.client.request("GET", "/")
        assert wire.client.receive(b"more") == []


def test_too_many_requests_at_once_are_refused_here() -> None:
    wire = Wire()
    wire.exchange()
    for _ in range(MAX_STREAMS):
        wire.client.request("GET", "/wait")
    with pytest.raises(ChannelUnavailable):
        wire.client.request("GET", "/one-too-many")
    wire.exchange()
    assert sum(isinstance(event, Request) for event in wire.at_server) == MAX_STREAMS
    assert not wire.server.closed


def test_a_broken_record_closes() -> None:
    wire = Wire()
    (closed,) = wire.server.receive(b"GET / HTTP/1.1\r\n\r\n")
    assert closed == Closed("expected a record, got a frame of type 71")
    assert wire.server.receive(b"x") == []


def _plain(data: bytes) -> list[Event]:
    """What a server makes of HTTP/2 bytes in good records."""
    return ServerChannel(RecordLayer(DOWN, UP)).receive(RecordLayer(UP, DOWN).seal(data))


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        PREFACE + bytes.fromhex("ffffff000000000001"),
        PREFACE + bytes.fromhex("000004080000000000") + bytes(4),
        PREFACE + bytes.fromhex("000001010400000001") + b"\xff",
        PREFACE + bytes.fromhex("000000010400000002"),
        PREFACE + bytes.fromhex("000001000000000009") + b"x",
        PREFACE + bytes.fromhex("000005060000000000") + bytes(5),
        PREFACE + bytes.fromhex("000003040000000000") + bytes(3),
    ],
)
def test_what_is_not_http2_closes_with_a_reason_and_a_goodbye(data: bytes) -> None:
    channel = ServerChannel(RecordLayer(DOWN, UP))
    channel.poll_transmit()
    events = channel.receive(RecordLayer(UP, DOWN).seal(data))
    assert isinstance(events[-1], Closed)
    assert "HTTP/2" in events[-1].reason
    assert channel.closed


def test_headers_that_are_not_text_are_read_as_latin_1() -> None:
    http = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=True, validate_outbound_headers=False)
    )
    http.initiate_connection()
    http.send_headers(
        1,
        [
            (":method", "GET"),
            (":path", "/"),
            (":scheme", "https"),
            (":authority", "x"),
            (b"x-bytes", b"\xff\xfe"),
        ],
        end_stream=True,
    )
    events = _plain(http.data_to_send())
    assert events[0] == Request(1, "GET", "/", (("x-bytes", "ÿþ"),))


def test_oversized_headers_close() -> None:
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    http.initiate_connection()
    head = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "x")]
    http.send_headers(1, [*head, *((f"x-{n}", "y" * 1000) for n in range(100))])
    assert isinstance(_plain(http.data_to_send())[-1], Closed)


def test_a_status_that_is_no_number_resets_the_stream() -> None:
    http = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=False, validate_outbound_headers=False)
    )
    http.initiate_connection()
    client = ClientChannel(RecordLayer(UP, DOWN))
    stream = client.request("GET", "/")
    sent = b"".join(RecordLayer(DOWN, UP).receive(client.poll_transmit()))
    http.receive_data(sent)
    http.send_headers(stream, [(":status", "abc")])
    events = client.receive(RecordLayer(DOWN, UP).seal(http.data_to_send()))
    assert Reset(stream) in events or isinstance(events[-1], Closed)


def test_what_is_under_way_on_cancelled_streams_does_not_eat_the_window() -> None:
    wire = Wire()
    for _ in range(30):
        stream = wire.client.request("GET", "/machine/map")
        wire.exchange()
        wire.server.respond(stream, 200)
        wire.server.send(stream, bytes(200_000))
        wire.client.cancel(stream)
        wire.exchange()
    stream = wire.client.request("GET", "/last")
    wire.exchange()
    wire.server.respond(stream, 200)
    wire.server.send(stream, bytes(3 * WINDOW_BYTES), end=True)
    wire.exchange()
    assert len(wire.body_at_client(stream)) == 3 * WINDOW_BYTES


def test_bodies_of_refused_requests_do_not_eat_the_window() -> None:
    wire = Wire()
    for _ in range(30):
        stream = wire.client.request("POST", "/large", body=bytes(500_000))
        wire.server.receive(wire.client.poll_transmit())
        wire.server.respond(stream, 413)
        wire.server.send(stream, b"too large", end=True)
        wire.server.reset(stream)
        wire.exchange()
    stream = wire.client.request("POST", "/last", body=bytes(3 * WINDOW_BYTES))
    wire.exchange()
    received = [e for e in wire.at_server if isinstance(e, Body) and e.stream == stream]
    assert sum(len(event.data) for event in received) == 3 * WINDOW_BYTES
