"""The page of one's own: machines, tokens for the API, the password."""

from __future__ import annotations

from datetime import timedelta

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from warren.coordinator.auth import credentials
from warren.coordinator.delta import Delta
from warren.coordinator.login import accounts, pages
from warren.coordinator.login.passwords import Passwords
from warren.coordinator.login.sessions import Session
from warren.coordinator.login.visits import NOT_KEPT, Visits, Work, actor, address
from warren.coordinator.refusal import NotFound, Refused
from warren.coordinator.roles import ROLES
from warren.coordinator.snapshot import Snapshot
from warren.edge.entropy import Entropy

_log = structlog.get_logger("login")


class Account:
    """Serves it."""

    def __init__(self, visits: Visits, passwords: Passwords, entropy: Entropy) -> None:
        self._visits = visits
        self._passwords = passwords
        self._entropy = entropy

    def table(self) -> list[tuple[str, str, Work]]:
        """Return methods, paths and what serves them."""
        return [
            ("GET", "/account", self._account),
            ("POST", "/account/token", self._make_token),
            ("POST", "/account/revoke", self._revoke_token),
            ("POST", "/account/password", self._change_password),
            ("POST", "/logout", self._log_out),
        ]

    async def _account(self, request: Request) -> Response:
        session = self._visits.sessions.of(request)
        if session is None or self._visits.sessions.user(session, self._visits.snapshot) is None:
            return RedirectResponse("/login", 303, headers=NOT_KEPT)
        return self._show_account(session)

    async def _log_out(self, request: Request) -> Response:
        _, session = await self._visits.own_form(request)
        response = RedirectResponse("/login", 303, headers=NOT_KEPT)
        self._visits.sessions.end(session)
        self._visits.sessions.forget(response)
        return response

    async def _make_token(self, request: Request) -> Response:
        form, session = await self._visits.own_form(request)
        user = self._visits.who(session)
        days = form.get("days", "")
        if days not in map(str, pages.TOKEN_DAYS) or not ROLES.get(user.role):
            raise Refused("such a token cannot be made here")
        text, record = credentials.mint(
            credentials.API,
            user_id=user.id,
            wall=self._visits.clock.wall(),
            entropy=self._entropy,
            life=timedelta(days=int(days)),
            description=form.get("description", "")[:100],
        )

        def decide(snapshot: Snapshot) -> tuple[Delta, int]:
            return Delta(credentials=(record,)), user.id

        await self._visits.registry.commit(decide, actor(user, request))
        return self._show_account(session, pages.shown_once(text))

    async def _revoke_token(self, request: Request) -> Response:
        form, session = await self._visits.own_form(request)
        user = self._visits.who(session)
        token_id = form.get("id", "")

        def decide(snapshot: Snapshot) -> tuple[Delta, int]:
            record = snapshot.credentials.get(token_id)
            if record is None or record.user_id != user.id or record.kind != credentials.API:
                raise NotFound("you have no such token")
            return Delta(removed_credentials=(token_id,)), user.id

        await self._visits.registry.commit(decide, actor(user, request))
        return self._show_account(session, pages.good("The token opens nothing any more."))

    async def _change_password(self, request: Request) -> Response:
        form, session = await self._visits.own_form(request)
        user = self._visits.who(session)
        self._visits.take_turn(request, user.name)
        if not await self._passwords.fits(user.password, form.get("password", "")):
            _log.warning("a wrong password", user=ascii(user.name), address=address(request))
            return self._show_account(session, pages.bad("That is not your password now."), 403)
        try:
            kept = await self._passwords.make(form.get("new", ""), user.name)
        except Refused as refusal:
            return self._show_account(session, pages.bad(str(refusal)), 400)
        wall = self._visits.clock.wall()
        await self._visits.registry.commit(
            lambda now: (accounts.with_password(now, user.id, kept, wall), user.id),
            actor(user, request),
        )
        new = self._visits.sessions.new(user.id)
        said = "You have another password now; elsewhere you are logged out."
        response = self._show_account(new, pages.good(said))
        self._visits.sessions.keep(response, new)
        return response

    def _show_account(self, session: Session, said: str = "", status: int = 200) -> Response:
        snapshot = self._visits.snapshot
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
            self._visits.sessions.form_token(session),
            may_script=bool(ROLES.get(user.role)),
            said=said,
            status=status,
        )
