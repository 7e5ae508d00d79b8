"""Inputs to start from: each layer of the recording, and a few of our own making."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from vectors.captures import Capture, sessions, stun_datagrams
from vectors.replay import (
    open_control,
    read_as_client,
    read_as_server,
    received_plaintext,
    sent_plaintext,
)
from warren.control.channel import Body, Request
from warren.control.handshake import encode_error
from warren.control.mapstream import KEEP_ALIVE
from warren.derp.metacert import build_meta_certificate
from warren.disco.messages import encode_message
from warren.disco.sealed import SharedBox, sender_of_untrusted
from warren.disco.turning import TurnOffer
from warren.keys import NodePrivate
from warren.nat.stun import TxId
from warren.nat.stun5780 import discovery_request, discovery_response
from warren.netmap.endpoint import Endpoint


def initiations() -> list[bytes]:
    """Noise initiations."""
    from warren.control.handshake import Initiator

    return [
        Initiator(item.machine, item.server, item.version, item.ephemeral).message()
        for item in sessions()
    ]


def handshake_replies() -> list[bytes]:
    """Noise responses, and an error frame."""
    return [item.control[2][1][:51] for item in sessions()] + [encode_error("no")]


def control_streams() -> list[bytes]:
    """Records, as they were on the wire."""
    return [data for item in sessions() for _, data in item.control[3:]]


def control_heads() -> list[bytes]:
    """The upgrade of ts2021: answer, and the header's value."""
    answers = [item.control[1][1] for item in sessions()]
    return [*answers, b"/ts2021?X-Tailscale-Handshake=" + b"AA" * 70, b"AAEC" * 33]


@cache
def _plaintexts() -> list[tuple[bytes, bytes]]:
    opened = [(open_control(item), open_control(item)) for item in sessions()]
    return [(sent_plaintext(one), received_plaintext(two)) for one, two in opened]


def client_plaintexts() -> list[bytes]:
    """HTTP/2 of a client."""
    return [sent for sent, _ in _plaintexts()]


def server_plaintexts() -> list[bytes]:
    """Early payload and HTTP/2 of a server."""
    return [received for _, received in _plaintexts()]


@cache
def _bodies() -> tuple[list[bytes], list[bytes]]:
    requests, answers = [], []
    for sent, received in _plaintexts():
        events = read_as_server(sent)
        heads = [event for event in events if isinstance(event, Request)]
        found = [event.data for event in events if isinstance(event, Body)]
        requests += found
        asked = [(head.method, head.path, b"{}") for head in heads]
        bodies: dict[int, bytes] = {}
        for event in read_as_client(received, asked):
            if isinstance(event, Body):
                bodies[event.stream] = bodies.get(event.stream, b"") + event.data
        answers += list(bodies.values())
    return requests, answers


def map_bodies() -> list[bytes]:
    """Bodies of map responses."""
    return [KEEP_ALIVE, *_bodies()[1]]


def map_json() -> list[bytes]:
    """Requests and responses of the control plane."""
    maps = [json.dumps(answer).encode() for item in sessions() for answer in item.map_responses]
    return [*_bodies()[0], *maps]


def _disco(item: Capture) -> list[bytes]:
    packets = [data for way, _, data in item.udp if way == "in"]
    packets += [payload[32:] for _, payload in item.derp_frames]
    return [packet for packet in packets if sender_of_untrusted(packet)]


def disco_packets() -> list[bytes]:
    """Sealed disco packets."""
    return [packet for item in sessions() for packet in _disco(item)]


def disco_messages() -> list[bytes]:
    """Opened disco messages, and one of each other type."""
    opened = [
        SharedBox(item.disco, item.peer_disco).open_untrusted(packet)
        for item in sessions()
        for packet in _disco(item)
    ]
    offer = encode_message(TurnOffer((Endpoint.parse("203.0.113.7:50000"),)))
    kinds = (*range(1, 11), 0xE0, 0xE1, 0xE2)
    return [*opened, offer, *(bytes([kind, 0]) + bytes([kind]) * 160 for kind in kinds)]


def derp_streams() -> list[bytes]:
    """DERP frames of both ways."""
    streams = [data for item in sessions() for _, data in item.derp[2:]]
    return streams + [bytes([kind, 0, 0, 0, 80]) + bytes(80) for kind in range(1, 0x17)]


def derp_infos() -> list[bytes]:
    """What stands in the boxes of a login."""
    mesh = b'{"meshKey":"' + b"07" * 32 + b'","version":2,"CanAckPings":true,"IsProber":true}'
    limits = b'{"version":2,"TokenBucketBytesPerSecond":1,"TokenBucketBytesBurst":2}'
    return [b'{"version":2,"CanAckPings":true}', mesh, limits]


def derp_heads() -> list[bytes]:
    """Answers to the upgrade of DERP."""
    return [item.derp[1][1] for item in sessions()]


def certificates() -> list[bytes]:
    """A meta certificate."""
    key = NodePrivate.from_entropy(bytes(32)).public()
    return [build_meta_certificate(key, bytes(32), datetime(2026, 1, 1, tzinfo=UTC))]


def stun() -> list[bytes]:
    """STUN datagrams of both ways."""
    tx_id, seen = TxId(b"abcdefghijkl"), Endpoint.parse("203.0.113.7:41641")
    return [
        *(item.data for item in stun_datagrams()),
        discovery_request(tx_id, change_ip=True, change_port=True, size_bytes=96),
        discovery_response(tx_id, seen, Endpoint.parse("192.0.2.1:3478"), seen),
    ]


def router_datagrams() -> list[bytes]:
    """NAT-PMP and PCP responses, an answer to a search for UPnP routers."""
    ports = bytes.fromhex("a2a9a2a9")
    outside = bytes.fromhex("cb00710a")
    pcp_map = bytes(12) + b"\x11\0\0\0" + ports + bytes(10) + b"\xff\xff" + outside
    return [
        bytes.fromhex("0080000000000e10") + outside,
        bytes.fromhex("0081000000000e10") + ports + bytes.fromhex("00001c20"),
        bytes.fromhex("028000000000000000000e10") + bytes(12),
        bytes.fromhex("0281000000001c2000000e10") + bytes(12) + pcp_map + b"\x80\0\0\4abcd",
        b"HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nSERVER: x\r\n"
        b"LOCATION: http://192.168.1.1:5000/rootDesc.xml\r\n\r\n",
        b"NOTIFY * HTTP/1.1\r\nNTS: ssdp:alive\r\nBOOTID.UPNP.ORG: 17\r\n\r\n",
    ]


def router_pages() -> list[bytes]:
    """A router's description, and SOAP answers."""
    kind = "urn:schemas-upnp-org:service:WANIPConnection:"
    services = "".join(
        f"<service><serviceType>{kind}{version}</serviceType><controlURL>/c</controlURL></service>"
        for version in (1, 2)
    )
    services += (
        "<service><serviceType>urn:schemas-upnp-org:service:WANIPv6FirewallControl:1</serviceType>"
        "<controlURL>/6</controlURL></service>"
    )
    bodies = (
        "<u:GetExternalIPAddressResponse><NewExternalIPAddress>203.0.113.10"
        "</NewExternalIPAddress></u:GetExternalIPAddressResponse>",
        "<u:AddAnyPortMappingResponse><NewReservedPort>41641</NewReservedPort>"
        "</u:AddAnyPortMappingResponse>",
        "<u:AddPinholeResponse><UniqueID>7</UniqueID></u:AddPinholeResponse>",
        "<s:Fault><detail><UPnPError><errorCode>718</errorCode><errorDescription>x"
        "</errorDescription></UPnPError></detail></s:Fault>",
    )
    pages = [
        "<?xml version='1.0'?><root xmlns='urn:schemas-upnp-org:device-1-0'><device><modelName>x"
        f"</modelName><serviceList>{services}</serviceList></device></root>",
        *(f"<s:Envelope xmlns:s='s' xmlns:u='u'><s:Body>{b}</s:Body></s:Envelope>" for b in bodies),
        "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
    ]
    return [page.encode() for page in pages]


def router_answers() -> list[bytes]:
    """Everything that a router may say."""
    return router_datagrams() + router_pages()


def probe_answers() -> list[bytes]:
    """Answers to pings inside the tunnel: TSMP and ICMP over IPv4, ICMP over IPv6."""
    head = b"\x45" + bytes(8)
    head6 = b"\x60" + bytes(5)
    return [
        head + b"\x63" + bytes(10) + b"o" + bytes(8),
        head + b"\x01" + bytes(10) + bytes(16),
        head6 + b"\x3a" + bytes(33) + b"\x81" + bytes(15),
    ]


def texts() -> list[bytes]:
    """Keys and endpoints."""
    key = str(NodePrivate.from_entropy(bytes(32)).public()).encode()
    return [key, b"tlpub:" + b"00" * 32, b"1.2.3.4:5", b"[2001:db8::1]:65535", bytes(18)]
