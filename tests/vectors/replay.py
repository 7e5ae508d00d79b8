"""Opens a recorded control connection layer by layer, as both of its ends saw it."""

from __future__ import annotations

from dataclasses import dataclass, field

from vectors.captures import Capture
from warren.control.channel import ClientChannel, ServerChannel
from warren.control.handshake import Initiator, reply_length_untrusted
from warren.control.records import RecordLayer
from warren.control.upgrade import ClientUpgrade

HOST = "198.18.0.10"


@dataclass
class Opened:
    """A recorded connection after the handshake."""

    request: bytes
    """The upgrade request as our code makes it."""
    records: RecordLayer
    """The client's records."""
    tapped: RecordLayer
    """Opens what the client sent, as its server did."""
    pieces: list[tuple[str, bytes]] = field(default_factory=list)
    """What followed the handshake, "out" and "in", in order."""


def open_control(capture: Capture) -> Opened:
    """Take a recording up to its records; only the client's own keys are used."""
    initiator = Initiator(capture.machine, capture.server, capture.version, capture.ephemeral)
    upgrade = ClientUpgrade(HOST, initiator.message())
    pieces = list(capture.control[1:])
    rest: bytes | None = None
    while rest is None:
        way, data = pieces.pop(0)
        assert way == "in"
        rest = upgrade.receive(data)
    while (length := reply_length_untrusted(rest)) is None or len(rest) < length:
        way, data = pieces.pop(0)
        assert way == "in"
        rest += data
    records = initiator.finish(rest[:length])
    to_server, to_client = initiator._state.split()
    tapped = RecordLayer(send_key=to_client, receive_key=to_server)
    return Opened(upgrade.request(), records, tapped, [("in", rest[length:]), *pieces])


def sent_plaintext(opened: Opened) -> bytes:
    """Return the HTTP/2 bytes that the recorded client sent."""
    sent = (data for way, data in opened.pieces if way == "out")
    return b"".join(plain for data in sent for plain in opened.tapped.receive(data))


def received_plaintext(opened: Opened) -> bytes:
    """Return early payload and HTTP/2 bytes that the recorded server sent."""
    got = (data for way, data in opened.pieces if way == "in")
    return b"".join(plain for data in got for plain in opened.records.receive(data))


def null_records() -> RecordLayer:
    """Records under fixed keys whose other end is themselves: what is sealed opens again."""
    return RecordLayer(bytes(32), bytes(32))


def read_as_server(plaintext: bytes) -> list[object]:
    """Return the events that a server has when a client sends `plaintext`."""
    return list(ServerChannel(null_records()).receive(null_records().seal(plaintext)))


def read_as_client(plaintext: bytes, requests: list[tuple[str, str, bytes]]) -> list[object]:
    """Return the events that a client has which made `requests` and is sent `plaintext`."""
    channel = ClientChannel(null_records())
    for method, path, body in requests:
        channel.request(method, path, body=body)
    return list(channel.receive(null_records().seal(plaintext)))
