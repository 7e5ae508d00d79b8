"""What is fuzzed. An entry returns whatever the bytes are; an exception is a finding.

Where bytes are sealed on the wire, the entry seals them itself, so that the fuzzer reaches what
stands behind the seal. Round trips that must hold are asserted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import nacl.bindings

from fuzz import (
    admission,
    api_texts,
    backup,
    captive,
    credentials,
    door,
    engine,
    headscale,
    lab,
    login,
    paths,
    peer_relay,
    policy,
    policy_edits,
    questions,
    relay,
    seeds,
    spans,
    turn,
)
from warren.control.channel import ClientChannel, ServerChannel
from warren.control.early import EarlyReader
from warren.control.handshake import Initiator, initiation_version_untrusted, respond
from warren.control.malformed import MalformedControl
from warren.control.mapstream import MapFrames
from warren.control.records import RecordLayer
from warren.control.upgrade import (
    ClientUpgrade,
    initiation_from_headers_untrusted,
    initiation_from_target_untrusted,
)
from warren.derp import upgrade as derp_upgrade
from warren.derp.frames import ClientInfoBox, FrameReader, ServerInfoBox, ServerKey, encode_frame
from warren.derp.login import ClientInfo, ClientLogin, ServerInfo, ServerLogin
from warren.derp.malformed import MalformedDerp
from warren.derp.metacert import server_key_untrusted
from warren.disco.malformed import MalformedDisco
from warren.disco.messages import encode_message, parse_message_untrusted
from warren.disco.sealed import SharedBox, sender_of_untrusted
from warren.keys import (
    DiscoPrivate,
    LockPublic,
    MachinePrivate,
    MalformedKey,
    NodePrivate,
    NodePublic,
)
from warren.nat.behaviour import Discovery
from warren.nat.mapping import Call, Reply
from warren.nat.natpmp import MalformedNatPmp, parse_natpmp_response_untrusted
from warren.nat.pcp import MalformedPcp, parse_pcp_response_untrusted
from warren.nat.portmap import Portmapper
from warren.nat.ssdp import (
    MalformedSsdp,
    parse_location_untrusted,
    parse_ssdp_answer_untrusted,
    parse_ssdp_notice_untrusted,
)
from warren.nat.stun import (
    MalformedStun,
    binding_response,
    looks_like_stun,
    parse_binding_request_untrusted,
    parse_binding_response_untrusted,
)
from warren.nat.stun5780 import (
    parse_discovery_request_untrusted,
    parse_discovery_response_untrusted,
)
from warren.nat.upnp import (
    MalformedUpnp,
    SoapFault,
    parse_description_untrusted,
    parse_external_ip_untrusted,
    parse_pinhole_untrusted,
    parse_reserved_port_untrusted,
    parse_soap_reply_untrusted,
)
from warren.netmap.codec import (
    MalformedMessage,
    decode_json_untrusted,
    decode_request_untrusted,
    encode_json,
)
from warren.netmap.endpoint import Endpoint, MalformedEndpoint
from warren.netmap.messages import MapRequest, MapResponse
from warren.netmap.register import RegisterRequest, RegisterResponse
from warren.node.probes import parse_answer_untrusted

Entry = Callable[[bytes], None]

_ONE, _TWO = bytes(range(32)), bytes(range(32, 64))
_NONCE = bytes(24)
_MACHINE, _SERVER = MachinePrivate.from_entropy(_ONE), MachinePrivate.from_entropy(_TWO)
_NODE, _RELAY = NodePrivate.from_entropy(_ONE), NodePrivate.from_entropy(_TWO)
_DISCO, _PEER = DiscoPrivate.from_entropy(_ONE), DiscoPrivate.from_entropy(_TWO)
_MAX_BYTES = 1 << 20
_ROUTER, _LOCAL = IPv4Address("192.168.1.1"), IPv4Address("192.168.1.2")
_ROUTER_V6, _LOCAL_V6 = IPv6Address("fe80::1"), IPv6Address("2001:db8::2")
_SOAP_ARGUMENTS = (
    parse_external_ip_untrusted,
    parse_pinhole_untrusted,
    parse_reserved_port_untrusted,
)
_ROUTER_PAGE = parse_location_untrusted("http://192.168.1.1:5000/d.xml")


@dataclass(frozen=True)
class Target:
    """One entry, and inputs to start from. cost: its time, as a multiple of most others'."""

    name: str
    entry: Entry
    seeds: Callable[[], list[bytes]]
    cost: int = 1


def _handshake_respond(data: bytes) -> None:
    with suppress(MalformedControl):
        initiation_version_untrusted(data)
        respond(data, _SERVER, _ONE, minimum_version=1)


def _handshake_finish(data: bytes) -> None:
    with suppress(MalformedControl):
        Initiator(_MACHINE, _SERVER.public(), 130, _ONE).finish(data)


def _records(data: bytes) -> None:
    records = RecordLayer(_ONE, _TWO)
    with suppress(MalformedControl):
        records.receive(data)


def _early(data: bytes) -> None:
    reader = EarlyReader()
    with suppress(MalformedControl):
        for at in range(0, len(data), 7):
            reader.receive(data[at : at + 7])


def _server_channel(data: bytes) -> None:
    channel, peer = ServerChannel(RecordLayer(_ONE, _TWO)), RecordLayer(_TWO, _ONE)
    for event in channel.receive(peer.seal(data)):
        if type(event).__name__ == "Request":
            channel.respond(event.stream, 200)
            channel.send(event.stream, b"answer", end=True)
    peer.receive(channel.poll_transmit())


def _client_channel(data: bytes) -> None:
    channel, peer = ClientChannel(RecordLayer(_ONE, _TWO)), RecordLayer(_TWO, _ONE)
    for _ in range(3):
        channel.request("POST", "/machine/map", body=b"{}")
    channel.receive(peer.seal(data))
    peer.receive(channel.poll_transmit())


def _map_frames(data: bytes) -> None:
    with suppress(MalformedControl):
        MapFrames(max_json_bytes=_MAX_BYTES).receive(data)


def _control_upgrade(data: bytes) -> None:
    with suppress(MalformedControl):
        ClientUpgrade("host", bytes(101)).receive(data)
    text = data.decode("latin-1")
    with suppress(MalformedControl):
        initiation_from_target_untrusted(text)
    headers = [
        ("Upgrade", "tailscale-control-protocol"),
        ("Connection", "upgrade"),
        ("X-Tailscale-Handshake", text),
    ]
    with suppress(MalformedControl):
        initiation_from_headers_untrusted("POST", headers)


def _map_json(data: bytes) -> None:
    for kind in (MapResponse, MapRequest, RegisterRequest, RegisterResponse):
        with suppress(MalformedMessage):
            value = decode_json_untrusted(data, kind)
            assert decode_json_untrusted(encode_json(value), kind) == value
    for kind in (MapRequest, RegisterRequest):
        with suppress(MalformedMessage):
            decode_request_untrusted(data, kind)


def _disco_message(data: bytes) -> None:
    with suppress(MalformedDisco):
        message = parse_message_untrusted(data)
        assert parse_message_untrusted(encode_message(message)) == message


def _disco_packet(data: bytes) -> None:
    sender_of_untrusted(data)
    sealed = SharedBox(_PEER, _DISCO.public())
    with suppress(MalformedDisco):
        sealed.open_untrusted(data)
    with suppress(MalformedDisco):
        sealed.open_untrusted(b"TS\xf0\x9f\x92\xac" + _DISCO.public().raw + data)


def _derp_frames(data: bytes) -> None:
    with suppress(MalformedDerp):
        for frame in FrameReader(_MAX_BYTES).receive(data):
            assert FrameReader(_MAX_BYTES).receive(encode_frame(frame)) == [frame]


def _derp_login(data: bytes) -> None:
    secret = nacl.bindings.crypto_box_beforenm(_RELAY.public().raw, _NODE.reveal())
    box = _NONCE + nacl.bindings.crypto_box_afternm(data, _NONCE, secret)
    for sealed in (box, data):
        with suppress(MalformedDerp):
            server = ServerLogin(_RELAY, ServerInfo(), _NONCE)
            server.receive(ClientInfoBox(_NODE.public(), sealed))
        with suppress(MalformedDerp):
            client = ClientLogin(_NODE, ClientInfo(), _NONCE)
            client.receive(ServerKey(_RELAY.public()))
            client.receive(ServerInfoBox(sealed))


def _derp_upgrade(data: bytes) -> None:
    with suppress(MalformedDerp):
        derp_upgrade.ClientUpgrade("host").receive(data)


def _meta_certificate(data: bytes) -> None:
    server_key_untrusted(data)


def _stun(data: bytes) -> None:
    looks_like_stun(data)
    with suppress(MalformedStun):
        parse_binding_request_untrusted(data)
    with suppress(MalformedStun):
        tx_id, endpoint = parse_binding_response_untrusted(data)
        assert parse_binding_response_untrusted(binding_response(tx_id, endpoint)) == (
            tx_id,
            endpoint,
        )
    with suppress(MalformedStun):
        parse_discovery_request_untrusted(data)
    with suppress(MalformedStun):
        parse_discovery_response_untrusted(data)
    # The transaction is the examination's own, so that answers get past that check.
    server = Endpoint.parse("192.0.2.1:3478")
    check = Discovery([server], (1, 2, 3, 4), (), lambda size: data[8:20].ljust(size)[:size], 0.0)
    check.receive(0, data, server, 0.1)
    check.handle_timeout(5.0)
    assert check.poll_event() is not None


def _portmap_wire(data: bytes) -> None:
    with suppress(MalformedNatPmp):
        parse_natpmp_response_untrusted(data)
    with suppress(MalformedPcp):
        parse_pcp_response_untrusted(data)
    with suppress(MalformedSsdp):
        found = parse_ssdp_answer_untrusted(data)
        assert parse_location_untrusted(str(found.location)) == found.location
    with suppress(MalformedSsdp):
        parse_ssdp_notice_untrusted(data)


def _portmap_xml(data: bytes) -> None:
    with suppress(MalformedUpnp):
        parse_description_untrusted(data, _ROUTER_PAGE)
    for status in (200, 500):
        with suppress(MalformedUpnp):
            said = parse_soap_reply_untrusted(status, data)
            if isinstance(said, SoapFault):
                continue
            for argument in _SOAP_ARGUMENTS:
                with suppress(MalformedUpnp):
                    argument(said)


def _portmapper(data: bytes) -> None:
    """A router of IPv4, and one of IPv6, that answers everything with `data`, for some hours.

    Once with a description of its own before, without which nobody asks it by SOAP.
    """
    page = b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1:1/\r\n\r\n"
    page6 = b"HTTP/1.1 200 OK\r\nLOCATION: http://[2001:db8::1]:1/\r\n\r\n"
    _ask_router(Portmapper(_ROUTER, _LOCAL, 41641, bytes, 0.0), page, data)
    _ask_router(Portmapper(_ROUTER_V6, _LOCAL_V6, 41641, bytes, 0.0), page6, data)
    described = seeds.router_pages()[0]
    _ask_router(Portmapper(_ROUTER, _LOCAL, 41641, bytes, 0.0), page, data, described)
    _ask_router(Portmapper(_ROUTER_V6, _LOCAL_V6, 41641, bytes, 0.0), page6, data, described)


def _ask_router(mapper: Portmapper, page: bytes, data: bytes, described: bytes = b"") -> None:
    now = 0.0
    mapper.receive(page, Endpoint(mapper.router, 1900), now)
    for step in range(60):
        while (transmit := mapper.poll_transmit(now)) is not None:
            if isinstance(transmit, Call):
                body = described if described and transmit.method == "GET" else data
                mapper.receive_reply(transmit.number, Reply(200, body), now)
            else:
                src = Endpoint(mapper.router, transmit.to.port)
                mapper.receive(data, src, now, announced=step % 2 == 1)
        mapper.poll_event()
        due = mapper.next_timeout()
        now = max(now, due[0]) if due else now + 1
        if step == 50:
            mapper.stop(now)
        mapper.handle_timeout(now)


def _probe_answer(data: bytes) -> None:
    parse_answer_untrusted(data)


def _text(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    with suppress(MalformedEndpoint):
        assert Endpoint.parse(str(Endpoint.parse(text))) == Endpoint.parse(text)
    with suppress(MalformedEndpoint):
        assert Endpoint.unpack(Endpoint.unpack(data).pack()) == Endpoint.unpack(data)
    for kind in (NodePublic, LockPublic):
        with suppress(MalformedKey):
            assert kind.parse(str(kind.parse(text))) == kind.parse(text)
    with suppress(MalformedKey):
        NodePrivate.parse(text)


TARGETS = [
    Target("handshake_respond", _handshake_respond, seeds.initiations),
    Target("handshake_finish", _handshake_finish, seeds.handshake_replies),
    Target("records", _records, seeds.control_streams),
    Target("early", _early, seeds.server_plaintexts),
    Target("server_channel", _server_channel, seeds.client_plaintexts),
    Target("client_channel", _client_channel, seeds.server_plaintexts),
    Target("map_frames", _map_frames, seeds.map_bodies),
    Target("control_upgrade", _control_upgrade, seeds.control_heads),
    Target("map_json", _map_json, seeds.map_json),
    Target("disco_message", _disco_message, seeds.disco_messages),
    Target("disco_packet", _disco_packet, seeds.disco_packets),
    Target("derp_frames", _derp_frames, seeds.derp_streams),
    Target("derp_login", _derp_login, seeds.derp_infos),
    Target("derp_upgrade", _derp_upgrade, seeds.derp_heads),
    Target("meta_certificate", _meta_certificate, seeds.certificates),
    Target("stun", _stun, seeds.stun),
    Target("portmap_wire", _portmap_wire, seeds.router_datagrams),
    Target("portmap_xml", _portmap_xml, seeds.router_pages),
    Target("portmapper", _portmapper, seeds.router_answers, cost=3),
    Target("peer_relay_server", peer_relay.server, peer_relay.messages),
    Target("peer_relay_client", peer_relay.client, peer_relay.messages),
    Target("turn_message", turn.message, turn.messages),
    Target("turn_stream", turn.stream, turn.streams),
    Target("turn_server", turn.server, turn.messages),
    Target("turn_client", turn.client, turn.messages),
    Target("turn_grant", turn.grant, turn.grants),
    Target("engine_datagram", engine.datagram, engine.datagrams),
    Target("engine_stream", engine.stream, turn.streams),
    Target("questions", questions.entry, questions.questions),
    Target("ssh_check", questions.ssh_check, questions.ssh_checks),
    Target("credentials", credentials.entry, credentials.texts),
    Target("api_texts", api_texts.entry, api_texts.texts),
    Target("login_claims", login.claims, login.told),
    Target("login_description", login.description, login.described),
    Target("login_token", login.token, login.tokens),
    Target("login_form", login.form, login.forms),
    Target("login_cookie", login.cookie, login.cookies),
    Target("policy", policy.entry, policy.policies),
    Target("policy_edits", policy_edits.entry, policy_edits.seeds, cost=4),
    Target("policy_question", policy.question, policy.questions),
    Target("derp_map", policy.derp_map, policy.derp_maps),
    Target("lab_description", lab.description, lab.descriptions),
    Target("lab_proxy", lab.proxy_head, lab.proxy_heads),
    Target("backup_archive", backup.archive, backup.archives),
    Target("backup_row", backup.row, backup.rows),
    Target("headscale_rows", headscale.rows, headscale.examples),
    Target("probe_answer", _probe_answer, seeds.probe_answers),
    Target("text", _text, seeds.texts),
    Target("filter_span", spans.entry, spans.texts),
    Target("portal", captive.entry, captive.answers),
    Target("paths", paths.entry, paths.scripts, cost=10),
    Target("front_door", door.entry, door.conversations),
    Target("admission", admission.entry, admission.messages),
    Target("relay_login", relay.stranger, relay.logins),
    Target("relay_client", relay.client, relay.frames),
    Target("relay_head", relay.head, relay.heads),
]
