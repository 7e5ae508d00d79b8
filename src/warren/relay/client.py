"""One client's connection to the relay.

Reading is the hot path: a packet is cut out of the buffer, its destination looked up, and header
and source put before it. What one read brings leaves in one write for each destination.

A destination that reads slowly: its packets wait in a bounded queue, disco first. When that is
half full, whoever sends there is not read from for a moment, so that TCP slows the sender down;
a relay that only dropped would make the TCP inside the tunnel guess. After that moment the queue
drops its oldest packets, so that one slow reader can't hold up a sender's other peers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import structlog

from warren.derp.frames import (
    GONE_NOT_HERE,
    HEADER_BYTES,
    MAX_CLIENT_INFO_BYTES,
    MAX_PACKET_BYTES,
    ClosePeer,
    ForwardPacket,
    Frame,
    KeepAlive,
    NotePreferred,
    PeerGone,
    Ping,
    Pong,
    WatchConns,
    encode_frame,
    parse_frame_untrusted,
)
from warren.derp.login import ServerInfo, ServerLogin
from warren.derp.malformed import MalformedDerp
from warren.edge.entropy import Entropy
from warren.keys import NodePublic
from warren.relay.hub import Hub

# What strangers can cause is counted, and logged only for who looks closely.
_log = structlog.get_logger("relay")

HANDSHAKE_S = 10.0
KEEP_ALIVE_S = 60.0
KEEP_ALIVE_JITTER_S = 5.0
# A client that can answer pings and says nothing for so long is gone.
SILENCE_S = 150.0
# A client whose socket takes nothing for so long is closed.
STALL_S = 2.0
# How long a sender is held back for one slow destination.
HOLD_S = 0.1
WRITE_HIGH_BYTES = 256 * 1024
WRITE_LOW_BYTES = 64 * 1024
QUEUE_BYTES = 256 * 1024
QUEUE_DISCO = 32
# Answers and notices; a client that makes us write more while it reads nothing is dropped.
QUEUE_NOTICES_BYTES = 64 * 1024
# How many peers a client is remembered to have sent to, for the notice when it goes.
MAX_REACHED = 20_000

_DISCO_MAGIC = b"TS\xf0\x9f\x92\xac"
_KEY_BYTES = 32
_SEND, _RECV = 0x04, b"\x05"
_MAX_PAYLOAD_BYTES = _KEY_BYTES + MAX_PACKET_BYTES
_NOT_HERE_PER_S = 1.0
_NOT_HERE_BURST = 3.0
_KEEP_ALIVE = encode_frame(KeepAlive())


class RelayClient(asyncio.Protocol):
    """The server's end of one DERP stream, from its first frame on."""

    def __init__(self, hub: Hub, entropy: Entropy) -> None:
        self._hub = hub
        self._entropy = entropy
        self._login: ServerLogin | None = ServerLogin(hub.key, ServerInfo(), entropy(24))
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._max_payload = MAX_CLIENT_INFO_BYTES + _KEY_BYTES
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._can_ack_pings = False
        self._heard = 0.0
        # Collected for the next flush; only while the socket takes data.
        self._out: list[bytes] = []
        self._writable = True
        self._stalled_at_bytes = 0
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._queue_disco: deque[bytes] = deque(maxlen=QUEUE_DISCO)
        self._notices_bytes = 0
        # Senders that are not read from because of us, and whether that was tried already.
        self._holding: set[RelayClient] = set()
        self._held_enough = False
        # For how many slow destinations we are held.
        self._held_by = 0
        self._not_here_tokens = _NOT_HERE_BURST
        self._not_here_at = 0.0
        self.raw_key = b""
        self.reached: set[bytes] = set()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who we are and wait for the client to do so."""
        assert self._login is not None
        # uvloop's transports are none by inheritance.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        self._after("handshake", HANDSHAKE_S, self.abort)
        transport.write(self._login.poll_transmit())

    def data_received(self, data: bytes) -> None:
        """Take stream bytes and forward what they hold."""
        self._heard = asyncio.get_running_loop().time()
        self._buffer += data
        try:
            self._take_frames()
        except MalformedDerp as error:
            self._hub.counters.malformed_clients += 1
            _log.debug("a client broke the protocol", client=self._shown(), error=str(error))
            self.close()
        self._hub.flush()

    def eof_received(self) -> bool:
        """A stream that ends is over in both directions."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the hub, and let go of whoever waits for us."""
        self._transport = None
        for timer in self._timers.values():
            timer.cancel()
        self._release_all()
        if self.raw_key:
            self._hub.leave(self)
        self._queue.clear()
        self._queue_disco.clear()
        self._out.clear()

    def pause_writing(self) -> None:
        """The socket is full: what comes now waits in the queue, and not for ever."""
        self._writable = False
        self._watch_stall()

    def resume_writing(self) -> None:
        """The socket takes data again: disco first, then the queue, then the senders."""
        self._writable = True
        self._drop_timer("stall")
        self._out.extend(self._queue_disco)
        self._out.extend(self._queue)
        self._queue_disco.clear()
        self._queue.clear()
        self._queue_bytes = self._notices_bytes = 0
        self._held_enough = False
        self.flush()
        if self._writable:
            self._release_all()

    # What the hub and other clients call.

    def forward(self, frame: bytes, packet: memoryview, sender: RelayClient) -> None:
        """Send a RecvPacket frame on, or keep it until the socket takes it."""
        if self._writable:
            if not self._out:
                self._hub.wrote(self)
            self._out.append(frame)
            return
        if packet[:6] == _DISCO_MAGIC:
            if len(self._queue_disco) == QUEUE_DISCO:
                self._hub.counters.dropped_full += 1
            self._queue_disco.append(frame)
            return
        self._queue.append(frame)
        self._queue_bytes += len(frame)
        while self._queue_bytes > QUEUE_BYTES:
            self._queue_bytes -= len(self._queue.popleft())
            self._hub.counters.dropped_full += 1
        if self._queue_bytes > QUEUE_BYTES // 2 and not self._held_enough:
            self._hold(sender)

    def tell(self, frame: bytes) -> None:
        """Send a frame that is not a packet."""
        if not self._writable:
            self._notices_bytes += len(frame)
            if self._notices_bytes > QUEUE_NOTICES_BYTES:
                return
        if not self._out:
            self._hub.wrote(self)
        self._out.append(frame)

    def flush(self) -> None:
        """Write what was collected."""
        if self._out and self._transport is not None and not self._transport.is_closing():
            out = self._out
            self._out = []
            self._transport.write(b"".join(out) if len(out) > 1 else out[0])

    def close(self) -> None:
        """Close once what was written is sent."""
        if self._transport is not None:
            self.flush()
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # Reading.

    def _take_frames(self) -> None:
        buffer = self._buffer
        view = memoryview(buffer)
        size, start = len(buffer), 0
        while size - start >= HEADER_BYTES:
            length = int.from_bytes(view[start + 1 : start + HEADER_BYTES], "big")
            if length > self._max_payload:
                raise MalformedDerp(f"a frame of {length} bytes is too long")
            end = start + HEADER_BYTES + length
            if end > size:
                break
            payload = view[start + HEADER_BYTES : end]
            if buffer[start] == _SEND and self._login is None:
                self._forward_packet(payload)
            else:
                frame = parse_frame_untrusted(buffer[start], bytes(payload))
                if frame is not None:
                    self._receive(frame)
            payload.release()
            start = end
            if self._transport is None or self._transport.is_closing():
                break
        view.release()
        if start:
            del buffer[:start]

    def _forward_packet(self, payload: memoryview) -> None:
        if len(payload) < _KEY_BYTES:
            raise MalformedDerp("a packet lacks its destination")
        hub = self._hub
        destination = bytes(payload[:_KEY_BYTES])
        if hub.active.get(self.raw_key) is not self:
            hub.activate(self)
        peer = hub.active.get(destination)
        packet = payload[_KEY_BYTES:]
        if peer is None:
            hub.counters.dropped_unknown += 1
            if packet[:6] == _DISCO_MAGIC:
                self._tell_not_here(destination)
            return
        if destination not in self.reached and len(self.reached) < MAX_REACHED:
            self.reached.add(destination)
        hub.counters.packets += 1
        hub.counters.bytes += len(packet)
        size = len(payload)  # our key takes the place of the destination's
        frame = b"".join((_RECV, size.to_bytes(4, "big"), self.raw_key, packet))
        peer.forward(frame, packet, self)

    def _receive(self, frame: Frame) -> None:
        if self._login is not None:
            self._log_in(self._login, frame)
            return
        match frame:
            case Ping(data=data):
                self.tell(encode_frame(Pong(data)))
            case NotePreferred():
                if self._hub.active.get(self.raw_key) is not self:
                    self._hub.activate(self)
            case WatchConns() | ForwardPacket() | ClosePeer():
                raise MalformedDerp("only relays of the same region may ask for that")
            case _:
                pass  # pongs, and what only servers say

    def _log_in(self, login: ServerLogin, frame: Frame) -> None:
        login.receive(frame)
        if not login.done:
            return
        assert login.client is not None and login.client_info is not None
        self._drop_timer("handshake")
        if not self._hub.join(self, login.client):
            _log.debug("a client is not known here", client=str(login.client))
            self.close()
            return
        self.raw_key = login.client.raw
        self._can_ack_pings = login.client_info.can_ack_pings
        self._max_payload = _MAX_PAYLOAD_BYTES
        self.tell(login.poll_transmit())
        self._login = None
        self._keep_alive_later()

    def _tell_not_here(self, destination: bytes) -> None:
        """Answer disco for an absent peer, but not more often than the wire allows."""
        elapsed_s = self._heard - self._not_here_at
        self._not_here_at = self._heard
        self._not_here_tokens = min(
            _NOT_HERE_BURST, self._not_here_tokens + elapsed_s * _NOT_HERE_PER_S
        )
        if self._not_here_tokens >= 1:
            self._not_here_tokens -= 1
            self.tell(encode_frame(PeerGone(NodePublic(destination), GONE_NOT_HERE)))

    # Slow readers.

    def _hold(self, sender: RelayClient) -> None:
        """Stop reading from a sender until we have caught up, but only for a moment."""
        if sender is self or sender in self._holding:
            return
        if not self._holding:
            self._after("hold", HOLD_S, self._give_up_holding)
        self._holding.add(sender)
        sender._held_by += 1
        if sender._held_by == 1 and sender._transport is not None:
            with suppress(RuntimeError):  # it is closing
                sender._transport.pause_reading()

    def _give_up_holding(self) -> None:
        self._held_enough = True
        self._release_all()

    def _release_all(self) -> None:
        self._drop_timer("hold")
        holding, self._holding = self._holding, set()
        for sender in holding:
            sender._held_by -= 1
            if not sender._held_by and sender._transport is not None:
                with suppress(RuntimeError):  # it is closing
                    sender._transport.resume_reading()

    def _watch_stall(self) -> None:
        if self._transport is not None:
            self._stalled_at_bytes = self._transport.get_write_buffer_size()
            self._after("stall", STALL_S, self._check_stall)

    def _check_stall(self) -> None:
        if self._transport is None or self._writable:
            return
        if self._transport.get_write_buffer_size() < self._stalled_at_bytes:
            self._watch_stall()  # slow, but it reads
            return
        self._hub.counters.stalled_clients += 1
        _log.debug("a client reads nothing and was dropped", client=self._shown())
        self.abort()

    # Time.

    def _keep_alive_later(self) -> None:
        jitter_s = KEEP_ALIVE_JITTER_S * self._entropy(1)[0] / 255
        self._after("keep-alive", KEEP_ALIVE_S + jitter_s, self._keep_alive)

    def _keep_alive(self) -> None:
        silence_s = asyncio.get_running_loop().time() - self._heard
        if self._can_ack_pings and silence_s > SILENCE_S:
            self.abort()
            return
        self.tell(_KEEP_ALIVE)
        if self._can_ack_pings and silence_s > KEEP_ALIVE_S / 2:
            self.tell(encode_frame(Ping(self._entropy(8))))
        self._hub.flush()
        self._keep_alive_later()

    def _after(self, name: str, delay_s: float, call: Callable[[], None]) -> None:
        self._drop_timer(name)
        self._timers[name] = asyncio.get_running_loop().call_later(delay_s, call)

    def _drop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _shown(self) -> str:
        return str(NodePublic(self.raw_key)) if self.raw_key else "not logged in"
