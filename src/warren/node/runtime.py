"""The running node: its parts, and what follows from each map, each measuring and each event.

It passes news between the parts; what is decided is decided in `membership`, `reconcile`,
`measuring`, `relay_health` and `warren.paths`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple

import structlog

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
from warren.netmap.node import NetInfo
from warren.netmap.view import EMPTY, View
from warren.netmap.wire import PingRequest as ControlPing
from warren.node import statuses
from warren.node.control_link import ControlLink
from warren.node.control_pings import Answerer, answer_control_ping
from warren.node.dataplane import Dataplane
from warren.node.device import DeviceKeeper
from warren.node.dialing import Dialer
from warren.node.hostinfo import make_hostinfo
from warren.node.measuring import Measuring
from warren.node.membership import Facts, Membership
from warren.node.portmapping import PortMapping, disabled_protocols
from warren.node.reconcile import NOTHING, Desired, Settings, desire, own_addresses, reconcile
from warren.node.regions import around_dead, relay_hosts
from warren.node.relay_health import RelayHealth
from warren.node.schema import BackendState
from warren.node.state import NodeState, Prefs
from warren.node.surroundings import Change
from warren.node.watching import watch_network, watch_sleep

HOUSEKEEPING_S = 60.0
NO_REGION = "This network has no relay: machines meet only where a direct path is found at once."

log = structlog.get_logger(__name__)


class Mode(NamedTuple):
    """How this node meets its machine. tun: None for userspace mode."""

    tun: str | None
    port: int
    """UDP port that was asked for; 0 takes any."""


class EngineStopped(Exception):
    """The packet engine gave up. The text is its sentence."""


class Runtime:
    """Holds the parts and lets them run. Lives on one event loop.

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
        self.state = state
        self.engine = engine
        self.mode = mode
        self.clock = clock
        self.entropy = entropy
        self._relay_proxy = RelayProxy()
        if self._relay_proxy.problem:
            log.warning("proxy", message=self._relay_proxy.problem)
        disco = DiscoPrivate.from_entropy(entropy(32))
        self.disco_key = disco.public()
        self.dataplane = Dataplane(engine, clock, entropy, disco, self._relay_proxy.of_one)
        self.measuring = Measuring(
            clock,
            entropy,
            send=self.dataplane.send_datagram,
            addresses=local_addresses,
            is_busy=self.dataplane.any_active,
            relay_is_up=self._relay_is_up,
            on_result=self._on_measured,
            proxies=self._relay_proxy.of,
        )
        self.portmapping = PortMapping(
            clock,
            entropy,
            gateways=gateways,
            on_change=self._on_mapped,
            secret=state.log_id.encode(),
        )
        self.membership = Membership(
            state,
            clock,
            entropy,
            facts=self._facts,
            on_view=self._on_view,
            on_change=self.bump,
            on_ping=self._on_control_ping,
        )
        self.dialer = Dialer(engine)
        self.device = DeviceKeeper(make_routes, self.bump)
        self.seq = 1
        """Counts what a person could see change."""
        self._changed = asyncio.Event()
        self._relays = RelayHealth(clock)
        self._ports = (0, 0)
        self._faults: dict[str, str] = {}
        self._desired: Desired = NOTHING
        self._generation = 0
        self._answerer: Answerer | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._member: asyncio.Task[None] | None = None
        self._engine_fault = ""
        self._engine_stopped = asyncio.Event()

    async def run(self, answerer: Answerer) -> None:
        """Run until cancelled; the device is cleared and the peers are dropped at the end.

        answerer: answers what the coordinator asks this node.
        """
        self._answerer = answerer
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self.dataplane.run(self), name="dataplane")
                tasks.create_task(self.measuring.run(), name="measuring")
                tasks.create_task(self.portmapping.run(), name="portmapping")
                tasks.create_task(watch_network(self._on_network), name="netmon")
                tasks.create_task(watch_sleep(self.clock, self._on_network), name="sleep")
                tasks.create_task(self._keep_house(), name="housekeeping")
                tasks.create_task(self._watch_engine(), name="engine")
                tasks.create_task(self.device.run(), name="device")
                profile = self.state.profile
                if profile is not None and profile.prefs.want_running:
                    self.start_member(None, force_login=False)
        finally:
            await self.device.clear()

    # Being a member of a network, or not.

    @property
    def is_member(self) -> bool:
        """Whether it is a member, or on the way to be one."""
        return self._member is not None and not self._member.done()

    def start_member(self, auth_key: str | None, *, force_login: bool) -> None:
        """Begin to be a member."""
        assert self._tasks is not None, "the service runs before it is asked"
        self.membership.start()
        self._member = self._tasks.create_task(
            self.membership.run(auth_key, force_login), name="membership"
        )

    async def stop_member(self) -> None:
        """Let the connection to the coordinator go; peers and paths stay (`leave`)."""
        if self._member is not None:
            self._member.cancel()
            await asyncio.wait([self._member])
            self._member = None

    def leave(self) -> None:
        """Drop all peers and routes."""
        self.membership.stop()
        self.portmapping.set_ports(0, 0)
        self._become(NOTHING)
        self.dataplane.set_view(EMPTY, NodePublic.zero())
        self.dataplane.relays.serve(False)
        self.device.want([], {})
        self.bump()

    # What a person is told.

    async def changed_since(self, seq: int) -> None:
        """Wait until `seq` is beyond this one."""
        while self.seq <= seq:
            await self._changed.wait()

    def phase(self) -> BackendState:
        """The membership's phase; a device that has no address yet is not `running`."""
        phase = self.membership.phase
        return "starting" if phase == "running" and not self.device.ready else phase

    def health(self) -> list[str]:
        """What is wrong, a sentence each."""
        view = self.membership.view
        own = (self._desired.filter_fault, self.membership.clock_warning, self.device.problem)
        told = [*view.health]
        told += [m.title or m.text for _, m in sorted(view.display_messages.items())]
        if view.node is not None and not any((view.derp_map.regions or {}).values()):
            told.append(NO_REGION)
        return [text for text in (*own, *self._faults.values(), *told) if text]

    def drops(self, snapshot: Snapshot) -> dict[str, int]:
        """What was dropped here and in the engine, by reason."""
        total: Counter[str] = Counter(snapshot.drops)
        total.update(self.dataplane.all_drops())
        total.update(self.dataplane.relays.drops)
        total.update(self.dataplane.turns.all_drops())
        total.update(self.portmapping.drops)
        total.update(self.measuring.drops)
        return {reason: count for reason, count in sorted(total.items()) if count}

    def _set_fault(self, name: str, text: str) -> None:
        if self._faults.get(name, "") != text:
            self._faults[name] = text
            self.bump()

    def bump(self) -> None:
        """Wake who waits for a change of what a person sees."""
        self.seq += 1
        self._changed.set()
        self._changed = asyncio.Event()

    # What the dataplane tells.

    def on_stun(self, data: bytes, src: Endpoint, now: float) -> None:
        """A STUN datagram came in."""
        self.measuring.receive(data, src, now)

    def on_endpoints_wanted(self) -> None:
        """A peer is to be called: measure own endpoints."""
        self.measuring.want()

    def on_mtu(self) -> None:
        """A peer may be sent larger or smaller packets than before."""
        self._want_device()
        self.bump()

    def on_engine_event(
        self, event: Bound | RegionState | Dialed | Fault | PeerGone | Handshake
    ) -> None:
        """Something happened in the engine."""
        if isinstance(event, Bound):
            self.measuring.set_ports(event.port4, event.port6)
            self._ports = (event.port4, event.port6)
            if self.membership.view.node is not None:
                self.portmapping.set_ports(*self._ports)
        elif isinstance(event, RegionState):
            log.info("relay", region=event.region, connected=event.connected, error=event.error)
            self._set_fault(f"region-{event.region}", event.error or event.health)
            if event.connected:
                self.dataplane.relay_connected(event.region)
                if self._relays.note_connected(event.region, event.health):
                    self.refresh()
            elif event.error and event.region == self.measuring.home_region:
                grace_s = self._relays.grace_s(event.region)
                loop = asyncio.get_running_loop()
                loop.call_later(grace_s, self._look_for_a_home, event.region)
            elif event.error and self._relay_is_up(self.measuring.home_region):
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
        if region == self.measuring.home_region and not self._relay_is_up(region):
            if self.measuring.leave_home():
                self._note_dead(region)
                log.info("home moves", away_from=region, to=self.measuring.home_region)
                self._on_measured()
            self.measuring.want(full=True)

    def _note_dead(self, region: int) -> None:
        """Reach peers that are at home there through our own home, for a while."""
        if self._relays.note_dead(region):
            self.refresh()

    def _relay_is_up(self, region: int) -> bool:
        return self.engine.snapshot().regions.get(region, False)

    # What the membership and the measuring tell.

    def _on_view(self, view: View) -> None:
        self.refresh()

    def _facts(self) -> Facts:
        profile = self.state.profile
        own = self.measuring.endpoints
        return Facts(
            disco_key=self.disco_key,
            hostinfo=make_hostinfo(
                profile.prefs if profile else Prefs(),
                self.state.log_id,
                self.net_info(),
                userspace=self.mode.tun is None,
            ),
            endpoints=tuple(str(item.endpoint) for item in own),
            endpoint_types=tuple(item.kind for item in own),
        )

    async def _on_control_ping(self, link: ControlLink, request: ControlPing) -> None:
        assert self._answerer is not None, "it runs"
        await answer_control_ping(link, request, self._answerer)

    def net_info(self) -> NetInfo | None:
        """What is known of this machine's network, as the coordinator hears it."""
        measured = self.measuring.net_info()
        return self.portmapping.add_to(measured) if measured else None

    def _on_mapped(self) -> None:
        self.measuring.set_mapped(self.portmapping.endpoints)
        self._on_measured()

    def _on_measured(self) -> None:
        if self.measuring.report is not None:
            measured, servers = self.measuring.report, self.measuring.stun_servers
            self.dataplane.set_nat(measured, servers, self._ports[0])
        self.dataplane.set_own_endpoints(tuple(own.endpoint for own in self.measuring.endpoints))
        if self.membership.view.node is not None:
            self.refresh()
        self.membership.report()

    # What follows.

    def refresh(self) -> None:
        """Make engine, machines, measuring and device follow the present map and settings."""
        view = self.membership.view
        profile = self.state.profile
        if view.node is None or profile is None:
            return
        key = self.state.node_key()
        if view.node.key != key.public():
            # A new key waits to be accepted; the map is still the old one's.
            return
        view = around_dead(view, self._relays.dead, self.measuring.home_region)
        assert view.node is not None
        inside = [ip_address(a) for a in statuses.plain_addresses(view.node)]
        inside += [
            ip_address(a) for peer in view.peers.values() for a in statuses.plain_addresses(peer)
        ]
        self.measuring.set_map(view.derp_map, inside)
        self.portmapping.set_disabled(disabled_protocols(view.node.cap_map))
        self.portmapping.set_ports(*self._ports)
        settings = Settings(
            private_key=key.reveal(),
            home_region=self.measuring.home_region,
            accept_routes=profile.prefs.accept_routes,
            shields_up=profile.prefs.shields_up,
            resolved=self.measuring.resolved,
            proxies=self._relay_proxy.of(relay_hosts(view.derp_map)),
        )
        self._become(desire(view, settings, self.membership.wall()))
        self.dataplane.set_view(view, key.public())
        self.dataplane.relays.serve(profile.prefs.relay_server)
        self._want_device()
        self.bump()

    def _want_device(self) -> None:
        node = self.membership.view.node
        if node is not None:
            routes = {
                prefix: self.dataplane.mtu_of(NodePublic(key))
                for key, peer in self._desired.peers.items()
                for prefix in peer.allowed_ips
            }
            self.device.want(own_addresses(node), routes)

    def _become(self, desired: Desired) -> None:
        commands = reconcile(self._desired, desired)
        for region in self._desired.regions.keys() - desired.regions.keys():
            self._faults.pop(f"region-{region}", None)
        self._desired = desired
        if commands:
            self._generation += 1
            self.engine.apply(commands, self._generation)

    def _on_network(self, change: Change) -> None:
        """The machine's network is another one, or has more ways."""
        if change is Change.OTHER:
            self._begin_anew()
        self._relays.forget_dead()
        self.measuring.network_changed()

    def _begin_anew(self) -> None:
        """Trust no path and no connection of before."""
        self.engine.apply([Rebind(port=self.mode.port)])
        self.membership.network_changed()
        self.dataplane.network_changed()
        self.portmapping.network_changed()

    async def _keep_house(self) -> None:
        """Keys of peers expire without a word from the coordinator."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            if self.membership.view.node is not None:
                self.refresh()

    async def _watch_engine(self) -> None:
        """Without an engine the node is nothing: end with what it said."""
        await self._engine_stopped.wait()
        raise EngineStopped(self._engine_fault)
