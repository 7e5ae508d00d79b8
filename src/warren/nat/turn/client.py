"""A TURN client: one allocation at one server over one flow (RFC 8656 §6 to §12).

A flow is a UDP socket towards the server, or a TCP or TLS stream to it (`reliable`). The owner
hands in what comes (`receive`), sends what `poll_transmit` gives, and calls `handle_timeout` at
`next_timeout`. Allocation, permissions and channels are renewed before they end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from warren.nat.stun import (
    TX_ID_BYTES,
    MalformedStun,
    TxId,
    parse_address_untrusted,
)
from warren.nat.turn.asking import (
    asked,
    granted_s_untrusted,
    lifetime_value,
    read_allocation_untrusted,
)
from warren.nat.turn.challenge import Session
from warren.nat.turn.credentials import Credentials, MalformedCredential
from warren.nat.turn.events import (
    Allocated,
    Cause,
    ChannelOpen,
    ClientCounters,
    Event,
    Failed,
    IPAddress,
    Lost,
    Permitted,
    Received,
    Refused,
    Released,
)
from warren.nat.turn.framing import (
    TurnStream,
    encode_channel_data,
    is_channel_data,
    parse_channel_data_untrusted,
)
from warren.nat.turn.holdings import Holdings
from warren.nat.turn.message import Message, encode_message, parse_message_untrusted, peer_value
from warren.nat.turn.numbers import (
    DEFAULT_LIFETIME_S,
    Attribute,
    Class,
    Code,
    Method,
)
from warren.nat.turn.transactions import (
    ALLOCATE_TRIES,
    CHECK_TRIES,
    MAX_CHALLENGES,
    TRIES,
    Build,
    Request,
    Requests,
)
from warren.netmap.endpoint import Endpoint

MAX_DATA_BYTES = 65_000
MAX_EVENTS = 4096
BUSY_RETRY_S = 60.0
"""After 486 and 508 (RFC 8656 §7.4)."""

# Errors that a server can't sign: it does not know our key yet, or could not read the request.
# A 441 it could sign, but coturn does not.
_UNSIGNED = frozenset(
    {Code.BAD_REQUEST, Code.UNAUTHENTICATED, Code.STALE_NONCE, Code.WRONG_CREDENTIALS}
)
_KNOWN_IN_DATA = frozenset({Attribute.XOR_PEER_ADDRESS, Attribute.DATA})


class _Allocate(NamedTuple):
    pass


class _Refresh(NamedTuple):
    pass


class _Free(NamedTuple):
    again: bool
    """Whether an allocation is to follow: the port has an old one (437)."""


class _Permit(NamedTuple):
    ip: IPAddress


class _Bind(NamedTuple):
    peer: Endpoint


class _Signing(NamedTuple):
    """Credentials, and what their requests are signed with."""

    credentials: Credentials
    session: Session


class TurnClient:
    """Verbs: receive, handle_timeout, poll_transmit, poll_event, next_timeout.

    It begins with its construction, and ends with a `Failed` or `Released`. `family`: 4 or 6, of
    the relayed address; 0: IPv4 and beside it IPv6 where the server has both, or the one it has.
    """

    def __init__(
        self,
        credentials: Credentials,
        entropy: Callable[[int], bytes],
        now: float,
        *,
        reliable: bool = False,
        family: int = 4,
        lifetime_s: int = DEFAULT_LIFETIME_S,
    ) -> None:
        self.counters = ClientCounters()
        self._credentials = credentials
        self._entropy = entropy
        self._stream = TurnStream() if reliable else None
        self._family = family
        self._lifetime_s = lifetime_s
        self._out: deque[bytes] = deque()
        self._events: deque[Event] = deque()
        self._requests = Requests(entropy, reliable, self._out.append)
        self._session: Session | None = None
        self._before: _Signing | None = None
        """What the allocation was made with, until new credentials are taken for it."""
        self._allocated: Allocated | None = None
        self._ended = False
        self._freed_once = False
        self._refresh_at: float | None = None
        self._held = Holdings()
        self._ask_allocation(now)

    # What the owner asks for.

    @property
    def relayed(self) -> Endpoint | None:
        """Where peers reach us; None while there is no allocation."""
        return None if self._allocated is None else self._allocated.relayed

    @property
    def ended(self) -> bool:
        """Whether this client is of no more use."""
        return self._ended

    def channel_of(self, peer: Endpoint) -> int | None:
        """Return the channel that is open to a peer."""
        return self._held.number_of(peer) if self._held.is_granted(peer) else None

    def peer_of(self, channel: int) -> Endpoint | None:
        """Return the peer of a channel, for who takes ChannelData apart itself."""
        return self._held.peer_of(channel)

    def permit(self, ip: IPAddress, now: float) -> bool:
        """Let peers at an address send to us, until `forget`. False: it can't be asked for."""
        if self._allocated is None or not self._held.has_room_for(ip):
            return False
        if not self._held.has(ip):
            self._held.add_permission(ip)
            self._ask_permission(ip, now)
        return True

    def open_channel(self, peer: Endpoint, now: float) -> bool:
        """Ask for a channel, which is a permission too, until `forget`; as `permit`."""
        if self._allocated is None or not self._held.has_room_for(peer):
            return False
        if not self._held.has(peer):
            if not self._held.add_channel(peer):
                return self.permit(peer.ip, now)
            self._ask_channel(peer, now)
        return True

    def forget(self, peer: Endpoint | IPAddress) -> None:
        """Let a permission or a channel run out."""
        self._held.forget(peer)

    def send(self, peer: Endpoint, data: bytes) -> bool:
        """Send a datagram to a peer; False where there is no permission (yet), or it is too long.

        A datagram is never kept for later: what is inside is sent again by its own protocol.
        """
        if len(data) > MAX_DATA_BYTES or self._ended:
            self.counters.unsent += 1
            return False
        if (number := self.channel_of(peer)) is not None:
            self._out.append(encode_channel_data(number, data, self._stream is not None))
            return True
        if not self._held.is_granted(peer.ip):
            self.counters.unsent += 1
            return False
        tx_id = TxId(self._entropy(TX_ID_BYTES))
        attributes = [peer_value(peer, tx_id), (int(Attribute.DATA), data)]
        self._out.append(encode_message(Method.SEND, Class.INDICATION, tx_id, attributes))
        return True

    def renew(self, credentials: Credentials, now: float) -> None:
        """Go on with new credentials of the same user.

        Where the server wants a new allocation for a new name (441), the old one is given back
        with the old name, `Lost` is told, and a new one is asked for.
        """
        before, self._credentials = self._credentials, credentials
        if self._allocated is not None:
            if self._before is None and self._session is not None:
                self._before = _Signing(before, self._session)
            self._session = None
            self._ask_refresh(now)
        else:
            self._session = None

    def check(self, now: float) -> None:
        """Ask now whether the server still knows us; `Lost` or `Failed` follow if not."""
        if self._allocated is not None and self._refresh_at is not None:
            self._ask_refresh(now, CHECK_TRIES)

    def close(self, now: float) -> None:
        """Free the allocation; `Released` follows."""
        if self._ended:
            return
        # An answer that is still under way may grant what nobody would give back any more.
        under_way = any(
            isinstance(request.purpose, _Allocate) and request.session is not None
            for request in self._requests.open.values()
        )
        self._requests.open.clear()
        if self._allocated is None and not under_way:
            self._end(Released())
            return
        self._drop_allocation()
        self._ask(Method.REFRESH, _lasting(0), _Free(again=False), now)

    # The verbs.

    def receive(self, data: bytes, now: float) -> None:
        """Take a datagram from the server, or bytes of its stream. Never raises."""
        if self._ended:
            return
        if self._stream is None:
            self._receive_one(data, now)
            return
        try:
            found = self._stream.receive(data)
        except MalformedStun as error:
            self.counters.malformed += 1
            self._fail(Cause.PROTOCOL, reason=str(error))
            return
        for one in found:
            if not self._ended:
                self._receive_one(one, now)

    def end_stream(self, reason: str) -> None:
        """Take that the stream could not be opened, or ended, and with it the allocation."""
        if not self._ended:
            self._fail(Cause.NO_STREAM, reason=reason)

    def handle_timeout(self, now: float) -> None:
        """Send again, give up, renew."""
        if self._ended:
            return
        for request in self._requests.handle_timeout(now):
            if isinstance(request.purpose, _Free) and not request.purpose.again:
                self._end(Released())
            else:
                self._fail(Cause.NO_ANSWER)
            return
        if self._refresh_at is not None and self._refresh_at <= now:
            self._ask_refresh(now)
        for holder in self._held.due(now):
            if isinstance(holder, Endpoint):
                self._ask_channel(holder, now)
            else:
                self._ask_permission(holder, now)

    def poll_transmit(self) -> bytes | None:
        """Return the next bytes for the server."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> Event | None:
        """Return what happened next."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` is to be called; None: not until something comes."""
        if self._ended:
            return None
        times = [self._requests.next_timeout(), self._refresh_at, self._held.next_renewal()]
        return min((time for time in times if time is not None), default=None)

    # What comes.

    def _receive_one(self, data: bytes, now: float) -> None:
        try:
            if is_channel_data(data):
                self._take_channel_data(data)
                return
            message = parse_message_untrusted(data)
            if message.kind is Class.INDICATION:
                self._take_indication(message)
            elif message.kind is not Class.REQUEST:
                self._take_response(message, now)
            else:
                self.counters.unexpected += 1
        except MalformedStun:
            self.counters.malformed += 1

    def _take_channel_data(self, data: bytes) -> None:
        channel, payload = parse_channel_data_untrusted(data)
        peer = self._held.peer_of(channel)
        if peer is None:
            self.counters.unexpected += 1
            return
        self._tell(Received(peer, payload))

    def _take_indication(self, message: Message) -> None:
        peer, data = message.endpoint(Attribute.XOR_PEER_ADDRESS), message.get(Attribute.DATA)
        if message.method != Method.DATA or peer is None or data is None:
            self.counters.unexpected += 1  # ICMP that the server reports, among others
            return
        if message.unknown(_KNOWN_IN_DATA):
            self.counters.unexpected += 1
            return
        if not self._held.lets_in(peer.ip):
            self.counters.unexpected += 1
            return
        self._tell(Received(peer, data))

    def _take_response(self, message: Message, now: float) -> None:
        request = self._requests.open.get(message.tx_id)
        if request is None or request.method != message.method:
            self.counters.unexpected += 1
            return
        if message.kind is Class.SUCCESS:
            if not self._is_signed(message, request):
                self.counters.forged += 1
                return
            self._take_success(message, request, now)
            self._requests.open.pop(message.tx_id, None)
            return
        code, reason = message.error()
        signed = message.sha1_at is not None or message.sha256_at is not None
        must_sign = request.session is not None and (signed or code not in _UNSIGNED)
        if must_sign and not self._is_signed(message, request):
            self.counters.forged += 1
            return
        del self._requests.open[message.tx_id]
        self._take_error(message, request, code, reason, now)

    def _is_signed(self, message: Message, request: Request) -> bool:
        session = request.session
        return session is None or message.verifies(session.key, session.integrity)

    def _take_success(self, message: Message, request: Request, now: float) -> None:
        match request.purpose:
            case _Allocate():
                self._take_allocation(message, now)
            case _Refresh():
                self._before = None
                self._refresh_later(granted_s_untrusted(message), now)
            case _Free(again=again):
                self._freed(again, now)
            case _Permit(ip=ip):
                if self._held.grant(ip, now):
                    self._tell(Permitted(ip))
            case _Bind(peer=peer):
                if self._held.grant(peer, now):
                    self._tell(ChannelOpen(peer, self._held.number_of(peer)))

    def _take_allocation(self, message: Message, now: float) -> None:
        self._allocated = read_allocation_untrusted(message)
        self._freed_once = False
        self._refresh_later(self._allocated.lifetime_s, now)
        self._tell(self._allocated)

    # What goes wrong.

    def _take_error(
        self, message: Message, request: Request, code: int, reason: str, now: float
    ) -> None:
        if code == Code.STALE_NONCE or (
            code == Code.UNAUTHENTICATED and self._may_sign(request, message)
        ):
            self._take_challenge(message, request, now)
            return
        match request.purpose:
            case _Free(again=again):
                self._freed(again, now)  # 437: there was nothing to free
            case _Allocate():
                self._allocate_failed(message, code, reason, now)
            case _ if code == Code.ALLOCATION_MISMATCH:
                self._lose(now)
            case _ if code == Code.WRONG_CREDENTIALS and self._before is not None:
                self._exchange(self._before.session, now)
            case _ if code in (Code.UNAUTHENTICATED, Code.WRONG_CREDENTIALS):
                self._fail(Cause.CREDENTIALS, code, reason)
            case _Refresh():
                self._fail(Cause.PROTOCOL, code, reason, retry_after_s=BUSY_RETRY_S)
            case _Permit(ip=ip):
                self._held.refuse(ip)
                self._tell(Refused(ip, code, reason))
            case _Bind(peer=peer):
                self._held.refuse(peer)
                self._tell(Refused(peer, code, reason))

    def _may_sign(self, request: Request, message: Message) -> bool:
        """Whether a 401 asks for our first signature, and not says that ours is wrong."""
        if request.session is None:
            return True
        # The credentials were renewed, or the realm is another, while the request was under way.
        realm = message.get(Attribute.REALM)
        return self._session is not request.session and realm is not None

    def _take_challenge(self, message: Message, request: Request, now: float) -> None:
        request.challenges += 1
        if request.challenges > MAX_CHALLENGES:
            self._fail(Cause.PROTOCOL, reason="one challenge after the other")
            return
        credentials = self._credentials
        if self._before is not None and isinstance(request.purpose, _Free):
            credentials = self._before.credentials
        try:
            self._session = Session.answer_untrusted(message, credentials)
        except MalformedCredential as error:
            self._fail(Cause.CREDENTIALS, reason=str(error))
            return
        except MalformedStun as error:
            self.counters.malformed += 1
            self._fail(Cause.PROTOCOL, reason=str(error))
            return
        self._requests.start(request, self._session, now)

    def _allocate_failed(self, message: Message, code: int, reason: str, now: float) -> None:
        match code:
            case Code.ALLOCATION_MISMATCH if not self._freed_once:
                self._freed_once = True
                self._ask(Method.REFRESH, _lasting(0), _Free(again=True), now)
            case Code.ALLOCATION_MISMATCH:
                self._fail(Cause.PORT_IN_USE, code, reason)
            case Code.UNAUTHENTICATED | Code.WRONG_CREDENTIALS | Code.FORBIDDEN:
                self._fail(Cause.CREDENTIALS, code, reason)
            case Code.QUOTA_REACHED:
                self._fail(Cause.QUOTA, code, reason, retry_after_s=BUSY_RETRY_S)
            case Code.INSUFFICIENT_CAPACITY:
                self._fail(Cause.CAPACITY, code, reason, retry_after_s=BUSY_RETRY_S)
            case Code.TRY_ALTERNATE:
                value = message.get(Attribute.ALTERNATE_SERVER)
                alternate = None if value is None else parse_address_untrusted(value, None)
                self._fail(Cause.ALTERNATE, code, reason, alternate)
            case Code.FAMILY_NOT_SUPPORTED if self._family == 0:
                self._family = 6
                self._ask_allocation(now)
            case (
                Code.UNKNOWN_ATTRIBUTE
                | Code.FAMILY_NOT_SUPPORTED
                | Code.TRANSPORT_NOT_SUPPORTED
                | Code.PEER_FAMILY_MISMATCH
            ):
                self._fail(Cause.NOT_OFFERED, code, reason)
            case _:
                self._fail(Cause.PROTOCOL, code, reason, retry_after_s=BUSY_RETRY_S)

    def _freed(self, again: bool, now: float) -> None:
        if self._before is not None:
            self._before = self._session = None  # the next one is made with the new credentials
        if again:
            self._ask_allocation(now)
        else:
            self._end(Released())

    def _lose(self, now: float) -> None:
        """The server knows nothing of us any more: begin again on the same flow."""
        self._requests.open.clear()
        self._drop_allocation()
        self._tell(Lost())
        self._ask_allocation(now)

    def _exchange(self, before: Session, now: float) -> None:
        """The allocation belongs to the old name: give it back as that, and make another."""
        self._requests.open.clear()
        self._drop_allocation()
        self._tell(Lost())
        self._session = before
        self._ask(Method.REFRESH, _lasting(0), _Free(again=True), now)

    def _fail(
        self,
        cause: Cause,
        code: int = 0,
        reason: str = "",
        alternate: Endpoint | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self._end(Failed(cause, code, reason, alternate, retry_after_s))

    def _end(self, event: Failed | Released) -> None:
        self._ended = True
        self._requests.open.clear()
        self._drop_allocation()
        self._tell(event)

    def _drop_allocation(self) -> None:
        self._allocated = None
        self._refresh_at = None
        self._held.clear()

    # What is asked for.

    def _ask(
        self, method: Method, build: Build, purpose: object, now: float, tries: int = TRIES
    ) -> None:
        self._requests.start(Request(method, build, purpose, None, tries), self._session, now)

    def _ask_allocation(self, now: float) -> None:
        build = asked(self._family, self._lifetime_s)
        self._ask(Method.ALLOCATE, build, _Allocate(), now, ALLOCATE_TRIES)

    def _ask_refresh(self, now: float, tries: int = TRIES) -> None:
        self._refresh_at = None
        self._ask(Method.REFRESH, _lasting(self._lifetime_s), _Refresh(), now, tries)

    def _ask_permission(self, ip: IPAddress, now: float) -> None:
        self._held.asked(ip)
        any_port = Endpoint(ip, 0)
        self._ask(Method.CREATE_PERMISSION, lambda tx: [peer_value(any_port, tx)], _Permit(ip), now)

    def _ask_channel(self, peer: Endpoint, now: float) -> None:
        self._held.asked(peer)
        number = self._held.number_of(peer).to_bytes(2, "big") + bytes(2)

        def build(tx_id: TxId) -> list[tuple[int, bytes]]:
            return [(Attribute.CHANNEL_NUMBER, number), peer_value(peer, tx_id)]

        self._ask(Method.CHANNEL_BIND, build, _Bind(peer), now)

    def _refresh_later(self, lifetime_s: int, now: float) -> None:
        # A minute before the end, so that every try of a datagram fits in.
        self._refresh_at = now + max(lifetime_s - 60, lifetime_s / 2)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Received) and len(self._events) >= MAX_EVENTS:
            return  # the owner does not read; datagrams may be lost, the rest may not
        self._events.append(event)


def _lasting(lifetime_s: int) -> Build:
    return lambda tx_id: [lifetime_value(lifetime_s)]
