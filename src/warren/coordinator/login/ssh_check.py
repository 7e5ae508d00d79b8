"""The page behind the link that a log-in by SSH shows where the policy says `check`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog
from starlette.requests import Request
from starlette.responses import Response

from warren.coordinator.audit import Actor
from warren.coordinator.delta import Delta
from warren.coordinator.login import pages
from warren.coordinator.login.sessions import Session
from warren.coordinator.login.visits import Visits, Work, actor, address
from warren.coordinator.records import AuditRecord, UserRecord
from warren.coordinator.refusal import Refused
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.ssh_checks import PAGE, Check, Login, SshChecks, passing

_log = structlog.get_logger("login")


class SshCheck:
    """Serves it. ways: how one can log in."""

    def __init__(self, visits: Visits, checks: SshChecks, ways: Callable[[], pages.Ways]) -> None:
        self._visits = visits
        self._checks = checks
        self._ways = ways

    def table(self) -> list[tuple[str, str, Work]]:
        """Return methods, paths and what serves them."""
        return [("GET", PAGE + "{check}", self._show), ("POST", PAGE + "{check}", self._decide)]

    async def _show(self, request: Request) -> Response:
        check_id = request.path_params["check"]
        session = self._visits.sessions.of(request)
        user = self._visits.sessions.user(session, self._visits.snapshot)
        if session is not None and user is not None:
            check = self._checks.find(check_id, user.id)
            if _is_fresh(session, check):
                return self._ask(check_id, check, user, session)
        # A log-in from before proves only that somebody sits at this browser now.
        return self._visits.with_session(
            request,
            lambda token: pages.login(
                self._ways(), PAGE + check_id, token, wrong="Log in anew to go on by SSH."
            ),
        )

    async def _decide(self, request: Request) -> Response:
        form, session = await self._visits.own_form(request)
        user, check_id = self._visits.who(session), request.path_params["check"]
        if not _is_fresh(session, self._checks.find(check_id, user.id)):
            raise Refused("log in anew first; load the page again")
        yes = form.get("answer") == "yes"
        login, who = self._checks.find(check_id, user.id).login, actor(user, request)
        wall = self._visits.clock.wall()
        # Written down first: what cannot be told afterwards is not let in.
        await self._visits.registry.commit(
            lambda now: (_answered(now, login, who, yes, wall), None), who
        )
        self._checks.decide(check_id, user.id, yes)
        nodes = self._visits.snapshot.nodes
        _log.info(
            "a log-in by SSH was " + ("approved" if yes else "turned away"),
            user=user.name,
            source=nodes[login.source].name if login.source in nodes else login.source,
            target=nodes[login.target].name if login.target in nodes else login.target,
            local_user=ascii(login.local_user),
            address=address(request),
        )
        return pages.ssh_answered(yes)

    def _ask(self, check_id: str, check: Check, user: UserRecord, session: Session) -> Response:
        nodes, login = self._visits.snapshot.nodes, check.login
        if login.source not in nodes or login.target not in nodes:
            raise Refused("one of the two machines is gone")
        return pages.ssh_question(
            check_id,
            nodes[login.source],
            nodes[login.target],
            login.local_user,
            user,
            self._visits.sessions.form_token(session),
        )


def _answered(now: Snapshot, login: Login, who: Actor, yes: bool, wall: datetime) -> Delta:
    kept = passing(now, login, wall) if yes else Delta()
    return replace(kept, audit=(_entry(now, login, who, yes, wall),))


def _entry(now: Snapshot, login: Login, who: Actor, yes: bool, wall: datetime) -> AuditRecord:
    source, target = now.nodes.get(login.source), now.nodes.get(login.target)
    if source is None or target is None:
        raise Refused("one of the two machines is gone")
    return AuditRecord(
        wall=wall,
        actor_kind=who.kind,
        actor=who.name,
        origin=who.origin,
        action="approve" if yes else "reject",
        target_kind="ssh login",
        target=target.stable_id,
        target_name=target.name,
        before=None,
        after={
            "source": source.stable_id,
            "source_name": source.name,
            "local_user": login.local_user,
        },
    )


def _is_fresh(session: Session, check: Check) -> bool:
    return session.proved >= check.created.timestamp()
