"""The endpoints of the log-in: registration links, providers, passwords, one-time links."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from warren.coordinator.auth.flow import Registration
from warren.coordinator.delta import Delta
from warren.coordinator.login import accounts, invites, pages
from warren.coordinator.login.account import Account
from warren.coordinator.login.claims import Identity, identity_untrusted
from warren.coordinator.login.forms import HOME, way_untrusted
from warren.coordinator.login.passwords import Passwords
from warren.coordinator.login.sessions import Flow, Sessions
from warren.coordinator.login.ssh_check import SshCheck
from warren.coordinator.login.visits import NOT_KEPT, LogIn, Visits, Work, actor, address, safely
from warren.coordinator.records import UserRecord
from warren.coordinator.refusal import NotFound, Refused
from warren.coordinator.registry import Registry
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.ssh_checks import PAGE, SshChecks
from warren.edge.clock import Clock
from warren.edge.entropy import Entropy

if TYPE_CHECKING:
    from warren.coordinator.login.oidc import Provider

_log = structlog.get_logger("login")


class Site:
    """Serves the pages. providers: by name."""

    def __init__(
        self,
        registry: Registry,
        registration: Registration,
        providers: Mapping[str, Provider],
        sessions: Sessions,
        passwords: Passwords,
        clock: Clock,
        entropy: Entropy,
        checks: SshChecks,
        count: Callable[[LogIn], None] = lambda result: None,
    ) -> None:
        self._registration = registration
        self._providers = providers
        self._passwords = passwords
        self._clock = clock
        self._sessions = sessions
        self._visits = Visits(registry, sessions, clock, count)
        self._own = Account(self._visits, passwords, entropy)
        self._ssh = SshCheck(self._visits, checks, self._ways)

    def routes(self) -> list[Route]:
        """Return the routes, for the server's site."""
        table: list[tuple[str, str, Work]] = [
            ("GET", "/register/{pending}", self._register),
            ("POST", "/register/{pending}", self._join),
            ("GET", "/login", self._login),
            ("POST", "/login", self._by_password),
            ("GET", "/login/{provider}", self._begin),
            ("GET", "/login/{provider}/callback", self._finish),
            ("GET", "/invite/{text}", self._invited),
            ("POST", "/invite/{text}", self._accept),
            *self._own.table(),
            *self._ssh.table(),
        ]
        return [Route(path, safely(work), methods=[method]) for method, path, work in table]

    # Machines.

    async def _register(self, request: Request) -> Response:
        pending_id = request.path_params["pending"]
        try:
            pending = self._registration.pending(pending_id)
        except NotFound:
            return pages.not_waiting()
        session = self._sessions.of(request)
        user = self._sessions.user(session, self._visits.snapshot)
        if session is not None and user is not None:
            return pages.confirm(pending, user, self._sessions.form_token(session))
        ways, to = self._ways(), f"/register/{pending.id}"
        return self._visits.with_session(
            request, lambda token: pages.login(ways, to, token, pending=pending)
        )

    async def _join(self, request: Request) -> Response:
        _, session = await self._visits.own_form(request)
        user = self._visits.who(session)
        try:
            node_id = await self._registration.join(
                request.path_params["pending"], user.id, actor(user, request)
            )
        except NotFound:
            return pages.not_waiting()
        return pages.joined(self._visits.snapshot.nodes[node_id], user)

    # Logging in.

    async def _login(self, request: Request) -> Response:
        to = way_untrusted(request.query_params.get("to", HOME))
        ways = self._ways()
        return self._visits.with_session(request, lambda token: pages.login(ways, to, token))

    async def _by_password(self, request: Request) -> Response:
        form, session = await self._visits.own_form(request)
        to, name = way_untrusted(form.get("to", HOME)), form.get("name", "").strip()[:254]
        self._visits.take_turn(request, name)
        user = self._visits.snapshot.user_named(name)
        kept = user.password if user is not None else ""
        if not await self._passwords.fits(kept, form.get("password", "")) or user is None:
            self._visits.count(LogIn.REFUSED)
            _log.warning("a log-in failed", user=ascii(name[:80]), address=address(request))
            wrong, token = "Name or password are not right.", self._sessions.form_token(session)
            return pages.login(self._ways(), to, token, wrong=wrong, name=name, status=403)
        user_id, wall = user.id, self._clock.wall()
        renewed = await self._passwords.renewed(kept, form.get("password", ""))
        return await self._visits.enter(
            request, to, user, lambda now: accounts.by_password(now, user_id, wall, kept, renewed)
        )

    async def _begin(self, request: Request) -> Response:
        provider = self._provider(request)
        self._visits.take_begin(request)
        to = way_untrusted(request.query_params.get("to", HOME))
        anew = to.startswith(PAGE)
        url, flow = await provider.begin(to, self._sessions.flow_ends(), anew=anew)
        response = RedirectResponse(url, 303, headers=NOT_KEPT)
        self._sessions.keep_flow(response, flow)
        return response

    async def _finish(self, request: Request) -> Response:
        provider, flow = self._provider(request), self._sessions.flow(request)
        if flow is None or flow.provider != provider.config.name:
            raise Refused(
                "this log-in was not begun in this window, took too long, or was finished before; "
                "begin it again"
            )
        try:
            claims = await provider.finish(flow, request.query_params)
            identity = identity_untrusted(claims, provider.config)
        except Refused as refusal:
            self._visits.count(LogIn.REFUSED)
            _log.warning("a log-in failed", provider=flow.provider, reason=ascii(str(refusal)),
                         address=address(request))  # fmt: skip
            raise
        finally:
            self._sessions.end_flow(flow)
        wall, invited = self._clock.wall(), flow.to.startswith(invites.PATH)

        def decide(snapshot: Snapshot) -> tuple[Delta, int]:
            if not invited:
                return accounts.by_provider(snapshot, identity, wall)
            invite = invites.find(snapshot, flow.to.removeprefix(invites.PATH), wall)
            return accounts.invited_by_provider(snapshot, invite, identity, wall)

        to = HOME if invited else flow.to
        proved = flow.since > 0
        who = self._who(flow, identity)
        return await self._visits.enter(request, to, who, decide, proved=proved)

    def _who(self, flow: Flow, identity: Identity) -> UserRecord | str:
        """Return who comes back from a provider; a name only of one who is not known yet.

        What the provider calls them may be another user's name here. Raises Refused.
        """
        snapshot = self._visits.snapshot
        if flow.to.startswith(invites.PATH):
            link = flow.to.removeprefix(invites.PATH)
            return snapshot.users[invites.find(snapshot, link, self._clock.wall()).user_id]
        return accounts.known(snapshot, identity) or identity.name

    async def _invited(self, request: Request) -> Response:
        text, snapshot = request.path_params["text"], self._visits.snapshot
        self._visits.take_turn(request)
        invite = invites.find(snapshot, text, self._clock.wall())
        user, ways = snapshot.users[invite.user_id], self._ways()
        return self._visits.with_session(
            request, lambda token: pages.invitation(ways, user, text, token)
        )

    async def _accept(self, request: Request) -> Response:
        form, session = await self._visits.own_form(request)
        self._visits.take_turn(request)
        text, wall = request.path_params["text"], self._clock.wall()
        snapshot = self._visits.snapshot
        user = snapshot.users[invites.find(snapshot, text, wall).user_id]
        try:
            kept = await self._passwords.make(form.get("new", ""), user.name)
        except Refused as refusal:
            token = self._sessions.form_token(session)
            wrong = str(refusal)
            return pages.invitation(self._ways(), user, text, token, wrong=wrong, status=400)

        def decide(now: Snapshot) -> tuple[Delta, int]:
            return accounts.invited_by_password(now, invites.find(now, text, wall), kept, wall)

        return await self._visits.enter(request, HOME, user, decide)

    def _ways(self) -> pages.Ways:
        return pages.Ways(
            [(name, provider.config.label) for name, provider in self._providers.items()],
            any(user.password for user in self._visits.snapshot.users.values()),
        )

    def _provider(self, request: Request) -> Provider:
        provider = self._providers.get(request.path_params["provider"])
        if provider is None:
            raise NotFound("there is no such way to log in here")
        return provider
