"""The login on a relay: both our ends, fast start, and everything that must fail."""

from __future__ import annotations

import nacl.bindings
import pytest

from warren.derp.frames import (
    ClientInfoBox,
    FrameReader,
    KeepAlive,
    NotePreferred,
    ServerInfoBox,
    ServerKey,
)
from warren.derp.login import ClientInfo, ClientLogin, ServerInfo, ServerLogin
from warren.derp.malformed import MalformedDerp
from warren.keys import MeshKey, NodePrivate, NodePublic

CLIENT = NodePrivate.from_entropy(bytes(range(32)))
SERVER = NodePrivate.from_entropy(bytes(range(32, 64)))
NONCE = bytes(range(24))
LIMIT = 1 << 20


def _run(client: ClientLogin, server: ServerLogin) -> None:
    at_client, at_server = FrameReader(LIMIT), FrameReader(LIMIT)
    while True:
        up, down = client.poll_transmit(), server.poll_transmit()
        if not up and not down:
            return
        for frame in at_server.receive(up):
            server.receive(frame)
        for frame in at_client.receive(down):
            client.receive(frame)


def _sealed(json: bytes, sender: NodePrivate = CLIENT) -> ClientInfoBox:
    secret = nacl.bindings.crypto_box_beforenm(SERVER.public().raw, sender.reveal())
    box = nacl.bindings.crypto_box_afternm(json, NONCE, secret)
    return ClientInfoBox(CLIENT.public(), NONCE + box)


@pytest.mark.parametrize("fast", [False, True])
def test_both_ends_learn_of_each_other(fast: bool) -> None:
    info = ClientInfo(mesh_key=MeshKey(b"\x07" * 32), is_prober=True, app_name="warren")
    limits = ServerInfo(token_bucket_bytes_per_second=1000, token_bucket_bytes_burst=2000)
    client = ClientLogin(CLIENT, info, NONCE, SERVER.public() if fast else None)
    server = ServerLogin(SERVER, limits, NONCE)
    _run(client, server)
    assert client.done
    assert server.done
    assert (client.server, client.server_info) == (SERVER.public(), limits)
    assert (server.client, server.client_info) == (CLIENT.public(), info)


def test_a_fast_start_speaks_first_and_checks_the_key() -> None:
    client = ClientLogin(CLIENT, ClientInfo(), NONCE, SERVER.public())
    assert client.poll_transmit()[0] == 0x02
    client.receive(ServerKey(SERVER.public()))
    assert client.poll_transmit() == b"", "said already"
    with pytest.raises(MalformedDerp, match="certificate"):
        client.receive(ServerKey(CLIENT.public()))


def test_a_client_refuses() -> None:
    for frame in (KeepAlive(), ServerInfoBox(bytes(60))):
        with pytest.raises(MalformedDerp, match="before the end"):
            ClientLogin(CLIENT, ClientInfo(), NONCE).receive(frame)
    client = ClientLogin(CLIENT, ClientInfo(), NONCE)
    client.receive(ServerKey(SERVER.public()))
    for sealed in (bytes(24), bytes(39), bytes(60)):
        with pytest.raises(MalformedDerp):
            client.receive(ServerInfoBox(sealed))
    assert not client.done
    with pytest.raises(MalformedDerp, match="low-order"):
        ClientLogin(CLIENT, ClientInfo(), NONCE).receive(ServerKey(NodePublic.zero()))


@pytest.mark.parametrize(
    "json",
    [
        b"",
        b"{}",
        b"[]",
        b'{"version":"2"}',
        b'{"version":2,"meshKey":"77"}',
        b'{"version":2,"meshKey":7}',
        b'{"version":2,"AppName":"\xff"}',
        b"[" * 200_000,
    ],
)
def test_a_server_refuses_what_is_not_the_json(json: bytes) -> None:
    server = ServerLogin(SERVER, ServerInfo(), NONCE)
    with pytest.raises(MalformedDerp):
        server.receive(_sealed(json))
    assert not server.done


def test_a_server_refuses_a_borrowed_key_and_other_frames() -> None:
    thief = NodePrivate.from_entropy(bytes(range(64, 96)))
    with pytest.raises(MalformedDerp, match="does not open"):
        ServerLogin(SERVER, ServerInfo(), NONCE).receive(_sealed(b'{"version":2}', thief))
    with pytest.raises(MalformedDerp, match="zero key"):
        ServerLogin(SERVER, ServerInfo(), NONCE).receive(
            ClientInfoBox(NodePublic.zero(), bytes(60))
        )
    with pytest.raises(MalformedDerp, match="low-order"):
        one = NodePublic(b"\x01" + bytes(31))
        ServerLogin(SERVER, ServerInfo(), NONCE).receive(ClientInfoBox(one, bytes(60)))
    with pytest.raises(MalformedDerp, match="ClientInfo is due"):
        ServerLogin(SERVER, ServerInfo(), NONCE).receive(NotePreferred(home=True))
    server = ServerLogin(SERVER, ServerInfo(), NONCE)
    server.receive(_sealed(b'{"version":2,"new":{}}'))
    with pytest.raises(MalformedDerp, match="ClientInfo is due"):
        server.receive(_sealed(b'{"version":2}'))


def test_an_empty_mesh_key_is_none_and_a_long_name_is_cut() -> None:
    zeros = b"0" * 64
    for mesh in (b"", zeros):
        server = ServerLogin(SERVER, ServerInfo(), NONCE)
        name = b"x" * 1000
        server.receive(_sealed(b'{"version":2,"meshKey":"%s","AppName":"%s"}' % (mesh, name)))
        assert server.client_info is not None
        assert server.client_info.mesh_key is None
        assert not server.client_info.can_ack_pings
        assert len(server.client_info.app_name) == 256


def test_nothing_secret_is_shown() -> None:
    info = ClientInfo(mesh_key=MeshKey(b"\x07" * 32))
    assert "0707" not in repr(info)
