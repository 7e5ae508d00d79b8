"""HTTP/2 inside the record layer, both ends (PROTOCOL §2.6), by the `h2` library.

A channel takes the raw stream bytes that follow the handshake and gives events; what it wants
to send waits in `poll_transmit`. It never raises on what the other side sent: a connection that
can't go on ends with one `Closed` event, and `poll_transmit` then holds the farewell.

Bodies that are sent wait here until flow control lets them go. `queued` tells how much waits, and
the caller keeps that bounded; bodies that are received are handed on at once and never kept. The
caller stops reading from the transport while its own writes are backed up: then PING and SETTINGS
floods, which are answered byte for byte, cannot grow anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import h2.stream

from warren.control.early import EarlyReader
from warren.control.malformed import MalformedControl
from warren.control.records import RecordLayer
from warren.keys import ChallengePublic

Headers = tuple[tuple[str, str], ...]

# The other side may have this much of one body under way before we have read it.
WINDOW_BYTES = 1024 * 1024
MAX_STREAMS = 128
MAX_HEADERS_BYTES = 64 * 1024
MAX_FRAME_BYTES = 16 * 1024
"""The largest HTTP/2 payload that either end takes; the protocol's default."""

_SENDING = (h2.stream.StreamState.OPEN, h2.stream.StreamState.HALF_CLOSED_REMOTE)
"""In which a body's frame changes nothing in a stream but its window (RFC 9113 section 5.1)."""

_FRAME_HEADER_BYTES = 9
_PREFACE_BYTES = 24


class Request(NamedTuple):
    """A client opened `stream`. `headers` are without the `:pseudo` ones, names in lower case."""

    stream: int
    method: str
    path: str
    headers: Headers


class Response(NamedTuple):
    """The server's status for `stream`."""

    stream: int
    status: int
    headers: Headers


class Body(NamedTuple):
    """A piece of the body of `stream`; never empty."""

    stream: int
    data: bytes


class Ended(NamedTuple):
    """The other side has sent all of `stream`."""

    stream: int


class Reset(NamedTuple):
    """`stream` is over before its end; nothing more comes or can be sent on it."""

    stream: int


class Early(NamedTuple):
    """The server's early payload; the first event of a client, if the server sent one."""

    challenge: ChallengePublic


class Closed(NamedTuple):
    """The connection is over, and why. Always the last event."""

    reason: str


Event = Request | Response | Body | Ended | Reset | Early | Closed


class ChannelUnavailable(Exception):
    """A request cannot be made: the channel is closed, or too many are open."""


class _Waiting:
    """What of one stream flow control has not let go yet."""

    __slots__ = ("data", "end")

    def __init__(self) -> None:
        self.data = bytearray()
        self.end = False


class _FrameGuard:
    """Finds an oversized frame by its header; h2 would first collect it, up to 16 MiB."""

    __slots__ = ("_head", "_skip")

    def __init__(self, skip: int) -> None:
        self._skip = skip
        self._head = b""

    def oversized(self, data: bytes) -> bool:
        """Take the next bytes of HTTP/2; tell whether a frame larger than allowed begins."""
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            piece = data[at : at + _FRAME_HEADER_BYTES - len(self._head)]
            self._head += piece
            at += len(piece)
            if len(self._head) == _FRAME_HEADER_BYTES:
                self._skip = int.from_bytes(self._head[:3], "big")
                self._head = b""
                if self._skip > MAX_FRAME_BYTES:
                    return True
        return False


class _Channel:
    """What both ends share: records around HTTP/2, and the queues of flow control."""

    def __init__(self, records: RecordLayer, client_side: bool) -> None:
        self._records = records
        self._http = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=client_side, header_encoding=None)
        )
        # Set before `initiate_connection`, these go out in the first SETTINGS frame.
        self._http.local_settings = h2.settings.Settings(
            client=client_side,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS_BYTES,
            },
        )
        self._guard = _FrameGuard(0 if client_side else _PREFACE_BYTES)
        self._waiting: dict[int, _Waiting] = {}
        self._out = bytearray()
        self.closed = False

    def receive(self, data: bytes) -> list[Event]:
        """Take stream bytes, as they arrive; return what they mean, in order."""
        events: list[Event] = []
        if self.closed:
            return events
        try:
            for plaintext in self._records.receive(data):
                self._receive_plaintext(plaintext, events)
        except MalformedControl as error:
            self._close(str(error), events)
        return events

    def poll_transmit(self) -> bytes:
        """Return the bytes to write to the stream now; empty if there is nothing to say."""
        data = self._http.data_to_send()
        if data:
            self._out += self._records.seal(data)
        out = bytes(self._out)
        self._out.clear()
        return out

    def queued(self, stream: int) -> int:
        """Tell how many bytes of a body still wait for flow control."""
        waiting = self._waiting.get(stream)
        return len(waiting.data) if waiting else 0

    def send(self, stream: int, data: bytes, end: bool = False) -> None:
        """Queue a piece of a body, and with `end` its end. Ignored on a stream that is over."""
        waiting = self._waiting.get(stream)
        if waiting is None or waiting.end or self.closed:
            return
        if not (end or waiting.data) and data and self._pass(stream, data):
            return
        waiting.data += data
        waiting.end = end
        self._pump(stream)

    def close(self, reason: str) -> None:
        """Say farewell (GOAWAY); `reason` stays here. `poll_transmit` has the bytes."""
        self._close(reason, [])

    def _receive_plaintext(self, plaintext: bytes, events: list[Event]) -> None:
        if not plaintext or self.closed:
            return
        if self._guard.oversized(plaintext):
            self._close("the other side broke HTTP/2: a frame is too long", events)
            return
        try:
            for event in self._http.receive_data(plaintext):
                self._translate(event, events)
        except h2.exceptions.ProtocolError as error:
            # h2 has queued the GOAWAY itself.
            self._close(f"the other side broke HTTP/2: {error}", events)

    def _translate(self, event: h2.events.Event, events: list[Event]) -> None:
        if isinstance(event, h2.events.DataReceived):
            # Read at once and handed on, so the window opens again at once.
            if event.flow_controlled_length:
                self._acknowledge(event.flow_controlled_length, event.stream_id)
            if event.data:
                events.append(Body(event.stream_id, event.data))
        elif isinstance(event, h2.events.StreamEnded):
            events.append(Ended(event.stream_id))
        elif isinstance(event, h2.events.StreamReset):
            self._waiting.pop(event.stream_id, None)
            events.append(Reset(event.stream_id))
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            self._pump_all()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._close(f"the other side said goodbye (code {int(event.error_code or 0)})", events)

    def _acknowledge(self, size: int, stream: int) -> None:
        # The last bytes of a stream need no window of the stream any more.
        with suppress(h2.exceptions.StreamClosedError):
            self._http.acknowledge_received_data(size, stream)

    def _pump_all(self) -> None:
        for stream in list(self._waiting):
            self._pump(stream)

    def _pump(self, stream: int) -> None:
        """Hand to h2 what flow control lets go of one stream's queue."""
        waiting = self._waiting[stream]
        data = waiting.data
        try:
            while data:
                room = self._http.local_flow_control_window(stream)
                size = min(room, self._http.max_outbound_frame_size, len(data))
                if size <= 0:
                    return
                last = waiting.end and size == len(data)
                self._send_data(stream, bytes(data[:size]), last)
                del data[:size]
                if last:
                    del self._waiting[stream]
                    return
            if waiting.end:
                self._http.end_stream(stream)
                del self._waiting[stream]
        except h2.exceptions.ProtocolError:
            # The other side has reset the stream or gone; its event is on the way.
            self._waiting.pop(stream, None)

    def _send_data(self, stream: int, data: bytes, last: bool) -> None:
        if last or not self._pass(stream, data):
            self._http.send_data(stream, data, end_stream=last)

    def _pass(self, stream: int, data: bytes) -> bool:
        """Seal a frame of a body at once where h2 would only count it, and flow control allows it.

        A long poll is one body of many small frames, and a change of policy one such frame to
        each of thousands: h2's own way takes about as long as compressing them.
        """
        http, size = self._http, len(data)
        known = http.streams.get(stream)
        if (
            known is None
            or known.state_machine.state not in _SENDING
            or size > http.outbound_flow_control_window
            or size > known.outbound_flow_control_window
            or size > http.max_outbound_frame_size
        ):
            return False
        # RFC 9113 section 6.1: length, type 0, no flags, stream.
        head = size.to_bytes(3, "big") + b"\0\0" + stream.to_bytes(4, "big")
        self._out += self._records.seal(http.data_to_send() + head + data)
        known.outbound_flow_control_window -= size
        http.outbound_flow_control_window -= size
        return True

    def _close(self, reason: str, events: list[Event]) -> None:
        if self.closed:
            return
        self.closed = True
        self._waiting.clear()
        # Where h2 found the fault, it has closed already.
        with suppress(h2.exceptions.ProtocolError):
            self._http.close_connection()
        events.append(Closed(reason))

    def _drop(self, stream: int) -> None:
        self._waiting.pop(stream, None)
        # A stream that is over already needs no reset.
        with suppress(h2.exceptions.ProtocolError, KeyError):
            self._http.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)


class ClientChannel(_Channel):
    """The node's end. `authority` is what `:authority` says; servers do not look at it."""

    def __init__(self, records: RecordLayer, authority: str = "unused") -> None:
        super().__init__(records, client_side=True)
        self._authority = authority
        self._early = EarlyReader()
        self._http.initiate_connection()
        self._http.increment_flow_control_window(WINDOW_BYTES)

    def request(
        self,
        method: str,
        path: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> int:
        """Queue a request and return its stream. Header names are made lower-case.

        Raises ChannelUnavailable.
        """
        if self.closed:
            raise ChannelUnavailable("the channel is closed")
        lines = [
            (":method", method),
            (":path", path),
            (":scheme", "https"),
            (":authority", self._authority),
            *((name.lower(), value) for name, value in headers),
        ]
        try:
            stream = self._http.get_next_available_stream_id()
            self._http.send_headers(stream, lines, end_stream=not body)
        except h2.exceptions.ProtocolError as error:
            raise ChannelUnavailable(f"no further request can be made: {error}") from error
        if body:
            self._waiting[stream] = _Waiting()
            self.send(stream, body, end=True)
        return stream

    def cancel(self, stream: int) -> None:
        """Give up on a request; no `Reset` event follows for it."""
        self._drop(stream)

    def _receive_plaintext(self, plaintext: bytes, events: list[Event]) -> None:
        early, rest = self._early.receive(plaintext)
        if early is not None:
            events.append(Early(early.challenge))
        super()._receive_plaintext(rest, events)

    def _translate(self, event: h2.events.Event, events: list[Event]) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            pseudo, headers = _split_headers(event.headers)
            status = pseudo.get(":status", "")
            if len(status) == 3 and status.isascii() and status.isdecimal():
                events.append(Response(event.stream_id, int(status), headers))
            else:
                self._drop(event.stream_id)
                events.append(Reset(event.stream_id))
        else:
            super()._translate(event, events)


class ServerChannel(_Channel):
    """The coordinator's end. `early` is what `encode_early` made, or None to say nothing early."""

    def __init__(self, records: RecordLayer, early: bytes | None = None) -> None:
        super().__init__(records, client_side=False)
        if early:
            self._out += records.seal(early)
        self._http.initiate_connection()
        self._http.increment_flow_control_window(WINDOW_BYTES)

    def respond(self, stream: int, status: int, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Queue status and headers; `send` follows, the last one with `end`.

        Ignored on a stream that is over.
        """
        if self.closed:
            return
        lines = [(":status", str(status)), *((name.lower(), value) for name, value in headers)]
        try:
            self._http.send_headers(stream, lines)
        except (h2.exceptions.ProtocolError, KeyError):
            return
        self._waiting[stream] = _Waiting()

    def reset(self, stream: int) -> None:
        """End a stream before its time."""
        self._drop(stream)

    def _translate(self, event: h2.events.Event, events: list[Event]) -> None:
        if isinstance(event, h2.events.RequestReceived):
            pseudo, headers = _split_headers(event.headers)
            method, path = pseudo.get(":method", ""), pseudo.get(":path", "")
            events.append(Request(event.stream_id, method, path, headers))
        else:
            super()._translate(event, events)


def _split_headers(lines: Iterable[tuple[bytes, bytes]]) -> tuple[dict[str, str], Headers]:
    """Part the `:pseudo` headers from the others; bytes above 0x7f are read as Latin-1."""
    pseudo: dict[str, str] = {}
    headers: list[tuple[str, str]] = []
    for raw_name, raw_value in lines:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name.startswith(":"):
            pseudo[name] = value
        else:
            headers.append((name, value))
    return pseudo, tuple(headers)
