"""Knowing one's own network: STUN to every region, the home relay, own endpoints (PROTOCOL §5.9).

The measuring itself is `warren.nat.netcheck`; here are its timers, names and consequences.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

import msgspec
import structlog

from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.edge.linux.interfaces import LocalAddress
from warren.engine.commands import RelayNode
from warren.nat.netcheck import Netcheck, stray
from warren.nat.rejected import Rejected
from warren.nat.report import History, Report, fallback_region, net_info, preferred_region
from warren.nat.targets import host_names, stun_targets
from warren.netmap.derpmap import DERPMap
from warren.netmap.endpoint import Endpoint
from warren.netmap.node import NetInfo
from warren.node.regions import compile_regions, relay_hosts, relay_names
from warren.node.relaytimes import handshake_times

FULL_EVERY_S = 300.0
ACTIVE_EVERY_S = 20.0
ACTIVE_SPREAD_S = 6.0
IDLE_CHECK_S = 20.0
FRESH_S = 2.0
"""A measuring this recent is not repeated when it is wanted again."""
NAMES_KEEP_S = 300.0
NAMES_TIMEOUT_S = 5.0
NAMES_AGAIN_TIMEOUT_S = 1.0
"""Where every name is known from before, a slow resolver does not hold up the measuring."""
ENDPOINTS_MAX = 64
STUN_SERVERS_MAX = 8
FIRST_HOME_S = 0.4
"""Without an answer by STUN for so long, a node without a home takes one by other means."""
AVOID_S = 60.0
"""For so long a region whose relay died is no home, though its STUN server may answer."""

# PROTOCOL §3.2.
TYPE_LOCAL, TYPE_STUN, TYPE_PORTMAPPED, TYPE_STUN_LOCAL_PORT = 1, 2, 3, 4

log = structlog.get_logger(__name__)

Address = IPv4Address | IPv6Address


class OwnEndpoint(NamedTuple):
    """Where peers may try to reach this node, and how it is known (PROTOCOL §3.2)."""

    endpoint: Endpoint
    kind: int


class Measuring:
    """Keeps `report`, `home_region`, `endpoints` and `resolved` up to date.

    send: a datagram from the engine's socket. addresses: this machine's own, from the kernel.
    is_busy: whether traffic flows, so that endpoints are kept fresh. relay_is_up: whether a
    region's relay is connected. on_result: called after each measuring. proxies: of relays' names,
    those that are reached through an HTTP proxy, and its `ip:port`.
    """

    def __init__(
        self,
        clock: Clock,
        entropy: Entropy,
        *,
        send: Callable[[Endpoint, bytes], None],
        addresses: Callable[[], list[LocalAddress]],
        is_busy: Callable[[], bool],
        relay_is_up: Callable[[int], bool],
        on_result: Callable[[], None],
        proxies: Callable[[Iterable[str]], dict[str, str]] = lambda hosts: {},
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._send = send
        self._addresses = addresses
        self._is_busy = is_busy
        self._relay_is_up = relay_is_up
        self._on_result = on_result
        self._proxies = proxies
        self._derp_map = DERPMap(regions={})
        self._inside: frozenset[Address] = frozenset()
        self._ports = (0, 0)
        self._mapped: tuple[Endpoint, ...] = ()
        self._history = History()
        self._wanted = asyncio.Event()
        self._want_full = True
        self._netcheck: Netcheck | None = None
        self._answered = asyncio.Event()
        self._finished: asyncio.Event = asyncio.Event()
        self._full_at: float | None = None
        self._names_at: float | None = None
        self._told: NetInfo | None = None
        self.report: Report | None = None
        self.stun_servers: tuple[Endpoint, ...] = ()
        """The servers that the last measuring could ask over IPv4."""
        self.home_region = 0
        self._avoided: dict[int, float] = {}
        self._measured: tuple[OwnEndpoint, ...] = ()
        self._under_way: asyncio.Task[None] | None = None
        self.resolved: dict[str, list[str]] = {}
        self.drops: Counter[str] = Counter()

    def set_map(self, derp_map: DERPMap, inside: Iterable[Address]) -> None:
        """Take the regions, and the network's own addresses (which are no endpoints)."""
        self._inside = frozenset(inside)
        if derp_map == self._derp_map:
            return
        self._derp_map = derp_map
        regions = [
            number
            for number, region in (derp_map.regions or {}).items()
            if region and not region.no_measure_no_home
        ]
        if self.home_region not in regions:
            # With one region there is nothing to choose: do not wait for a measuring.
            self.home_region = regions[0] if len(regions) == 1 else 0
        self._names_at = None
        self.want(full=True)

    def set_ports(self, port4: int, port6: int) -> None:
        """Take the engine's UDP ports."""
        if self._ports != (port4, port6):
            self._ports = (port4, port6)
            self.want(full=True)

    def set_mapped(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Take the ports that routers opened for us; peers hear of them before all others."""
        if endpoints == self._mapped:
            return
        self._mapped = endpoints
        self.want()

    @property
    def endpoints(self) -> tuple[OwnEndpoint, ...]:
        """Where peers may try to reach this node now, the surest first."""
        # Put together when it is asked for: a router may open its port during a measuring.
        mapped = [OwnEndpoint(endpoint, TYPE_PORTMAPPED) for endpoint in self._mapped]
        return self._outside([*mapped, *self._measured])

    @property
    def latency(self) -> dict[int, float]:
        """The lowest latency of late of each region, in seconds."""
        return self._history.fastest(self._clock.now())

    def want(self, full: bool = False) -> None:
        """Measure soon; a measuring under way, or just done, serves too unless `full`."""
        self._want_full = self._want_full or full
        self._wanted.set()

    def leave_home(self) -> bool:
        """The home's relay is dead: take the best other region, by what is known; False: none.

        Measuring first would take seconds where UDP is blocked.
        """
        now = self._clock.now()
        self._avoided[self.home_region] = now + AVOID_S
        others = self._home_regions() - {self.home_region}
        if not others:
            return False
        fastest = self._history.fastest(now)
        best = min(others & fastest.keys(), key=lambda n: (fastest[n], n), default=0)
        self.home_region = best or fallback_region(sorted(others), b"warren")
        return True

    def network_changed(self) -> None:
        """Measure anew; a measuring under way is of another network, and is not waited for."""
        if self._under_way is not None:
            self._under_way.cancel()
        self.want(full=True)

    def receive(self, data: bytes, src: Endpoint, now: float) -> None:
        """Take a STUN datagram; one that is no answer to us is counted."""
        check = self._netcheck
        rejected = stray(data) if check is None else check.receive(data, src, now)
        if rejected is None:
            self._answered.set()
        else:
            self.drops[rejected.value] += 1

    async def measure_now(self) -> None:
        """Ask for a full measuring and wait until it is done."""
        finished = self._finished
        self.want(full=True)
        await finished.wait()

    async def run(self) -> None:
        """Measure at the start, when wanted, and from time to time, until cancelled."""
        while True:
            await self._await_turn()
            full = self._want_full or self._full_is_due()
            self._wanted.clear()
            self._want_full = False
            recent = self.report is not None and (
                self._clock.now() - self.report.finished < FRESH_S
            )
            if (full or not recent) and not await self._measure_here(full):
                continue
            self._finished.set()
            self._finished = asyncio.Event()
            self._on_result()

    def net_info(self) -> NetInfo | None:
        """Return what the coordinator is told; None before anything is known.

        Latencies differ with every measuring: they alone are no reason to tell it again.
        """
        if self.report is None:
            return NetInfo(preferred_derp=self.home_region) if self.home_region else None
        info = net_info(self.report, self.home_region, _os_has_ipv6())
        if self._told is None or _without_latency(self._told) != _without_latency(info):
            self._told = info
        return self._told

    async def _await_turn(self) -> None:
        while not self._wanted.is_set():
            chance = int.from_bytes(self._entropy(2), "big") / 0xFFFF
            wait_s = ACTIVE_EVERY_S + ACTIVE_SPREAD_S * chance
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s if self._is_busy() else IDLE_CHECK_S):
                    await self._wanted.wait()
            if self._is_busy() or self._full_is_due():
                return

    def _full_is_due(self) -> bool:
        return self._full_at is None or self._clock.now() - self._full_at >= FULL_EVERY_S

    async def _measure_here(self, full: bool) -> bool:
        """Measure; False: the network changed meanwhile."""
        async with asyncio.TaskGroup() as tasks:
            self._under_way = measuring = tasks.create_task(self._measure(full))
        self._under_way = None
        return not measuring.cancelled()

    async def _measure(self, full: bool) -> None:
        await self._resolve()
        now = self._clock.now()
        addresses = {name: [ip_address(t) for t in texts] for name, texts in self.resolved.items()}
        targets = stun_targets(self._derp_map, addresses, ipv6=self._ports[1] != 0)
        self.stun_servers = tuple(t.endpoint for t in targets if t.endpoint.is_v4)[
            :STUN_SERVERS_MAX
        ]
        fastest = None if full else self._history.fastest(now)
        self._netcheck = Netcheck(targets, self._entropy, now, fastest, self.home_region)
        try:
            async with asyncio.TaskGroup() as tasks:
                first = tasks.create_task(self._take_first_home())
                report = await self._drive(self._netcheck)
                first.cancel()
        finally:
            self._netcheck = None
        if not report.udp:
            regions = self._relays()
            report = report.with_relay_latency(await handshake_times(regions, self._clock))
        if full:
            self._full_at = report.finished
        self.drops[Rejected.OUTVOTED.value] += len(report.liars)
        self.report = report
        self._history.add(report)
        self.home_region = self._choose_home(report)
        self._measured = await self._measured_endpoints(report)

    async def _take_first_home(self) -> None:
        """Where UDP is blocked, do not wait for the end of the measuring to have a relay at all."""
        if self.home_region:
            return
        await asyncio.sleep(FIRST_HOME_S)
        regions = self._home_regions()
        found = self._relays()
        times = await handshake_times({n: found[n] for n in regions}, self._clock)
        if times and not self.home_region:
            self.home_region = min(times, key=lambda number: (times[number], number))
            self._on_result()

    async def _drive(self, netcheck: Netcheck) -> Report:
        while True:
            while (transmit := netcheck.poll_transmit()) is not None:
                self._send(transmit.to, transmit.data)
            if (report := netcheck.poll_event()) is not None:
                return report
            due = netcheck.next_timeout()
            self._answered.clear()
            if due is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due[0] - self._clock.now())):
                        await self._answered.wait()
            netcheck.handle_timeout(self._clock.now())

    def _relays(self) -> dict[int, list[RelayNode]]:
        proxies = self._proxies(relay_hosts(self._derp_map))
        return compile_regions(self._derp_map, self.resolved, proxies)

    def _home_regions(self) -> set[int]:
        """Return the regions that may be home: with relays, and none that died a moment ago.

        Where all of them did, any may.
        """
        now = self._clock.now()
        listed = self._derp_map.regions or {}
        usable = {
            number
            for number, nodes in compile_regions(self._derp_map, self.resolved).items()
            if nodes and (region := listed[number]) is not None and not region.no_measure_no_home
        }
        self._avoided = {
            number: until
            for number, until in self._avoided.items()
            if until > now and number in listed and not self._relay_is_up(number)
        }
        return usable - self._avoided.keys() or usable

    def _choose_home(self, report: Report) -> int:
        regions = self._home_regions()
        heard = report.finished if self._relay_is_up(self.home_region) else None
        params = self._derp_map.home_params
        scores = params.region_score if params else None
        home = self.home_region if self.home_region in regions else 0
        chosen = preferred_region(report.only(regions), self._history, home, heard, scores)
        return chosen or home or fallback_region(sorted(regions), b"warren")

    async def _measured_endpoints(self, report: Report) -> tuple[OwnEndpoint, ...]:
        port4, port6 = self._ports
        found = [OwnEndpoint(e, TYPE_STUN) for e in (*report.mapped_v4[:1], *report.mapped_v6[:1])]
        if report.mapping_varies and report.global_v4 is not None and port4:
            found += [OwnEndpoint(e, TYPE_STUN) for e in report.mapped_v4[1:]]
            # A forwarded port is often the same outside as inside.
            found.append(OwnEndpoint(Endpoint(report.global_v4.ip, port4), TYPE_STUN_LOCAL_PORT))
        try:
            local = await asyncio.to_thread(self._addresses)
        except OSError as error:
            log.warning("local addresses cannot be read", reason=str(error))
            local = []
        found += [OwnEndpoint(e, TYPE_LOCAL) for e in local_endpoints(local, port4, port6)]
        return tuple(found)

    def _outside(self, found: Iterable[OwnEndpoint]) -> tuple[OwnEndpoint, ...]:
        """Each endpoint once, without those inside the network, and not too many."""
        unique: dict[Endpoint, OwnEndpoint] = {}
        for own in found:
            if own.endpoint.ip not in self._inside:
                unique.setdefault(own.endpoint, own)
        return tuple(unique.values())[:ENDPOINTS_MAX]

    async def _resolve(self) -> None:
        """Look up the names of relays; old answers stay where a look-up fails."""
        names = sorted({*host_names(self._derp_map), *relay_names(self._derp_map)})
        now = self._clock.now()
        if self._names_at is not None and now - self._names_at < NAMES_KEEP_S:
            return
        known = self.resolved.keys() >= set(names)
        limit_s = NAMES_AGAIN_TIMEOUT_S if known else NAMES_TIMEOUT_S
        found = await asyncio.gather(*(_addresses_of(name, limit_s) for name in names))
        self.resolved.update({name: ips for name, ips in zip(names, found, strict=True) if ips})
        for name in self.resolved.keys() - set(names):
            del self.resolved[name]
        self._names_at = now if all(found) else None


async def _addresses_of(name: str, limit_s: float) -> list[str]:
    """Ask the system's resolver for a name; none: it does not know, or not in time."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(limit_s):
            answers = await loop.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except (OSError, TimeoutError, UnicodeError):
        return []
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def local_endpoints(local: Iterable[LocalAddress], port4: int, port6: int) -> list[Endpoint]:
    """Return where this machine's own addresses may be reached by peers nearby.

    Loopback only counts where there is nothing else; link-local IPv6 has no place on the wire.
    """
    near: list[Endpoint] = []
    loopback: list[Endpoint] = []
    for address in local:
        ip = address.ip
        port = port4 if ip.version == 4 else port6
        if not port or address.is_tun or (ip.version == 6 and ip.is_link_local):
            continue
        (loopback if ip.is_loopback else near).append(Endpoint(ip, port))
    return near or loopback


def _os_has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _without_latency(info: NetInfo) -> NetInfo:
    return msgspec.structs.replace(info, derp_latency={})
