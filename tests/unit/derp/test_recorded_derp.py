"""The recorded relay logins, both ways, and the frames that followed."""

from __future__ import annotations

import pytest

from vectors.captures import Capture, sessions
from warren.derp.frames import (
    CLIENT_MAX_PAYLOAD_BYTES,
    SERVER_MAX_PAYLOAD_BYTES,
    ClientInfoBox,
    Frame,
    FrameReader,
    NotePreferred,
    RecvPacket,
    SendPacket,
    ServerInfoBox,
    ServerKey,
    encode_frame,
    parse_frame_untrusted,
)
from warren.derp.login import ClientInfo, ClientLogin, ServerInfo
from warren.derp.upgrade import ClientUpgrade, switching_response

pytestmark = pytest.mark.parametrize("capture", sessions(), ids=lambda capture: capture.name)


def _received(capture: Capture) -> bytes:
    return b"".join(data for way, data in capture.derp if way == "in")


def _sent(capture: Capture) -> list[bytes]:
    return [data for way, data in capture.derp if way == "out"]


def _frames_in(capture: Capture) -> tuple[ClientUpgrade, bytes, list[Frame]]:
    upgrade = ClientUpgrade("198.18.0.10")
    rest = upgrade.receive(_received(capture))
    assert rest is not None
    return upgrade, rest, FrameReader(CLIENT_MAX_PAYLOAD_BYTES).receive(rest)


def test_the_upgrade_both_ways(capture: Capture) -> None:
    host = _sent(capture)[0].split(b"Host: ")[1].split(b"\r\n")[0].decode()
    assert ClientUpgrade(host).request() == _sent(capture)[0]
    upgrade, rest, frames = _frames_in(capture)
    assert frames[0] == ServerKey(upgrade.server_key)
    head = _received(capture)[: -len(rest)]
    assert switching_response(upgrade.server_key) == head


def test_the_frames_both_ways_to_the_byte(capture: Capture) -> None:
    _, rest, frames = _frames_in(capture)
    assert b"".join(map(encode_frame, frames)) == rest
    stream = b"".join(_sent(capture)[1:])
    sent = FrameReader(SERVER_MAX_PAYLOAD_BYTES).receive(stream)
    assert b"".join(map(encode_frame, sent)) == stream
    assert isinstance(sent[0], ClientInfoBox)
    assert sent[1] == NotePreferred(home=True)
    assert all(isinstance(frame, SendPacket) for frame in sent[2:])
    byte_by_byte = FrameReader(SERVER_MAX_PAYLOAD_BYTES)
    pieces = [byte_by_byte.receive(stream[at : at + 1]) for at in range(len(stream))]
    assert [frame for piece in pieces for frame in piece] == sent


def test_our_login_says_what_the_recorded_one_said(capture: Capture) -> None:
    _, _, frames = _frames_in(capture)
    (info,) = FrameReader(SERVER_MAX_PAYLOAD_BYTES).receive(_sent(capture)[1])
    assert isinstance(info, ClientInfoBox)
    login = ClientLogin(capture.node, ClientInfo(), nonce=info.sealed[:24])
    assert (login.poll_transmit(), login.done) == (b"", False)
    login.receive(frames[0])
    assert login.poll_transmit() == _sent(capture)[1]
    assert isinstance(frames[1], ServerInfoBox)
    login.receive(frames[1])
    assert login.done
    assert login.server_info == ServerInfo(version=2)


def test_the_packets_that_came_are_the_peers(capture: Capture) -> None:
    for kind, payload in capture.derp_frames:
        frame = parse_frame_untrusted(kind, payload)
        assert isinstance(frame, RecvPacket)
        assert frame.source == capture.peer_node
        assert encode_frame(frame)[5:] == payload
