"""The endpoints of the log-in: registration links, providers, passwords, invites, the account."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from warren.coordinator.api.throttle import Throttle
from warren.coordinator.audit import Actor
from warren.coordinator.auth import credentials
from warren.coordinator.auth.flow import Registration
from warren.coordinator.delta import Delta
from warren.coordinator.login import accounts, invites, pages
from warren.coordinator.login.claims import ProviderProblem, identity_untrusted
from warren.coordinator.login.forms import HOME, read_form, way_untrusted
from warren.coordinator.login.passwords import Passwords
from warren.coordinator.login.sessions import Session, Sessions
from warren.coordinator.records import UserRecord
from warren.coordinator.refusal import NotFound, Refused
from warren.coordinator.registry import Registry
from warren.coordinator.roles import ROLES
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import StoreProblem
from warren.edge.clock import Clock
from warren.edge.entropy import Entropy

if TYPE_CHECKING:
    from warren.coordinator.login.oidc import Provider

_log = structlog.get_logger("login")

Work = Callable[[Request], Awaitable[Response]]
Decision = Callable[[Snapshot], tuple[Delta, int]]

# Passwords tried: from one address, and for one user from anywhere.
_ADDRESS_PER_S, _ADDRESS_BURST = 0.2, 30.0
_USER_PER_S, _USER_BURST = 0.05, 10.0
# Log-ins by a provider that one address begins: each may ask the provider something.
_BEGIN_PER_S, _BEGIN_BURST = 1.0, 30.0


class _SlowDown(Exception):
    def __init__(self, wait_s: float) -> None:
        self.wait_s = max(1, round(wait_s + 0.5))


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
    ) -> None:
        self._registry = registry
        self._registration = registration
        self._providers = providers
        self._sessions = sessions
        self._clock = clock
        self._entropy = entropy
        self._passwords = passwords
        self._by_address = Throttle(_ADDRESS_PER_S, _ADDRESS_BURST)
        self._by_user = Throttle(_USER_PER_S, _USER_BURST)
        self._begun = Throttle(_BEGIN_PER_S, _BEGIN_BURST)

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
            ("GET", "/account", self._account),
            ("POST", "/account/token", self._make_token),
            ("POST", "/account/revoke", self._revoke_token),
            ("POST", "/account/password", self._change_password),
            ("POST", "/logout", self._log_out),
        ]
        return [Route(path, _safely(work), methods=[method]) for method, path, work in table]

    # Machines.

    async def _register(self, request: Request) -> Response:
        pending_id = request.path_params["pending"]
        try:
            pending = self._registration.pending(pending_id)
        except NotFound:
            return pages.not_waiting()
        session = self._sessions.of(request)
        user = self._sessions.user(session, self._registry.snapshot)
        if session is not None and user is not None:
            return pages.confirm(pending, user, self._sessions.form_token(session))
        ways, to = self._ways(), f"/register/{pending.id}"
        return self._with_session(
            session, lambda token: pages.login(ways, to, token, pending=pending)
        )

    async def _join(self, request: Request) -> Response:
        await self._own_form(request)
        _, user = self._who(request)
        try:
            node_id = await self._registration.join(
                request.path_params["pending"], user.id, self._actor(user, request)
            )
        except NotFound:
            return pages.not_waiting()
        return pages.joined(self._registry.snapshot.nodes[node_id], user)

    # Logging in.

    async def _login(self, request: Request) -> Response:
        to = way_untrusted(request.query_params.get("to", HOME))
        ways = self._ways()
        return self._with_session(
            self._sessions.of(request), lambda token: pages.login(ways, to, token)
        )

    async def _by_password(self, request: Request) -> Response:
        form, session = await self._own_form(request)
        to, name = way_untrusted(form.get("to", HOME)), form.get("name", "").strip()[:254]
        self._take_turn(request, name)
        user = self._registry.snapshot.user_named(name)
        kept = user.password if user is not None else ""
        if not await self._passwords.fits(kept, form.get("password", "")) or user is None:
            _log.warning("a log-in failed", user=ascii(name[:80]), address=_address(request))
            wrong, token = "Name or password are not right.", self._sessions.form_token(session)
            return pages.login(self._ways(), to, token, wrong=wrong, name=name, status=403)
        user_id, wall = user.id, self._clock.wall()
        return await self._enter(
            request, to, user, lambda now: accounts.by_password(now, user_id, wall)
        )

    async def _begin(self, request: Request) -> Response:
        provider = self._provider(request)
        now, address = self._clock.now(), _address(request)
        if (wait_s := self._begun.wait_s(address, now)) > 0:
            raise _SlowDown(wait_s)
        self._begun.take(address, now)
        to = way_untrusted(request.query_params.get("to", HOME))
        url, flow = await provider.begin(to, self._sessions.flow_ends())
        response = RedirectResponse(url, 303, headers=_HEADERS)
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
            _log.warning("a log-in failed", provider=flow.provider, reason=ascii(str(refusal)),
                         address=_address(request))  # fmt: skip
            raise
        finally:
            self._sessions.end_flow(flow)
        wall, invited = self._clock.wall(), flow.to.removeprefix("/invite/")
        to = flow.to if invited == flow.to else HOME

        def decide(snapshot: Snapshot) -> tuple[Delta, int]:
            if invited == flow.to:
                return accounts.by_provider(snapshot, identity, wall)
            invite = invites.find(snapshot, invited, wall)
            return accounts.invited_by_provider(snapshot, invite, identity, wall)

        return await self._enter(request, to, identity.name, decide)

    async def _invited(self, request: Request) -> Response:
        text, snapshot = request.path_params["text"], self._registry.snapshot
        self._take_turn(request)
        invite = invites.find(snapshot, text, self._clock.wall())
        user, ways = snapshot.users[invite.user_id], self._ways()
        return self._with_session(
            self._sessions.of(request), lambda token: pages.invitation(ways, user, text, token)
        )

    async def _accept(self, request: Request) -> Response:
        form, session = await self._own_form(request)
        self._take_turn(request)
        text, wall = request.path_params["text"], self._clock.wall()
        snapshot = self._registry.snapshot
        user = snapshot.users[invites.find(snapshot, text, wall).user_id]
        try:
            kept = await self._passwords.make(form.get("new", ""), user.name)
        except Refused as refusal:
            token = self._sessions.form_token(session)
            wrong = str(refusal)
            return pages.invitation(self._ways(), user, text, token, wrong=wrong, status=400)

        def decide(now: Snapshot) -> tuple[Delta, int]:
            return accounts.invited_by_password(now, invites.find(now, text, wall), kept, wall)

        return await self._enter(request, HOME, user, decide)

    async def _log_out(self, request: Request) -> Response:
        _, session = await self._own_form(request)
        response = RedirectResponse("/login", 303, headers=_HEADERS)
        self._sessions.end(response, session)
        return response

    # The account.

    async def _account(self, request: Request) -> Response:
        session = self._sessions.of(request)
        if session is None or self._sessions.user(session, self._registry.snapshot) is None:
            return RedirectResponse("/login", 303, headers=_HEADERS)
        return self._show_account(session)

    async def _make_token(self, request: Request) -> Response:
        form, session = await self._own_form(request)
        _, user = self._who(request)
        days = form.get("days", "")
        if days not in map(str, pages.TOKEN_DAYS) or not ROLES.get(user.role):
            raise Refused("such a token cannot be made here")
        text, record = credentials.mint(
            credentials.API,
            user_id=user.id,
            wall=self._clock.wall(),
            entropy=self._entropy,
            life=timedelta(days=int(days)),
            description=form.get("description", "")[:100],
        )

        def decide(snapshot: Snapshot) -> tuple[Delta, int]:
            return Delta(credentials=(record,)), user.id

        await self._registry.commit(decide, self._actor(user, request))
        return self._show_account(session, pages.shown_once(text))

    async def _revoke_token(self, request: Request) -> Response:
        form, session = await self._own_form(request)
        _, user = self._who(request)
        token_id = form.get("id", "")

        def decide(snapshot: Snapshot) -> tuple[Delta, int]:
            record = snapshot.credentials.get(token_id)
            if record is None or record.user_id != user.id or record.kind != credentials.API:
                raise NotFound("you have no such token")
            return Delta(removed_credentials=(token_id,)), user.id

        await self._registry.commit(decide, self._actor(user, request))
        return self._show_account(session, pages.good("The token opens nothing any more."))

    async def _change_password(self, request: Request) -> Response:
        form, session = await self._own_form(request)
        _, user = self._who(request)
        self._take_turn(request, user.name)
        if not await self._passwords.fits(user.password, form.get("password", "")):
            _log.warning("a wrong password", user=ascii(user.name), address=_address(request))
            return self._show_account(session, pages.bad("That is not your password now."), 403)
        try:
            kept = await self._passwords.make(form.get("new", ""), user.name)
        except Refused as refusal:
            return self._show_account(session, pages.bad(str(refusal)), 400)
        wall = self._clock.wall()
        await self._registry.commit(
            lambda now: (accounts.with_password(now, user.id, kept, wall), user.id),
            self._actor(user, request),
        )
        new = self._sessions.new(user.id)
        said = "You have another password now; elsewhere you are logged out."
        response = self._show_account(new, pages.good(said))
        self._sessions.keep(response, new)
        return response

    def _show_account(self, session: Session, said: str = "", status: int = 200) -> Response:
        snapshot = self._registry.snapshot
        user = snapshot.users[session.user_id]
        nodes = [n for n in snapshot.nodes.values() if n.user_id == user.id and not n.tags]
        tokens = [
            record
            for record in snapshot.credentials.values()
            if record.user_id == user.id and record.kind == credentials.API
        ]
        return pages.account(
            user,
            sorted(nodes, key=lambda node: node.name),
            sorted(tokens, key=lambda record: record.created),
            self._sessions.form_token(session),
            may_script=bool(ROLES.get(user.role)),
            said=said,
            status=status,
        )

    # What all of them need.

    async def _enter(
        self, request: Request, to: str, who: UserRecord | str, decide: Decision
    ) -> Response:
        """Put a log-in in force, and begin the session that it gives."""
        user_id = await self._registry.commit(decide, self._actor(who, request))
        user = self._registry.snapshot.users[user_id]
        _log.info("logged in", user=user.name, address=_address(request))
        response = RedirectResponse(to, 303, headers=_HEADERS)
        # Never the session from before: somebody else might have given the browser that.
        self._sessions.keep(response, self._sessions.new(user_id))
        self._sessions.forget_flow(response)
        return response

    async def _own_form(self, request: Request) -> tuple[dict[str, str], Session]:
        """Return a form that we showed in this session. Raises Refused."""
        form, session = await read_form(request), self._sessions.of(request)
        if session is None or not self._sessions.is_own_form(session, form.get("token", "")):
            raise Refused("this form is too old, or came from another site; load the page again")
        return form, session

    def _who(self, request: Request) -> tuple[Session, UserRecord]:
        session = self._sessions.of(request)
        user = self._sessions.user(session, self._registry.snapshot)
        if session is None or user is None:
            raise Refused("you are not logged in any more; load the page again")
        return session, user

    def _with_session(self, session: Session | None, show: Callable[[str], Response]) -> Response:
        """Show a page with a form; a browser without a session gets one, for the form's token."""
        kept = session or self._sessions.new()
        response = show(self._sessions.form_token(kept))
        if session is None:
            self._sessions.keep(response, kept)
        return response

    def _ways(self) -> pages.Ways:
        return pages.Ways(
            [(name, provider.config.label) for name, provider in self._providers.items()],
            any(user.password for user in self._registry.snapshot.users.values()),
        )

    def _provider(self, request: Request) -> Provider:
        provider = self._providers.get(request.path_params["provider"])
        if provider is None:
            raise NotFound("there is no such way to log in here")
        return provider

    def _take_turn(self, request: Request, name: str | None = None) -> None:
        """Count one try. Raises _SlowDown for an address, or a user, with too many."""
        now = self._clock.now()
        places = [(self._by_address, _address(request))]
        places += [(self._by_user, name.casefold())] if name is not None else []
        wait_s = max(throttle.wait_s(key, now) for throttle, key in places)
        if wait_s > 0:
            _log.warning("too many tries", user=ascii(name or ""), address=_address(request))
            raise _SlowDown(wait_s)
        for throttle, key in places:
            throttle.take(key, now)

    def _actor(self, who: UserRecord | str, request: Request) -> Actor:
        return Actor("user", who if isinstance(who, str) else who.name, _address(request))


_HEADERS = {"cache-control": "no-store", "referrer-policy": "no-referrer"}


def _safely(work: Work) -> Work:
    """Tell a person why, whatever keeps a request from being done."""

    async def endpoint(request: Request) -> Response:
        try:
            return await work(request)
        except NotFound as error:
            return pages.problem("Not found", str(error), 404)
        except ProviderProblem as error:
            return pages.problem("That did not work", str(error), 502)
        except Refused as error:
            return pages.problem("That did not work", str(error), 403)
        except StoreProblem as error:
            _log.error("a change was refused", problem=str(error))
            return pages.problem("Not now", str(error), 503)
        except _SlowDown as slow:
            reason = f"There were too many tries; come back in {slow.wait_s} s."
            response = pages.problem("Slow down", reason, 429)
            response.headers["retry-after"] = str(slow.wait_s)
            return response
        except ClientDisconnect:
            return Response(status_code=400)

    return endpoint


def _address(request: Request) -> str:
    """Return who asks; of IPv6 the network, since one machine has as many addresses as it likes."""
    host = request.client.host if request.client else "local"
    try:
        ip = ip_address(host)
    except ValueError:
        return host
    return host if ip.version == 4 else str(ip_network((ip, 64), strict=False))
