"""Being a member of a network: log in, follow the map, keep the coordinator informed.

One task runs while the node is `up`. It tries again by itself after every loss; only a refusal
ends it, since asking the same again would be refused again (PROTOCOL §2.8, §3).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog

from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.keys import DiscoPublic, MachinePublic, NodePublic
from warren.netmap.fold import fold
from warren.netmap.view import EMPTY, View
from warren.netmap.wire import (
    ZERO_TIME,
    Auth,
    Hostinfo,
    MapRequest,
    PingRequest,
    RegisterRequest,
    RegisterResponse,
)
from warren.node.control_client import (
    LOGOUT_EXPIRY,
    RateLimited,
    Refused,
    map_stream,
    register,
    update,
)
from warren.node.control_link import (
    CAPABILITY_VERSION,
    ControlLink,
    LinkLost,
    LinkRefused,
    NotACoordinator,
    fetch_server_key,
    open_link,
)
from warren.node.reconcile import is_expired
from warren.node.schema import BackendState
from warren.node.state import NodeState, Profile, StateProblem

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
UPDATE_PAUSE_S = 0.1
"""Changes that come together are reported together."""
UPDATE_RETRY_S = 5.0
CLOCK_TOLERANCE = timedelta(hours=12)

log = structlog.get_logger(__name__)


class Facts(NamedTuple):
    """What this node reports of itself. Endpoint types: PROTOCOL §3.2."""

    disco_key: DiscoPublic
    hostinfo: Hostinfo
    endpoints: tuple[str, ...]
    endpoint_types: tuple[int, ...]


class SessionExpired(Exception):
    """The coordinator says that this node's key is over; register again."""


class Membership:
    """The node's relation to one coordinator.

    facts: called whenever a report is made. on_view: called with each new map. on_change:
    called when anything that a person sees here has changed. on_ping: answers a coordinator's
    PingRequest.
    """

    def __init__(
        self,
        state: NodeState,
        clock: Clock,
        entropy: Entropy,
        *,
        facts: Callable[[], Facts],
        on_view: Callable[[View], None],
        on_change: Callable[[], None],
        on_ping: Callable[[ControlLink, PingRequest], Awaitable[None]],
    ) -> None:
        self._state = state
        self._clock = clock
        self._entropy = entropy
        self._facts = facts
        self._on_view = on_view
        self._on_change = on_change
        self._on_ping = on_ping
        self._server_keys: dict[str, MachinePublic] = {}
        self._news = asyncio.Event()
        self._failures = 0
        self._at_once = asyncio.Event()
        self._open: ControlLink | None = None
        self._auth_key: str | None = None
        self._seen_pings: dict[str, None] = {}
        self.phase: BackendState = "stopped"
        self.auth_url = ""
        self.error = ""
        self.clock_warning = ""
        self._clock_offset = timedelta()
        self.connected = False
        self.view: View = EMPTY

    def wall(self) -> datetime:
        """Return the time of day by the coordinator's clock, as far as it told it.

        Expiry is decided by it, so that a machine whose clock is years off keeps working.
        """
        return self._clock.wall() + self._clock_offset

    def report(self) -> None:
        """Say that the facts changed; the coordinator hears of it soon."""
        self._news.set()

    def network_changed(self) -> None:
        """This machine's addresses changed: an old connection is dead, and a new one may work."""
        self._failures = 0
        self._at_once.set()
        if self._open is not None:
            self._open.drop("This machine's network changed.")

    def start(self) -> None:
        """Say that a log-in begins; `run` follows."""
        self._failures = 0
        self._publish("starting", error="", auth_url="", connected=False)

    async def run(self, auth_key: str | None = None, force_login: bool = False) -> None:
        """Be a member until cancelled or refused; the outcome is in `phase` and `error`."""
        self._auth_key = auth_key
        if force_login and self._profile().logged_in:
            self._state.renew_node_key()
        try:
            while True:
                try:
                    await self._session()
                except SessionExpired:
                    continue
                except RateLimited as error:
                    self._publish(error=str(error), connected=False)
                    await asyncio.sleep(error.retry_s)
                    continue
                except (Refused, NotACoordinator, LinkRefused) as error:
                    if self._is_final(error):
                        self._publish("needs-login", error=str(error), connected=False)
                        return
                    self._publish(error=str(error), connected=False)
                except StateProblem as error:
                    log.error("the node's state cannot be saved", reason=str(error))
                    self._publish(error=str(error), connected=False)
                except LinkLost as error:
                    log.info("control link lost", reason=str(error))
                    self._publish(error=str(error), connected=False)
                await self._pause()
        finally:
            self.connected = False

    async def log_out(self) -> None:
        """Tell the coordinator to expire this node's key. Raises Refused, LinkLost."""
        profile = self._profile()
        if profile.node_key is None:
            return
        async with self._link(profile.server_url) as link:
            await register(link, self._register_request(expiry=LOGOUT_EXPIRY))

    def stop(self, phase: BackendState = "stopped") -> None:
        """Say what a person should see after `run` was cancelled, and forget the map."""
        self.view = EMPTY
        self._publish(phase, error="", auth_url="", connected=False)

    def _is_final(self, error: Exception) -> bool:
        """A refusal ends a log-in; a node that was a member keeps trying, but for real refusals.

        A known node is refused for good only by a RegisterResponse's own word.
        """
        return isinstance(error, Refused) or not self._profile().logged_in

    async def _pause(self) -> None:
        """Wait before the next attempt: doubling, with up to a third less by chance."""
        ceiling = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 10))
        self._failures += 1
        chance = int.from_bytes(self._entropy(2), "big") / 0xFFFF
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ceiling * (1 - chance / 3)):
                await self._at_once.wait()
        self._at_once.clear()

    @contextlib.asynccontextmanager
    async def _link(self, url: str) -> AsyncIterator[ControlLink]:
        """Open a link; the coordinator's key is kept while links succeed (PROTOCOL §2.1)."""
        if url not in self._server_keys:
            self._server_keys[url] = await fetch_server_key(url)
        machine, server = self._state.machine_key, self._server_keys[url]
        opened = False
        try:
            async with open_link(url, machine, server, self._entropy) as link:
                opened = True
                self._open = link
                yield link
        finally:
            self._open = None
            if not opened:
                # The coordinator may have been set up anew, with another key.
                del self._server_keys[url]

    async def _session(self) -> None:
        async with self._link(self._profile().server_url) as link:
            response = await self._log_in(link, self._auth_key)
            # It has served its purpose; a later session proves itself by the node key.
            self._auth_key = None
            self._state.accepted()
            phase: BackendState = "starting" if response.machine_authorized else "needs-approval"
            self._publish(phase, error="", auth_url="", connected=True)
            await self._follow(link)

    async def _log_in(self, link: ControlLink, auth_key: str | None) -> RegisterResponse:
        renewed = False
        followup = ""
        while True:
            response = await register(
                link, self._register_request(auth_key=auth_key, followup=followup)
            )
            if response.node_key_expired:
                if renewed:
                    raise Refused("The coordinator calls even a new key of this node expired.")
                self._state.renew_node_key()
                renewed, followup = True, ""
            elif response.auth_url:
                if response.auth_url == followup:
                    await asyncio.sleep(2)
                followup = response.auth_url
                self._publish("needs-login", auth_url=followup, error="", connected=True)
            else:
                return response

    async def _follow(self, link: ControlLink) -> None:
        """Hold the long poll and send lite updates beside it, until either breaks."""
        failure: Exception | None = None
        async with asyncio.TaskGroup() as tasks:
            updates = tasks.create_task(self._send_updates(link), name="control-updates")
            try:
                await self._hold_map(link, tasks)
            except (LinkLost, SessionExpired) as error:
                # Carried around the group: one that fails swallows a cancellation (3.11, 3.12).
                failure = error
            finally:
                updates.cancel()
        if failure is not None:
            raise failure

    async def _hold_map(self, link: ControlLink, tasks: asyncio.TaskGroup) -> None:
        view = EMPTY
        request = self._map_request(stream=True)
        async with map_stream(link, request) as responses:
            async for response in responses:
                self._failures = 0
                if response.control_time is not None:
                    self._compare_clocks(response.control_time)
                if response.ping_request is not None:
                    self._start_ping(link, response.ping_request, tasks)
                if response.keep_alive:
                    continue
                if response.debug is not None and response.debug.sleep_seconds > 0:
                    await asyncio.sleep(min(response.debug.sleep_seconds, 300.0))
                view = fold(view, response, self.wall())
                if view.node is None:
                    raise LinkLost("The coordinator's first map lacks this node.")
                self._receive_view(view)
        raise LinkLost("The coordinator ended the map.")

    def _receive_view(self, view: View) -> None:
        assert view.node is not None
        self.view = view
        phase: BackendState = "running" if view.node.machine_authorized else "needs-approval"
        self._publish(phase, error="", auth_url="", connected=True)
        self._on_view(view)
        if is_expired(view.node, self.wall()):
            self._publish("expired")
            raise SessionExpired

    def _start_ping(
        self, link: ControlLink, request: PingRequest, tasks: asyncio.TaskGroup
    ) -> None:
        if request.url in self._seen_pings:
            return
        self._seen_pings[request.url] = None
        if len(self._seen_pings) > 256:
            del self._seen_pings[next(iter(self._seen_pings))]
        tasks.create_task(self._answer_ping(link, request), name="control-ping")

    async def _answer_ping(self, link: ControlLink, request: PingRequest) -> None:
        try:
            await self._on_ping(link, request)
        except LinkLost as error:
            log.info("a coordinator's ping was not answered", reason=str(error))

    async def _send_updates(self, link: ControlLink) -> None:
        told: Facts | None = None
        while True:
            self._news.clear()
            facts = self._facts()
            if facts != told:
                try:
                    await update(link, self._map_request(stream=False, facts=facts))
                    told = facts
                except LinkLost as error:
                    # A link that is really lost ends the long poll too.
                    log.info("an update was not taken", reason=str(error))
                    await asyncio.sleep(UPDATE_RETRY_S)
                    continue
            await self._news.wait()
            await asyncio.sleep(UPDATE_PAUSE_S)

    def _register_request(
        self,
        *,
        auth_key: str | None = None,
        followup: str = "",
        expiry: datetime = ZERO_TIME,
    ) -> RegisterRequest:
        old = self._state.old_node_key()
        return RegisterRequest(
            version=CAPABILITY_VERSION,
            node_key=self._state.node_key().public(),
            old_node_key=old.public() if old else NodePublic.zero(),
            nl_key=self._state.lock_key.public(),
            auth=Auth(auth_key=auth_key) if auth_key else None,
            expiry=expiry,
            followup=followup,
            hostinfo=self._facts().hostinfo,
            ephemeral=self._profile().prefs.ephemeral,
        )

    def _map_request(self, *, stream: bool, facts: Facts | None = None) -> MapRequest:
        facts = facts or self._facts()
        return MapRequest(
            version=CAPABILITY_VERSION,
            compress="zstd",
            keep_alive=stream,
            node_key=self._state.node_key().public(),
            disco_key=facts.disco_key,
            stream=stream,
            omit_peers=not stream,
            hostinfo=facts.hostinfo,
            endpoints=list(facts.endpoints),
            endpoint_types=list(facts.endpoint_types),
        )

    def _compare_clocks(self, control_time: datetime) -> None:
        off = self._clock.wall() - control_time
        self._clock_offset = -off
        warning = ""
        if abs(off) > CLOCK_TOLERANCE:
            warning = (
                f"This machine's clock differs from the coordinator's by "
                f"{abs(off).total_seconds() / 86400:.1f} days; set it right."
            )
        if warning != self.clock_warning:
            self.clock_warning = warning
            self._on_change()

    def _profile(self) -> Profile:
        profile = self._state.profile
        assert profile is not None, "a membership runs with a profile"
        return profile

    def _publish(
        self,
        phase: BackendState | None = None,
        *,
        error: str | None = None,
        auth_url: str | None = None,
        connected: bool | None = None,
    ) -> None:
        self.phase = phase or self.phase
        self.error = self.error if error is None else error
        self.auth_url = self.auth_url if auth_url is None else auth_url
        self.connected = self.connected if connected is None else connected
        self._on_change()
