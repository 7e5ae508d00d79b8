"""The simulated world: time, segments and routers, hosts, servers, and what a run looked like."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

from warren.lab.sim.chart import Chart
from warren.lab.sim.nats import MODELS, Nat, NatModel
from warren.nat.stun import (
    MalformedStun,
    binding_response,
    looks_like_stun,
    parse_binding_request_untrusted,
)
from warren.netmap.endpoint import Endpoint

Address = IPv4Address | IPv6Address
Handler = Callable[[bytes, Endpoint], None]

REGION = 900
STUN_PORT = 3478
_LAN_S = 0.0005
_STEPS_MAX = 5_000_000
_FIRST_EPHEMERAL = 32768


class Segment:
    """Where machines reach each other without a router. `router` leads out; None: the world."""

    def __init__(self, name: str, router: Router | None = None) -> None:
        self.name = name
        self.router = router
        self.members: dict[Address, Host | Router] = {}


class Router:
    """A NAT between an inside segment and the one outside of it."""

    def __init__(self, name: str, nat: Nat, outer: Segment) -> None:
        self.name = name
        self.nat = nat
        self.outer = outer
        self.inner = Segment(f"behind {name}", self)


class Host:
    """A machine with UDP sockets. latency_s: one way to the world's middle."""

    def __init__(
        self, name: str, world: SimWorld, segment: Segment, ip: Address, latency_s: float
    ) -> None:
        self.name = name
        self.ip = ip
        self.segment = segment
        self.latency_s = latency_s
        self.loss = 0.0
        self.last_out = 0.0
        """When what it sent last left its link: a link carries one packet after the other."""
        self._world = world
        self._sockets: dict[int, Handler] = {}
        self._next_port = _FIRST_EPHEMERAL

    def open(self, handler: Handler, port: int = 0) -> Endpoint:
        """Open a UDP socket; port 0 takes any. Returns its own endpoint."""
        while port == 0 or port in self._sockets:
            port = self._next_port
            self._next_port += 1
        self._sockets[port] = handler
        return Endpoint(self.ip, port)

    def close(self, at: Endpoint) -> None:
        """Close a socket."""
        self._sockets.pop(at.port, None)

    def send(self, source: Endpoint, to: Endpoint, data: bytes, what: str) -> None:
        """Send a datagram from an open socket. `what` is for the chart."""
        if source.port in self._sockets:
            self._world.carry(self, Endpoint(self.ip, source.port), to, data, what)

    def give(self, data: bytes, src: Endpoint, at: Endpoint) -> bool:
        """Hand a datagram to the socket at `at`; False if there is none."""
        handler = self._sockets.get(at.port)
        if handler is None:
            return False
        handler(data, src)
        return True


class SimWorld:
    """Everything of one run. `now` is virtual seconds; all choices come from `seed`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)  # noqa: S311 - a simulation must repeat
        self.now = 0.0
        self.chart = Chart()
        self.internet = Segment("the internet")
        self.stun_servers: tuple[Endpoint, ...] = ()
        self.relay_latency_s = 0.03
        self.relay_up = True
        self.packets_to: dict[Address, list[tuple[float, str]]] = {}
        """When which packets were sent towards an address of the world: for tests of rates."""
        self._connected: dict[bytes, tuple[str, Callable[[bytes, bytes], None]]] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._networks = 0
        self._addresses = 0
        for ip in ("192.0.2.1", "192.0.2.2"):
            self._add_stun_server(ip)

    # Time.

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do something at a time; what is due at the same time happens in the order of asking."""
        self._count += 1
        heapq.heappush(self._queue, (max(when, self.now), self._count, action))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something after a while."""
        self.at(self.now + delay_s, action)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, at most so long; True as soon as `until` holds."""
        end = self.now + seconds
        for _ in range(_STEPS_MAX):
            if until():
                return True
            if not self._queue or self._queue[0][0] > end:
                self.now = end
                return until()
            self.now, _, action = heapq.heappop(self._queue)
            action()
        raise RuntimeError(f"the simulation (seed {self.seed}) has no end; see its chart")

    # What the world is made of.

    def network(
        self,
        kind: str | NatModel = "public",
        name: str = "",
        behind: Router | None = None,
    ) -> Router:
        """Add a router of a kind, in the world or behind another router.

        Raises ValueError for a kind that does not exist.
        """
        if isinstance(kind, str) and kind not in MODELS:
            raise ValueError(f"there is no NAT {kind!r}; known: {', '.join(MODELS)}")
        model = MODELS[kind] if isinstance(kind, str) else kind
        self._networks += 1
        number = self._networks
        outer = behind.inner if behind else self.internet
        base = "100.64.0." if behind else "198.51.100."
        outside = Endpoint(ip_address(f"{base}{number}"), 0)
        nat = Nat(model, outside, random.Random(self.rng.getrandbits(64)))  # noqa: S311
        router = Router(name or f"{model.name} {number}", nat, outer)
        if model.mapping is not None:
            outer.members[outside.ip] = router
        return router

    def host(self, name: str, network: Router | None = None, latency_s: float = 0.01) -> Host:
        """Add a machine, in the world itself or behind a router."""
        segment, ip = self._place(network)
        host = Host(name, self, segment, ip, latency_s)
        segment.members[ip] = host
        return host

    def move(self, host: Host, network: Router | None) -> None:
        """Carry a machine to another network: its sockets stay open, its address is new."""
        del host.segment.members[host.ip]
        host.segment, host.ip = self._place(network)
        host.segment.members[host.ip] = host

    def _place(self, network: Router | None) -> tuple[Segment, Address]:
        self._addresses += 1
        if network is None:
            return self.internet, ip_address(f"203.0.113.{self._addresses}")
        translates = network.nat.model.mapping is not None
        net = int(network.nat.outside.ip.packed[3])
        text = f"{'192.168' if translates else '203.0'}.{net}.{self._addresses + 1}"
        ip = ip_address(text)
        if not translates:
            # Its machines have addresses of the outer segment; packets for them pass the router.
            network.outer.members[ip] = network
        return network.inner, ip

    # The relay.

    def connect_relay(self, key: bytes, name: str, handler: Callable[[bytes, bytes], None]) -> None:
        """Be reachable at the relay. handler(sender's key, bytes)."""
        self._connected[key] = (name, handler)

    def relay(self, sender: bytes, to: bytes, data: bytes, what: str, detail: str = "") -> None:
        """Carry bytes to a key, over the relay's reliable streams."""
        name = self._connected[sender][0] if sender in self._connected else "?"
        receiver = self._connected.get(to)
        if not self.relay_up:
            self.chart.add(self.now, name, "relay", what, "the relay is down")
            return
        if receiver is None:
            self.chart.add(self.now, name, "relay", what, "nobody there has that key")
            return
        self.chart.add(self.now, name, receiver[0], f"over the relay: {what}", detail=detail)
        self.after(self.relay_latency_s, lambda: receiver[1](sender, data))

    # Packets.

    def carry(self, host: Host, src: Endpoint, dst: Endpoint, data: bytes, what: str) -> None:
        """Take a datagram out of a host."""
        if dst.ip in host.segment.members and not isinstance(host.segment.members[dst.ip], Router):
            delay_s = _LAN_S
        else:
            delay_s = host.latency_s * self.rng.uniform(0.95, 1.1)
        if self.rng.random() < host.loss:
            self.chart.add(self.now, host.name, str(dst.ip), what, "lost")
            return
        sent_at = self.now
        host.last_out = max(host.last_out, self.now + delay_s)
        self.at(host.last_out, lambda: self._cross(host, src, dst, data, what, sent_at))

    def _cross(
        self, host: Host, src: Endpoint, dst: Endpoint, data: bytes, what: str, sent_at: float
    ) -> None:
        segment = host.segment
        left: list[Router] = []
        while dst.ip not in segment.members and segment.router is not None:
            router = segment.router
            outside = router.nat.outbound(src, dst, self.now)
            if outside is None:
                self.chart.add(sent_at, host.name, str(dst.ip), what, f"dropped by {router.name}")
                return
            src = outside
            left.append(router)
            segment = router.outer
        if segment is self.internet:
            self.packets_to.setdefault(dst.ip, []).append((self.now, what))
        member = segment.members.get(dst.ip)
        while isinstance(member, Router):
            router = member
            if router in left and not router.nat.model.hairpin:
                self.chart.add(
                    sent_at, host.name, str(dst.ip), what, f"no hairpin at {router.name}"
                )
                return
            inside = router.nat.inbound(src, dst, self.now)
            if inside is None:
                self.chart.add(sent_at, host.name, router.name, what, "not let in", str(dst))
                return
            dst = inside
            member = router.inner.members.get(dst.ip)
        if member is None:
            self.chart.add(sent_at, host.name, str(dst.ip), what, "no such machine")
            return
        self._arrive(host, member, src, dst, data, what, sent_at)

    def _arrive(
        self,
        host: Host,
        receiver: Host,
        src: Endpoint,
        dst: Endpoint,
        data: bytes,
        what: str,
        sent_at: float,
    ) -> None:
        if self.rng.random() < receiver.loss:
            self.chart.add(sent_at, host.name, receiver.name, what, "lost")
            return
        detail = f"{src} to {dst}"

        def deliver() -> None:
            found = receiver.give(data, src, dst)
            fate = "" if found else "no socket there"
            self.chart.add(sent_at, host.name, receiver.name, what, fate, detail)

        near = receiver.segment is host.segment and receiver.segment is not self.internet
        self.after(0.0 if near else receiver.latency_s * self.rng.uniform(0.95, 1.1), deliver)

    def _add_stun_server(self, ip: str) -> None:
        name = f"stun {len(self.stun_servers) + 1}"
        host = Host(name, self, self.internet, ip_address(ip), 0.005)
        self.internet.members[host.ip] = host

        def answer(data: bytes, src: Endpoint) -> None:
            if looks_like_stun(data):
                try:
                    tx_id = parse_binding_request_untrusted(data)
                except MalformedStun:
                    return
                host.send(at, src, binding_response(tx_id, src), "STUN answer")

        at = host.open(answer, STUN_PORT)
        self.stun_servers = (*self.stun_servers, at)
