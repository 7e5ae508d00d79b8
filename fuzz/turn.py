"""TURN's entries: codec, stream, and both machines with an allocation in place.

Where a message is signed on the wire, the entry signs it, so that the fuzzer reaches what stands
behind the signature.
"""

from __future__ import annotations

import base64
import random
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address

from warren.nat.stun import MalformedStun, TxId, encode_header
from warren.nat.turn.allocation import (
    CloseRelay,
    Flow,
    OpenRelay,
    ToClient,
    Transport,
    TurnSettings,
)
from warren.nat.turn.client import TurnClient
from warren.nat.turn.credentials import Credentials, StaticAccounts, long_term_key
from warren.nat.turn.framing import (
    MAX_STREAM_MESSAGE_BYTES,
    TurnStream,
    encode_channel_data,
    is_channel_data,
    parse_channel_data_untrusted,
)
from warren.nat.turn.grants import (
    MalformedGrant,
    TurnPlace,
    issue,
    parse_grant_untrusted,
)
from warren.nat.turn.grants import encode as encode_grant
from warren.nat.turn.message import (
    Message,
    encode_message,
    error_value,
    parse_message_untrusted,
    peer_value,
)
from warren.nat.turn.nonces import COOKIE, PASSWORD_ALGORITHMS_BIT
from warren.nat.turn.numbers import Algorithm, Attribute, Class, Code, Method
from warren.nat.turn.reach import Reach
from warren.nat.turn.server import TurnServer
from warren.netmap.endpoint import Endpoint

_USER = Credentials("alice", "wonderland")
_REALM = "warren"
_KEY = long_term_key(_USER.username, _REALM, _USER.password, Algorithm.MD5)
_PEER = Endpoint.parse("9.9.9.9:9")
_FLOW = Flow(Transport.UDP, Endpoint.parse("7.7.7.7:7"), 1)
_TX = TxId(bytes(12))


def message(data: bytes) -> None:
    """Read a message, and what it read once more."""
    with suppress(MalformedStun):
        if is_channel_data(data):
            channel, payload = parse_channel_data_untrusted(data)
            again = encode_channel_data(channel, payload, padded=True)
            assert parse_channel_data_untrusted(again) == (channel, payload)
    with suppress(MalformedStun):
        read = parse_message_untrusted(data)
        read.verifies(_KEY, "sha1")
        read.verifies(_KEY, "sha256")
        again = encode_message(read.method, read.kind, read.tx_id, read.attributes)
        assert parse_message_untrusted(again).attributes == read.attributes
        for name in Attribute:
            for reader in (read.endpoint, read.endpoints, read.family):
                with suppress(MalformedStun):
                    reader(name)
        read.error()


def stream(data: bytes) -> None:
    """Cut a stream, whole and in parts."""
    data = data[: 4 * MAX_STREAM_MESSAGE_BYTES]
    found: list[list[bytes]] = []
    for step in (len(data) or 1, 5):
        cut, parts = TurnStream(), []
        with suppress(MalformedStun):
            for at in range(0, len(data), step):
                parts += cut.receive(data[at : at + step])
        found.append(parts)
    # Bad bytes lose what came in the same piece, so the whole never has more than the parts.
    assert found[0] == found[1][: len(found[0])]


def server(data: bytes) -> None:
    """A server with an allocation takes a client's bytes: as they are, and signed."""
    machine, nonce = _server()
    machine.receive(_FLOW, data, 1.0)
    with suppress(MalformedStun):
        read = parse_message_untrusted(data)
        signed = [
            *((kind, value) for kind, value in read.attributes if kind not in _SIGNATURE),
            *_signature(nonce),
        ]
        request = encode_message(read.method, Class.REQUEST, read.tx_id, signed, _KEY)
        if len(request) <= MAX_STREAM_MESSAGE_BYTES:
            machine.receive(_FLOW, request, 1.0)
    _serve(machine)
    for relayed in list(machine._relayed):
        machine.receive_from_peer(relayed, _PEER, data[:60_000], 1.0)
    _serve(machine)
    machine.handle_timeout(1e6)
    _serve(machine)
    assert len(machine) == 0 and not machine._relayed and not machine._reserved


def client(data: bytes) -> None:
    """Clients take a server's bytes: as they are, and as answers to their own request."""
    for reliable in (False, True):
        machine = TurnClient(_USER, random.Random(1).randbytes, 0.0, reliable=reliable)
        while machine.poll_transmit() is not None:
            pass
        machine.receive(data, 0.5)
    machine = TurnClient(_USER, random.Random(1).randbytes, 0.0)
    for _ in range(6):
        sent = machine.poll_transmit()
        if sent is None or is_channel_data(sent):
            break
        asked = parse_message_untrusted(sent)
        machine.receive(_as_answer(data, asked), 0.5)
        machine.permit(_PEER.ip, 0.5)
    machine.handle_timeout(1e6)
    while machine.poll_event() is not None:
        pass


def grant(data: bytes) -> None:
    """Read a coordinator's grant, and what it read once more."""
    with suppress(MalformedGrant):
        read = parse_grant_untrusted(data)
        assert parse_grant_untrusted(encode_grant(read)) == read


def grants() -> list[bytes]:
    """A grant with a way of each kind."""
    places = [
        TurnPlace(Transport.UDP, "192.0.2.1", 3478),
        TurnPlace(Transport.TCP, "2001:db8::1", 3478),
        TurnPlace(Transport.TLS, "turn.example.com", 443),
    ]
    return [encode_grant(issue(b"secret", "n5", places, datetime(2026, 1, 1, tzinfo=UTC)))]


def messages() -> list[bytes]:
    """One of each kind, unsigned."""
    peer = peer_value(_PEER, _TX)
    address = (int(Attribute.XOR_RELAYED_ADDRESS), peer[1])
    life = (int(Attribute.LIFETIME), (600).to_bytes(4, "big"))
    wanted = (int(Attribute.REQUESTED_TRANSPORT), b"\x11\0\0\0")
    number = (int(Attribute.CHANNEL_NUMBER), b"\x40\0\0\0")
    request, error = Class.REQUEST, (int(Attribute.ERROR_CODE), error_value(Code.UNAUTHENTICATED))
    return [
        encode_message(Method.ALLOCATE, request, _TX, [wanted, life]),
        encode_message(
            Method.ALLOCATE,
            request,
            _TX,
            [wanted, (Attribute.EVEN_PORT, b"\x80"), (0x8000, b"\2\0\0\0")],
        ),
        encode_message(Method.REFRESH, request, _TX, [life, (0x17, b"\1\0\0\0")]),
        encode_message(Method.REFRESH, request, _TX, [(Attribute.LIFETIME, bytes(4))]),
        encode_message(Method.CREATE_PERMISSION, request, _TX, [peer, peer]),
        encode_message(Method.CHANNEL_BIND, request, _TX, [number, peer]),
        encode_message(Method.SEND, Class.INDICATION, _TX, [peer, (Attribute.DATA, b"data")]),
        encode_message(Method.DATA, Class.INDICATION, _TX, [peer, (Attribute.DATA, b"data")]),
        encode_message(Method.BINDING, request, _TX, [], fingerprint=True),
        encode_message(Method.ALLOCATE, Class.ERROR, _TX, [error, *_signature(b"nonce")[1:]]),
        _challenge(),
        encode_message(
            Method.ALLOCATE,
            Class.SUCCESS,
            _TX,
            [address, (Attribute.XOR_MAPPED_ADDRESS, peer[1]), life],
        ),
        encode_channel_data(0x4000, b"data", padded=True),
    ]


def streams() -> list[bytes]:
    """Several messages in a row."""
    return [b"".join(messages()), b"".join(messages()[::-1])]


_SIGNATURE = frozenset({Attribute.USERNAME, Attribute.REALM, Attribute.NONCE})


def _signature(nonce: bytes) -> list[tuple[int, bytes]]:
    return [
        (int(Attribute.USERNAME), _USER.username.encode()),
        (Attribute.REALM, _REALM.encode()),
        (Attribute.NONCE, nonce),
    ]


def _server() -> tuple[TurnServer, bytes]:
    settings = TurnSettings(_REALM, frozenset({ip_address("8.8.4.4"), ip_address("2600::4")}))
    accounts = StaticAccounts(dict((_USER,)))
    machine = TurnServer(settings, accounts, Reach(), random.Random(1).randbytes, 0.0)
    wanted = (int(Attribute.REQUESTED_TRANSPORT), b"\x11\0\0\0")
    machine.receive(_FLOW, encode_message(Method.ALLOCATE, Class.REQUEST, _TX, [wanted]), 0.5)
    (challenge,) = _serve(machine)
    nonce = challenge.get(Attribute.NONCE) or b""
    peer = peer_value(_PEER, _TX)
    number = (int(Attribute.CHANNEL_NUMBER), b"\x40\0\0\0")
    for method, attributes in (
        (Method.ALLOCATE, [wanted]),
        (Method.CHANNEL_BIND, [number, peer]),
    ):
        signed = [*attributes, *_signature(nonce)]
        machine.receive(_FLOW, encode_message(method, Class.REQUEST, _TX, signed, _KEY), 0.5)
        (answer,) = _serve(machine)
        assert answer.kind is Class.SUCCESS
    return machine, nonce


def _challenge() -> bytes:
    """What a server says first: it offers a choice of algorithms, and its nonce says so."""
    offered = b"\0\1\0\0\0\2\0\0"
    nonce = COOKIE + base64.b64encode(PASSWORD_ALGORITHMS_BIT.to_bytes(3, "big"))
    error = (int(Attribute.ERROR_CODE), error_value(Code.UNAUTHENTICATED))
    attributes = [error, *_signature(nonce)[1:], (Attribute.PASSWORD_ALGORITHMS, offered)]
    return encode_message(Method.ALLOCATE, Class.ERROR, _TX, attributes)


def _serve(machine: TurnServer) -> list[Message]:
    """Open the sockets that a machine wants; return what it tells its clients."""
    answers = []
    while True:
        event, out = machine.poll_event(), machine.poll_transmit()
        if isinstance(event, OpenRelay):
            port = 50_000 + 4 * event.ticket
            families = (*event.families, *event.families[:1] * event.reserve)
            ips = {4: ip_address("8.8.4.4"), 6: ip_address("2600::4")}
            opened = [Endpoint(ips[f], port + n) for n, f in enumerate(families)]
            machine.relay_opened(event.ticket, opened, 0.5)
        if isinstance(out, ToClient) and not is_channel_data(out.data):
            answers.append(parse_message_untrusted(out.data))
        if out is None and not isinstance(event, OpenRelay | CloseRelay):
            return answers


def _as_answer(data: bytes, asked: Message) -> bytes:
    """Give bytes the head of an answer to a request, and sign them if the request was."""
    with suppress(MalformedStun):
        read = parse_message_untrusted(data)
        kind = read.kind if read.kind in (Class.SUCCESS, Class.ERROR) else Class.ERROR
        key = _KEY if asked.sha1_at is not None else None
        return encode_message(asked.method, kind, asked.tx_id, read.attributes, key)
    data = data[:60_000]
    return encode_header(0x0103, len(data), asked.tx_id) + data
