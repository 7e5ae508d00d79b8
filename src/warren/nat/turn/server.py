"""A TURN server without sockets (RFC 8656): allocations, permissions, channels, relaying.

The owner hands in what clients and peers send, opens and closes relay sockets as events say, and
sends what `poll_transmit` gives. Two clients of one server reach each other inside of it: no
datagram to the server's own address ever leaves, so its other services stay out of reach.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from warren.nat.stun import (
    TX_ID_BYTES,
    MalformedStun,
    TxId,
    encode_xor_address,
)
from warren.nat.turn.allocation import (
    Allocation,
    CloseRelay,
    Flow,
    OpenRelay,
    Reservation,
    ToClient,
    ToPeer,
    Transport,
    TurnCounters,
    TurnSettings,
)
from warren.nat.turn.authority import Authority, Signer
from warren.nat.turn.credentials import Accounts
from warren.nat.turn.events import IPAddress
from warren.nat.turn.framing import (
    encode_channel_data,
    is_channel_data,
    parse_channel_data_untrusted,
)
from warren.nat.turn.limits import AnswerRate, Bucket
from warren.nat.turn.message import (
    Message,
    encode_message,
    error_value,
    parse_message_untrusted,
    peer_value,
)
from warren.nat.turn.nonces import Nonces
from warren.nat.turn.numbers import (
    CHANNEL_S,
    DEFAULT_LIFETIME_S,
    FAMILY_V6,
    FIRST_CHANNEL,
    LAST_OLD_CHANNEL,
    PERMISSION_S,
    UDP,
    Attribute,
    Class,
    Code,
    Method,
)
from warren.nat.turn.reach import Reach
from warren.netmap.endpoint import Endpoint

MAX_DATA_BYTES = 65_000
SWEEP_S = 1.0
RESERVED_S = 30.0
BURST_S = 1.0
"""How many seconds of its rate a user may use at once."""

_SIGNED = {
    Attribute.USERNAME,
    Attribute.REALM,
    Attribute.NONCE,
    Attribute.PASSWORD_ALGORITHM,
}
_KNOWN: dict[int, frozenset[int]] = {
    Method.ALLOCATE: frozenset(
        {
            *_SIGNED,
            Attribute.LIFETIME,
            Attribute.REQUESTED_TRANSPORT,
            Attribute.REQUESTED_ADDRESS_FAMILY,
            Attribute.EVEN_PORT,
            Attribute.RESERVATION_TOKEN,
        }
    ),
    Method.REFRESH: frozenset({*_SIGNED, Attribute.LIFETIME, Attribute.REQUESTED_ADDRESS_FAMILY}),
    Method.CREATE_PERMISSION: frozenset({*_SIGNED, Attribute.XOR_PEER_ADDRESS}),
    Method.CHANNEL_BIND: frozenset(
        {*_SIGNED, Attribute.XOR_PEER_ADDRESS, Attribute.CHANNEL_NUMBER}
    ),
    Method.SEND: frozenset({Attribute.XOR_PEER_ADDRESS, Attribute.DATA}),
    Method.BINDING: frozenset(),
}
_TOKEN_BYTES = 8


class _Refusal(Exception):
    """A request that gets an error."""

    def __init__(self, code: Code, *extra: tuple[int, bytes]) -> None:
        super().__init__(code.name)
        self.code = code
        self.extra = extra


class _Wish(NamedTuple):
    """An Allocate that waits for its sockets."""

    flow: Flow
    message: Message
    signer: Signer
    families: tuple[int, ...]
    reserve: bool
    lifetime_s: int


class TurnServer:
    """Verbs: receive, receive_from_peer, handle_timeout, poll_transmit, poll_event, next_timeout.

    `accounts` knows who may come, `reach` which peers may be reached.
    """

    def __init__(
        self,
        settings: TurnSettings,
        accounts: Accounts,
        reach: Reach,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        self.counters = TurnCounters()
        self._settings = settings
        self._reach = reach
        self._entropy = entropy
        self._out: deque[ToClient | ToPeer] = deque()
        self._events: deque[OpenRelay | CloseRelay] = deque()
        nonces = Nonces(entropy(32), settings.nonce_life_s)
        rate = AnswerRate(now)
        self._authority = Authority(
            accounts, settings.realm, nonces, rate, self.counters, self._answer
        )
        self._allocations: dict[Flow, Allocation] = {}
        self._relayed: dict[Endpoint, Allocation] = {}
        self._wishes: dict[int, _Wish] = {}
        self._reserved: dict[bytes, Reservation] = {}
        self._rates: dict[str, Bucket] = {}
        self._ticket = 0
        self._swept = now

    def __len__(self) -> int:
        """How many allocations there are."""
        return len(self._allocations)

    def __contains__(self, flow: Flow) -> bool:
        """Whether a client has an allocation, or will have one."""
        pending = any(wish.flow == flow for wish in self._wishes.values())
        return flow in self._allocations or pending

    # The verbs.

    def receive(self, flow: Flow, data: bytes, now: float) -> None:
        """Take one message of a client (of a stream: cut by `TurnStream`). Never raises."""
        try:
            if is_channel_data(data):
                self._take_channel_data(flow, data, now)
                return
            message = parse_message_untrusted(data)
        except MalformedStun:
            self.counters.malformed += 1
            return
        if message.kind is Class.REQUEST and message.method == Method.BINDING:
            self._take_binding(flow, message, now)
        elif message.kind is Class.REQUEST:
            self._take_request(flow, message, now)
        elif message.kind is Class.INDICATION and message.method == Method.SEND:
            try:
                self._take_send(flow, message, now)
            except MalformedStun:
                self.counters.malformed += 1
        else:
            self.counters.unexpected += 1

    def receive_from_peer(self, relayed: Endpoint, peer: Endpoint, data: bytes, now: float) -> None:
        """Take a datagram that came to a relayed address."""
        allocation = self._relayed.get(relayed)
        if allocation is None or allocation.ends <= now:
            self.counters.unexpected += 1
            return
        self._deliver(allocation, peer, data, now)

    def relay_opened(self, ticket: int, relayed: Sequence[Endpoint], now: float) -> None:
        """The sockets of an `OpenRelay` are there: one for each family in its order, then the
        reserved one. Those that could not be had are missing; none at all: no room.
        """
        wish = self._wishes.pop(ticket, None)
        if wish is None or wish.flow in self._allocations:
            self._events.extend(CloseRelay(one) for one in relayed)
            return
        try:
            if not relayed or relayed[0].ip.version != wish.families[0]:
                self._events.extend(CloseRelay(one) for one in relayed)
                raise _Refusal(Code.INSUFFICIENT_CAPACITY)
            self._allocate(wish, list(relayed), now)
        except _Refusal as refusal:
            self._refuse(wish.flow, wish.message, wish.signer, refusal)

    def gone(self, flow: Flow) -> None:
        """A client's stream has ended, and its allocation with it."""
        for ticket in [ticket for ticket, wish in self._wishes.items() if wish.flow == flow]:
            del self._wishes[ticket]
        if flow in self._allocations:
            self._delete(self._allocations[flow])

    def handle_timeout(self, now: float) -> None:
        """Forget what has ended."""
        if now - self._swept < SWEEP_S:
            return
        self._swept = now
        for allocation in list(self._allocations.values()):
            if allocation.ends <= now:
                self._delete(allocation)
            else:
                allocation.sweep(now)
        for token, reservation in list(self._reserved.items()):
            if reservation.ends <= now:
                del self._reserved[token]
                self._events.append(CloseRelay(reservation.relayed))
        owners = {allocation.owner for allocation in self._allocations.values()}
        for owner in self._rates.keys() - owners:
            del self._rates[owner]

    def poll_transmit(self) -> ToClient | ToPeer | None:
        """Return what to send next."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> OpenRelay | CloseRelay | None:
        """Return what to do next about sockets."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` is to be called; None while there is nothing to forget."""
        return self._swept + SWEEP_S if self._allocations or self._reserved else None

    # Data.

    def _take_channel_data(self, flow: Flow, data: bytes, now: float) -> None:
        channel, payload = parse_channel_data_untrusted(data)
        allocation = self._allocations.get(flow)
        bound = None if allocation is None else allocation.channels.get(channel)
        if allocation is None or bound is None or bound[1] <= now:
            self.counters.unexpected += 1
            return
        self._relay(allocation, bound[0], payload, now)

    def _take_send(self, flow: Flow, message: Message, now: float) -> None:
        allocation = self._allocations.get(flow)
        peer, data = message.endpoint(Attribute.XOR_PEER_ADDRESS), message.get(Attribute.DATA)
        if allocation is None or peer is None or data is None:
            self.counters.unexpected += 1
            return
        if message.unknown(_KNOWN[Method.SEND]):
            self.counters.unexpected += 1
            return
        self._relay(allocation, peer, data, now)

    def _relay(self, allocation: Allocation, peer: Endpoint, data: bytes, now: float) -> None:
        """Send a client's datagram on to a peer."""
        relayed = allocation.relays.get(peer.ip.version)
        if relayed is None or not allocation.permits(peer.ip, now) or not peer.port:
            self.counters.dropped_unpermitted += 1
            return
        neighbour = self._relayed.get(peer)
        if neighbour is None and not self._reaches(peer.ip):
            self.counters.refused_peers += 1  # our own address, and no relayed one
            return
        if allocation.ends <= now or not self._charge(allocation, len(data), now):
            return
        self.counters.to_peers += 1
        if neighbour is not None:
            self._deliver(neighbour, relayed, data, now)
        else:
            self._out.append(ToPeer(relayed, peer, data))

    def _deliver(self, allocation: Allocation, peer: Endpoint, data: bytes, now: float) -> None:
        """Send a peer's datagram on to the client."""
        if not allocation.permits(peer.ip, now):
            self.counters.dropped_unpermitted += 1
            return
        if not self._charge(allocation, len(data), now):
            return
        self.counters.to_clients += 1
        flow = allocation.flow
        channel = allocation.channel_of(peer, now)
        if channel is not None:
            padded = flow.transport is not Transport.UDP
            self._answer(flow, encode_channel_data(channel, data, padded))
            return
        tx_id = TxId(self._entropy(TX_ID_BYTES))
        attributes = [peer_value(peer, tx_id), (int(Attribute.DATA), data)]
        self._answer(flow, encode_message(Method.DATA, Class.INDICATION, tx_id, attributes))

    def _reaches(self, ip: IPAddress) -> bool:
        if ip in self._settings.relay_ips:
            return self._reach.names(ip)  # our own services, which a test may well want
        return self._reach.permits(ip)

    def _charge(self, allocation: Allocation, size: int, now: float) -> bool:
        if size > MAX_DATA_BYTES or not allocation.rate.take(size, now):
            self.counters.dropped_rate += 1
            return False
        self.counters.bytes += size
        return True

    # Requests.

    def _take_binding(self, flow: Flow, message: Message, now: float) -> None:
        unknown = message.unknown(_KNOWN[Method.BINDING])
        if unknown:
            extra = [(int(Attribute.UNKNOWN_ATTRIBUTES), _numbers(unknown))]
            self._authority.refuse_stranger(flow, message, Code.UNKNOWN_ATTRIBUTE, extra, now)
            return
        self._succeed(flow, message, None, [_mapped(flow, message)])

    def _take_request(self, flow: Flow, message: Message, now: float) -> None:
        signer = self._authority.judge(flow, message, now)
        if signer is None:
            return
        try:
            unknown = message.unknown(_KNOWN.get(message.method, frozenset(_SIGNED)))
            if unknown:
                numbers = (int(Attribute.UNKNOWN_ATTRIBUTES), _numbers(unknown))
                raise _Refusal(Code.UNKNOWN_ATTRIBUTE, numbers)
            match message.method:
                case Method.ALLOCATE:
                    self._take_allocate(flow, message, signer, now)
                case Method.REFRESH:
                    self._take_refresh(self._of(flow, signer, now), message, signer, now)
                case Method.CREATE_PERMISSION:
                    self._take_permission(self._of(flow, signer, now), message, signer, now)
                case Method.CHANNEL_BIND:
                    self._take_channel_bind(self._of(flow, signer, now), message, signer, now)
                case _:
                    raise _Refusal(Code.BAD_REQUEST)
        except _Refusal as refusal:
            self._refuse(flow, message, signer, refusal)
        except MalformedStun:
            self.counters.malformed += 1
            self._refuse(flow, message, signer, _Refusal(Code.BAD_REQUEST))

    def _of(self, flow: Flow, signer: Signer, now: float) -> Allocation:
        """Return a flow's allocation. New time-limited names of its user are welcome, too."""
        allocation = self._allocations.get(flow)
        if allocation is None or allocation.ends <= now:
            raise _Refusal(Code.ALLOCATION_MISMATCH)
        if allocation.owner != signer.owner:
            raise _Refusal(Code.WRONG_CREDENTIALS)
        return allocation

    def _take_allocate(self, flow: Flow, message: Message, signer: Signer, now: float) -> None:
        present = self._allocations.get(flow)
        if present is not None and present.ends > now:
            if present.tx_id != message.tx_id:
                raise _Refusal(Code.ALLOCATION_MISMATCH)
            self._answer(flow, present.answer)  # our answer was lost on the way
            return
        if present is not None:
            self._delete(present)
        if any(wish.flow == flow for wish in self._wishes.values()):
            return
        transport = message.number(Attribute.REQUESTED_TRANSPORT, 1)
        if transport is None:
            raise _Refusal(Code.BAD_REQUEST)
        if transport != UDP:
            raise _Refusal(Code.TRANSPORT_NOT_SUPPORTED)
        self._check_room(signer, message.get(Attribute.RESERVATION_TOKEN))
        families = self._families(message)
        even = message.number(Attribute.EVEN_PORT, 1)
        token = message.get(Attribute.RESERVATION_TOKEN)
        reserve = bool(even is not None and even & 0x80)
        wish = _Wish(flow, message, signer, families, reserve, self._lifetime_s(message))
        if token is not None:
            if even is not None or message.get(Attribute.REQUESTED_ADDRESS_FAMILY) is not None:
                raise _Refusal(Code.BAD_REQUEST)
            reservation = self._reserved.get(token)
            if reservation is None or reservation.owner != signer.owner:
                raise _Refusal(Code.INSUFFICIENT_CAPACITY)
            del self._reserved[token]
            self._allocate(wish, [reservation.relayed], now)
            return
        if reserve and len(families) > 1:
            raise _Refusal(Code.BAD_REQUEST)
        self._ticket += 1
        self._wishes[self._ticket] = wish
        self._events.append(OpenRelay(self._ticket, families, even is not None, reserve))

    def _check_room(self, signer: Signer, token: bytes | None) -> None:
        """See to the quotas: what is reserved and what is being opened counts, too."""
        owners = [allocation.owner for allocation in self._allocations.values()]
        owners += [wish.signer.owner for wish in self._wishes.values()]
        owners += [r.owner for kept, r in self._reserved.items() if kept != token]
        if owners.count(signer.owner) >= self._settings.max_per_user:
            self.counters.refused_quota += 1
            raise _Refusal(Code.QUOTA_REACHED)
        if len(owners) >= self._settings.max_allocations:
            self.counters.refused_quota += 1
            raise _Refusal(Code.INSUFFICIENT_CAPACITY)

    def _families(self, message: Message) -> tuple[int, ...]:
        wanted = message.family(Attribute.REQUESTED_ADDRESS_FAMILY)
        additional = message.family(Attribute.ADDITIONAL_ADDRESS_FAMILY)
        if additional is None:
            additional = message.family(Attribute.ADDITIONAL_ADDRESS_FAMILY_OLD)
        if additional is not None and (wanted is not None or additional != 6):
            raise _Refusal(Code.BAD_REQUEST)
        first = 4 if wanted is None else wanted
        if first not in self._settings.families:
            raise _Refusal(Code.FAMILY_NOT_SUPPORTED)
        return (first,) if additional is None else (first, additional)

    def _allocate(self, wish: _Wish, relayed: list[Endpoint], now: float) -> None:
        flow, message, signer = wish.flow, wish.message, wish.signer
        answer: list[tuple[int, bytes]] = []
        if wish.reserve:
            if len(relayed) < 2:
                self._events.extend(CloseRelay(one) for one in relayed)
                raise _Refusal(Code.INSUFFICIENT_CAPACITY)
            token = self._entropy(_TOKEN_BYTES)
            self._reserved[token] = Reservation(relayed.pop(), signer.owner, now + RESERVED_S)
            answer.append((Attribute.RESERVATION_TOKEN, token))
        elif len(relayed) < len(wish.families):
            missing = bytes([FAMILY_V6, 0]) + error_value(Code.FAMILY_NOT_SUPPORTED)[2:]
            old = message.get(Attribute.ADDITIONAL_ADDRESS_FAMILY_OLD) is not None
            name = Attribute.ADDRESS_ERROR_CODE_OLD if old else Attribute.ADDRESS_ERROR_CODE
            answer.append((name, missing))
        for one in relayed:
            address = encode_xor_address(one, message.tx_id)
            answer.append((Attribute.XOR_RELAYED_ADDRESS, address))
        answer.append((Attribute.LIFETIME, wish.lifetime_s.to_bytes(4, "big")))
        answer.append(_mapped(flow, message))
        data = self._succeed(flow, message, signer, answer)
        rate = self._settings.bytes_per_s
        bucket = self._rates.setdefault(
            signer.owner, Bucket(rate, rate * BURST_S, rate * BURST_S, now)
        )
        relays: dict[int, Endpoint] = {one.ip.version: one for one in relayed}
        ends = now + wish.lifetime_s
        allocation = Allocation(flow, signer.owner, message.tx_id, data, ends, bucket, relays)
        self._allocations[flow] = allocation
        self._relayed.update(dict.fromkeys(relayed, allocation))
        self.counters.allocated += 1
        if len(self._allocations) == 1:
            self._swept = now

    def _take_refresh(
        self, allocation: Allocation, message: Message, signer: Signer, now: float
    ) -> None:
        family = message.family(Attribute.REQUESTED_ADDRESS_FAMILY)
        if family is not None and family not in allocation.relays:
            raise _Refusal(Code.PEER_FAMILY_MISMATCH)
        if message.number(Attribute.LIFETIME, 4) == 0:
            lifetime_s = 0
            if family is None or len(allocation.relays) == 1:
                self._delete(allocation)
            else:
                self._close_relay(allocation.relays.pop(family))
        else:
            lifetime_s = self._lifetime_s(message)
            allocation.ends = now + lifetime_s
        answer = [(int(Attribute.LIFETIME), lifetime_s.to_bytes(4, "big"))]
        self._succeed(allocation.flow, message, signer, answer)

    def _take_permission(
        self, allocation: Allocation, message: Message, signer: Signer, now: float
    ) -> None:
        peers = message.endpoints(Attribute.XOR_PEER_ADDRESS)
        if not peers:
            raise _Refusal(Code.BAD_REQUEST)
        for peer in peers:
            self._check_peer(allocation, peer)
        ips = {peer.ip for peer in peers}
        if len(allocation.permissions.keys() | ips) > self._settings.max_permissions:
            raise _Refusal(Code.INSUFFICIENT_CAPACITY)
        allocation.permissions.update(dict.fromkeys(ips, now + PERMISSION_S))
        self._succeed(allocation.flow, message, signer, [])

    def _take_channel_bind(
        self, allocation: Allocation, message: Message, signer: Signer, now: float
    ) -> None:
        number = message.number(Attribute.CHANNEL_NUMBER, 2)
        peer = message.endpoint(Attribute.XOR_PEER_ADDRESS)
        if number is None or peer is None or not FIRST_CHANNEL <= number <= LAST_OLD_CHANNEL:
            raise _Refusal(Code.BAD_REQUEST)
        self._check_peer(allocation, peer)
        allocation.sweep(now)
        bound = allocation.channels.get(number)
        if (bound is not None and bound[0] != peer) or not peer.port:
            raise _Refusal(Code.BAD_REQUEST)
        if allocation.numbers.get(peer, number) != number:
            raise _Refusal(Code.BAD_REQUEST)
        settings = self._settings
        if bound is None and len(allocation.channels) >= settings.max_channels:
            raise _Refusal(Code.INSUFFICIENT_CAPACITY)
        if len(allocation.permissions.keys() | {peer.ip}) > settings.max_permissions:
            raise _Refusal(Code.INSUFFICIENT_CAPACITY)
        allocation.channels[number] = peer, now + CHANNEL_S
        allocation.numbers[peer] = number
        allocation.permissions[peer.ip] = now + PERMISSION_S
        self._succeed(allocation.flow, message, signer, [])

    def _check_peer(self, allocation: Allocation, peer: Endpoint) -> None:
        if peer.ip.version not in allocation.relays:
            raise _Refusal(Code.PEER_FAMILY_MISMATCH)
        # Other clients of ours have our address; beyond them, `_relay` lets nothing through.
        if peer.ip not in self._settings.relay_ips and not self._reach.permits(peer.ip):
            self.counters.refused_peers += 1
            raise _Refusal(Code.FORBIDDEN)

    def _lifetime_s(self, message: Message) -> int:
        wanted = message.number(Attribute.LIFETIME, 4) or DEFAULT_LIFETIME_S
        return min(max(wanted, DEFAULT_LIFETIME_S), self._settings.max_lifetime_s)

    # Ends and answers.

    def _delete(self, allocation: Allocation) -> None:
        del self._allocations[allocation.flow]
        for relayed in allocation.relays.values():
            self._close_relay(relayed)

    def _close_relay(self, relayed: Endpoint) -> None:
        self._relayed.pop(relayed, None)
        self._events.append(CloseRelay(relayed))

    def _succeed(
        self,
        flow: Flow,
        message: Message,
        signer: Signer | None,
        attributes: list[tuple[int, bytes]],
    ) -> bytes:
        data = _encode(Class.SUCCESS, message, signer, attributes)
        self._answer(flow, data)
        return data

    def _refuse(self, flow: Flow, message: Message, signer: Signer, refusal: _Refusal) -> None:
        attributes = [(int(Attribute.ERROR_CODE), error_value(refusal.code)), *refusal.extra]
        self._answer(flow, _encode(Class.ERROR, message, signer, attributes))

    def _answer(self, flow: Flow, data: bytes) -> None:
        self._out.append(ToClient(flow, data))


def _encode(
    kind: Class, message: Message, signer: Signer | None, attributes: list[tuple[int, bytes]]
) -> bytes:
    return encode_message(
        message.method,
        kind,
        message.tx_id,
        attributes,
        None if signer is None else signer.key,
        "sha1" if signer is None else signer.integrity,
        message.fingerprint,
    )


def _mapped(flow: Flow, message: Message) -> tuple[int, bytes]:
    return Attribute.XOR_MAPPED_ADDRESS, encode_xor_address(flow.client, message.tx_id)


def _numbers(attributes: list[int]) -> bytes:
    return b"".join(kind.to_bytes(2, "big") for kind in attributes)
