"""The HTTP/1.1 upgrade that opens a ts2021 connection (PROTOCOL §2.2), and its WebSocket form.

The client's end is a machine around `h11`. The server's front door has read the request head
itself, with whatever it serves HTTP by, so that end is two pure functions.

The WebSocket form (§2.3) carries the initiation in the query and Noise bytes in binary messages.
This room gives only its names: the framing belongs to whoever holds the connection, since what is
inside is the same byte stream as without it, here and in DERP, and rooms of one band do not
share code. The one adaptor, `warren.edge.websocket`, serves both.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from urllib.parse import parse_qs, quote, urlsplit

import h11

from warren.control.handshake import INITIATION_BYTES
from warren.control.malformed import MalformedControl

PATH = "/ts2021"
UPGRADE = "tailscale-control-protocol"
HANDSHAKE_HEADER = "X-Tailscale-Handshake"
WEBSOCKET_SUBPROTOCOL = UPGRADE

_MAX_REFUSAL_CHARACTERS = 500


class MalformedUpgrade(MalformedControl):
    """A request or reply is not the ts2021 upgrade."""


class UpgradeRefused(MalformedUpgrade):
    """The server answered with something other than 101. `text` is the start of its body."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the server answered {status} to the upgrade: {text or 'no reason'}")
        self.status = status
        self.text = text


class ClientUpgrade:
    """The client's end: one request, one reply, then the stream is Noise."""

    __slots__ = ("_http", "_request")

    def __init__(self, host: str, initiation: bytes) -> None:
        self._http = h11.Connection(h11.CLIENT)
        headers = [
            ("Host", host),
            ("Upgrade", UPGRADE),
            ("Connection", "upgrade"),
            (HANDSHAKE_HEADER, base64.b64encode(initiation).decode()),
            ("Content-Length", "0"),
        ]
        request = h11.Request(method="POST", target=PATH, headers=headers)
        self._request = self._http.send(request) or b""
        self._request += self._http.send(h11.EndOfMessage()) or b""

    def request(self) -> bytes:
        """Return the whole request."""
        return self._request

    def receive(self, data: bytes) -> bytes | None:
        """Take stream bytes; return None until the 101 is whole, then all that follows it.

        Empty `data` means that the server closed the stream. Raises UpgradeRefused,
        MalformedUpgrade.
        """
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
            if isinstance(event, h11.InformationalResponse) and event.status_code != 101:
                event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise MalformedUpgrade(f"the answer to the upgrade is not HTTP: {error}") from error
        if isinstance(event, h11.Response):
            raise UpgradeRefused(event.status_code, self._refusal_text())
        if not isinstance(event, h11.InformationalResponse) or event.status_code != 101:
            return None
        if dict(event.headers).get(b"upgrade") != UPGRADE.encode():
            raise MalformedUpgrade("the server switched to another protocol than ts2021")
        return bytes(self._http.trailing_data[0])

    def _refusal_text(self) -> str:
        """As much of the body as came together with the head."""
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError:
            return ""
        text = bytes(event.data).decode("utf-8", "replace") if isinstance(event, h11.Data) else ""
        return "".join(
            c if c.isprintable() else " " for c in text[:_MAX_REFUSAL_CHARACTERS]
        ).strip()


def initiation_from_headers_untrusted(method: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the Noise initiation of an upgrade request whose head was read already.

    Header names may be of either case. Raises MalformedUpgrade.
    """
    if method != "POST":
        raise MalformedUpgrade("the ts2021 upgrade is a POST")
    found = {name.lower(): value for name, value in headers}
    if found.get("upgrade", "").lower() != UPGRADE:
        raise MalformedUpgrade(f"the request does not upgrade to {UPGRADE}")
    if "upgrade" not in found.get("connection", "").lower():
        raise MalformedUpgrade("the request does not ask for the upgrade in its Connection header")
    return _decode_initiation(found.get(HANDSHAKE_HEADER.lower(), ""))


def initiation_from_target_untrusted(target: str) -> bytes:
    """Return the Noise initiation in the query of a WebSocket request. Raises MalformedUpgrade."""
    try:
        values = parse_qs(urlsplit(target).query, max_num_fields=16).get(HANDSHAKE_HEADER, [""])
    except ValueError as error:
        raise MalformedUpgrade("the query cannot be read") from error
    return _decode_initiation(values[0])


def websocket_target(initiation: bytes) -> str:
    """Return path and query of the WebSocket form, as a client asks for it."""
    return f"{PATH}?{HANDSHAKE_HEADER}={quote(base64.b64encode(initiation), safe='')}"


def switching_response() -> bytes:
    """Return the server's 101; the Noise response follows it at once."""
    return (
        f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: {UPGRADE}\r\nConnection: upgrade\r\n\r\n"
    ).encode()


def _decode_initiation(text: str) -> bytes:
    try:
        initiation = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedUpgrade(f"{HANDSHAKE_HEADER} is not base64") from error
    if len(initiation) != INITIATION_BYTES:
        raise MalformedUpgrade(f"{HANDSHAKE_HEADER} does not hold {INITIATION_BYTES} bytes")
    return initiation
