"""How the NAT in front of us behaves: the tests of RFC 5780 §4, in the terms of RFC 4787.

One `Discovery` is one examination over one IP family, with several sockets of its own: a socket
that has talked to others already would tell less. It ends with one `NatBehaviour`.

    socket 0     mapping: asks every server, and the other addresses of one of them
    socket 1     filtering: asks that one server alone, to answer from elsewhere
    sockets 2 …  port samples; 2 and 3 also try to reach each other from outside (hairpin)

Servers without another address (RFC 5780 §6) still tell mapping and ports if there are several.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from warren.nat.allocation import PortAllocation, PortSample, judge
from warren.nat.stun import (
    BINDING_REQUEST,
    TX_ID_BYTES,
    MalformedStun,
    TxId,
    parse_header_untrusted,
)
from warren.nat.stun5780 import (
    DiscoveryResponse,
    discovery_request,
    parse_discovery_response_untrusted,
)
from warren.nat.votes import is_plausible, weigh
from warren.netmap.endpoint import Endpoint

LIMIT_S = 4.0
"""An examination never takes longer."""
SOCKETS = 16
SERVERS_MAX = 5
MTUS = (1280, 1360, 1400, 1420, 1440, 1460, 1472, 1480, 1492, 1500)
"""Sizes of whole IP packets that are tried, in bytes."""

_TRIES = 3
_FIRST_WAIT_S = 0.25
_MIN_WAIT_S = 0.12
_MAX_WAIT_S = 0.5
# Sequential ports are only told as such if the packets leave in order.
_GAP_S = 0.002
_MAPPING, _FILTERING, _HAIRPIN_A, _HAIRPIN_B = 0, 1, 2, 3
_IP_UDP_BYTES = {4: 28, 6: 48}


class Dependence(StrEnum):
    """On what of the other side a mapping or a filter depends (RFC 4787 §4.1, §5)."""

    UNKNOWN = "unknown"
    NOTHING = "endpoint-independent"
    ADDRESS = "address-dependent"
    ADDRESS_AND_PORT = "address-and-port-dependent"
    DESTINATION = "destination-dependent"
    """The address, or address and port: the servers at hand can't tell."""
    NOT_PORT = "not port-dependent"
    """Nothing, or the address alone: likewise."""


@dataclass(frozen=True, kw_only=True)
class NatBehaviour:
    """What an examination found.

    translated: False if servers see our own address. filtered: whether unasked packets are held
    off, None if unknown. hairpin: None where it was not tried. mtu_bytes: the largest whole
    IP packet that reached a server unfragmented, 0 if none was tried or answered. liars: servers
    that said otherwise than the majority, and what. dropped: datagrams that were no answers.
    """

    udp: bool = False
    translated: bool | None = None
    mapped: tuple[Endpoint, ...] = ()
    mapping: Dependence = Dependence.UNKNOWN
    filtering: Dependence = Dependence.UNKNOWN
    ports: PortAllocation = field(default_factory=PortAllocation)
    samples: tuple[PortSample, ...] = ()
    hairpin: bool | None = None
    mtu_bytes: int = 0
    answered: tuple[Endpoint, ...] = ()
    discovery_server: Endpoint | None = None
    """The server whose other address (or port) made the fuller tests possible."""
    liars: Mapping[Endpoint, Endpoint] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)


class Sending(NamedTuple):
    """A datagram to send from one of the sockets; `whole`: it must not be fragmented."""

    socket: int
    to: Endpoint
    data: bytes
    whole: bool = False


class _What(StrEnum):
    SERVER = "server"
    ELSEWHERE = "other address"
    SAMPLE = "sample"
    FILTER_ADDRESS = "filter by address"
    FILTER_PORT = "filter by port"
    HAIRPIN = "hairpin"
    SIZE = "size"


@dataclass
class _Ask:
    """One question, which is repeated until it is answered or given up."""

    what: _What
    socket: int
    to: Endpoint
    answer_from: Endpoint
    data: bytes
    next_at: float
    size: int = 0
    tries_left: int = _TRIES
    first_at: float | None = None


class _Server(NamedTuple):
    """A server's addresses: its first, and the other address and port as far as it has them."""

    first: Endpoint
    other: Endpoint

    @property
    def has_address(self) -> bool:
        return self.other.ip != self.first.ip

    @property
    def has_port(self) -> bool:
        return self.other.port != self.first.port

    @property
    def other_port(self) -> Endpoint:
        return Endpoint(self.first.ip, self.other.port)

    def elsewhere(self) -> list[Endpoint]:
        """All but the first."""
        return [
            to
            for to in dict.fromkeys(
                (self.other_port, Endpoint(self.other.ip, self.first.port), self.other)
            )
            if to != self.first
        ]


class Discovery:
    """One examination. Verbs: receive, handle_timeout, poll_transmit, poll_event, next_timeout.

    servers: of one IP family, the most trusted first; of each address one is asked. local_ports:
    of the sockets, up to SOCKETS of them, at least four. own: this machine's addresses.
    """

    def __init__(
        self,
        servers: Sequence[Endpoint],
        local_ports: Sequence[int],
        own: Collection[IPv4Address | IPv6Address],
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        if len(local_ports) <= _HAIRPIN_B:
            raise ValueError("an examination needs at least four sockets")
        self._ports = tuple(local_ports[:SOCKETS])
        self._own = frozenset(own)
        self._entropy = entropy
        self._started = now
        self._wait_s = _FIRST_WAIT_S
        self._asks: dict[TxId, _Ask] = {}
        self._out: deque[Sending] = deque()
        self._stages = deque([self._ask_elsewhere, self._ask_from_elsewhere])
        self._asked: list[Endpoint] = []
        self._said: dict[Endpoint, DiscoveryResponse] = {}
        self._seen: dict[tuple[int, Endpoint], tuple[float, Endpoint]] = {}
        self._heard: set[_What] = set()
        self._tried: set[_What] = set()
        self._reached_size = 0
        self._server: _Server | None = None
        self._dropped: Counter[str] = Counter()
        self._result: NatBehaviour | None = None
        self._finished = False
        unique = {server.ip: server for server in reversed(servers)}
        for number, server in enumerate(s for s in servers if unique[s.ip] == s):
            if number < SERVERS_MAX and server not in self._asked:
                self._asked.append(server)
                self._ask(_What.SERVER, _MAPPING, server, now + number * _GAP_S)
        self.handle_timeout(now)

    def receive(self, socket: int, data: bytes, src: Endpoint, now: float) -> bool:
        """Take a datagram of a socket; return whether it was an answer. Never raises.

        Only the address that was asked to answer may do so, and only once.
        """
        try:
            kind, tx_id = parse_header_untrusted(data)
            ask = self._asks.get(tx_id)
            if ask is None:
                return self._drop("unknown transaction")
            if kind == BINDING_REQUEST:
                return self._receive_own(ask, socket, data, tx_id)
            said = parse_discovery_response_untrusted(data)
        except MalformedStun:
            return self._drop("malformed")
        if ask.what is not _What.HAIRPIN and (socket, src) == (ask.socket, ask.to) != (
            socket,
            ask.answer_from,
        ):
            # The server does not do as it was asked, so that silence would mean nothing either.
            del self._asks[tx_id]
            self._tried.discard(ask.what)
            self._advance(now)
            return self._drop("not from elsewhere")
        if ask.what is _What.HAIRPIN or ask.socket != socket or ask.answer_from != src:
            return self._drop("wrong source")
        if not is_plausible(said.mapped, ask.to):
            return self._drop("reserved address")
        del self._asks[tx_id]
        self._record(ask, said, now)
        self._advance(now)
        return True

    def handle_timeout(self, now: float) -> None:
        """Send what is due, give up what was never answered, and end when all is known."""
        if self._finished:
            return
        for tx_id, ask in list(self._asks.items()):
            if ask.next_at > now:
                continue
            if ask.tries_left == 0:
                del self._asks[tx_id]
                continue
            ask.tries_left -= 1
            ask.next_at = now + self._wait_s
            ask.first_at = now if ask.first_at is None else ask.first_at
            whole = ask.what is _What.SIZE
            self._out.append(Sending(ask.socket, ask.to, ask.data, whole))
        self._advance(now)

    def poll_transmit(self) -> Sending | None:
        """Return the next datagram to send."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> NatBehaviour | None:
        """Return the result, once."""
        result, self._result = self._result, None
        return result

    def next_timeout(self) -> tuple[float, str] | None:
        """Tell when `handle_timeout` is due, and why; None when the examination is over."""
        if self._finished:
            return None
        limit = self._started + LIMIT_S
        due = min((ask.next_at for ask in self._asks.values()), default=limit)
        return (due, "a STUN question") if due < limit else (limit, "the end of the examination")

    # Asking.

    def _ask(
        self,
        what: _What,
        socket: int,
        to: Endpoint,
        at: float,
        *,
        answer_from: Endpoint | None = None,
        size: int = 0,
    ) -> None:
        tx_id = TxId(self._entropy(TX_ID_BYTES))
        data = discovery_request(
            tx_id,
            change_ip=what is _What.FILTER_ADDRESS,
            change_port=what in (_What.FILTER_ADDRESS, _What.FILTER_PORT),
            size_bytes=size - _IP_UDP_BYTES[to.ip.version] if size else 0,
        )
        self._tried.add(what)
        self._asks[tx_id] = _Ask(what, socket, to, answer_from or to, data, at, size)

    def _advance(self, now: float) -> None:
        """Begin the next stage when the present one is over; after the last, finish."""
        if self._finished:
            return
        late = now >= self._started + LIMIT_S
        while not self._asks and self._stages and self._said and not late:
            self._stages.popleft()(now)
            for ask in self._asks.values():
                if ask.next_at <= now and ask.first_at is None:
                    self.handle_timeout(now)
                    return
        if not self._asks or late:
            self._finish()

    def _ask_elsewhere(self, now: float) -> None:
        """Second stage: the server's other addresses, and new sockets for more ports."""
        first = self._choose_server()
        if self._server is not None:
            for number, to in enumerate(self._server.elsewhere()):
                self._ask(_What.ELSEWHERE, _MAPPING, to, now + number * _GAP_S)
        for socket in range(_FILTERING, len(self._ports)):
            self._ask(_What.SAMPLE, socket, first, now + (socket + 3) * _GAP_S)

    def _ask_from_elsewhere(self, now: float) -> None:
        """Third stage: who may come in, hairpin, and how large a packet may be."""
        server = self._server
        if server is not None and (_FILTERING, server.first) in self._seen:
            if server.has_address and server.has_port and (_MAPPING, server.other) in self._seen:
                self._ask(
                    _What.FILTER_ADDRESS, _FILTERING, server.first, now, answer_from=server.other
                )
            if server.has_port and (_MAPPING, server.other_port) in self._seen:
                self._ask(
                    _What.FILTER_PORT, _FILTERING, server.first, now, answer_from=server.other_port
                )
        first = self._choose_server()
        a, b = (self._seen.get((socket, first)) for socket in (_HAIRPIN_A, _HAIRPIN_B))
        if a is not None and b is not None and self._is_translated(a[1]):
            # Both ways, since each opens the filter for the other.
            self._ask(_What.HAIRPIN, _HAIRPIN_A, b[1], now)
            self._ask(_What.HAIRPIN, _HAIRPIN_B, a[1], now + _GAP_S)
        if server is not None:
            for size in MTUS:
                self._ask(_What.SIZE, _MAPPING, server.first, now, size=size)

    def _choose_server(self) -> Endpoint:
        """Return the believed server that can do most, and remember its other address."""
        believed = weigh(self._votes()).believed
        known = [(to, _other_of(to, self._said[to])) for to in believed]
        both = [_Server(to, other) for to, other in known if other is not None]
        both.sort(key=lambda server: -(2 * server.has_address + server.has_port))
        self._server = both[0] if both else None
        return both[0].first if both else next(iter(believed))

    # Answers.

    def _record(self, ask: _Ask, said: DiscoveryResponse, now: float) -> None:
        self._heard.add(ask.what)
        if ask.what is _What.SIZE:
            self._reached_size = max(self._reached_size, ask.size)
            return
        sent_at = now if ask.first_at is None else ask.first_at
        if ask.what in (_What.SERVER, _What.ELSEWHERE, _What.SAMPLE):
            self._seen[ask.socket, ask.to] = sent_at, said.mapped
        if ask.what is _What.SERVER:
            self._said[ask.to] = said
            self._wait_s = min(max(2 * (now - sent_at), _MIN_WAIT_S, self._wait_s / 2), _MAX_WAIT_S)

    def _receive_own(self, ask: _Ask, socket: int, data: bytes, tx_id: TxId) -> bool:
        """Take a request of our own that came back from outside."""
        if ask.what is not _What.HAIRPIN or data != ask.data or socket == ask.socket:
            return self._drop("wrong source")
        self._heard.add(_What.HAIRPIN)
        for other in [i for i, a in self._asks.items() if a.what is _What.HAIRPIN]:
            del self._asks[other]
        return True

    def _drop(self, why: str) -> bool:
        self._dropped[why] += 1
        return False

    # Conclusions.

    def _votes(self) -> dict[Endpoint, Endpoint]:
        """Return who said what, in the order of asking."""
        return {to: self._said[to].mapped for to in self._asked if to in self._said}

    def _is_translated(self, mapped: Endpoint) -> bool:
        return mapped.ip not in self._own

    def _finish(self) -> None:
        self._finished = True
        self._stages.clear()
        self._asks.clear()
        self._out.clear()
        verdict = weigh(self._votes())
        seen = {
            key: mapped for key, (_, mapped) in self._seen.items() if key[1] not in verdict.liars
        }
        of_mapping = {to: mapped for (socket, to), mapped in seen.items() if socket == _MAPPING}
        samples = self._samples(verdict.liars)
        mapped = tuple(dict.fromkeys(of_mapping.values()))
        self._result = NatBehaviour(
            udp=bool(self._said),
            translated=self._is_translated(mapped[0]) if mapped else None,
            mapped=mapped,
            mapping=_mapping(of_mapping),
            filtering=self._filtering(),
            ports=judge(samples) if mapped and self._is_translated(mapped[0]) else PortAllocation(),
            samples=samples,
            hairpin=_What.HAIRPIN in self._heard if _What.HAIRPIN in self._tried else None,
            mtu_bytes=self._reached_size,
            answered=tuple(self._votes()),
            discovery_server=self._server.first if self._server else None,
            liars=verdict.liars,
            dropped=dict(self._dropped),
        )

    def _samples(self, liars: Collection[Endpoint]) -> tuple[PortSample, ...]:
        """Return the ports in the order in which their packets left; a mapping counts once."""
        ordered = sorted(
            (sent_at, PortSample(self._ports[socket], mapped.port))
            for (socket, to), (sent_at, mapped) in self._seen.items()
            if to not in liars
        )
        return tuple(dict.fromkeys(sample for _, sample in ordered))

    def _filtering(self) -> Dependence:
        if _What.FILTER_ADDRESS in self._heard:
            return Dependence.NOTHING
        if _What.FILTER_PORT in self._heard:
            by_address = _What.FILTER_ADDRESS in self._tried
            return Dependence.ADDRESS if by_address else Dependence.NOT_PORT
        tried = _What.FILTER_PORT in self._tried
        return Dependence.ADDRESS_AND_PORT if tried else Dependence.UNKNOWN


def _other_of(to: Endpoint, said: DiscoveryResponse) -> Endpoint | None:
    """Return a server's other address as we may ask it, if it has any.

    A server behind a NAT names inside addresses; its other port is still of use.
    """
    other, origin = said.other, said.origin
    if other is None or other.port == 0:
        return None
    if origin is not None and origin.ip == other.ip:
        other = Endpoint(to.ip, other.port)
    usable = is_plausible(other, to) and (other.ip.is_private is to.ip.is_private)
    if not usable:
        other = Endpoint(to.ip, other.port)
    return other if other != to else None


def _mapping(seen: Mapping[Endpoint, Endpoint]) -> Dependence:
    """Tell from what one socket looked like to several destinations (RFC 5780 §4.3)."""
    pairs = [(a, b) for a in seen for b in seen if a < b]
    other_ip = [seen[a] == seen[b] for a, b in pairs if a.ip != b.ip]
    other_port = [seen[a] == seen[b] for a, b in pairs if a.ip == b.ip]
    if not all(other_port):
        return Dependence.ADDRESS_AND_PORT
    if other_ip:
        if all(other_ip):
            return Dependence.NOTHING
        return Dependence.ADDRESS if other_port else Dependence.DESTINATION
    return Dependence.NOT_PORT if other_port else Dependence.UNKNOWN
