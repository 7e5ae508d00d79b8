"""The node as a whole: what the local API asks for, and what follows from each new map.

It holds the parts and passes news between them; what is decided is decided in `membership`,
`reconcile`, `measuring` and `warren.paths`.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple, Protocol

import msgspec
import structlog

from warren import __version__
from warren.edge.clock import Clock
from warren.edge.dial import RelayProxy
from warren.edge.entropy import Entropy
from warren.edge.linux.device import DeviceRoutes
from warren.edge.linux.gateways import Gateway, default_gateways
from warren.edge.linux.interfaces import local_addresses
from warren.engine.commands import Rebind
from warren.engine.events import Bound, Dialed, Fault, Handshake, PeerGone, RegionState
from warren.engine.protocol import Engine, Snapshot
from warren.keys import DiscoPrivate, NodePublic
from warren.netmap.endpoint import Endpoint
from warren.netmap.node import NetInfo, Node
from warren.netmap.view import EMPTY, View
from warren.netmap.wire import PingRequest as ControlPing
from warren.node import statuses
from warren.node.control_client import Refused
from warren.node.control_link import ControlLink, LinkLost, NotACoordinator
from warren.node.control_pings import answer_control_ping
from warren.node.dataplane import Dataplane
from warren.node.device import DeviceKeeper
from warren.node.dialing import Dialer
from warren.node.hostinfo import MalformedHostname, check_hostname, make_hostinfo
from warren.node.localapi import RequestFailed
from warren.node.measuring import AVOID_S, Measuring
from warren.node.membership import Facts, Membership
from warren.node.natreport import examine_network, netcheck_report
from warren.node.pinging import Pinger
from warren.node.portmapping import PortMapping, disabled_protocols
from warren.node.reconcile import NOTHING, Desired, Settings, desire, own_addresses, reconcile
from warren.node.regions import around_dead, relay_hosts
from warren.node.schema import (
    BackendState,
    Explanation,
    NetcheckReport,
    PingReply,
    PingRequest,
    Status,
    UpRequest,
    WhyRequest,
)
from warren.node.state import MalformedServerUrl, NodeState, Prefs, StateProblem
from warren.node.surroundings import Change
from warren.node.watching import watch_network, watch_sleep
from warren.node.why import explain
from warren.node.why_facts import gather
from warren.node.why_turn import turn_sentences

HOUSEKEEPING_S = 60.0
HOME_GRACE_S = 1.0
"""A home relay whose connection was cut is back by then; one that is not loses its place …"""
RESTART_GRACE_S = 5.0
"""… and one that said that it restarts is waited for so long."""
LOG_OUT_TIMEOUT_S = 30.0
NO_REGION = "This network has no relay: machines meet only where a direct path is found at once."

log = structlog.get_logger(__name__)


class Mode(NamedTuple):
    """How this node meets its machine. tun: None for userspace mode."""

    tun: str | None
    port: int
    """UDP port that was asked for; 0 takes any."""
    mtu_bytes: int


class Proxy(Protocol):
    """The userspace proxy, as far as status needs it."""

    @property
    def address(self) -> str | None:
        """Where it listens, or None."""
        ...


class NodeService:
    """Implements `warren.node.localapi.NodeActions`. Lives on one event loop.

    make_routes: gives the keeper of the TUN device's addresses; called in a thread.
    gateways: the routers that are asked for a port; called in a thread.
    """

    def __init__(
        self,
        state: NodeState,
        engine: Engine,
        mode: Mode,
        clock: Clock,
        entropy: Entropy,
        make_routes: Callable[[], DeviceRoutes] | None = None,
        gateways: Callable[[], list[Gateway]] = default_gateways,
    ) -> None:
        self._state = state
        self._engine = engine
        self._mode = mode
        self._clock = clock
        self._entropy = entropy
        self._relay_proxy = RelayProxy()
        if self._relay_proxy.problem:
            log.warning("proxy", message=self._relay_proxy.problem)
        disco = DiscoPrivate.from_entropy(entropy(32))
        self._disco_public = disco.public()
        proxy_of = self._relay_proxy.of_one
        self._dataplane = Dataplane(engine, clock, entropy, disco, proxy_of)
        self._measuring = Measuring(
            clock,
            entropy,
            send=self._dataplane.send_datagram,
            addresses=local_addresses,
            is_busy=self._dataplane.any_active,
            relay_is_up=lambda region: self._engine.snapshot().regions.get(region, False),
            on_result=self._on_measured,
        )
        self._ports = (0, 0)
        self._portmapping = PortMapping(
            clock,
            entropy,
            gateways=gateways,
            on_change=self._on_mapped,
            secret=state.log_id.encode(),
        )
        self._membership = Membership(
            state,
            clock,
            entropy,
            facts=self._facts,
            on_view=self._on_view,
            on_change=self._bump,
            on_ping=self._on_control_ping,
        )
        self._device = DeviceKeeper(make_routes, self._bump)
        self._pinger = Pinger(engine, self._dataplane, clock, entropy)
        self._faults: dict[str, str] = {}
        self._restarting: set[int] = set()
        self._dead: dict[int, float] = {}
        """Regions whose relay died lately, and until when that counts."""
        self._desired: Desired = NOTHING
        self._generation = 0
        self._seq = 1
        self._attempt = 0
        self._changed = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._member: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self._engine_fault = ""
        self._engine_stopped = asyncio.Event()
        self.dialer = Dialer(engine)
        self.proxy: Proxy | None = None

    async def run(self) -> None:
        """Run until cancelled; the device is cleared and the peers are dropped at the end."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._dataplane.run(self), name="dataplane")
                tasks.create_task(self._measuring.run(), name="measuring")
                tasks.create_task(self._portmapping.run(), name="portmapping")
                tasks.create_task(watch_network(self._on_network), name="netmon")
                tasks.create_task(watch_sleep(self._clock, self._on_network), name="sleep")
                tasks.create_task(self._keep_house(), name="housekeeping")
                tasks.create_task(self._watch_engine(), name="engine")
                tasks.create_task(self._device.run(), name="device")
                profile = self._state.profile
                if profile is not None and profile.prefs.want_running:
                    self._start_member(None, force_login=False)
        finally:
            await self._device.clear()

    # The local API.

    def status(self, peers: bool = True) -> Status:
        """Return what is known now."""
        view = self._membership.view
        snapshot = self._engine.snapshot()
        now = self._clock.now()
        profile = self._state.profile
        listed = statuses.peer_statuses(
            view, snapshot, self._dataplane.paths_of, now, self._dataplane.through
        )
        endpoints = [str(own.endpoint) for own in self._measuring.endpoints]
        return Status(
            version=__version__,
            state=self._phase(),
            seq=self._seq,
            attempt=self._attempt,
            error=self._membership.error,
            auth_url=self._membership.auth_url,
            server_url=profile.server_url if profile else "",
            connected=self._membership.connected,
            mode="tun" if self._mode.tun else "userspace",
            tun=snapshot.tun_name or self._mode.tun,
            port=snapshot.port4 or snapshot.port6,
            proxy=self.proxy.address if self.proxy else None,
            offloads=snapshot.offloads,
            domain=view.domain,
            self_node=statuses.self_status(view, self._measuring.home_region, endpoints),
            peers=listed if peers else [],
            regions=statuses.region_latencies(view, self._measuring.latency),
            health=self._health(view),
            drops=self._drops(snapshot),
            pid=os.getpid(),
            state_dir=str(self._state.directory),
        )

    async def watch(self, seq: int, wait_s: float) -> Status:
        """Return the status once its `seq` is beyond the given one, or after `wait_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self._seq <= seq:
                    await self._changed.wait()
        return self.status(peers=False)

    async def up(self, request: UpRequest) -> Status:
        """Join or change preferences. What comes of it is told by `watch`."""
        async with self._changing:
            try:
                await self._select_server(request.server_url)
                prefs = self._wished_prefs(request)
                self._state.set_prefs(prefs)
            except (MalformedServerUrl, MalformedHostname) as error:
                raise RequestFailed(400, str(error)) from error
            except StateProblem as error:
                raise RequestFailed(507, str(error)) from error
            running = self._member is not None and not self._member.done()
            fresh_login = request.force_login or bool(request.auth_key)
            if running and self._membership.phase == "running" and not request.force_login:
                self._refresh()
                self._membership.report()
            elif running and not fresh_login and self._membership.auth_url:
                pass  # The log-in under way goes on.
            else:
                await self._stop_member()
                self._start_member(request.auth_key, force_login=request.force_login)
            self._attempt += 1
            self._bump()
            return self.status(peers=False)

    async def down(self) -> Status:
        """Leave the network alone until the next `up`; the log-in stays."""
        async with self._changing:
            profile = self._state.profile
            if profile is not None:
                self._save_prefs(msgspec.structs.replace(profile.prefs, want_running=False))
            await self._stop_member()
            self._attempt += 1
            self._leave()
            return self.status(peers=False)

    async def log_out(self) -> Status:
        """Expire this node's key at the coordinator, forget it, and stop."""
        async with self._changing:
            profile = self._state.profile
            if profile is None:
                raise RequestFailed(409, "This machine is not logged in anywhere.")
            # Written first: where nothing can be written, the coordinator is not asked either.
            before = profile.prefs
            self._save_prefs(msgspec.structs.replace(before, want_running=False))
            await self._stop_member()
            try:
                async with asyncio.timeout(LOG_OUT_TIMEOUT_S):
                    await self._membership.log_out()
                self._state.forget_login()
            except TimeoutError:
                raise self._log_out_failed(before, "The coordinator did not answer.") from None
            except (LinkLost, Refused, NotACoordinator) as error:
                raise self._log_out_failed(before, str(error)) from error
            except StateProblem as error:
                raise RequestFailed(507, str(error)) from error
            self._attempt += 1
            self._leave()
            return self.status(peers=False)

    async def ping(self, request: PingRequest) -> PingReply:
        """Ping a peer once."""
        if self._membership.phase != "running" or self._membership.view.node is None:
            raise RequestFailed(409, "This machine is not up; `warren up` brings it back.")
        return await self._pinger.ping(self._membership.view, request)

    async def netcheck(self) -> NetcheckReport:
        """Measure the network now."""
        try:
            async with asyncio.timeout(15):
                await self._measuring.measure_now()
        except TimeoutError:
            raise RequestFailed(504, "The measuring did not end in time.") from None
        measured = self._measuring.report
        assert measured is not None
        view = self._membership.view
        nat = await examine_network(
            view.derp_map,
            self._measuring.resolved,
            measured.latency,
            self._clock,
            self._entropy,
            local_addresses,
        )
        return netcheck_report(
            view,
            measured,
            self._measuring.home_region,
            [str(own.endpoint) for own in self._measuring.endpoints],
            self._portmapping.routers,
            nat,
        )

    def why(self, request: WhyRequest) -> Explanation:
        """Explain the path to a peer, from what is known now."""
        view = self._membership.view
        node = self._find_peer(view, request.peer)
        stats = {peer.key: peer for peer in self._engine.snapshot().peers}
        return explain(
            gather(
                view,
                node,
                stats.get(node.key.raw),
                self._dataplane.paths_of(node.key),
                self._net_info(),
                self._measuring.endpoints,
                self._portmapping.outcomes,
                self._clock.now(),
                self._dataplane.punching_of(node.key),
                through=self._dataplane.through(node.key, self._clock.now()),
                turn=turn_sentences(self._dataplane.turns, node.key, self._clock.now()),
            )
        )

    def _find_peer(self, view: View, name: str) -> Node:
        if self._membership.phase != "running" or view.node is None:
            raise RequestFailed(409, "This machine is not up; `warren up` brings it back.")
        node = statuses.find_machine(view, name)
        if node is None:
            raise RequestFailed(404, f"There is no machine {name[:80]!r} in this network.")
        if node is view.node:
            raise RequestFailed(400, f"{name[:80]!r} is this machine itself.")
        return node

    def find_address(self, name: str) -> str | None:
        """Return the first address of a machine by name, for the proxy; None if unknown."""
        node = statuses.find_machine(self._membership.view, name)
        return next(iter(statuses.plain_addresses(node)), None) if node else None

    # What the dataplane tells.

    def on_stun(self, data: bytes, src: Endpoint, now: float) -> None:
        """A STUN datagram came in."""
        self._measuring.receive(data, src, now)

    def on_endpoints_wanted(self) -> None:
        """A peer is to be called: measure own endpoints."""
        self._measuring.want()

    def on_engine_event(
        self, event: Bound | RegionState | Dialed | Fault | PeerGone | Handshake
    ) -> None:
        """Something happened in the engine."""
        if isinstance(event, Bound):
            self._measuring.set_ports(event.port4, event.port6)
            self._ports = (event.port4, event.port6)
            if self._membership.view.node is not None:
                self._portmapping.set_ports(*self._ports)
        elif isinstance(event, RegionState):
            log.info("relay", region=event.region, connected=event.connected, error=event.error)
            self._set_fault(f"region-{event.region}", event.error or event.health)
            if event.connected:
                self._dataplane.relay_connected(event.region)
                if self._dead.pop(event.region, None) is not None:
                    self._refresh()
                # It says something while it serves: it will not for long.
                (self._restarting.add if event.health else self._restarting.discard)(event.region)
            elif event.error and event.region == self._measuring.home_region:
                grace_s = RESTART_GRACE_S if event.region in self._restarting else HOME_GRACE_S
                loop = asyncio.get_running_loop()
                loop.call_later(grace_s, self._look_for_a_home, event.region)
            elif event.error and self._engine.snapshot().regions.get(self._measuring.home_region):
                # Our own home answers, so it is not this machine's network.
                self._note_dead(event.region)
        elif isinstance(event, Fault):
            log.error("engine", message=event.message, fatal=event.fatal)
            self._set_fault("engine", event.message)
            if event.fatal:
                self._engine_fault = event.message
                self._engine_stopped.set()
        elif isinstance(event, Dialed):
            self.dialer.finish(event)

    def _look_for_a_home(self, region: int) -> None:
        """If the home relay is still away, go to another region at once, then measure anew."""
        away = not self._engine.snapshot().regions.get(region, False)
        if away and region == self._measuring.home_region:
            if self._measuring.leave_home():
                self._note_dead(region)
                log.info("home moves", away_from=region, to=self._measuring.home_region)
                self._on_measured()
            self._measuring.want(full=True)

    def _note_dead(self, region: int) -> None:
        """Reach peers that are at home there through our own home, for a while."""
        known, self._dead[region] = region in self._dead, self._clock.now() + AVOID_S
        if not known:
            self._refresh()

    # What the membership tells.

    def _on_view(self, view: View) -> None:
        self._refresh()

    def _facts(self) -> Facts:
        profile = self._state.profile
        own = self._measuring.endpoints
        return Facts(
            disco_key=self._disco_public,
            hostinfo=make_hostinfo(
                profile.prefs if profile else Prefs(),
                self._state.log_id,
                self._net_info(),
                userspace=self._mode.tun is None,
            ),
            endpoints=tuple(str(item.endpoint) for item in own),
            endpoint_types=tuple(item.kind for item in own),
        )

    async def _on_control_ping(self, link: ControlLink, request: ControlPing) -> None:
        await answer_control_ping(link, request, self)

    def _net_info(self) -> NetInfo | None:
        measured = self._measuring.net_info()
        return self._portmapping.add_to(measured) if measured else None

    def _on_mapped(self) -> None:
        self._measuring.set_mapped(self._portmapping.endpoints)
        self._on_measured()

    def _on_measured(self) -> None:
        if self._measuring.report is not None:
            self._dataplane.set_nat(self._measuring.report, self._measuring.stun_servers)
        self._dataplane.set_own_endpoints(tuple(own.endpoint for own in self._measuring.endpoints))
        if self._membership.view.node is not None:
            self._refresh()
        self._membership.report()

    # What follows.

    def _refresh(self) -> None:
        """Make engine, machines, measuring and device follow the present map and settings."""
        view = self._membership.view
        profile = self._state.profile
        if view.node is None or profile is None:
            return
        key = self._state.node_key()
        if view.node.key != key.public():
            # A new key waits to be accepted; the map is still the old one's.
            return
        now = self._clock.now()
        self._dead = {region: until for region, until in self._dead.items() if until > now}
        view = around_dead(view, self._dead, self._measuring.home_region)
        assert view.node is not None
        inside = [ip_address(a) for a in statuses.plain_addresses(view.node)]
        inside += [
            ip_address(a) for peer in view.peers.values() for a in statuses.plain_addresses(peer)
        ]
        self._measuring.set_map(view.derp_map, inside)
        self._portmapping.set_disabled(disabled_protocols(view.node.cap_map))
        self._portmapping.set_ports(*self._ports)
        settings = Settings(
            private_key=key.reveal(),
            home_region=self._measuring.home_region,
            accept_routes=profile.prefs.accept_routes,
            shields_up=profile.prefs.shields_up,
            resolved=self._measuring.resolved,
            proxies=self._relay_proxy.of(relay_hosts(view.derp_map)),
        )
        self._become(desire(view, settings, self._membership.wall()))
        self._dataplane.set_view(view, key.public())
        self._dataplane.relays.serve(profile.prefs.relay_server)
        routes = [p for peer in self._desired.peers.values() for p in peer.allowed_ips]
        self._device.want(own_addresses(view.node), routes)
        self._bump()

    def _become(self, desired: Desired) -> None:
        commands = reconcile(self._desired, desired)
        for region in self._desired.regions.keys() - desired.regions.keys():
            self._faults.pop(f"region-{region}", None)
        self._desired = desired
        if commands:
            self._generation += 1
            self._engine.apply(commands, self._generation)

    def _leave(self) -> None:
        """Drop all peers and routes."""
        self._membership.stop()
        self._portmapping.set_ports(0, 0)
        self._become(NOTHING)
        self._dataplane.set_view(EMPTY, NodePublic.zero())
        self._dataplane.relays.serve(False)
        self._device.want([], [])
        self._bump()

    def _on_network(self, change: Change) -> None:
        """The machine's network is another one, or has more ways."""
        if change is Change.OTHER:
            self._begin_anew()
        self._dead.clear()
        self._measuring.network_changed()

    def _begin_anew(self) -> None:
        """Trust no path and no connection of before."""
        self._engine.apply([Rebind(port=self._mode.port)])
        self._membership.network_changed()
        self._dataplane.network_changed()
        self._portmapping.network_changed()

    async def _keep_house(self) -> None:
        """Keys of peers expire without a word from the coordinator."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            if self._membership.view.node is not None:
                self._refresh()

    async def _watch_engine(self) -> None:
        """Without an engine the node is nothing: end with what it said."""
        await self._engine_stopped.wait()
        raise EngineStopped(self._engine_fault)

    def _start_member(self, auth_key: str | None, *, force_login: bool) -> None:
        assert self._tasks is not None, "the service runs before it is asked"
        self._membership.start()
        self._member = self._tasks.create_task(
            self._membership.run(auth_key, force_login), name="membership"
        )

    async def _stop_member(self) -> None:
        if self._member is not None:
            self._member.cancel()
            await asyncio.wait([self._member])
            self._member = None

    def _log_out_failed(self, before: Prefs, reason: str) -> RequestFailed:
        """Go on as before a log-out that did not happen."""
        with suppress(StateProblem):
            self._state.set_prefs(before)
        if before.want_running:
            self._start_member(None, force_login=False)
        return RequestFailed(502, f"{reason} This machine stays logged in.")

    async def _select_server(self, url: str | None) -> None:
        profile = self._state.profile
        if url is None and profile is None:
            raise RequestFailed(400, "Tell which coordinator to join: warren up --server URL.")
        if url is None:
            return
        before = profile.server_url if profile else None
        selected = self._state.select(url)
        if before is not None and selected.server_url != before:
            await self._stop_member()
            self._leave()

    def _wished_prefs(self, request: UpRequest) -> Prefs:
        profile = self._state.profile
        assert profile is not None
        prefs = profile.prefs
        wished: dict[str, object] = {"want_running": True}
        if request.hostname is not None:
            wished["hostname"] = check_hostname(request.hostname)
        if request.ephemeral:
            wished["ephemeral"] = True
        for name in ("shields_up", "accept_routes", "advertise_tags", "relay_server"):
            if (value := getattr(request, name)) is not None:
                wished[name] = value
        return msgspec.structs.replace(prefs, **wished)

    def _save_prefs(self, prefs: Prefs) -> None:
        try:
            self._state.set_prefs(prefs)
        except StateProblem as error:
            raise RequestFailed(507, str(error)) from error

    def _phase(self) -> BackendState:
        """The membership's phase; a device that has no address yet is not `running`."""
        phase = self._membership.phase
        return "starting" if phase == "running" and not self._device.ready else phase

    def _health(self, view: View) -> list[str]:
        own = (self._desired.filter_fault, self._membership.clock_warning, self._device.problem)
        told = [*view.health]
        told += [m.title or m.text for _, m in sorted(view.display_messages.items())]
        if view.node is not None and not any((view.derp_map.regions or {}).values()):
            told.append(NO_REGION)
        return [text for text in (*own, *self._faults.values(), *told) if text]

    def _set_fault(self, name: str, text: str) -> None:
        if self._faults.get(name, "") != text:
            self._faults[name] = text
            self._bump()

    def _drops(self, snapshot: Snapshot) -> dict[str, int]:
        total: Counter[str] = Counter(snapshot.drops)
        total.update(self._dataplane.all_drops())
        total.update(self._dataplane.relays.drops)
        total.update(self._dataplane.turns.all_drops())
        total.update(self._portmapping.drops)
        total.update(self._measuring.drops)
        return {reason: count for reason, count in sorted(total.items()) if count}

    def _bump(self) -> None:
        self._seq += 1
        self._changed.set()
        self._changed = asyncio.Event()


class EngineStopped(Exception):
    """The packet engine gave up. The text is its sentence."""
