"""The HTTP/1.1 upgrade that opens a DERP connection (PROTOCOL §4.1).

The client's end is a machine around `h11`; the server's front door has read the request head
itself, so that end is two pure functions. Over WebSocket the same frames go in binary messages
of the subprotocol `derp`; `warren.edge.websocket` does that framing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import h11

from warren.derp.frames import PROTOCOL_VERSION
from warren.derp.malformed import MalformedDerp
from warren.keys import MalformedKey, NodePublic

PATH = "/derp"
UPGRADE = "DERP"
WEBSOCKET_SUBPROTOCOL = "derp"
FAST_START_HEADER = "Derp-Fast-Start"
IDEAL_NODE_HEADER = "Ideal-Node"
VERSION_HEADER = "Derp-Version"
PUBLIC_KEY_HEADER = "Derp-Public-Key"

_MAX_NAME_CHARACTERS = 256


class UpgradeRefused(MalformedDerp):
    """The server answered with something other than 101."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the relay answered {status} to the upgrade")
        self.status = status


class UpgradeWish(NamedTuple):
    """What a client asks for: `fast_start` means no HTTP answer at all.

    `ideal_node` is the name of the node that it would rather have reached, or empty.
    """

    fast_start: bool
    ideal_node: str


class ClientUpgrade:
    """The client's end. After a fast start's request the stream is DERP: do not `receive`."""

    __slots__ = ("_http", "_request", "server_key")

    def __init__(self, host: str, fast_start: bool = False, ideal_node: str = "") -> None:
        self._http = h11.Connection(h11.CLIENT)
        headers = [("Host", host), ("Upgrade", UPGRADE), ("Connection", "Upgrade")]
        if fast_start:
            headers.append((FAST_START_HEADER, "1"))
        if ideal_node:
            headers.append((IDEAL_NODE_HEADER, ideal_node))
        request = h11.Request(method="GET", target=PATH, headers=headers)
        self._request = self._http.send(request) or b""
        self._request += self._http.send(h11.EndOfMessage()) or b""
        self.server_key: NodePublic | None = None

    def request(self) -> bytes:
        """Return the whole request."""
        return self._request

    def receive(self, data: bytes) -> bytes | None:
        """Take stream bytes; return None until the 101 is whole, then all that follows it.

        Empty `data` means that the server closed the stream. `server_key` is then set if the
        head told it. Raises UpgradeRefused, MalformedDerp.
        """
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
            if isinstance(event, h11.InformationalResponse) and event.status_code != 101:
                event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise MalformedDerp(f"the answer to the upgrade is not HTTP: {error}") from error
        if isinstance(event, h11.Response):
            raise UpgradeRefused(event.status_code)
        if not isinstance(event, h11.InformationalResponse) or event.status_code != 101:
            return None
        headers = dict(event.headers)
        if headers.get(b"upgrade", b"").lower() != UPGRADE.lower().encode():
            raise MalformedDerp("the server switched to another protocol than DERP")
        self.server_key = _key_of(headers.get(PUBLIC_KEY_HEADER.lower().encode()))
        return bytes(self._http.trailing_data[0])


def parse_upgrade_untrusted(headers: Iterable[tuple[str, str]]) -> UpgradeWish | None:
    """Read the head of a request for `/derp`; None means that 426 is the answer.

    Header names may be of either case. `Upgrade: websocket` is the front door's to see first.
    """
    found = {name.lower(): value for name, value in headers}
    if found.get("upgrade", "").lower() != UPGRADE.lower():
        return None
    if "upgrade" not in found.get("connection", "").lower():
        return None
    fast = found.get(FAST_START_HEADER.lower(), "") == "1"
    name = found.get(IDEAL_NODE_HEADER.lower(), "")[:_MAX_NAME_CHARACTERS]
    return UpgradeWish(fast, name)


def switching_response(server: NodePublic) -> bytes:
    """Return the server's 101. In a fast start, send nothing instead."""
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        f"Upgrade: {UPGRADE}\r\n"
        "Connection: Upgrade\r\n"
        f"{VERSION_HEADER}: {PROTOCOL_VERSION}\r\n"
        f"{PUBLIC_KEY_HEADER}: {server.raw.hex()}\r\n\r\n"
    ).encode()


def _key_of(text: bytes | None) -> NodePublic | None:
    if text is None:
        return None
    try:
        return NodePublic.parse(NodePublic.PREFIX + text.decode("latin-1"))
    except MalformedKey as error:
        raise MalformedDerp(f"{PUBLIC_KEY_HEADER} is not a key") from error
