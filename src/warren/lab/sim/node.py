"""Nodes of the simulated world: the real path machines, sealed messages, and a stock client."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from warren.disco.malformed import MalformedDisco
from warren.disco.messages import (
    CallMeMaybe,
    Message,
    Ping,
    Pong,
    TxId,
    encode_message,
    parse_message_untrusted,
)
from warren.disco.sealed import NONCE_BYTES, SharedBox, sender_of_untrusted
from warren.keys import DiscoPrivate, DiscoPublic, NodePrivate, NodePublic
from warren.lab.sim.world import REGION, Host, Router, SimWorld
from warren.nat.stun import (
    MalformedStun,
    binding_request,
    looks_like_stun,
    parse_binding_response_untrusted,
)
from warren.nat.stun import TxId as StunTxId
from warren.netmap.endpoint import Endpoint, MalformedEndpoint
from warren.paths.machine import EndpointsWanted, Lease, Relay, Transmit
from warren.paths.punching.ports import Sample
from warren.paths.punching.puncher import PunchingPaths
from warren.paths.punching.roles import OwnSide, PeerSide
from warren.paths.punching.sockets import (
    Aside,
    AsideLease,
    AsideTransmit,
    CloseSockets,
    KeepSocket,
    OpenSockets,
    StunAsk,
)

PORT = 41641
_TRAFFIC_EVERY_S = 2.0
_STUN_WAIT_S = 0.3
_STOCK_PING_S = 5.0
_TX_ID_BYTES = 12


def told(message: Message | StunAsk) -> str:
    """Name a message for the chart."""
    if isinstance(message, CallMeMaybe):
        return f"CallMeMaybe with {len(message.endpoints)} endpoints"
    return type(message).__name__


class Identity(NamedTuple):
    """What the coordinator tells everybody of a node."""

    name: str
    key: NodePublic
    disco: DiscoPublic
    endpoints: tuple[Endpoint, ...]
    side: PeerSide


class Direct(NamedTuple):
    """A lease as an engine would hold it."""

    via: Endpoint | Aside
    until: float


class _Member:
    """What Warren nodes and stock clients have in common: keys, a socket, STUN, the relay."""

    def __init__(self, world: SimWorld, host: Host, side: PeerSide) -> None:
        self.world = world
        self.host = host
        self.name = host.name
        self.side = side
        private = NodePrivate.from_entropy(world.rng.randbytes(32))
        self.key = private.public()
        self.disco = DiscoPrivate.from_entropy(world.rng.randbytes(32))
        self.changed: Callable[[], None] = lambda: None
        """Called when this node has something new to say of itself."""
        host.open(self._on_datagram, PORT)
        self.public: tuple[Endpoint, ...] = ()
        self.varies: bool | None = None
        """Whether two servers saw it at different ports; None where only one answered."""
        self.dropped = 0
        self._boxes: dict[NodePublic, SharedBox] = {}
        self._stun: dict[StunTxId, tuple[Endpoint, float]] = {}
        world.connect_relay(self.key.raw, self.name, self._on_relayed)

    @property
    def at(self) -> Endpoint:
        """The main socket."""
        return Endpoint(self.host.ip, PORT)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """What this node says of where it is: as servers saw it, and its own address."""
        return tuple(dict.fromkeys((*self.public, self.at)))

    def identity(self) -> Identity:
        """Return what others learn of this node."""
        return Identity(self.name, self.key, self.disco.public(), self.endpoints, self.side)

    def learn(self, peer: Identity) -> None:
        """Take what the coordinator says of a peer."""
        self._boxes[peer.key] = SharedBox(self.disco, peer.disco)

    def measure(self) -> None:
        """Ask the STUN servers from the main socket; what they say is told after a while."""
        self._stun.clear()
        for server in self._servers():
            tx_id = StunTxId(self.world.rng.randbytes(_TX_ID_BYTES))
            self._stun[tx_id] = (server, self.world.now)
            self.host.send(self.at, server, binding_request(tx_id), "STUN")
        seen: list[Endpoint] = []
        self._seen = seen
        self.world.after(_STUN_WAIT_S, lambda: self._measured(tuple(seen)))

    def _servers(self) -> tuple[Endpoint, ...]:
        return self.world.stun_servers

    def _measured(self, seen: tuple[Endpoint, ...]) -> None:
        before = self.identity()
        self.public = tuple(dict.fromkeys(seen))
        self.varies = len(self.public) > 1 if len(seen) > 1 else None
        if self.identity() != before:
            self.changed()

    def _sample(self, sample: Sample) -> None:
        self._seen.append(sample.mapped)

    def _on_datagram(self, data: bytes, src: Endpoint) -> None:
        if looks_like_stun(data):
            try:
                tx_id, mapped = parse_binding_response_untrusted(data)
            except MalformedStun:
                self.dropped += 1
                return
            asked = self._stun.pop(tx_id, None)
            if asked is not None:
                self._sample(Sample(asked[0], mapped, asked[1], self.at.port))
            return
        self._open(data, src)

    def _on_relayed(self, sender: bytes, data: bytes) -> None:
        self._open(data, Relay(REGION))

    def _open(self, data: bytes, via: Endpoint | Relay | Aside) -> None:
        claimed = sender_of_untrusted(data)
        for key, box in self._boxes.items():
            if box.peer == claimed:
                try:
                    message = parse_message_untrusted(box.open_untrusted(data))
                except (MalformedDisco, MalformedEndpoint):
                    self.dropped += 1
                    return
                self._receive(key, message, via)
                return
        self.dropped += 1

    def _receive(self, peer: NodePublic, message: Message, via: Endpoint | Relay | Aside) -> None:
        raise NotImplementedError

    def _seal(self, peer: NodePublic, message: Message) -> bytes:
        nonce = self.world.rng.randbytes(NONCE_BYTES)
        return self._boxes[peer].seal(encode_message(message), nonce)

    def _send(self, peer: NodePublic, to: Endpoint | Relay, message: Message) -> None:
        data = self._seal(peer, message)
        if isinstance(to, Relay):
            self.world.relay(self.key.raw, peer.raw, data, told(message))
        else:
            self.host.send(self.at, to, data, told(message))


class SimNode(_Member):
    """A Warren node: one `PunchingPaths` for each peer, driven as the node's data plane does."""

    def __init__(self, world: SimWorld, host: Host) -> None:
        self.own = OwnSide(entropy=world.rng.randbytes, stun_servers=world.stun_servers)
        self.paths: dict[NodePublic, PunchingPaths] = {}
        self.leases: dict[NodePublic, Direct] = {}
        self.first_direct: dict[NodePublic, float] = {}
        self.sockets: dict[tuple[int, int], Endpoint] = {}
        self.peak_sockets = 0
        self._timers: dict[NodePublic, float] = {}
        super().__init__(world, host, PeerSide(understands=True))

    def move(self, network: Router | None) -> None:
        """Take the machine to another network; the system would tell the node."""
        self.world.move(self.host, network)
        self.own.forget()
        for key, paths in self.paths.items():
            paths.network_changed(self.world.now)
            self._settle(key)
        self.measure()

    def learn(self, peer: Identity) -> None:
        """Take what the coordinator says of a peer."""
        super().learn(peer)
        if peer.key not in self.paths:
            self.paths[peer.key] = PunchingPaths(self.key, self.own)
        paths = self.paths[peer.key]
        if self.public:
            paths.set_own_endpoints(self.endpoints, self.world.now)
        paths.set_peer(peer.endpoints, REGION, peer.side, self.world.now)
        self._settle(peer.key)

    def talk_to(self, peer: _Member) -> None:
        """Send traffic from now on; the engine would say so every two seconds."""
        paths = self.paths[peer.key]
        paths.note_active(self.world.now)
        self._settle(peer.key)
        self.world.after(_TRAFFIC_EVERY_S, lambda: self.talk_to(peer))

    def direct(self, peer: _Member) -> Direct | None:
        """Return the lease towards a peer, if one is valid."""
        lease = self.leases.get(peer.key)
        return lease if lease is not None and self.world.now < lease.until else None

    def _measured(self, seen: tuple[Endpoint, ...]) -> None:
        super()._measured(seen)
        self.own.udp = bool(seen)
        if self.varies is not None:
            self.own.hard = self.varies
        for key, paths in self.paths.items():
            paths.set_own_endpoints(self.endpoints, self.world.now)
            self._settle(key)

    def _sample(self, sample: Sample) -> None:
        super()._sample(sample)
        self.own.memory.note(sample)

    def _receive(self, peer: NodePublic, message: Message, via: Endpoint | Relay | Aside) -> None:
        if peer in self.paths:
            self.paths[peer].receive(message, via, self.world.now)
            self._settle(peer)

    def _settle(self, key: NodePublic) -> None:
        paths = self.paths[key]
        while (item := paths.poll_transmit()) is not None:
            if isinstance(item, Transmit):
                self._send(key, item.to, item.message)
            elif isinstance(item, AsideTransmit):
                self._send_aside(key, item)
            elif isinstance(item, OpenSockets):
                self._open_sockets(key, item)
            elif isinstance(item, KeepSocket):
                self._close_sockets(item.group, but=item.index)
            elif isinstance(item, CloseSockets):
                self._close_sockets(item.group)
        while (event := paths.poll_event()) is not None:
            if isinstance(event, Lease):
                self._lease(key, event.endpoint, event.lease_ms)
            elif isinstance(event, AsideLease):
                self._lease(key, event.at if event.lease_ms else None, event.lease_ms)
            elif isinstance(event, EndpointsWanted):
                self.measure()
        due = paths.next_timeout()
        if due is not None and self._timers.get(key) != due[0]:
            self._timers[key] = due[0]
            self.world.at(due[0], lambda: self._fire(key, due[0]))

    def _fire(self, key: NodePublic, when: float) -> None:
        if self._timers.get(key) == when:
            del self._timers[key]
            self.paths[key].handle_timeout(self.world.now)
            self._settle(key)

    def _lease(self, key: NodePublic, via: Endpoint | Aside | None, lease_ms: int) -> None:
        if via is None:
            self.leases.pop(key, None)
        else:
            self.leases[key] = Direct(via, self.world.now + lease_ms / 1000)
            self.first_direct.setdefault(key, self.world.now)

    def _open_sockets(self, key: NodePublic, command: OpenSockets) -> None:
        for index in range(command.count):
            self._open_socket(key, command.group, index)
        self.peak_sockets = max(self.peak_sockets, len(self.sockets))

    def _open_socket(self, key: NodePublic, group: int, index: int) -> None:
        def receive(data: bytes, src: Endpoint) -> None:
            if looks_like_stun(data):
                tx_id, mapped = parse_binding_response_untrusted(data)
                self.paths[key].receive_stun(tx_id, mapped, self.world.now)
                self._settle(key)
            else:
                self._open(data, Aside(group, index, src))

        self.sockets[group, index] = self.host.open(receive)

    def _close_sockets(self, group: int, but: int = -1) -> None:
        for known, index in list(self.sockets):
            if known == group and index != but:
                self.host.close(self.sockets.pop((known, index)))

    def _send_aside(self, key: NodePublic, item: AsideTransmit) -> None:
        source = self.sockets.get((item.to.group, item.to.index))
        if source is None:
            self.dropped += 1
        elif isinstance(item.message, StunAsk):
            request = binding_request(item.message.tx_id)
            self.host.send(source, item.to.endpoint, request, "STUN")
        else:
            data = self._seal(key, item.message)
            self.host.send(source, item.to.endpoint, data, told(item.message))


class StockNode(_Member):
    """A stock client, as far as punching meets it (PROTOCOL §5.4, §15): one socket, no punching.

    Every call's endpoints are pinged at once and replace those of the call before; the source of
    a ping becomes a candidate. Its own search pings no endpoint twice in five seconds. It asks
    one STUN server in each of the `regions`, so with one region it never learns whether its ports
    vary.
    """

    def __init__(self, world: SimWorld, host: Host, regions: int) -> None:
        self._regions = regions
        self.candidates: dict[NodePublic, dict[Endpoint, str]] = {}
        self.ponged: dict[NodePublic, dict[Endpoint, float]] = {}
        self.active: set[NodePublic] = set()
        self._pings: dict[TxId, tuple[NodePublic, Endpoint]] = {}
        self._pinged: dict[tuple[NodePublic, Endpoint], float] = {}
        super().__init__(world, host, PeerSide())

    def learn(self, peer: Identity) -> None:
        """Take what the coordinator says of a peer."""
        super().learn(peer)
        known = self.candidates.setdefault(peer.key, {})
        for endpoint in peer.endpoints:
            known.setdefault(endpoint, "map")

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """A stock client leaves out ports that only one server saw, but for the first. Where its
        ports vary it guesses that somebody forwarded its own port (PROTOCOL §5.6)."""
        told = list(self.public[:1])
        if self.varies:
            told.append(Endpoint(told[0].ip, self.at.port))
        return tuple(dict.fromkeys((*told, self.at)))

    def _servers(self) -> tuple[Endpoint, ...]:
        return self.world.stun_servers[: self._regions]

    def talk_to(self, peer: _Member) -> None:
        """Search for a path every five seconds while there is none, and keep the one found."""
        self.active.add(peer.key)
        best = self._best(peer.key)
        if best is not None:
            self._ping(peer.key, best)
            self.world.after(3.0, lambda: self.talk_to(peer))
            return
        for endpoint in list(self.candidates.get(peer.key, {})):
            if self.world.now - self._pinged.get((peer.key, endpoint), -9.0) >= _STOCK_PING_S:
                self._ping(peer.key, endpoint)
        if self.public:
            self._send(peer.key, Relay(REGION), CallMeMaybe(self.endpoints))
        self.world.after(5.0, lambda: self.talk_to(peer))

    def direct(self, peer: _Member) -> Direct | None:
        """Return the path whose pong still counts."""
        best = self._best(peer.key)
        return Direct(best, self.ponged[peer.key][best] + 6.5) if best is not None else None

    def _best(self, key: NodePublic) -> Endpoint | None:
        fresh = {
            endpoint: at
            for endpoint, at in self.ponged.get(key, {}).items()
            if self.world.now - at < 6.5 and endpoint in self.candidates[key]
        }
        return max(fresh, key=lambda endpoint: fresh[endpoint]) if fresh else None

    def _receive(self, peer: NodePublic, message: Message, via: Endpoint | Relay | Aside) -> None:
        known = self.candidates.setdefault(peer, {})
        if isinstance(message, Ping) and isinstance(via, Endpoint):
            self._send(peer, via, Pong(message.tx_id, via))
            known.setdefault(via, "ping")
        elif isinstance(message, Pong) and isinstance(via, Endpoint):
            asked = self._pings.pop(message.tx_id, None)
            if asked is not None and asked[1] in known:
                self.ponged.setdefault(peer, {})[asked[1]] = self.world.now
        elif isinstance(message, CallMeMaybe):
            said = dict.fromkeys(message.endpoints, "call")
            for endpoint in [e for e, how in known.items() if how == "call" and e not in said]:
                del known[endpoint]
            for endpoint in said:
                known[endpoint] = "call"
                self._ping(peer, endpoint)

    def _ping(self, peer: NodePublic, to: Endpoint) -> None:
        tx_id = TxId(self.world.rng.randbytes(_TX_ID_BYTES))
        self._pings[tx_id] = (peer, to)
        self._pinged[peer, to] = self.world.now
        self._send(peer, to, Ping(tx_id, self.key))
