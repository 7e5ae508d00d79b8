"""`warren server`: builds coordinator and relay, wires them, and runs until it is told to stop."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import signal
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlsplit

import structlog
import uvloop
from msgspec.structs import replace
from starlette.applications import Starlette

from warren import __version__
from warren.coordinator import health
from warren.coordinator.admin import shapes
from warren.coordinator.admin.api import application
from warren.coordinator.admin.local import administrator
from warren.coordinator.admin.office import Office
from warren.coordinator.admission import verify_route
from warren.coordinator.api.application import Api
from warren.coordinator.api.operation import Context
from warren.coordinator.auth.credentials import Gate
from warren.coordinator.auth.flow import Registration
from warren.coordinator.change import Change, Facet
from warren.coordinator.client import SOCKET_NAME
from warren.coordinator.config import (
    Config,
    derp_map_places,
    external_turn,
    identity_providers,
    networks,
    parse_address,
    public_url,
    relay_address,
    stun_groups,
    turn_places,
    turn_secret,
)
from warren.coordinator.delta import Delta
from warren.coordinator.durations import parse_duration
from warren.coordinator.enforcement import Enforcement
from warren.coordinator.exchange import exchanges
from warren.coordinator.frontdoor import answers, ts2021_taker
from warren.coordinator.identity import Identity, load_identity
from warren.coordinator.login.first import FirstStart, first_start, unclaimed
from warren.coordinator.login.opening import check_providers, open_providers
from warren.coordinator.login.passwords import Passwords
from warren.coordinator.login.sessions import Sessions
from warren.coordinator.login.site import Site as LoginSite
from warren.coordinator.machine_api import MachineApi
from warren.coordinator.mapper import Mapper
from warren.coordinator.metrics import Meter, Present, Sources
from warren.coordinator.presence import Presence
from warren.coordinator.questions import Questions
from warren.coordinator.region_keeper import RegionKeeper
from warren.coordinator.region_sources import RegionSources
from warren.coordinator.regions import Regions, combine, own_region, with_policy
from warren.coordinator.registry import Registry
from warren.coordinator.session import Maps
from warren.coordinator.settings import Settings
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.ssh_checks import SshChecks
from warren.coordinator.store import AuditQuestion, Store, StoreProblem
from warren.coordinator.turn_grants import TurnGrants
from warren.coordinator.web import LocalProtocol, http_protocol, site
from warren.coordinator.webhooks.sender import Sender
from warren.edge.aside import run_aside
from warren.edge.certificates import Certificates
from warren.edge.clock import Clock, SystemClock
from warren.edge.collector import look_daily, look_once
from warren.edge.entropy import Entropy, system_entropy
from warren.edge.files import only_program, private_directory
from warren.edge.http import Door, Lobby, Routes
from warren.edge.linux.interfaces import local_networks
from warren.edge.listen import BACKLOG, listen_tcp, listen_unix, raise_file_limit
from warren.edge.splice import serve_behind
from warren.engine.relay import NativeRelay, RelayConfig
from warren.keys import NodePrivate, NodePublic
from warren.nat.places import abilities
from warren.nat.turn.allocation import Transport
from warren.nat.turn.grants import TurnPlace
from warren.nat.turn.reach import Reach
from warren.netmap.derpmap import PIN_PREFIX
from warren.relay import serve as relay
from warren.relay.hub import Admits, Hub, Receive, RelayFailed
from warren.relay.stun_server import ANSWERED, DROPPED, open_stun
from warren.relay.turn_doors import TurnSite, open_turn

_log = structlog.get_logger("server")

DATABASE_NAME = "warren.db"
_REGIONS_NAME = "regions"
# Clients of the relay are told to come back spread over this time, and to try for the other.
_RECONNECT_MS, _TRY_FOR_MS = 500, 30_000
_STOP_S = 1.0
_KICK_DELAY_S = 1.0
_NO_REGION = "there is no relay, so machines meet only where a direct path is found at once"
_ACCESS_PURPOSE = b"warren api access tokens 1"
_SESSION_PURPOSE = b"warren browser sessions 1"


class Ready(NamedTuple):
    """What a person is told once the server listens; `first` only at the first start."""

    url: str
    ports: str
    first: FirstStart | None
    warnings: tuple[str, ...]


def run(config: Config, state: Path, ready: Callable[[Ready], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises AlreadyRunning, FileProblem, StoreProblem, CertificateProblem, PortProblem,
    RegionProblem, each with a sentence for a person, before anything is served, and RelayFailed.
    """
    with only_program("server", state, "server.lock"):
        raise_file_limit()
        store = Store.open(_database(config, state))
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                server = Server(config, state, store, SystemClock(), system_entropy)
                look_once()
                runner.run(server.run(ready))
        finally:
            store.close()


def check(config: Config, state: Path) -> None:
    """Look whether a server could start: state, database, keys, certificate, regions, providers.

    Nothing is written where there is nothing yet. Raises as `run` does, and ProviderProblem.
    """
    if config.database or (state / DATABASE_NAME).exists():
        Store.look(_database(config, state))
    check_providers(identity_providers(config), public_url(config))
    if not state.exists():
        with TemporaryDirectory() as scratch:
            _check_keys(config, Path(scratch))
    else:
        _check_keys(config, state)
    sources = RegionSources(derp_map_places(config), state / _REGIONS_NAME)
    asyncio.run(sources.check())
    combine(own_region(config, ""), sources.maps())


def _check_keys(config: Config, state: Path) -> None:
    private_directory(state)
    identity = load_identity(state, system_entropy)
    if config.tls in ("self-signed", "files"):
        host = urlsplit(public_url(config)).hostname or ""
        relay_key = identity.relay.public()
        hub = _hub(config, identity.relay, lambda key: False)
        Certificates(config, state, host, relay_key, hub, SystemClock(), system_entropy).load()
        hub.close()


def _database(config: Config, state: Path) -> str:
    return config.database or f"sqlite:///{state / DATABASE_NAME}"


class Server:
    """All parts of one server, wired."""

    def __init__(
        self, config: Config, state: Path, store: Store, clock: Clock, entropy: Entropy
    ) -> None:
        self._config = config
        self._state = state
        self._clock = clock
        self._entropy = entropy
        self._settings = _settings(config)
        self._identity: Identity = load_identity(state, entropy)
        place = relay_address(config)
        host = place[0] if place else urlsplit(self._settings.url).hostname or ""
        self._hub = _hub(config, self._identity.relay, self._admits, self._receive)
        relay_key = self._identity.relay.public()
        self._certificates = Certificates(config, state, host, relay_key, self._hub, clock, entropy)
        if config.tls != "off":
            self._certificates.load()
        self._meter = Meter()
        store.measure(self._meter.written)
        self._registry = Registry(store, store.load(), clock)
        self._registry.watch(self._meter.changed)
        others = external_turn(config)
        self._grants = TurnGrants(
            self._identity.relay,
            _turn_ways(config, host, self._certificates.pin),
            (turn_secret(config), others) if others else (b"", ()),
        )
        self._regions = RegionKeeper(
            own_region(config, self._certificates.pin),
            RegionSources(derp_map_places(config), state / _REGIONS_NAME),
            self._regions_changed,
        )
        self._mapper = Mapper(
            self._settings, self._regions.regions.derp_map, self._grants.capability
        )
        self._policy = Enforcement(self._registry.snapshot, clock.wall())
        self._maps = Maps(self._registry, self._mapper, self._policy, clock, entropy, self._meter)
        self._presence = Presence(self._registry, self._maps, self._settings, clock)
        self._registration = Registration(self._registry, self._settings, clock, entropy)
        self._questions = Questions(self._maps, self._settings.url, entropy)
        self._checks = SshChecks(
            lambda: self._registry.snapshot,
            self._policy.ssh_check_s,
            self._settings.url,
            clock,
            entropy,
        )
        self._machine_api = MachineApi(
            self._registry,
            self._registration,
            self._maps,
            self._presence,
            self._settings,
            clock,
            self._questions,
            self._checks,
        )
        self._reach = Reach()
        self._sender: Sender | None = None
        self._lobby = Lobby()
        self._make_door: Callable[[], asyncio.Protocol] | None = None
        self._stopping = asyncio.Event()
        # Our own name's, once they are known.
        self._addresses: dict[str, list[str]] = {}
        self._servers: list[asyncio.Server] = []
        self._datagrams: list[asyncio.DatagramTransport] = []
        self._stun: Counter[str] = Counter({ANSWERED: 0, DROPPED: 0})
        self._turn: TurnSite | None = None
        self._kick_due: asyncio.TimerHandle | None = None
        self._registry.listen(self._membership_changed)

    async def run(self, ready: Callable[[Ready], None]) -> None:
        """Listen, tell that we do, and serve until told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._regions.look)
        try:
            await self._listen()
            first = await self._first_user()
            warnings = self._warnings() if first else (*self._unclaimed(), *self._warnings())
            ready(Ready(self._settings.url, self._ports(), first, warnings))
            assert self._sender is not None
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._hub.run()),
                    tasks.create_task(self._presence.run()),
                    tasks.create_task(self._learn_addresses()),
                    tasks.create_task(self._regions.run()),
                    tasks.create_task(self._sender.run()),
                    tasks.create_task(look_daily()),
                ]
                if self._config.tls != "off":
                    running.append(tasks.create_task(self._certificates.keep()))
                if self._turn is not None:
                    running.append(tasks.create_task(self._turn.doors.run()))
                if self._grants.changes_in_s(self._clock.wall()) is not None:
                    running.append(tasks.create_task(self._renew_grants()))
                await self._stopping.wait()
                _log.info("stopping")
                for task in running:
                    task.cancel()
        except ExceptionGroup as failed:
            told = failed.subgroup(RelayFailed)
            raise (told.exceptions[0] if told else failed) from None
        finally:
            await self._stop()

    async def _listen(self) -> None:
        config, loop = self._config, asyncio.get_running_loop()
        own = await asyncio.to_thread(local_networks)
        self._reach = Reach(own, networks("webhook-allow", config.webhook_allow))
        self._sender = Sender(self._registry, self._settings, self._reach, self._clock)
        api = self._api()
        make_door = self._make_door = partial(Door, self._routes(api), self._lobby)
        if config.tls != "off":
            for sock in listen_tcp(*parse_address("listen", config.listen), "--listen"):
                self._hub.listen(sock)
        if config.http:
            for sock in listen_tcp(*parse_address("http", config.http), "--http"):
                self._servers.append(
                    await loop.create_server(make_door, sock=sock, backlog=BACKLOG)
                )
        if config.relay:
            self._datagrams += await open_stun(config.stun, self._clock.now, self._stun)
        self._turn = self._listen_turn(own)
        await self._listen_admin(api)
        await self._listen_metrics()

    def _listen_turn(self, own: Sequence[IPv4Network | IPv6Network]) -> TurnSite | None:
        places = turn_places(self._config)
        if not places:
            return None
        reach = Reach(own, networks("turn-allow", self._config.turn_allow))
        accounts = self._grants.accounts(lambda: self._registry.snapshot, self._clock.wall)
        context = self._certificates.context if self._config.tls != "off" else None
        return open_turn(places, self._settings.domain, accounts, reach, context, self._entropy)

    async def _renew_grants(self) -> None:
        """Tell machines when their credentials for TURN become others."""
        changed = Delta(change=Change(everything=True, why=frozenset({"turn credentials"})))
        while (due_s := self._grants.changes_in_s(self._clock.wall())) is not None:
            await asyncio.sleep(due_s + 1)
            await self._registry.observe(lambda _: changed)

    async def _regions_changed(self, regions: Regions) -> None:
        """Tell machines of other relay regions."""
        self._mapper.derp_map = regions.derp_map
        changed = Delta(change=Change(everything=True, why=frozenset({"relay regions"})))
        await self._registry.observe(lambda _: changed)

    def _region_names(self) -> dict[int, str]:
        regions = self._mapper.derp_map.regions or {}
        return {number: one.region_name for number, one in regions.items() if one is not None}

    def _relay_regions(self) -> shapes.RelayRegions:
        in_force = self._policy.derp_map(self._mapper.derp_map)
        homes = Counter(node.home_derp for node in self._registry.snapshot.nodes.values())
        regions = in_force.regions or {}
        return shapes.RelayRegions(
            derp_map=in_force,
            sources=dict(with_policy(self._regions.regions, in_force).sources),
            homes={number: homes[number] for number in regions if homes[number]},
            problems=self._regions.problems() + ([] if regions else [_NO_REGION]),
        )

    async def _listen_admin(self, api: Api) -> None:
        office = Office(
            self._registry,
            self._registration,
            self._settings,
            self._clock,
            self._entropy,
            self._about,
            self._questions,
            self._relay_regions,
        )
        make = http_protocol(application(office, api.routes(administrator)), LocalProtocol)
        sock = listen_unix(self._state / SOCKET_NAME)
        self._servers.append(await asyncio.get_running_loop().create_unix_server(make, sock=sock))

    async def _listen_metrics(self) -> None:
        if not self._config.metrics:
            return
        assert self._sender is not None
        sent = self._sender.counts
        sources = Sources(
            snapshot=lambda: self._registry.snapshot,
            sessions=lambda: len(self._maps),
            relay=self._counters,
            relay_clients=lambda: len(self._hub),
            webhooks=lambda: sent,
            certificate_until=lambda: self._certificates.until,
            policy_problems=lambda: len(self._policy.problems()),
        )
        self._meter.registry.register(Present(sources, self._clock))

        async def ready() -> None:
            await self._registry.history(AuditQuestion(limit=1))

        make = http_protocol(health.application(self._meter.registry, ready))
        place = parse_address("metrics", self._config.metrics)
        for sock in listen_tcp(*place, "--metrics"):
            self._servers.append(await asyncio.get_running_loop().create_server(make, sock=sock))

    def _counters(self) -> dict[str, int]:
        turn = {} if self._turn is None else self._turn.counts()
        return self._hub.counters() | dict(self._stun) | turn

    def _routes(self, api: Api) -> Routes:
        noise, entropy = self._identity.noise, self._entropy
        takers = dict(ts2021_taker(noise, self._machine_api.handle, entropy))
        small = dict(answers(noise, self._addresses))
        if self._config.relay:
            takers.update(relay.takers(self._hub))
            small.update(relay.answers())
        pages = exchanges(self._site(api), self._door)
        return Routes(answers=small, takers=takers, fallback=pages)

    def _site(self, api: Api) -> Starlette:
        return site([verify_route(self._is_ours), *self._login().routes(), *api.routes()])

    def _door(self) -> asyncio.Protocol:
        assert self._make_door is not None
        return self._make_door()

    def _login(self) -> LoginSite:
        sessions = Sessions(
            self._secret(_SESSION_PURPOSE),
            self._settings.url.startswith("https:"),
            self._clock,
            self._entropy,
        )
        return LoginSite(
            self._registry,
            self._registration,
            open_providers(
                identity_providers(self._config), self._settings.url, self._clock, self._entropy
            ),
            sessions,
            Passwords(),
            self._clock,
            self._entropy,
            self._checks,
            self._meter.log_in_tried,
        )

    def _secret(self, purpose: bytes) -> bytes:
        # Derived from the key that the state keeps anyway, as TURN's secret is.
        return hmac.digest(self._identity.noise.reveal(), purpose, hashlib.sha256)

    def _api(self) -> Api:
        assert self._sender is not None
        secret = self._secret(_ACCESS_PURPOSE)
        context = Context(
            registry=self._registry,
            settings=self._settings,
            clock=self._clock,
            entropy=self._entropy,
            registration=self._registration,
            reach=self._reach,
            trouble=self._sender.trouble,
            regions=self._region_names,
        )
        return Api(context, Gate(secret))

    async def _first_user(self) -> FirstStart | None:
        """At the first start: make the owner's user, their link, and a key for one machine."""
        wall, url = self._clock.wall(), self._settings.url
        return await self._registry.commit(lambda now: first_start(now, url, wall, self._entropy))

    async def _learn_addresses(self) -> None:
        """Look our own name up: a resolver that does not answer holds nothing up."""
        url = self._settings.url
        self._addresses.update(await run_aside(lambda: _own_addresses(url)))

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        for transport in self._datagrams:
            transport.close()
        if self._turn is not None:
            self._turn.service.close()
        self._lobby.abort_all()
        self._maps.end_all()
        self._hub.stop(_RECONNECT_MS, _TRY_FOR_MS)
        with suppress(TimeoutError, StoreProblem):
            async with asyncio.timeout(_STOP_S):
                await self._registry.commit(self._remember_seen)
                await self._registry.settle()
                await asyncio.sleep(0.1)  # farewells leave
        self._hub.close()
        (self._state / SOCKET_NAME).unlink(missing_ok=True)

    def _remember_seen(self, snapshot: Snapshot) -> tuple[Delta, None]:
        wall = self._clock.wall()
        online = [node for node in snapshot.nodes.values() if node.online]
        return Delta(nodes=tuple(replace(node, last_seen=wall) for node in online)), None

    async def _receive(self, sock: socket.socket, source: tuple[str, int] | None) -> None:
        """Take a connection to the TLS port that is not the relay's."""
        assert self._make_door is not None
        await serve_behind(self._make_door, sock, source)

    def _admits(self, key: NodePublic) -> bool:
        """Whether the relay serves a node key."""
        return not self._config.verify_clients or self._is_ours(key)

    def _is_ours(self, key: NodePublic) -> bool:
        """Whether a node key is a machine's of this network."""
        node = self._registry.snapshot.node_with_key(key)
        return node is not None and node.in_force(self._clock.wall())

    def _membership_changed(self, change: Change) -> None:
        """Soon after nodes left or changed keys, their relay connections end."""
        relevant = any(facets & (Facet.MEMBERSHIP | Facet.KEYS) for facets in change.nodes.values())
        if relevant and self._kick_due is None:
            loop = asyncio.get_running_loop()
            self._kick_due = loop.call_later(_KICK_DELAY_S, self._kick_strangers)

    def _kick_strangers(self) -> None:
        self._kick_due = None
        for key in self._hub.connected():
            if not self._admits(key):
                self._hub.kick(key)

    def _about(self) -> shapes.ServerStatus:
        snapshot, wall = self._registry.snapshot, self._clock.wall()
        return shapes.ServerStatus(
            version=__version__,
            url=self._settings.url,
            domain=self._settings.domain,
            noise_key=str(self._identity.noise.public()),
            users=len(snapshot.users),
            nodes=len(snapshot.nodes),
            online=sum(node.online for node in snapshot.nodes.values()),
            pending=sum(p.expiry > wall and not p.rejected for p in snapshot.pending.values()),
            relay_clients=len(self._hub),
            relay=self._counters(),
            problems=self._policy.problems(),
        )

    def _ports(self) -> str:
        config = self._config
        parts = [f"{config.listen} TLS"] if config.tls != "off" else []
        parts += [f"{config.http} HTTP"] if config.http else []
        parts += [f"{config.metrics} metrics"] if config.metrics else []
        if config.relay and config.stun != "off":
            tests = abilities(stun_groups(config.stun))
            parts.append(f"{config.stun} STUN" + (f" {tests}" if tests else ""))
        parts += [f"{config.turn} TURN"] if config.turn != "off" else []
        others = len(external_turn(config))
        parts += [f"{others} TURN servers of others are told"] if others else []
        return ", ".join(parts)

    def _unclaimed(self) -> list[str]:
        if (name := unclaimed(self._registry.snapshot)) is None:
            return []
        command = f"warren admin users invite {name} --state {self._state}"
        return [f"nobody has become this server's owner yet (another link: {command})"]

    def _warnings(self) -> tuple[str, ...]:
        config, warnings = self._config, []
        if config.tls == "self-signed" and self._settings.url.startswith("https:"):
            warnings.append(
                "the certificate is self-signed, so machines will not trust the https:// URL; "
                "use --tls acme or --tls files, or give --http and an http:// --url"
            )
        warnings += [
            f"whoever has an account at {provider.issuer} may join; name who may with "
            "allowed-domains, allowed-groups or allowed-users"
            for provider in identity_providers(config)
            if provider.admits_everyone
        ]
        warnings += self._relay_regions().problems
        return (*warnings, *self._policy.problems())


def _hub(config: Config, key: NodePrivate, admits: Admits, receive: Receive | None = None) -> Hub:
    native = NativeRelay(RelayConfig(private_key=key.reveal(), derp=config.relay))
    return Hub(native, admits, receive)


def _settings(config: Config) -> Settings:
    ephemeral_after = parse_duration(config.ephemeral_after)
    assert ephemeral_after is not None  # `config.check` saw to it
    return Settings(
        url=public_url(config),
        domain=config.domain,
        key_expiry=parse_duration(config.key_expiry),
        ephemeral_after=ephemeral_after,
        approve_machines=config.approve_machines,
    )


def _turn_ways(config: Config, name: str, pin: str) -> list[TurnPlace]:
    """Return the ways to the TURN server; a certificate that nobody signed is pinned."""
    places = turn_places(config)
    ways = [
        TurnPlace(transport, str(place.ip), place.port)
        for transport in (Transport.UDP, Transport.TCP)
        for place in places
    ]
    if places and pin:
        raw = bytes.fromhex(pin.removeprefix(PIN_PREFIX))
        ways.append(TurnPlace(Transport.TLS, str(places[0].ip), places[0].port, raw))
    elif places and config.tls != "off":
        ways.append(TurnPlace(Transport.TLS, name, places[0].port))
    return ways


def _own_addresses(url: str) -> Mapping[str, list[str]]:
    """Return the addresses of our own name, for machines whose resolver is broken."""
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        ip_address(host)
        return {}
    with suppress(OSError):
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return {host: sorted({str(entry[4][0]) for entry in found})}
    return {}
