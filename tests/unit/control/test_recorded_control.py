"""The recorded control connections, opened layer by layer down to the values of the map."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from vectors.captures import Capture, sessions
from vectors.replay import (
    open_control,
    read_as_client,
    read_as_server,
    received_plaintext,
    sent_plaintext,
)
from warren.control.channel import Body, Closed, Early, Ended, Request, Response
from warren.control.early import EarlyReader, encode_early
from warren.control.mapstream import MapFrames
from warren.control.records import MalformedRecord
from warren.netmap.codec import decode_json_untrusted, encode_json
from warren.netmap.messages import MapRequest, MapResponse
from warren.netmap.register import RegisterRequest, RegisterResponse

pytestmark = pytest.mark.parametrize("capture", sessions(), ids=lambda capture: capture.name)

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def test_the_request_is_the_recorded_one_to_the_byte(capture: Capture) -> None:
    assert open_control(capture).request == capture.control[0][1]


def test_every_record_of_both_directions_opens(capture: Capture) -> None:
    opened = open_control(capture)
    assert sent_plaintext(opened).startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert received_plaintext(opened).startswith(encode_early(capture.early_challenge))


def test_records_open_however_the_stream_is_cut(capture: Capture) -> None:
    whole = received_plaintext(open_control(capture))
    opened = open_control(capture)
    stream = b"".join(data for way, data in opened.pieces if way == "in")
    plain = b"".join(
        part for at in range(len(stream)) for part in opened.records.receive(stream[at : at + 1])
    )
    assert plain == whole


def test_a_changed_bit_in_any_record_ends_the_session(capture: Capture) -> None:
    stream = b"".join(data for way, data in open_control(capture).pieces if way == "in")
    for at in (0, 3, 20, len(stream) - 1):
        records = open_control(capture).records
        with pytest.raises(MalformedRecord):
            records.receive(stream[:at] + bytes([stream[at] ^ 1]) + stream[at + 1 :])
        with pytest.raises(MalformedRecord):
            records.receive(b"")


def test_the_early_payload(capture: Capture) -> None:
    early, rest = EarlyReader().receive(received_plaintext(open_control(capture)))
    assert early is not None
    assert early.challenge == capture.early_challenge
    assert rest[3] == 0x04, "SETTINGS is the first HTTP/2 frame"


def _requests(capture: Capture) -> list[tuple[str, str, bytes]]:
    events = read_as_server(sent_plaintext(open_control(capture)))
    requests = [event for event in events if isinstance(event, Request)]
    bodies = [event.data for event in events if isinstance(event, Body)]
    assert len(requests) == len(bodies) == sum(isinstance(event, Ended) for event in events)
    return [
        (request.method, request.path, body) for request, body in zip(requests, bodies, strict=True)
    ]


def test_the_requests(capture: Capture) -> None:
    (_, register, body), (_, stream, map_body), (_, update, update_body) = _requests(capture)
    assert (register, stream, update) == ("/machine/register", "/machine/map", "/machine/map")
    registering = decode_json_untrusted(body, RegisterRequest)
    assert registering.version == capture.version
    assert registering.node_key == capture.node.public()
    assert registering.auth is not None
    assert registering.auth.auth_key.startswith("hskey-auth-")
    polling = decode_json_untrusted(map_body, MapRequest)
    assert polling.stream
    assert polling.disco_key == capture.disco.public()
    updating = decode_json_untrusted(update_body, MapRequest)
    assert updating.omit_peers
    assert not updating.stream
    assert updating.endpoint_types == [2]


def _answers(capture: Capture) -> dict[int, bytes]:
    events = read_as_client(received_plaintext(open_control(capture)), _requests(capture))
    assert events[0] == Early(capture.early_challenge)
    assert not any(isinstance(event, Closed) for event in events)
    statuses = {event.stream: event.status for event in events if isinstance(event, Response)}
    assert statuses == {1: 200, 3: 200, 5: 200}
    bodies = dict.fromkeys(statuses, b"")
    for event in events:
        if isinstance(event, Body):
            bodies[event.stream] += event.data
    return bodies


def test_the_registration_is_accepted(capture: Capture) -> None:
    response = decode_json_untrusted(_answers(capture)[1], RegisterResponse)
    assert response.machine_authorized
    assert not response.auth_url
    assert response.user is not None
    assert response.user.display_name == "u"


def test_the_map_stream_is_what_was_decoded_then(capture: Capture) -> None:
    body = _answers(capture)[3]
    whole = MapFrames().receive(body)
    assert [_read_map(message) for message in whole] == capture.map_responses
    frames = MapFrames()
    cut = [message for at in range(len(body)) for message in frames.receive(body[at : at + 1])]
    assert cut == whole
    assert frames.pending_bytes == 0


def _read_map(message: bytes) -> dict[str, Any]:
    # The recording tells the version of the peer's kernel without its local suffix.
    text = re.sub(r'("OSVersion":"[0-9.]+)-[^"]*"', r'\1"', message.decode())
    return cast(dict[str, Any], json.loads(text))


def test_the_map_decodes_without_loss(capture: Capture) -> None:
    for message in capture.map_responses:
        response = decode_json_untrusted(json.dumps(message).encode(), MapResponse)
        again = json.loads(encode_json(response))
        assert _lost(message, again, "") == []


def _lost(before: object, after: object, where: str) -> list[str]:
    """Name what stands in `before` and not in `after`; what is empty need not be written."""
    if before in (None, "", 0, [], {}):
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            lost
            for name, value in before.items()
            for lost in _lost(value, after.get(name), f"{where}.{name}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [lost for at, (a, b) in pairs for lost in _lost(a, b, f"{where}[{at}]")]
    if isinstance(before, str) and isinstance(after, str) and _TIME.match(before):
        # Times are kept to the microsecond.
        far = datetime.fromisoformat(before) - datetime.fromisoformat(after)
        return [] if abs(far) <= timedelta(microseconds=1) else [f"{where}: {before} moved"]
    return [] if before == after else [f"{where}: {before!r} became {after!r}"]
