"""The engine's twin for tests: same commands and events, no sockets, no threads, no crypto.

Engines of one `MemoryNetwork` reach each other's datagrams by address where the network's
`reaches` allows it, and through relay regions by key. STUN requests to `stun` are answered.
Groups of sockets have ports of their own, and a peer relay's sessions are passed on. What is sent
to an address in the network's `servers` goes there, ChannelData as its bytes. A tunnel packet
arrives where the peer's allowed IPs say, if a lease or a relay can carry it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network

import msgspec

from warren.engine.commands import (
    AnyCommand,
    CloseSockets,
    Dial,
    KeepSocket,
    OpenSockets,
    OpenStream,
    Peer,
    Rebind,
    SendDatagram,
    SendPacket,
    SendRelayed,
    SetFilter,
    SetForward,
    SetHome,
    SetIdentity,
    SetPath,
    SetPeers,
    SetRegion,
    SetTurn,
)
from warren.engine.events import (
    Active,
    AnyEvent,
    Applied,
    Bound,
    Datagram,
    Dialed,
    Fault,
    ProbeReply,
    RegionState,
    Relayed,
    StreamState,
)
from warren.engine.protocol import EngineConfig, PeerStats, Snapshot
from warren.keys import NodePrivate
from warren.nat.turn.framing import (
    encode_channel_data,
    is_channel_data,
    parse_channel_data_untrusted,
)
from warren.netmap.endpoint import Endpoint

_EVENTS_MAX = 4096
_TSMP = 99
_GROUPED_MAX = 1024
_FIRST_GROUPED_PORT = 50_000


class MemoryNetwork:
    """What joins engines in one process. `now` gives virtual or real monotonic seconds.

    reaches(src, dst): whether a datagram passes, as NATs and firewalls would say.
    stun(request, src): the reply to a datagram that was sent to `stun_at`, or None.
    """

    def __init__(
        self,
        now: Callable[[], float],
        reaches: Callable[[Endpoint, Endpoint], bool] = lambda src, dst: True,
        stun_at: Endpoint | None = None,
        stun: Callable[[bytes, Endpoint], bytes | None] = lambda request, src: None,
    ) -> None:
        self.now = now
        self.reaches = reaches
        self.stun_at = stun_at
        self.stun = stun
        self.mtu_bytes = 1500
        """The largest whole IP packet that passes; others are fragmented."""
        self.engines: list[MemoryEngine] = []
        self.servers: dict[Endpoint, Callable[[bytes, Endpoint], None]] = {}
        """By address, what takes bytes and their source: TURN servers and what they relay."""

    def carry(self, sender: MemoryEngine, src: Endpoint, sent: SendDatagram) -> None:
        """Take a datagram from `src` where it goes, or lose it."""
        to = Endpoint.parse(sent.to)
        headers = 28 if to.is_v4 else 48
        if sent.whole and headers + len(sent.data) > self.mtu_bytes:
            return
        if to == self.stun_at:
            reply = self.stun(sent.data, src)
            if reply is not None:
                sender.take(to, src, SendDatagram(to=str(src), data=reply))
            return
        if to in self.servers:
            if self.reaches(src, to):
                data = sent.data
                if sent.channel:
                    data = encode_channel_data(sent.channel, data, padded=False)
                self.servers[to](data, src)
            return
        for engine in self.engines:
            if engine.has(to) and self.reaches(src, to):
                engine.take(src, to, sent)

    def deliver(self, data: bytes, src: Endpoint, to: Endpoint) -> None:
        """Take a server's datagram to the engine that it is for; ChannelData where it is due."""
        for engine in self.engines:
            if not engine.has(to) or not self.reaches(src, to):
                continue
            if str(src) in engine.turns and is_channel_data(data):
                channel, inside = parse_channel_data_untrusted(data)
                engine.take(src, to, SendDatagram(to=str(to), data=inside, channel=channel))
            else:
                engine.take(src, to, SendDatagram(to=str(to), data=data))

    def relay(self, sender: MemoryEngine, region: int, peer: bytes, data: bytes) -> None:
        """Take bytes through a region to whoever has the key and is connected there."""
        for engine in self.engines:
            if engine.public_key == peer and region in engine.regions:
                engine.give(Relayed(region=region, peer=sender.public_key, data=data))


class MemoryEngine:
    """See `warren.engine.protocol.Engine`. `commands` keeps everything that was applied."""

    def __init__(self, config: EngineConfig, network: MemoryNetwork, endpoint: Endpoint) -> None:
        self.config = config
        self.endpoint = endpoint
        self.commands: list[AnyCommand] = []
        self.peers: dict[bytes, Peer] = {}
        self.leases: dict[bytes, tuple[str, float]] = {}
        self.paths: dict[bytes, SetPath] = {}
        self.sockets: dict[tuple[int, int], Endpoint] = {(0, 0): endpoint}
        self.forwards: dict[int, tuple[str, str]] = {}
        self.turns: set[str] = set()
        self.regions: dict[int, bool] = {}
        self.home = 0
        self.filter: SetFilter | None = None
        self.public_key = b""
        self.addresses: list[str] = []
        self._network = network
        self._next_port = _FIRST_GROUPED_PORT
        self._events: list[AnyEvent] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = False
        network.engines.append(self)
        self.give(self._bound())

    def apply(self, commands: Sequence[AnyCommand], generation: int = 0) -> None:
        """Carry commands out, at once and in order."""
        for command in commands:
            self.commands.append(command)
            self._do(command)
        if generation:
            self.give(Applied(generation=generation))

    def poll(self) -> list[AnyEvent]:
        """Drain the waiting events."""
        if self._events:
            os.eventfd_read(self._wake)
        events, self._events = self._events, []
        return events

    def fileno(self) -> int:
        """An eventfd."""
        return self._wake

    def snapshot(self) -> Snapshot:
        """Counters, as far as the twin has any."""
        now = self._network.now()
        stats = [
            PeerStats(
                key=key,
                rx_bytes=0,
                tx_bytes=0,
                handshake_ago_ms=None,
                tx_ago_ms=None,
                rx_ago_ms=None,
                direct=self.direct(key, now),
                mtu_bytes=self.paths[key].mtu_bytes if self.direct(key, now) else None,
            )
            for key in self.peers
        ]
        port4, port6 = self._ports()
        return Snapshot(
            port4=port4,
            port6=port6,
            tun_name=self.config.tun,
            offloads=[],
            peers=stats,
            drops={},
            regions=dict(self.regions),
        )

    def close(self) -> None:
        """Leave the network."""
        if not self._closed:
            self._closed = True
            self._network.engines.remove(self)
            os.close(self._wake)

    def give(self, event: AnyEvent) -> None:
        """Queue an event, as the engine's threads would; beyond the bound it is lost."""
        if self._closed or len(self._events) >= _EVENTS_MAX:
            return
        if not self._events:
            os.eventfd_write(self._wake, 1)
        self._events.append(event)

    def has(self, at: Endpoint) -> bool:
        """Whether one of the sockets has this address."""
        return at in self.sockets.values()

    def take(self, src: Endpoint, at: Endpoint, sent: SendDatagram) -> None:
        """Take a datagram that reached the socket `at`: for us, or to be passed on."""
        ends = self.forwards.get(sent.vni)
        if ends is not None and not sent.control:
            if str(src) in ends:
                to = ends[1 - ends.index(str(src))]
                self._network.carry(self, at, msgspec.structs.replace(sent, to=to))
            return
        group, index = next(key for key, socket in self.sockets.items() if socket == at)
        self.give(
            Datagram(
                src=str(src),
                data=sent.data,
                group=group,
                index=index,
                vni=sent.vni,
                control=sent.control,
                channel=sent.channel,
            )
        )

    def traffic(self, peer: bytes) -> None:
        """Pretend that the machine sends something to a peer."""
        direct = self.direct(peer, self._network.now()) is not None
        self.give(Active(peer=peer, direct=direct))

    def direct(self, peer: bytes, now: float) -> str | None:
        """Return the leased path to a peer, while it is valid."""
        addr, until = self.leases.get(peer, ("", 0.0))
        path = self.paths.get(peer)
        closed = path is not None and (path.group, path.index) not in self.sockets
        return addr if now < until and not closed else None

    def _do(self, command: AnyCommand) -> None:
        if isinstance(command, SetIdentity):
            self.public_key = NodePrivate(command.private_key).public().raw
            self.addresses = command.addresses
        elif isinstance(command, SetPeers):
            self.peers |= {peer.key: peer for peer in command.upsert}
            for key in command.remove:
                self.peers.pop(key, None)
                self.leases.pop(key, None)
        elif isinstance(command, SetFilter):
            self.filter = command
        elif isinstance(command, SetPath):
            self.leases.pop(command.peer, None)
            if command.addr is not None:
                until = self._network.now() + command.lease_ms / 1000
                self.leases[command.peer] = (command.addr, until)
                self.paths[command.peer] = command
        elif isinstance(command, SetRegion):
            if not command.nodes:
                self.regions.pop(command.region, None)
        elif isinstance(command, SetHome):
            self.home = command.region
            if command.region:
                self.regions[command.region] = True
                self.give(RegionState(region=command.region, connected=True))
        elif isinstance(command, SendDatagram):
            src = self.sockets.get((command.group, command.index))
            if src is not None:
                self._network.carry(self, src, command)
        elif isinstance(command, SendRelayed):
            self.regions.setdefault(command.region, True)
            self._network.relay(self, command.region, command.peer, command.data)
        elif isinstance(command, SendPacket):
            self._send_packet(command.packet)
        elif isinstance(command, Rebind):
            self.give(self._bound())
        elif isinstance(command, Dial):
            self.give(Dialed(id=command.id, error="the twin has no TCP"))
        else:
            self._do_sockets(command)

    def _do_sockets(self, command: AnyCommand) -> None:
        if isinstance(command, OpenSockets):
            self._open(command.group, command.count)
        elif isinstance(command, OpenStream):
            self.give(StreamState(group=command.group, open=False, error="the twin has no TCP"))
        elif isinstance(command, CloseSockets):
            self._close_others(command.group, None)
        elif isinstance(command, KeepSocket):
            if (command.group, command.index) in self.sockets:
                self._close_others(command.group, command.index)
            else:
                text = f"socket {command.index} of group {command.group} is not open"
                self.give(Fault(message=text))
        elif isinstance(command, SetTurn):
            (self.turns.add if command.on else self.turns.discard)(command.server)
        elif isinstance(command, SetForward):
            self.forwards.pop(command.vni, None)
            if command.a is not None and command.b is not None:
                self.forwards[command.vni] = (command.a, command.b)

    def _open(self, group: int, count: int) -> None:
        if any(key[0] == group for key in self.sockets):
            self.give(Fault(message=f"socket group {group} is open already"))
        elif len(self.sockets) - 1 + count > _GROUPED_MAX:
            self.give(Fault(message=f"more than {_GROUPED_MAX} sockets in all groups"))
        else:
            for index in range(count):
                self.sockets[group, index] = Endpoint(self.endpoint.ip, self._next_port)
                self._next_port += 1

    def _close_others(self, group: int, kept: int | None) -> None:
        closed = [key for key in self.sockets if key[0] == group and key[1] != kept]
        for key in closed:
            del self.sockets[key]

    def _send_packet(self, packet: bytes) -> None:
        """Answer a TSMP ping for the peer that has the packet's IPv4 destination."""
        dst = ip_address(packet[16:20])
        for key, peer in self.peers.items():
            if not any(":" not in p and dst in ip_network(p) for p in peer.allowed_ips):
                continue
            self.traffic(key)
            others = (engine for engine in self._network.engines if engine.public_key == key)
            for other in others:
                reachable = self.direct(key, self._network.now()) or peer.home_region
                if reachable and self.public_key in other.peers and packet[9] == _TSMP:
                    answer = packet[:12] + packet[16:20] + packet[12:16]
                    answer += b"o" + packet[21:29] + b"\0\0"
                    self.give(ProbeReply(packet=answer))

    def _bound(self) -> Bound:
        port4, port6 = self._ports()
        return Bound(port4=port4, port6=port6)

    def _ports(self) -> tuple[int, int]:
        return (self.endpoint.port, 0) if self.endpoint.is_v4 else (0, self.endpoint.port)
