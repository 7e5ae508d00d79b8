"""Peer relays on the node: machines of `warren.paths.peer_relay` joined to the engine.

As a client, one machine for each peer that is spoken with; as a server, when the person wants
it, sessions on the node's own UDP port. What is decided is decided in the machines; here boxes
are opened and sealed, and events become commands.
"""

from __future__ import annotations

from collections import Counter
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
from warren.engine.commands import AnyCommand, SendDatagram, SetForward, SetPath
from warren.engine.events import Datagram
from warren.engine.protocol import Engine
from warren.keys import DiscoPrivate, DiscoPublic, NodePublic
from warren.netmap.endpoint import Endpoint, MalformedEndpoint
from warren.netmap.node import Node
from warren.netmap.view import EMPTY, View
from warren.node.alarm import Alarm
from warren.node.relay_grants import NO_CLIENT, may_be_served, usable_relays
from warren.paths.peer_relay.client import (
    RelayNode,
    Session,
    ToPeer,
    ToRelay,
    ViaPaths,
    ViaPonged,
)
from warren.paths.peer_relay.handshake import Through
from warren.paths.peer_relay.server import RelayServer

_BOXES_MAX = 4096

AllocationMessage = (
    AllocateUDPRelayEndpointRequest | AllocateUDPRelayEndpointResponse | CallMeMaybeVia
)

log = structlog.get_logger(__name__)


class Peers(Protocol):
    """What the dataplane knows of peers."""

    def box_of(self, key: NodePublic) -> SharedBox | None:
        """The box shared with a peer's disco key."""

    def key_of(self, disco: DiscoPublic) -> NodePublic | None:
        """The peer that has a disco key."""

    def send_relayed(self, key: NodePublic, message: Message) -> None:
        """Seal a message for a peer and send it over its DERP region."""

    def is_direct(self, key: NodePublic, now: float) -> bool:
        """Whether a direct path to a peer is trusted."""

    def note_pong(self, tx_id: TxId, via: Session, rtt_s: float) -> None:
        """A person's ping through a session was answered."""

    def is_inside(self, endpoint: Endpoint) -> bool:
        """Whether an address is one of the network's own."""


class PeerRelays:
    """All that one node does with peer relays. Lives on the event loop's thread."""

    def __init__(
        self, engine: Engine, clock: Clock, entropy: Entropy, disco: DiscoPrivate, peers: Peers
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._entropy = entropy
        self._disco = disco
        self._peers = peers
        self._own_key = NodePublic.zero()
        self._view: View = EMPTY
        self._nodes: dict[NodePublic, Node] = {}
        self._relays: list[RelayNode] = []
        self._ways: dict[NodePublic, ViaPaths] = {}
        self._boxes: dict[DiscoPublic, SharedBox] = {}
        self._server: RelayServer | None = None
        self._server_disco = DiscoPrivate.from_entropy(entropy(32))
        self._server_boxes: dict[DiscoPublic, SharedBox] = {}
        self._own_endpoints: tuple[Endpoint, ...] = ()
        self._pending: list[AnyCommand] = []
        self._alarm = Alarm(self._fire)
        self.drops: Counter[str] = Counter()

    # What is known.

    def set_view(self, view: View, own_key: NodePublic) -> None:
        """Take the map: which relays may be used, and which peers there are."""
        if own_key != self._own_key:
            self._own_key = own_key
            self._ways.clear()
        self._view = view
        self._nodes = {node.key: node for node in view.peers.values()}
        self._relays = usable_relays(view)
        for key in list(self._ways):
            node, box = self._nodes.get(key), self._peers.box_of(key)
            if node is None or box is None or self._ways[key].peer != box.peer:
                del self._ways[key]
            else:
                self._ways[key].set_relays(self._relays_for(key))
        self._flush()

    def serve(self, wanted: bool) -> None:
        """Be a relay for others, or no longer."""
        if wanted and self._server is None:
            now = self._clock.now()
            self._server = RelayServer(self._server_disco.public(), self._entropy, now)
            self._server.set_addresses(self._own_endpoints)
            log.info("peer relay serves")
        elif not wanted and self._server is not None:
            self._server.close()
            self._settle_server(self._server)
            self._server = None
            # The next server is another one: its sessions are none of this one's.
            self._server_disco = DiscoPrivate.from_entropy(self._entropy(32))
            self._server_boxes.clear()
        self._flush()

    def set_own_endpoints(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Take where this node can be reached; the server tells its clients."""
        self._own_endpoints = endpoints
        if self._server is not None:
            self._server.set_addresses(endpoints)

    def network_changed(self) -> None:
        """This machine's addresses changed."""
        now = self._clock.now()
        for key, way in self._ways.items():
            way.network_changed(now)
            self._settle(key, way, now)
        self._flush()

    # What happens.

    def note_active(self, key: NodePublic, now: float) -> None:
        """Traffic is being sent to a peer."""
        way = self._ways.get(key)
        if way is None and self._relays_for(key):
            # Without relays of our own, the peer's call makes the machine.
            way = self._new_way(key)
        if way is None:
            return
        way.set_direct(self._peers.is_direct(key, now), now)
        way.note_active(now)
        self._settle(key, way, now)
        self._flush()

    def ping(self, key: NodePublic, now: float) -> TxId | None:
        """Ping a peer through the session that carries its data; None where none does."""
        way = self._ways.get(key)
        tx_id = way.ping(now) if way is not None else None
        if way is not None:
            self._settle(key, way, now)
            self._flush()
        return tx_id

    def set_direct(self, key: NodePublic, now: float) -> None:
        """The trust in a peer's direct path may have changed."""
        way = self._ways.get(key)
        if way is not None:
            way.set_direct(self._peers.is_direct(key, now), now)
            self._settle(key, way, now)
            self._flush()

    def take_wrapped(self, event: Datagram, src: Endpoint, now: float) -> None:
        """Take a disco datagram that came in a relay's header."""
        sender = sender_of_untrusted(event.data)
        if sender is None:
            self.drops["wrapped, but not disco"] += 1
        elif event.control:
            self._take_control(event, sender, src, now)
        else:
            self._take_through(event, sender, src, now)
        self._flush()

    def take_relayed(self, key: NodePublic, message: AllocationMessage, now: float) -> None:
        """Take an opened message of a peer that came over DERP."""
        if isinstance(message, AllocateUDPRelayEndpointRequest):
            self._allocate(key, message, now)
        elif isinstance(message, CallMeMaybeVia):
            own = self._view.node
            way = self._ways.get(key) or self._new_way(key)
            if way is not None and own is not None and NO_CLIENT not in own.cap_map:
                way.set_direct(self._peers.is_direct(key, now), now)
                endpoint = message.endpoint
                outside = tuple(e for e in endpoint.endpoints if not self._peers.is_inside(e))
                way.receive_call(CallMeMaybeVia(endpoint._replace(endpoints=outside)), now)
                self._settle(key, way, now)
        else:
            self._take_allocated(key, message, now)
        self._flush()

    # What others ask.

    def path_of(self, key: NodePublic, now: float) -> Session | None:
        """Return the session that carries a peer's data while no direct path does."""
        way = self._ways.get(key)
        return way.path(now) if way is not None else None

    def way_of(self, key: NodePublic) -> ViaPaths | None:
        """Return the machine of a peer, for those who show it."""
        return self._ways.get(key)

    def fallback(self, key: NodePublic, now: float) -> SetPath | None:
        """Return the lease that takes the place of a direct path that is gone."""
        session = self.path_of(key, now)
        if session is None:
            return None
        left_ms = int((session.trusted_until - now) * 1000)
        return SetPath(peer=key.raw, addr=str(session.at), lease_ms=left_ms, vni=session.vni)

    # The parts.

    def _relays_for(self, key: NodePublic) -> list[RelayNode]:
        return [relay for relay in self._relays if relay.key != key]

    def _new_way(self, key: NodePublic) -> ViaPaths | None:
        box = self._peers.box_of(key)
        if box is None:
            return None
        way = ViaPaths(self._own_key, self._disco.public(), box.peer, self._entropy)
        way.set_relays(self._relays_for(key))
        self._ways[key] = way
        return way

    def _take_control(
        self, event: Datagram, sender: DiscoPublic, src: Endpoint, now: float
    ) -> None:
        server = self._server
        if server is not None and sender in (server.clients(event.vni) or ()):
            box = self._box(self._server_boxes, self._server_disco, sender)
            message = self._open(box, event.data)
            if message is not None:
                server.receive(message, sender, event.vni, src, now)
                self._settle_server(server)
            return
        for key, way in self._ways.items():
            if way.awaits(sender, event.vni):
                message = self._open(self._box(self._boxes, self._disco, sender), event.data)
                if message is not None:
                    way.receive(message, sender, src, event.vni, now)
                    self._settle(key, way, now)
                return
        self.drops["relay control of no session"] += 1

    def _take_through(
        self, event: Datagram, sender: DiscoPublic, src: Endpoint, now: float
    ) -> None:
        if self._server is not None and self._server.clients(event.vni) is not None:
            to = self._server.across(event.vni, src)
            if to is None:
                self.drops["relayed before both are bound"] += 1
            else:
                self._pending.append(SendDatagram(to=str(to), data=event.data, vni=event.vni))
            return
        key = self._peers.key_of(sender)
        way = self._ways.get(key) if key is not None else None
        if key is None or way is None or not way.knows(src, event.vni):
            self.drops["disco through no session"] += 1
            return
        message = self._open(self._peers.box_of(key), event.data)
        if isinstance(message, Ping) and message.node_key not in (key, NodePublic.zero()):
            self.drops["disco ping for another node key"] += 1
        elif message is not None:
            way.receive(message, sender, src, event.vni, now)
            self._settle(key, way, now)

    def _allocate(
        self, key: NodePublic, request: AllocateUDPRelayEndpointRequest, now: float
    ) -> None:
        node, box = self._nodes.get(key), self._peers.box_of(key)
        if self._server is None or node is None or box is None:
            self.drops["relay asked for, but none runs"] += 1
        elif not may_be_served(self._view, node):
            self.drops["relay asked for, but not granted"] += 1
        elif (answer := self._server.allocate(request, box.peer, now)) is not None:
            self._peers.send_relayed(key, answer)

    def _take_allocated(
        self, relay: NodePublic, message: AllocateUDPRelayEndpointResponse, now: float
    ) -> None:
        own = self._disco.public()
        others = [client for client in message.endpoint.clients if client != own]
        key = self._peers.key_of(others[0]) if len(others) == 1 else None
        way = self._ways.get(key) if key is not None else None
        if key is None or way is None:
            self.drops["relay session not asked for"] += 1
            return
        endpoint = message.endpoint
        outside = tuple(e for e in endpoint.endpoints if not self._peers.is_inside(e))
        message = message._replace(endpoint=endpoint._replace(endpoints=outside))
        way.receive_allocated(relay, message, now)
        self._settle(key, way, now)

    def _open(self, box: SharedBox | None, packet: bytes) -> Message | None:
        try:
            return parse_message_untrusted(box.open_untrusted(packet)) if box else None
        except (MalformedDisco, MalformedEndpoint):
            self.drops["disco malformed"] += 1
            return None

    def _box(
        self, boxes: dict[DiscoPublic, SharedBox], own: DiscoPrivate, other: DiscoPublic
    ) -> SharedBox | None:
        box = boxes.get(other)
        if box is None:
            try:
                box = SharedBox(own, other)
            except MalformedDisco:
                self.drops["disco key malformed"] += 1
                return None
            if len(boxes) >= _BOXES_MAX:
                del boxes[next(iter(boxes))]
            boxes[other] = box
        return box

    def _settle(self, key: NodePublic, way: ViaPaths, now: float) -> None:
        """Collect what a machine wants to say and do."""
        while (said := way.poll_transmit()) is not None:
            if isinstance(said, ToRelay):
                self._peers.send_relayed(said.relay.key, said.message)
            elif isinstance(said, ToPeer):
                self._peers.send_relayed(key, said.message)
            else:
                self._send_through(key, said)
        while (event := way.poll_event()) is not None:
            if isinstance(event, ViaPonged):
                self._peers.note_pong(*event)
            elif not self._peers.is_direct(key, now):
                addr = None if event.endpoint is None else str(event.endpoint)
                self._pending.append(
                    SetPath(peer=key.raw, addr=addr, lease_ms=event.lease_ms, vni=event.vni)
                )

    def _send_through(self, key: NodePublic, said: Through) -> None:
        box = (
            self._box(self._boxes, self._disco, said.receiver)
            if said.control
            else self._peers.box_of(key)
        )
        if box is not None:
            self._pending.append(self._wrapped(box, said.to, said.vni, said.control, said.message))

    def _settle_server(self, server: RelayServer) -> None:
        while (said := server.poll_transmit()) is not None:
            box = self._box(self._server_boxes, self._server_disco, said.receiver)
            if box is not None:
                self._pending.append(self._wrapped(box, said.to, said.vni, True, said.message))
        while (event := server.poll_event()) is not None:
            a, b = (None, None) if event.ends is None else map(str, event.ends)
            self._pending.append(SetForward(vni=event.vni, a=a, b=b))
            log.info("peer relay", session=event.vni, a=a, b=b)

    def _wrapped(
        self, box: SharedBox, to: Endpoint, vni: int, control: bool, message: Message
    ) -> SendDatagram:
        data = box.seal(encode_message(message), self._entropy(NONCE_BYTES))
        return SendDatagram(to=str(to), data=data, vni=vni, control=control)

    def _flush(self) -> None:
        """Hand commands to the engine and set the one timer."""
        if self._pending:
            commands, self._pending = self._pending, []
            self._engine.apply(commands)
        due = [way.next_timeout() for way in self._ways.values()]
        if self._server is not None:
            due.append(self._server.next_timeout())
        self._alarm.set((entry[0] for entry in due if entry is not None), self._clock.now())

    def _fire(self) -> None:
        now = self._clock.now()
        for key, way in list(self._ways.items()):
            due = way.next_timeout()
            if due is not None and due[0] <= now:
                way.handle_timeout(now)
                self._settle(key, way, now)
            if way.is_idle():
                del self._ways[key]
        if self._server is not None:
            self._tend(self._server, now)
        self._flush()

    def _tend(self, server: RelayServer, now: float) -> None:
        due = server.next_timeout()
        if due is None or due[0] > now:
            return
        for stats in self._engine.snapshot().forwards:
            a_s, b_s = (
                None if ms is None else ms / 1000 for ms in (stats.a_ago_ms, stats.b_ago_ms)
            )
            server.note_heard(stats.vni, a_s, b_s, now)
        server.handle_timeout(now)
        self._settle_server(server)

    def close(self) -> None:
        """Stop the timer."""
        self._alarm.close()
