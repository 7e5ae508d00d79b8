"""TURN on the node: one allocation for all peers, and a machine of `warren.paths.turning` a peer.

The allocation is asked for when traffic to a peer has found nothing better, and given back when
nobody has used it for a while. Here boxes are left to the data plane, and events of machines and
keeper become commands of the engine.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import asdict

import structlog

from warren.disco.messages import Message, Pong, TurnOffer, TxId
from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.engine.commands import (
    AnyCommand,
    SendDatagram,
    SetPath,
)
from warren.engine.events import Datagram, StreamState
from warren.engine.protocol import Engine
from warren.keys import DiscoPublic, NodePublic
from warren.nat.turn.allocation import Transport
from warren.nat.turn.events import (
    Allocated,
    Cause,
    ChannelOpen,
    Lost,
    Permitted,
    Received,
    Refused,
)
from warren.nat.turn.keeper import KeeperEvent, Left, Trying, TurnKeeper, Unserved
from warren.nat.turn.numbers import Code
from warren.netmap.endpoint import Endpoint
from warren.netmap.view import View
from warren.node.alarm import Alarm
from warren.node.turn_peers import Address, Peers, ProxyOf, TurnPath, TurnPeer
from warren.node.turn_servers import Resolve, TurnServers, look_up
from warren.node.turn_ways import TurnWays, is_turn
from warren.paths.machine import Relay, Via
from warren.paths.punching.sockets import Aside
from warren.paths.scoring import is_private
from warren.paths.turning import (
    ChannelWanted,
    ToWay,
    TurnLease,
    TurnPaths,
    TurnPonged,
    Way,
    WayDead,
)

LINGER_S = 60.0
"""An allocation that nobody uses any more is kept for this long."""
LOOK_UP_AGAIN_S = 60.0
"""Names of servers are looked up anew this often at most when one does not serve us."""
ASK_AGAIN_S = 30.0
"""A permission that was refused for now is asked for again after so long."""
_NEVER = frozenset({Code.FORBIDDEN, Code.PEER_FAMILY_MISMATCH})
"""Refusals that hold as long as the allocation does (RFC 8656 §9, §11)."""
PERMITS_MAX = 8
"""Addresses of one peer that are let in."""
TROUBLES_MAX = 8
STREAMS = (Transport.TLS, Transport.TCP)
ALL_TRANSPORTS = (Transport.UDP, *STREAMS)
"""The best first: a stream delays what is behind a lost packet."""

log = structlog.get_logger(__name__)


class Turns:
    """All that one node does with TURN. Lives on the event loop's thread."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        entropy: Entropy,
        peers: Peers,
        resolve: Resolve = look_up,
        proxy_of: ProxyOf = lambda host: None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._entropy = entropy
        self._peers = peers
        self._own_key = NodePublic.zero()
        self._udp = True
        self.keeper = TurnKeeper(entropy)
        self.servers = TurnServers(resolve, self._servers_changed, ALL_TRANSPORTS)
        self._looked_up_at = 0.0
        self._machines: dict[NodePublic, tuple[DiscoPublic, TurnPaths]] = {}
        self._wanted = False
        self._unused_since: float | None = None
        self.allocated: Allocated | None = None
        self.allocated_at = 0.0
        self.permitted: dict[Address, float] = {}
        """Who is let in, and until when this was of use at least."""
        self._channels: dict[Endpoint, NodePublic] = {}
        self._ways = TurnWays(proxy_of)
        self._touched: set[NodePublic] = set()
        """Peers whose machines may have something to say."""
        self.troubles: deque[tuple[float, str]] = deque(maxlen=TROUBLES_MAX)
        """What servers said or did wrong lately, as sentences."""
        self.refused: dict[Address, float | None] = {}
        """Addresses of peers that the server does not relay to: until when, None for never."""
        self._pending: list[AnyCommand] = []
        self._alarm = Alarm(self._fire)
        self.drops: Counter[str] = Counter()

    # What is known.

    def set_view(self, view: View, own_key: NodePublic) -> None:
        """Take the map: the grants, and which peers there are."""
        if own_key != self._own_key:
            self._own_key = own_key
            self._machines.clear()
        for key, (disco, _) in list(self._machines.items()):
            peer = self._peers.turn_peer(key)
            if peer is None or peer.disco != disco:
                del self._machines[key]
        self.servers.set_view(view)
        self._turn(*self._machines)

    def set_udp(self, works: bool) -> None:
        """Take whether UDP works here at all."""
        if works != self._udp:
            self._udp = works
            now = self._clock.now()
            self.servers.set_transports(ALL_TRANSPORTS if works else STREAMS)
            for _, machine in self._machines.values():
                machine.set_udp(works, now)
            self._turn(*self._machines)

    def network_changed(self) -> None:
        """This machine's addresses changed: servers know it by another one."""
        now = self._clock.now()
        self.keeper.network_changed(now)
        self.servers.look_up()
        for _, machine in self._machines.values():
            machine.network_changed(now)
        self._turn(*self._machines)

    # What happens.

    def note_active(self, key: NodePublic, now: float) -> None:
        """Traffic is being sent to a peer."""
        machine = self._machine(key, make=self.servers.is_offered)
        if machine is not None:
            machine.set_better(self._peers.has_better(key, now), now)
            machine.note_active(now)
            self._turn(key)

    def set_better(self, key: NodePublic, now: float) -> None:
        """The trust in a peer's better paths may have changed."""
        machine = self._machine(key, make=False)
        if machine is not None and machine.set_better(self._peers.has_better(key, now), now):
            self._turn(key)

    def ping(self, key: NodePublic, now: float) -> TxId | None:
        """Ping a peer by the way that carries its data; None where TURN does not."""
        machine = self._machine(key, make=False)
        tx_id = machine.ping(now) if machine is not None else None
        if tx_id is not None:
            self._turn(key)
        return tx_id

    def take(self, event: Datagram, src: Endpoint, now: float) -> list[tuple[Way, bytes]] | None:
        """Take a datagram that may be a TURN server's; None if it is not.

        Returns the disco packets that came in it, with the way that they came.
        """
        server = self._ways.server_at(src, event.group)
        if server is None or (event.channel and server != self.keeper.server):
            if event.channel:
                self.drops["turn of another server"] += 1
            return [] if event.channel else None
        if event.channel:
            client = self.keeper.client
            peer = client.peer_of(event.channel) if client is not None else None
            if peer is None:
                self.drops["turn channel of no peer"] += 1
                return []
            return [(Way(peer, own=True), event.data)]
        if not is_turn(event.data) or not self.keeper.receive(event.data, server, now):
            return None
        found = self._take_keeper_events(now)
        self._turn()
        return found

    def take_stream(self, event: StreamState, now: float) -> None:
        """Take what became of a stream."""
        server = self._ways.server_of(event.group)
        if not event.open and server is not None:
            self.keeper.end_stream(server, event.error, now)
            self._turn()

    def receive(
        self, key: NodePublic, message: Message, via: Via | Aside | Way, now: float
    ) -> bool:
        """Take an opened message of a peer, if it is one for here."""
        if isinstance(message, TurnOffer):
            self._take_offer(key, message, via, now)
            return True
        way = Way(via, own=False) if isinstance(via, Endpoint) else None
        if isinstance(via, Way):
            way = via
        machine = self._machine(key, make=way is not None and way.own)
        taken = way is not None and way.own
        if machine is not None:
            if isinstance(message, Pong):
                taken = machine.receive_pong(message, way, now) or taken
            elif way is not None and (way.own or machine.theirs(way.to)):
                machine.receive(message, way, now)
                taken = True
        if taken:
            self._turn(key)
        return taken

    # What others ask.

    def path_of(self, key: NodePublic, now: float) -> TurnPath | None:
        """Return the path through TURN that carries a peer's data."""
        machine = self._machine(key, make=False)
        found = machine.path(now) if machine is not None else None
        return None if found is None else self._path(found[0], found[1].latency_s or 0.0)

    def machine_of(self, key: NodePublic) -> TurnPaths | None:
        """Return the machine of a peer, for those who show it."""
        return self._machine(key, make=False)

    def announced(self, key: NodePublic) -> tuple[Endpoint, ...]:
        """Return what a stock peer is told beside our own endpoints."""
        peer, machine = self._peers.turn_peer(key), self._machine(key, make=False)
        if self.allocated is None or machine is None or peer is None or peer.understands:
            return ()
        let_in = self.permitted.keys() & set(self._addresses(peer))
        return self.allocated.addresses if let_in else ()

    def all_drops(self) -> Counter[str]:
        """Return what was dropped, by reason, also by the client of the server in use."""
        total = Counter(self.drops)
        if self.keeper.client is not None:
            counters = asdict(self.keeper.client.counters)
            total.update({f"turn {name}": count for name, count in counters.items()})
        for _, machine in self._machines.values():
            total.update({f"turn {name}": count for name, count in machine.dropped.items()})
        return total

    def close(self) -> None:
        """Stop timers and look-ups, and give the allocation back."""
        self.servers.close()
        self.keeper.set_servers({}, self._clock.now())
        self._take_keeper_events(self._clock.now())
        self._flush()
        self._alarm.close()

    # The parts.

    def _machine(self, key: NodePublic, *, make: bool) -> TurnPaths | None:
        found = self._machines.get(key)
        if found is not None:
            return found[1]
        peer = self._peers.turn_peer(key) if make else None
        if peer is None:
            return None
        first = not peer.understands or self._own_key.raw < key.raw
        machine = TurnPaths(self._own_key, self._entropy, first=first, offers=peer.understands)
        machine.set_udp(self._udp, self._clock.now())
        self._machines[key] = peer.disco, machine
        return machine

    def _take_offer(
        self, key: NodePublic, offer: TurnOffer, via: Via | Aside | Way, now: float
    ) -> None:
        if not isinstance(via, Relay):
            self.drops["turn offer not over a relay"] += 1
            return
        machine = self._machine(key, make=True)
        if machine is not None:
            machine.set_better(self._peers.has_better(key, now), now)
            machine.receive_offer(offer, now)
            self._turn(key)

    def _addresses(self, peer: TurnPeer) -> list[Address]:
        """Return the addresses that the server is asked to let in for a peer."""
        server = self.keeper.server
        if server is None:
            return []
        near = is_private(server.at.ip)
        found = [ip for ip in dict.fromkeys(peer.addresses) if near or not is_private(ip)]
        return self._reached(found)[:PERMITS_MAX]

    def _reached(self, found: Iterable[Address]) -> list[Address]:
        """Return those of the addresses to which one of ours leads, by its family."""
        own = () if self.allocated is None else self.allocated.addresses
        versions = {each.ip.version for each in own}
        return [ip for ip in found if ip.version in versions]

    def _servers_changed(self) -> None:
        if self._wanted:
            self.keeper.set_servers(self.servers.servers, self._clock.now())
            self._turn()

    def _turn(self, *keys: NodePublic) -> None:
        """Let the keeper and the machines of these peers do what follows, until nothing does."""
        now = self._clock.now()
        self._touched.update(keys)
        self._want(now)
        self._take_keeper_events(now)
        while self._touched:
            key = self._touched.pop()
            machine = self._machine(key, make=False)
            if machine is not None:
                self._let_in(key, machine, now)
                self._settle(key, machine, now)
                if machine.is_idle(now):
                    del self._machines[key]
            self._take_keeper_events(now)
        self._flush()

    def _want(self, now: float) -> None:
        """Decide whether there is to be an allocation."""
        machines = [machine for _, machine in self._machines.values()]
        if any(machine.uses_own(now) for machine in machines):
            self._unused_since = None
            if not self._wanted:
                self._wanted = True
                self.keeper.set_servers(self.servers.servers, now)
        elif self._wanted:
            if self._unused_since is None:
                self._unused_since = now
            elif now - self._unused_since >= LINGER_S:
                self._wanted, self._unused_since = False, None
                self.keeper.set_servers({}, now)

    def _let_in(self, key: NodePublic, machine: TurnPaths, now: float) -> None:
        """Ask for permissions for a peer that wants a path, and tell its machine of them."""
        peer = self._peers.turn_peer(key)
        wanted = machine.is_wanted()
        if self.allocated is None or peer is None or not (wanted or machine.uses_own(now)):
            return
        addresses = self._addresses(peer)
        addresses += self._reached(each.ip for each in machine.offered() if not self._udp)
        for ip in addresses:
            if ip in self.permitted:
                self.permitted[ip] = now + LINGER_S
            elif wanted and self._may_ask(ip, now):
                self.keeper.permit(ip, now)
        if wanted and not self.permitted.keys().isdisjoint(addresses):
            machine.set_own(self.allocated.addresses, now)

    def _may_ask(self, ip: Address, now: float) -> bool:
        again_at = self.refused.get(ip, 0.0)
        if again_at is None or again_at > now:
            return False
        self.refused.pop(ip, None)
        return True

    def _let_lapse(self, now: float) -> None:
        """Renew no permission any more that nobody has use for."""
        late = [ip for ip, until in self.permitted.items() if until <= now]
        for ip in late:
            del self.permitted[ip]
            if self.keeper.client is not None:
                self.keeper.client.forget(ip)
        for key in list(self._machines) if late else ():
            self._peers.announce(key)

    def _take_keeper_events(self, now: float) -> list[tuple[Way, bytes]]:
        """Take what the keeper tells; return the disco packets among it."""
        found: list[tuple[Way, bytes]] = []
        while (event := self.keeper.poll_event()) is not None:
            if isinstance(event, Received):
                found.append((Way(event.peer, own=True), event.data))
            else:
                self._take_keeper_event(event, now)
        self._send_waiting()
        return found

    def _take_keeper_event(self, event: KeeperEvent, now: float) -> None:
        if isinstance(event, Trying):
            self._pending += self._ways.begin(event.server)
        elif isinstance(event, Left):
            self._pending += self._ways.end(event.server)
        elif isinstance(event, Allocated):
            self.allocated, self.allocated_at = event, now
            log.info(
                "turn",
                server=str(self.keeper.server),
                relayed=[str(each) for each in event.addresses],
            )
            self._touched.update(self._machines)
        elif isinstance(event, Permitted):
            self.permitted[event.ip] = now + LINGER_S
            self._touched.update(self._machines)
            for key in list(self._machines):
                self._peers.announce(key)
        elif isinstance(event, ChannelOpen):
            key_or_none = self._channels.get(event.peer)
            machine = self._machine(key_or_none, make=False) if key_or_none else None
            if machine is not None and key_or_none is not None:
                machine.channel_open(event.peer, now)
                self._touched.add(key_or_none)
        elif isinstance(event, Refused):
            self._take_refusal(event, now)
        elif isinstance(event, Lost):
            self._lose(now)
        elif isinstance(event, Unserved):
            failed = event.failed
            code = f" ({failed.code})" if failed.code else ""
            why = f": {failed.reason}" if failed.cause is Cause.NO_STREAM else ""
            self._note(f"{event.server}: {failed.cause.value}{code}{why}", now)
            if now - self._looked_up_at >= LOOK_UP_AGAIN_S:
                self._looked_up_at = now
                self.servers.look_up()

    def _send_waiting(self) -> None:
        """Hand over the keeper's messages; a stream that was left took its allocation along."""
        while (out := self.keeper.poll_transmit()) is not None:
            if (command := self._ways.message(out.to, out.data)) is not None:
                self._pending.append(command)

    def _take_refusal(self, event: Refused, now: float) -> None:
        ip = event.peer.ip if isinstance(event.peer, Endpoint) else event.peer
        self.refused[ip] = None if event.code in _NEVER else now + ASK_AGAIN_S
        self.permitted.pop(ip, None)
        self._note(f"{self.keeper.server} does not relay to {event.peer} (error {event.code})", now)
        if isinstance(event.peer, Endpoint):
            key = self._channels.pop(event.peer, None)
            machine = self._machine(key, make=False) if key is not None else None
            if machine is not None and key is not None:
                machine.channel_refused(event.peer, now)
                self._touched.add(key)

    def _lose(self, now: float) -> None:
        """There is no allocation any more: what was asked for it is void."""
        self.allocated = None
        self.permitted.clear()
        self.refused.clear()
        self._channels.clear()
        for key, (_, machine) in list(self._machines.items()):
            machine.set_own((), now)
            self._peers.announce(key)
        self._touched.update(self._machines)

    def _note(self, sentence: str, now: float) -> None:
        log.warning("turn", problem=sentence)
        self.troubles.append((now, sentence))

    def _settle(self, key: NodePublic, machine: TurnPaths, now: float) -> None:
        """Collect what a machine wants to say and do."""
        while (said := machine.poll_transmit()) is not None:
            if not isinstance(said, ToWay):
                self._peers.send_relayed(key, said.message)
            elif (data := self._peers.seal(key, said.message)) is not None:
                self._send(said.way, data)
        while (event := machine.poll_event()) is not None:
            if isinstance(event, TurnPonged):
                path = self.path_of(key, now)
                if path is not None:
                    self._peers.note_pong(event.tx_id, path, event.rtt_s)
            elif isinstance(event, ChannelWanted):
                self._channels[event.peer] = key
                if not self.keeper.open_channel(event.peer, now):
                    machine.channel_refused(event.peer, now)
            elif isinstance(event, WayDead):
                if event.way.own:
                    self.keeper.check(now)
            elif not self._peers.has_better(key, now):
                self._pending.append(self._path_command(key, event))

    def _send(self, way: Way, data: bytes) -> None:
        if not way.own:
            self._pending.append(SendDatagram(to=str(way.to), data=data))
            return
        client, server = self.keeper.client, self.keeper.server
        channel = client.channel_of(way.to) if client is not None else None
        if channel is not None and server is not None:
            self._pending.append(self._ways.datagram(server, channel, data))

    def _path_command(self, key: NodePublic, lease: TurnLease) -> SetPath:
        gone = SetPath(peer=key.raw, addr=None, lease_ms=0)
        way = lease.way
        if way is None:
            return gone
        if not way.own:
            return SetPath(peer=key.raw, addr=str(way.to), lease_ms=lease.lease_ms)
        client, server = self.keeper.client, self.keeper.server
        channel = client.channel_of(way.to) if client is not None else None
        if channel is None or server is None:
            return gone
        return self._ways.path(server, channel, key, lease.lease_ms)

    def _path(self, way: Way, latency_s: float) -> TurnPath | None:
        if not way.own:
            return TurnPath(way.to, None, way.to, latency_s)
        server = self.keeper.server
        if server is None or self.allocated is None:
            return None
        own = self.allocated.addresses
        relayed = next((each for each in own if each.is_v4 == way.to.is_v4), own[0])
        return TurnPath(relayed, server, server.at, latency_s)

    # Timers.

    def _flush(self) -> None:
        """Hand commands to the engine and set the one timer."""
        self._send_waiting()
        if self._pending:
            commands, self._pending = self._pending, []
            self._engine.apply(commands)
        now = self._clock.now()
        due = [self.keeper.next_timeout()]
        for _, machine in self._machines.values():
            allocate_at = machine.allocate_at(now)
            due.append(machine.next_timeout())
            if allocate_at is not None and allocate_at > now:
                due.append(allocate_at)
        if self._unused_since is not None:
            due.append(self._unused_since + LINGER_S)
        elif self._wanted:
            due.append(now + LINGER_S / 4)
        due += [at for at in self.refused.values() if at is not None and at > now]
        self._alarm.set(due, now)

    def _fire(self) -> None:
        now = self._clock.now()
        due = self.keeper.next_timeout()
        if due is not None and due <= now:
            self.keeper.handle_timeout(now)
        for _, machine in self._machines.values():
            at = machine.next_timeout()
            if at is not None and at <= now:
                machine.handle_timeout(now)
        for peer, key in list(self._channels.items()):
            found = self._machine(key, make=False)
            if found is None or Way(peer, own=True) not in found.ways:
                del self._channels[peer]
                if self.keeper.client is not None:
                    self.keeper.client.forget(peer)
        self._turn(*self._machines)
        self._let_lapse(now)
