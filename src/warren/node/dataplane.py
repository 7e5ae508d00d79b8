"""Between the engine and the path machines: events in, commands out, timers kept.

STUN goes to the measurer, disco is opened here and handed to the peer's machine, leases and
messages of the machines become commands. Everything from outside is counted when it is dropped.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Protocol

import structlog

from warren.disco.malformed import MalformedDisco
from warren.disco.messages import (
    AllocateUDPRelayEndpointRequest,
    AllocateUDPRelayEndpointResponse,
    CallMeMaybeVia,
    Message,
    Ping,
    TxId,
    encode_message,
    parse_message_untrusted,
)
from warren.disco.sealed import NONCE_BYTES, SharedBox, sender_of_untrusted
from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.engine.commands import AnyCommand, SendDatagram, SendPacket, SendRelayed
from warren.engine.events import (
    Active,
    AnyEvent,
    Bound,
    Datagram,
    Dialed,
    Fault,
    Handshake,
    PeerGone,
    ProbeReply,
    RegionState,
    Relayed,
    StreamState,
)
from warren.engine.protocol import Engine
from warren.keys import DiscoPrivate, DiscoPublic, NodePublic
from warren.nat.rejected import Rejected
from warren.nat.report import Report
from warren.nat.stun import MalformedStun, looks_like_stun, parse_binding_response_untrusted
from warren.netmap.endpoint import Endpoint, MalformedEndpoint
from warren.netmap.view import View
from warren.node.agenda import Agenda
from warren.node.alarm import Alarm
from warren.node.links import Link, Links
from warren.node.path_commands import lease_command, no_path, transmit_command
from warren.node.peer_relay import PeerRelays
from warren.node.probes import parse_answer_untrusted
from warren.node.turn_peers import ProxyOf, TurnPath, TurnPeer
from warren.node.turn_ways import FIRST_STREAM
from warren.node.turning import Turns
from warren.node.waiters import Pong, Waiters
from warren.paths.machine import (
    EndpointsWanted,
    Lease,
    PeerPaths,
    Ponged,
    Relay,
    Via,
)
from warren.paths.mtu import BASE_MTU_BYTES
from warren.paths.peer_relay.client import Session
from warren.paths.punching import sockets
from warren.paths.punching.ports import Sample
from warren.paths.punching.puncher import AnyPathEvent, AnyTransmit, PunchingPaths
from warren.paths.punching.roles import ATTRIBUTE_OFF, OwnSide, understands
from warren.paths.punching.sockets import Aside, AsideLease
from warren.paths.turning import Way

_ASK_AGAIN_S = 1.0

log = structlog.get_logger(__name__)


class Listener(Protocol):
    """Who hears what is not for the path machines."""

    def on_stun(self, data: bytes, src: Endpoint, now: float) -> None:
        """A STUN datagram came in."""

    def on_endpoints_wanted(self) -> None:
        """Measure own endpoints soon and tell them by `set_own_endpoints`."""

    def on_mtu(self) -> None:
        """The path to a peer carries larger or smaller packets than before; see `mtu_of`."""

    def on_engine_event(
        self, event: Bound | RegionState | Dialed | Fault | PeerGone | Handshake
    ) -> None:
        """Something else happened in the engine."""


class Dataplane:
    """Drives one engine. All methods belong to the event loop's thread."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        entropy: Entropy,
        disco: DiscoPrivate,
        proxy_of: ProxyOf = lambda host: None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._entropy = entropy
        self.own_side = OwnSide(entropy)
        """What punching knows of this node's NAT; whoever measures it fills it in."""
        self.drops: Counter[str] = Counter()
        self._links = Links(disco, self.own_side, self.drops)
        self._listener: Listener | None = None
        self._agenda: Agenda[Link] = Agenda()
        self._alarm = Alarm(self._fire)
        self._pongs = Waiters()
        self._probes = Waiters()
        self._pending: list[AnyCommand] = []
        self.relays = PeerRelays(engine, clock, entropy, disco, self)
        self.turns = Turns(engine, clock, entropy, self, proxy_of=proxy_of)

    async def run(self, listener: Listener) -> None:
        """Serve the engine's events until cancelled."""
        self._listener = listener
        loop = asyncio.get_running_loop()
        handle = self._engine.fileno()
        loop.add_reader(handle, self.drain)
        try:
            self.drain()
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(handle)
            self._alarm.close()
            self.relays.close()
            self.turns.close()

    def set_view(self, view: View, own_key: NodePublic) -> None:
        """Keep one machine for each peer of the map that speaks disco."""
        now = self._clock.now()
        self.own_side.enabled = view.node is None or ATTRIBUTE_OFF not in view.node.cap_map
        gone, present = self._links.set_view(view, own_key, now)
        for link in gone:
            self._part_from(link, now)
        for link in present:
            self._settle(link, now)
        self._flush()
        self.relays.set_view(view, own_key)
        self.turns.set_view(view, own_key)

    def set_own_endpoints(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Take own endpoints that were measured just now."""
        now = self._clock.now()
        self._links.set_own_endpoints(endpoints, now)
        for link in self._links:
            announced = self.turns.announced(link.node.key)
            link.paths.set_own_endpoints((*endpoints, *announced), now)
            self._settle(link, now)
        self._flush()
        self.relays.set_own_endpoints(endpoints)

    def set_nat(self, report: Report, stun_servers: tuple[Endpoint, ...], port4: int) -> None:
        """Take what a measuring told of the NAT before `port4`; punching builds on it."""
        own = self.own_side
        own.udp = report.udp
        own.stun_servers = stun_servers
        own.learn(report.mapping_varies, report.global_v4, port4)
        for number, mapped in enumerate(report.mapped_v4):
            # Which server saw which is not told; the order of their answers is.
            at = report.started + number * 1e-6
            own.memory.note(Sample(stun_servers[0] if stun_servers else mapped, mapped, at))
        self.turns.set_udp(report.udp)

    def network_changed(self) -> None:
        """The machine's network changed: no path is trusted any more."""
        now = self._clock.now()
        self.own_side.forget()
        self._links.set_own_endpoints((), None)
        for link in self._links:
            link.paths.network_changed(now)
            self._settle(link, now)
        self._flush()
        self.relays.network_changed()
        self.turns.network_changed()

    def box_of(self, key: NodePublic) -> SharedBox | None:
        """Return the box shared with a peer."""
        link = self._links.get(key)
        return link.box if link else None

    def key_of(self, disco: DiscoPublic) -> NodePublic | None:
        """Return the peer that has a disco key."""
        link = self._links.of_disco(disco)
        return link.node.key if link else None

    def is_direct(self, key: NodePublic, now: float) -> bool:
        """Whether a direct path to a peer is trusted."""
        link = self._links.get(key)
        return link is not None and link.paths.path(now) is not None

    def note_pong(self, tx_id: TxId, via: Session | TurnPath, rtt_s: float) -> None:
        """A ping through a peer relay or a TURN server was answered."""
        self._pongs.note(tx_id, Pong(via, rtt_s))

    def through(self, key: NodePublic, now: float) -> Session | TurnPath | None:
        """Return what carries a peer's data while no direct path does, except DERP."""
        return self.relays.path_of(key, now) or self.turns.path_of(key, now)

    def has_better(self, key: NodePublic, now: float) -> bool:
        """Whether a path that is better than TURN is trusted."""
        return self.is_direct(key, now) or self.relays.path_of(key, now) is not None

    def turn_peer(self, key: NodePublic) -> TurnPeer | None:
        """Return what TURN must know of a peer: who it is, and from where it may send."""
        link = self._links.get(key)
        if link is None:
            return None
        addresses = dict.fromkeys(c.endpoint.ip for c in link.paths.paths.candidates)
        outside = tuple(ip for ip in addresses if ip not in self._links.inside)
        return TurnPeer(link.box.peer, understands(link.node.hostinfo), outside)

    def seal(self, key: NodePublic, message: Message) -> bytes | None:
        """Seal a message for a peer."""
        link = self._links.get(key)
        return None if link is None else self._seal(link, message)

    def _seal(self, link: Link, message: Message) -> bytes:
        return link.box.seal(encode_message(message), self._entropy(NONCE_BYTES))

    def announce(self, key: NodePublic) -> None:
        """A stock peer is told of a relayed address as of any other endpoint."""
        link, announced = self._links.get(key), self.turns.announced(key)
        if link is not None and announced != link.announced:
            link.announced, now = announced, self._clock.now()
            link.paths.set_own_endpoints((*self._links.own_endpoints, *announced), now)
            self._settle(link, now)
            self._flush()

    def is_inside(self, endpoint: Endpoint) -> bool:
        """Whether an address is one of the network's own."""
        return endpoint.ip in self._links.inside

    def send_relayed(self, key: NodePublic, message: Message) -> None:
        """Seal a message for a peer and send it over its relay region."""
        link = self._links.get(key)
        region = self.region_of(key)
        if link is not None and region:
            data = self._seal(link, message)
            self._engine.apply([SendRelayed(region=region, peer=key.raw, data=data)])

    def region_of(self, key: NodePublic) -> int:
        """Return the region through which a peer is reached; 0 if none is known."""
        paths = self.paths_of(key)
        return paths.relay_region() if paths else 0

    def relay_connected(self, region: int) -> None:
        """The relay of a region can be reached again: what went to it before may be lost."""
        now = self._clock.now()
        for link in self._links:
            link.paths.paths.relay_connected(region, now)
            self._settle(link, now)
        self._flush()

    def paths_of(self, key: NodePublic) -> PeerPaths | None:
        """Return the machine of a peer's ordinary paths, for those who show it."""
        link = self._links.get(key)
        return link.paths.paths if link else None

    def punching_of(self, key: NodePublic) -> PunchingPaths | None:
        """Return the same with punching: attempts, and the path through a kept socket."""
        link = self._links.get(key)
        return link.paths if link else None

    def mtu_of(self, key: NodePublic) -> int:
        """Return the largest packet inside the tunnel that a peer may be sent."""
        link = self._links.get(key)
        return link.mtu_bytes if link else BASE_MTU_BYTES

    def mtu_fallbacks(self, key: NodePublic) -> int:
        """Return how often packets of a size that had passed to a peer passed no more."""
        link = self._links.get(key)
        return link.paths.size.fallbacks if link else 0

    def send_datagram(self, to: Endpoint, data: bytes) -> None:
        """Send STUN bytes from the engine's socket."""
        self._engine.apply([SendDatagram(to=str(to), data=data)])

    def all_drops(self) -> Counter[str]:
        """Return what was dropped here and by the peers' machines, by reason."""
        total = Counter(self.drops)
        for link in self._links:
            total.update(link.paths.paths.dropped)
        return total

    def any_active(self) -> bool:
        """Whether traffic flows to any peer."""
        now = self._clock.now()
        return any(link.paths.is_active(now) for link in self._links)

    async def ping_disco(self, key: NodePublic, timeout_s: float) -> Pong:
        """Ping a peer's machine over whatever path answers first. Raises TimeoutError."""
        link = self._links.get(key)
        assert link is not None, "who asks looks before"
        with self._pongs.one() as waiter:
            async with asyncio.timeout(timeout_s):
                while True:
                    now = self._clock.now()
                    self.relays.note_active(key, now)
                    self.turns.note_active(key, now)
                    for tx_id in self._ping(link, now):
                        waiter.sent(tx_id)
                    self._settle(link, now)
                    self._flush()
                    done, _ = await asyncio.wait([waiter.answer], timeout=_ASK_AGAIN_S)
                    if done:
                        return waiter.answer.result()

    def _ping(self, link: Link, now: float) -> list[TxId]:
        """Ping through the peer relay in use, else as the peer's machine does."""
        key = link.node.key
        through = self.relays.ping(key, now) or self.turns.ping(key, now)
        if through is None:
            return link.paths.ping(now)
        link.paths.note_active(now)
        return [through]

    async def probe(self, packet: bytes, nonce: bytes, timeout_s: float) -> Pong:
        """Send a probe into the tunnel and wait for what answers `nonce`. Raises TimeoutError."""
        began = self._clock.now()
        with self._probes.one() as waiter:
            waiter.sent(nonce)
            async with asyncio.timeout(timeout_s):
                self._engine.apply([SendPacket(packet=packet)])
                await waiter.answer
        return Pong(None, self._clock.now() - began)

    def drain(self) -> None:
        """Take every waiting event, then do what follows from all of them."""
        events = self._engine.poll()
        now = self._clock.now()
        for event in events:
            self._take(event, now)
        self._flush()

    def _take(self, event: AnyEvent, now: float) -> None:
        if isinstance(event, Datagram):
            self._take_datagram(event, now)
        elif isinstance(event, Relayed):
            self._take_relayed(event, now)
        elif isinstance(event, Active):
            link = self._links.get(NodePublic(event.peer))
            if link is not None:
                link.paths.note_active(now)
                self._settle(link, now)
                self.relays.note_active(link.node.key, now)
                self.turns.note_active(link.node.key, now)
        elif isinstance(event, ProbeReply):
            answer = parse_answer_untrusted(event.packet)
            if answer is not None:
                self._probes.note(answer.nonce, Pong(None, 0.0))
        elif isinstance(event, StreamState):
            self.turns.take_stream(event, now)
        elif self._listener is not None and isinstance(
            event, Bound | RegionState | Dialed | Fault | PeerGone | Handshake
        ):
            self._listener.on_engine_event(event)

    def _take_datagram(self, event: Datagram, now: float) -> None:
        try:
            src = Endpoint.parse(event.src)
        except MalformedEndpoint:
            self.drops["source unreadable"] += 1
            return
        via: Via | Aside = src
        by_stream = event.group >= FIRST_STREAM
        if event.group and not by_stream:
            via = Aside(event.group, event.index, src)
        if src.ip in self._links.inside:
            self.drops["disco through the tunnel"] += 1
        elif event.vni:
            self.relays.take_wrapped(event, src, now)
        elif via is src and (turned := self.turns.take(event, src, now)) is not None:
            for way, packet in turned:
                self._take_disco(packet, way, now)
        elif by_stream:
            self.drops["turn of another server"] += 1
        elif isinstance(via, Aside) and looks_like_stun(event.data):
            self._take_aside_stun(via, event.data, now)
        elif looks_like_stun(event.data):
            if self._listener is not None:
                self._listener.on_stun(event.data, src, now)
        else:
            self._take_disco(event.data, via, now)

    def _take_disco(self, packet: bytes, via: Via | Aside | Way, now: float) -> None:
        sender = sender_of_untrusted(packet)
        link = self._links.of_disco(sender) if sender else None
        if link is None:
            self.drops["disco of unknown key"] += 1
        else:
            self._open(link, packet, via, now)

    def _take_aside_stun(self, via: Aside, data: bytes, now: float) -> None:
        try:
            tx_id, mapped = parse_binding_response_untrusted(data)
        except MalformedStun:
            self.drops[Rejected.MALFORMED.value] += 1
            return
        for link in self._links:
            if link.paths.owns_group(via.group):
                rejected = link.paths.receive_stun(tx_id, mapped, now)
                if rejected is not None:
                    self.drops[rejected.value] += 1
                self._settle(link, now)
                return
        self.drops[Rejected.NOT_ASKED.value] += 1

    def _take_relayed(self, event: Relayed, now: float) -> None:
        link = self._links.get(NodePublic(event.peer))
        sender = sender_of_untrusted(event.data)
        if link is None or sender != link.box.peer:
            self.drops["disco of unknown key"] += 1
        else:
            self._open(link, event.data, Relay(event.region), now)

    def _open(self, link: Link, packet: bytes, via: Via | Aside | Way, now: float) -> None:
        try:
            message = parse_message_untrusted(link.box.open_untrusted(packet))
        except (MalformedDisco, MalformedEndpoint):
            self.drops["disco malformed"] += 1
            return
        if isinstance(message, Ping) and message.node_key not in (link.node.key, NodePublic.zero()):
            self.drops["disco ping for another node key"] += 1
            return
        if isinstance(
            message,
            AllocateUDPRelayEndpointRequest | AllocateUDPRelayEndpointResponse | CallMeMaybeVia,
        ):
            if isinstance(via, Relay):
                self.relays.take_relayed(link.node.key, message, now)
            else:
                self.drops["relay session not told over a relay"] += 1
            return
        if self.turns.receive(link.node.key, message, via, now) or isinstance(via, Way):
            return
        link.paths.receive(message, via, now)
        self._settle(link, now)

    def _settle(self, link: Link, now: float) -> None:
        """Collect what a machine wants to say and do, and remember when it is due."""
        paths = link.paths
        while (transmit := paths.poll_transmit()) is not None:
            self._pending.append(self._command(link, transmit))
        while (event := paths.poll_event()) is not None:
            self._take_path_event(link, event, now)
        self.relays.set_direct(link.node.key, now)
        self.turns.set_better(link.node.key, now)
        self._settle_mtu(link, now)
        due = paths.next_timeout()
        self._agenda.set(link, due[0] if due else None)

    def _settle_mtu(self, link: Link, now: float) -> None:
        """Peer relays and TURN carry the base. DERP carries any size: what holds there stays."""
        if self.through(link.node.key, now) is not None:
            found = BASE_MTU_BYTES
        elif link.paths.path(now) is not None:
            found = link.paths.mtu_bytes(now)
        else:
            return
        if found != link.mtu_bytes:
            link.mtu_bytes = found
            if self._listener is not None:
                self._listener.on_mtu()

    def _command(self, link: Link, transmit: AnyTransmit) -> AnyCommand:
        return transmit_command(link.node.key, transmit, partial(self._seal, link))

    def _take_path_event(self, link: Link, event: AnyPathEvent, now: float) -> None:
        key = link.node.key
        gone = isinstance(event, Lease | AsideLease) and not event.lease_ms
        if gone and (instead := self.relays.fallback(key, now)) is not None:
            self._pending.append(instead)
        elif isinstance(event, Lease | AsideLease):
            self._pending.append(lease_command(key, event))
        elif isinstance(event, Ponged):
            self._pongs.note(event.tx_id, Pong(event.via, event.rtt_s))
        elif isinstance(event, EndpointsWanted) and self._listener is not None:
            self._listener.on_endpoints_wanted()

    def _part_from(self, link: Link, now: float) -> None:
        """A peer is gone: its sockets are closed, and what it counted stays counted."""
        self.drops.update(link.paths.paths.dropped)
        link.paths.close(now)
        while (transmit := link.paths.poll_transmit()) is not None:
            if isinstance(transmit, sockets.CloseSockets):
                self._pending.append(self._command(link, transmit))
        self._pending.append(no_path(link.node.key))
        self._agenda.set(link, None)

    def _flush(self) -> None:
        """Hand commands to the engine and set the one timer."""
        if self._pending:
            commands, self._pending = self._pending, []
            self._engine.apply(commands)
        if self._listener is not None:
            self._alarm.set([self._agenda.next()], self._clock.now())

    def _fire(self) -> None:
        now = self._clock.now()
        for link in self._agenda.take(now):
            link.paths.handle_timeout(now)
            self._settle(link, now)
        self._flush()
