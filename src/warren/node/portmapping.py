"""Asking the routers of this machine's networks for a port (PROTOCOL §5.10).

The conversation with one router is `warren.nat.portmap`; here are its sockets and timers, and
what the rest of the node wants of it: endpoints, NetInfo, and what to tell a person.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

import msgspec
import structlog

from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.edge.fetch import FetchFailed, fetch
from warren.edge.linux.gateways import (
    Gateway,
    group_socket,
    group_socket_v6,
    router_socket,
    router_socket_v6,
)
from warren.nat import natpmp, ssdp
from warren.nat.mapping import Call, CallFailed, Mapping, MapProtocol, Outcome, Reply
from warren.nat.portmap import Portmapper
from warren.netmap.endpoint import Endpoint
from warren.netmap.node import NetInfo

ROUTERS_MAX = 3
"""More default routes of one family than this are not asked."""
CALL_LIMIT_S = 4.0
RELEASE_LIMIT_S = 1.0
"""How long giving a mapping back may hold up a stop."""
LOOK_AGAIN_S = 60.0

# Where routers tell of themselves unasked.
_GROUPS = (
    Endpoint(IPv4Address("224.0.0.1"), natpmp.ANNOUNCE_PORT),
    Endpoint(ssdp.GROUP, ssdp.PORT),
)
_GROUPS_V6 = (
    Endpoint(IPv6Address("ff02::1"), natpmp.ANNOUNCE_PORT),
    Endpoint(ssdp.GROUP_V6, ssdp.PORT),
)
_DISABLE_UPNP = "debug-disable-upnp"

log = structlog.get_logger(__name__)


class RouterFacts(NamedTuple):
    """What is known of one router, for those who explain it (`warren.nat.mapping.sentence`).

    model: what it calls itself, may be empty. since: monotonic, when it was first asked.
    """

    gateway: Gateway
    model: str
    mapping: Mapping | None
    outcomes: tuple[Outcome, ...]
    drops: dict[str, int]


def disabled_protocols(attributes: Collection[str] | None) -> frozenset[MapProtocol]:
    """Return what a node's attributes forbid it to use (PROTOCOL §5.10)."""
    return frozenset({MapProtocol.UPNP} if _DISABLE_UPNP in (attributes or ()) else ())


class PortMapping:
    """Keeps one mapping at each of this machine's routers, as far as they give one.

    gateways: the routers now; called in a thread. on_change: called when `endpoints` or what is
    known of a router changed. secret: of this node, the same after a restart.
    """

    def __init__(
        self,
        clock: Clock,
        entropy: Entropy,
        *,
        gateways: Callable[[], list[Gateway]],
        on_change: Callable[[], None],
        secret: bytes | None = None,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._secret = secret
        self._gateways = gateways
        self._on_change = on_change
        self._ports = (0, 0)
        self._disabled: frozenset[MapProtocol] = frozenset()
        self._talks: dict[Gateway, _Talk] = {}
        self._anew = False
        self._ended: Counter[str] = Counter()
        """What conversations that have ended dropped."""
        self._news = asyncio.Event()

    def set_ports(self, port4: int, port6: int) -> None:
        """Take the engine's UDP ports; 0: it has none, so nothing is mapped."""
        if (port4, port6) != self._ports:
            self._ports = (port4, port6)
            self._news.set()

    def set_disabled(self, protocols: Collection[MapProtocol]) -> None:
        """Take the protocols that are not to be used."""
        if frozenset(protocols) != self._disabled:
            self._disabled = frozenset(protocols)
            self._news.set()

    def network_changed(self) -> None:
        """Begin anew with every router: at the same address may be another one."""
        self._anew = True
        self._news.set()

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where IPv4 routers lead to us, that of the preferred route first.

        A hole in an IPv6 firewall leads to an address that is known without it.
        """
        mappings = (talk.mapper.mapping for talk in self._talks.values())
        externals = (m.external for m in mappings if m is not None)
        return tuple(dict.fromkeys(external for external in externals if external.is_v4))

    @property
    def routers(self) -> tuple[RouterFacts, ...]:
        """What is known of each router, that of the preferred route first."""
        return tuple(
            RouterFacts(
                gateway,
                talk.mapper.model,
                talk.mapper.mapping,
                talk.mapper.outcomes,
                dict(talk.mapper.drops),
            )
            for gateway, talk in self._talks.items()
        )

    @property
    def outcomes(self) -> list[Outcome]:
        """What the routers of IPv4 said, that of the preferred route first."""
        talks = [t for gateway, t in self._talks.items() if gateway.ip.version == 4]
        return [outcome for talk in talks for outcome in talk.mapper.outcomes]

    @property
    def drops(self) -> Counter[str]:
        """Datagrams that were not for us, by reason."""
        total = Counter(self._ended)
        for talk in self._talks.values():
            total.update(talk.mapper.drops)
        return Counter({f"port mapping: {reason}": count for reason, count in total.items()})

    def add_to(self, info: NetInfo) -> NetInfo:
        """Tell the coordinator what routers speak, and whether there is a mapping."""
        spoken: dict[MapProtocol, bool | None] = {}
        for outcome in self.outcomes:
            known = spoken.get(outcome.protocol)
            spoken[outcome.protocol] = known if known else outcome.spoken
        return msgspec.structs.replace(
            info,
            have_port_map=bool(self.endpoints),
            upnp=spoken.get(MapProtocol.UPNP),
            pmp=spoken.get(MapProtocol.NATPMP),
            pcp=spoken.get(MapProtocol.PCP),
        )

    async def run(self) -> None:
        """Talk to the routers until cancelled; then give back what they gave."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            while True:
                # A route may come or go without a word, as when nobody may listen to the kernel.
                timer = loop.call_later(LOOK_AGAIN_S, self._news.set)
                await self._news.wait()
                timer.cancel()
                self._news.clear()
                await self._follow(tasks)

    async def _follow(self, tasks: asyncio.TaskGroup) -> None:
        """Talk to exactly the routers that there are now."""
        try:
            found = await asyncio.to_thread(self._gateways)
        except OSError as error:
            log.warning("routes cannot be read", reason=str(error))
            return
        wanted = [gateway for gateway in found if not gateway.local_ip.is_loopback]
        wanted = [
            gateway
            for version, port in zip((4, 6), self._ports, strict=True)
            if port
            for gateway in [each for each in wanted if each.ip.version == version][:ROUTERS_MAX]
        ]
        before = self._talks
        kept: dict[Gateway, _Talk] = {}
        for gateway in wanted:
            settings = (self._port_of(gateway), self._disabled)
            talk = before.get(gateway)
            if talk is not None and talk.settings == settings and talk.running and not self._anew:
                kept[gateway] = talk
        self._anew = False
        ending = [talk for gateway, talk in before.items() if gateway not in kept]
        await asyncio.gather(*(talk.stop() for talk in ending))
        for talk in ending:
            self._ended.update(talk.mapper.drops)
        for gateway in wanted:
            if gateway not in kept:
                settings = (self._port_of(gateway), self._disabled)
                mapper = Portmapper(
                    gateway.ip,
                    gateway.local_ip,
                    self._port_of(gateway),
                    self._entropy,
                    self._clock.now(),
                    self._disabled,
                    self._secret,
                )
                talk = _Talk(mapper, self._clock, settings, self._on_change, gateway.scope)
                try:
                    talk.start(tasks)
                except OSError as error:
                    log.warning("router", address=str(gateway.ip), reason=str(error))
                    continue
                kept[gateway] = talk
        self._talks = {gateway: kept[gateway] for gateway in wanted if gateway in kept}
        if self._talks.keys() != before.keys() or any(
            self._talks[gateway] is not before[gateway] for gateway in self._talks
        ):
            self._on_change()

    def _port_of(self, gateway: Gateway) -> int:
        return self._ports[0 if gateway.ip.version == 4 else 1]


class _Talk(asyncio.DatagramProtocol):
    """The sockets and the timer of one Portmapper."""

    def __init__(
        self,
        mapper: Portmapper,
        clock: Clock,
        settings: tuple[int, frozenset[MapProtocol]],
        on_change: Callable[[], None],
        scope: int,
    ) -> None:
        self.mapper = mapper
        self.settings = settings
        self._scope = scope
        self._clock = clock
        self._on_change = on_change
        self._woken = asyncio.Event()
        self._transport: asyncio.DatagramTransport | None = None
        self._listening: list[asyncio.DatagramTransport] = []
        self._calls: list[Call] = []
        self._ending = False
        self._task: asyncio.Task[None] | None = None
        self._sockets: list[Any] = []

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._task is not None and not self._task.done()

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Open the socket and begin. Raises OSError."""
        own = self.mapper.local_ip
        if isinstance(own, IPv4Address):
            self._sockets.append(router_socket(own))
            for group in _GROUPS:
                with suppress(OSError):
                    # Without it a router's restart is seen ten minutes later at worst.
                    self._sockets.append(group_socket(group, own))
        else:
            self._sockets.append(router_socket_v6(own, self._scope))
            for group in _GROUPS_V6:
                with suppress(OSError):
                    self._sockets.append(group_socket_v6(group, self._scope))
        self._task = tasks.create_task(self._run(), name=f"router {self.mapper.router}")

    async def stop(self) -> None:
        """Give back what is mapped, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # asyncio.DatagramProtocol

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Take what came to our own socket."""
        self._take(data, addr, announced=False)

    def error_received(self, exc: Exception) -> None:
        """A router that refuses with ICMP is as silent as one that says nothing."""

    def _take(self, data: bytes, addr: tuple[Any, ...], *, announced: bool) -> None:
        src = Endpoint(ip_address(addr[0].partition("%")[0]), addr[1])
        if announced and data[:1] == b"N" and src.ip != self.mapper.router:
            return  # Every device of the network tells of itself by SSDP: no fault of anybody's.
        if self.mapper.receive(data, src, self._clock.now(), announced):
            self._woken.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            own, *listening = self._sockets
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=own)
            for heard in listening:
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Announcements(self), sock=heard
                )
                self._listening.append(transport)
            async with asyncio.TaskGroup() as calls:
                while True:
                    self._pump()
                    if self._calls:
                        calls.create_task(self._make(self._calls.pop(), CALL_LIMIT_S))
                        continue
                    await self._wait(self._due())
                    self.mapper.handle_timeout(self._clock.now())
        finally:
            await self._release()
            for each in self._listening:
                each.close()
            if self._transport is not None:
                self._transport.close()
            for made in self._sockets:
                made.close()

    async def _release(self) -> None:
        """Give back what is mapped. Runs while the task is being cancelled."""
        end = self._clock.now() + RELEASE_LIMIT_S
        self._ending = True
        self._calls.clear()
        self.mapper.stop(self._clock.now())
        while self._transport is not None and self._clock.now() < end:
            self._pump()
            if self._calls:
                await self._make(self._calls.pop(), max(0.05, end - self._clock.now()))
                continue
            if self.mapper.settled:
                return
            await self._wait(min(self._due(), end))
            self.mapper.handle_timeout(self._clock.now())

    def _due(self) -> float:
        due = self.mapper.next_timeout()
        return due[0] if due else self._clock.now() + LOOK_AGAIN_S

    async def _wait(self, until: float) -> None:
        """Sleep until then, or until something came."""
        delay_s = max(0.0, until - self._clock.now())
        timer = asyncio.get_running_loop().call_later(delay_s, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()
            self._woken.clear()

    def _pump(self) -> None:
        """Send what is to be sent, and tell what is new."""
        assert self._transport is not None
        while (transmit := self.mapper.poll_transmit(self._clock.now())) is not None:
            if isinstance(transmit, Call):
                self._calls.append(transmit)
                break
            ip = transmit.to.ip
            to: tuple[Any, ...] = (str(ip), transmit.to.port)
            if self._scope and ip.version == 6 and (ip.is_link_local or ip.is_multicast):
                to = (*to, 0, self._scope)
            with suppress(OSError):
                self._transport.sendto(transmit.data, to)
        if self.mapper.poll_event() is not None and not self._ending:
            log.info(
                "router",
                address=str(self.mapper.router),
                mapping=str(self.mapper.mapping.external) if self.mapper.mapping else "",
                **{
                    outcome.protocol.name.lower(): outcome.finding.value
                    for outcome in self.mapper.outcomes
                },
            )
            self._on_change()

    async def _make(self, call: Call, limit_s: float) -> None:
        """Make an HTTP request of the router, and hand in what came of it."""
        reply: Reply | CallFailed
        try:
            fetched = await fetch(
                call.to.server,
                call.method,
                call.to.path,
                call.headers,
                call.body,
                limit_s=limit_s,
                local_ip=str(self.mapper.local_ip),
            )
            reply = Reply(fetched.status, fetched.body)
        except FetchFailed as error:
            reply = CallFailed(str(error))
        self.mapper.receive_reply(call.number, reply, self._clock.now())
        self._woken.set()


class _Announcements(asyncio.DatagramProtocol):
    """What routers multicast when they have started."""

    def __init__(self, talk: _Talk) -> None:
        self._talk = talk

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Hand it to the conversation."""
        self._talk._take(data, addr, announced=True)
