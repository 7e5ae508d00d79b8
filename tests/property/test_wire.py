"""What must hold for every input of the wire rooms: cuts change nothing, inverses are inverses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from warren.control.channel import Body, ClientChannel, Ended, Event, ServerChannel
from warren.control.handshake import Initiator, respond
from warren.control.mapstream import MapFrames, encode_map_frame
from warren.control.records import MAX_FRAME_BYTES, RecordLayer
from warren.derp.frames import (
    ForwardPacket,
    Frame,
    FrameReader,
    Health,
    PeerGone,
    PeerPresent,
    Ping,
    RecvPacket,
    Restarting,
    SendPacket,
    encode_frame,
)
from warren.disco.messages import (
    AllocateUDPRelayEndpointRequest,
    AllocateUDPRelayEndpointResponse,
    BindUDPRelayEndpointAnswer,
    CallMeMaybe,
    CallMeMaybeVia,
    Message,
    Pong,
    TxId,
    UDPRelayEndpoint,
    encode_message,
    parse_message_untrusted,
)
from warren.disco.messages import Ping as DiscoPing
from warren.disco.sealed import SharedBox, open_untrusted
from warren.keys import DiscoPrivate, DiscoPublic, MachinePrivate, NodePublic
from warren.nat import stun
from warren.netmap.endpoint import Endpoint

KEY = st.binary(min_size=32, max_size=32)
UP, DOWN = bytes(range(32)), bytes(range(32, 64))

addresses = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address)
)
endpoints = st.builds(Endpoint.of, addresses, st.integers(0, 65535))
nodes = KEY.map(NodePublic)
discos = KEY.map(DiscoPublic)
tx_ids = st.binary(min_size=12, max_size=12).map(TxId)
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
relay_endpoints = st.builds(
    UDPRelayEndpoint,
    discos,
    st.tuples(discos, discos),
    u64,
    u32,
    u64,
    u64,
    st.lists(endpoints, min_size=1, max_size=5).map(tuple),
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(DiscoPing, tx_ids, nodes, st.integers(0, 2000)),
    st.builds(Pong, tx_ids, endpoints),
    st.builds(CallMeMaybe, st.lists(endpoints, max_size=100).map(tuple)),
    st.builds(BindUDPRelayEndpointAnswer, u32, st.integers(1, 2**32 - 1), discos, KEY),
    st.builds(CallMeMaybeVia, relay_endpoints),
    st.builds(AllocateUDPRelayEndpointRequest, st.tuples(discos, discos), u32),
    st.builds(AllocateUDPRelayEndpointResponse, u32, relay_endpoints),
)
packets = st.binary(max_size=2000)
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(SendPacket, nodes, packets),
    st.builds(RecvPacket, nodes, packets),
    st.builds(ForwardPacket, nodes, nodes, packets),
    st.builds(PeerGone, nodes, st.integers(0, 255)),
    st.builds(PeerPresent, nodes, endpoints, st.integers(0, 255)),
    st.builds(Ping, st.binary(min_size=8, max_size=8)),
    st.builds(Health, st.text(max_size=200)),
    st.builds(Restarting, u32, u32),
)


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


CUTS = st.lists(st.integers(0, 100_000), max_size=8)


@given(endpoints)
def test_endpoints(endpoint: Endpoint) -> None:
    assert Endpoint.parse(str(endpoint)) == endpoint
    assert Endpoint.unpack(endpoint.pack()) == endpoint


@given(messages)
def test_disco_messages(message: Message) -> None:
    assert parse_message_untrusted(encode_message(message)) == message


@given(KEY, KEY, st.binary(min_size=24, max_size=24), st.binary(max_size=1500))
def test_disco_packets(one: bytes, two: bytes, nonce: bytes, message: bytes) -> None:
    sender, receiver = DiscoPrivate.from_entropy(one), DiscoPrivate.from_entropy(two)
    packet = SharedBox(sender, receiver.public()).seal(message, nonce)
    assert open_untrusted(packet, receiver, sender.public()) == message


@given(st.lists(frames, max_size=6), CUTS)
def test_derp_frames(sent: list[Frame], places: list[int]) -> None:
    reader = FrameReader(1 << 20)
    pieces = _cut(b"".join(map(encode_frame, sent)), places)
    assert [frame for piece in pieces for frame in reader.receive(piece)] == sent


@given(tx_ids, endpoints)
def test_stun(tx_id: TxId, endpoint: Endpoint) -> None:
    stun_id = stun.TxId(tx_id)
    response = stun.binding_response(stun_id, endpoint)
    assert stun.parse_binding_response_untrusted(response) == (stun_id, endpoint)
    request = stun.binding_request(stun_id)
    assert stun.parse_binding_request_untrusted(request, plain=False) == stun_id


@given(st.lists(st.binary(max_size=10_000), max_size=4), CUTS)
def test_records(plaintexts: list[bytes], places: list[int]) -> None:
    client, server = RecordLayer(UP, DOWN), RecordLayer(DOWN, UP)
    received = b""
    for piece in _cut(b"".join(map(client.seal, plaintexts)), places):
        received += b"".join(server.receive(piece))
        assert len(server._buffer) < MAX_FRAME_BYTES
    assert received == b"".join(plaintexts)


@given(KEY, KEY, KEY, KEY, st.integers(0, 65535))
def test_handshakes(one: bytes, two: bytes, three: bytes, four: bytes, version: int) -> None:
    machine, server = MachinePrivate.from_entropy(one), MachinePrivate.from_entropy(two)
    initiator = Initiator(machine, server.public(), version, three)
    accepted = respond(initiator.message(), server, four)
    assert (accepted.client, accepted.version) == (machine.public(), version)
    records = initiator.finish(accepted.response)
    assert records.receive(accepted.records.seal(b"x")) == [b"x"]


@given(st.lists(st.binary(max_size=3000), max_size=5), CUTS)
def test_map_frames(sent: list[bytes], places: list[int]) -> None:
    reader = MapFrames()
    pieces = _cut(b"".join(map(encode_map_frame, sent)), places)
    assert [message for piece in pieces for message in reader.receive(piece)] == sent


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 300_000), st.booleans()),
        min_size=1,
        max_size=30,
    ),
    CUTS,
)
def test_channel_bodies_arrive_whole_whatever_is_sent_when(
    script: list[tuple[int, int, bool]], places: list[int]
) -> None:
    """Four streams send pieces in any order; the wire moves only where the script says so."""
    client = ClientChannel(RecordLayer(UP, DOWN))
    server = ServerChannel(RecordLayer(DOWN, UP))
    streams = [client.request("POST", "/machine/map", body=b"{}") for _ in range(4)]
    at_client: list[Event] = []

    def move() -> None:
        while (up := client.poll_transmit()) + (down := server.poll_transmit()):
            server.receive(up)
            for piece in _cut(down, places):
                at_client.extend(client.receive(piece))

    move()
    sent = dict.fromkeys(streams, b"")
    for stream in streams:
        server.respond(stream, 200)
    for number, (index, size, moves) in enumerate(script):
        data = bytes([number]) * size
        sent[streams[index]] += data
        server.send(streams[index], data)
        if moves:
            move()
    for stream in streams:
        server.send(stream, b"", end=True)
    move()
    for stream in streams:
        bodies = [item for item in at_client if isinstance(item, Body) and item.stream == stream]
        assert b"".join(item.data for item in bodies) == sent[stream]
        assert Ended(stream) in at_client
        assert server.queued(stream) == 0
