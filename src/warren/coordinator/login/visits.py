"""What every page needs of whoever asks: their session, their forms, and how often they try."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from warren.coordinator.api.throttle import Throttle, place_of
from warren.coordinator.audit import Actor
from warren.coordinator.delta import Delta
from warren.coordinator.login import pages
from warren.coordinator.login.claims import ProviderProblem
from warren.coordinator.login.forms import read_form
from warren.coordinator.login.sessions import Session, Sessions
from warren.coordinator.records import UserRecord
from warren.coordinator.refusal import NotFound, Refused
from warren.coordinator.registry import Registry
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import StoreProblem
from warren.edge.clock import Clock

_log = structlog.get_logger("login")

Work = Callable[[Request], Awaitable[Response]]
Decision = Callable[[Snapshot], tuple[Delta, int]]

# Passwords and links tried: from one address, and for one user from anywhere.
_ADDRESS_PER_S, _ADDRESS_BURST = 0.2, 30.0
_USER_PER_S, _USER_BURST = 0.05, 10.0
# Log-ins by a provider that one address begins: each may ask the provider something.
_BEGIN_PER_S, _BEGIN_BURST = 1.0, 30.0

NOT_KEPT = {"cache-control": "no-store", "referrer-policy": "no-referrer"}


class LogIn(StrEnum):
    """What came of somebody's trying to log in, for those who count it."""

    DONE = "done"
    REFUSED = "refused"
    SLOWED = "slowed"


class SlowDown(Exception):
    """Too many tries; wait_s: how long to wait, at least a second."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = max(1, round(wait_s + 0.5))


class Visits:
    """Tells the pages who asks, and puts in force what they decide."""

    def __init__(
        self,
        registry: Registry,
        sessions: Sessions,
        clock: Clock,
        count: Callable[[LogIn], None] = lambda result: None,
    ) -> None:
        self.count = count
        self.registry = registry
        self.sessions = sessions
        self.clock = clock
        self._by_address = Throttle(_ADDRESS_PER_S, _ADDRESS_BURST)
        self._by_user = Throttle(_USER_PER_S, _USER_BURST)
        # Names that nobody has are apart: there are enough of them to have users forgotten.
        self._by_name = Throttle(_USER_PER_S, _USER_BURST)
        self._begun = Throttle(_BEGIN_PER_S, _BEGIN_BURST)

    @property
    def snapshot(self) -> Snapshot:
        """The state now."""
        return self.registry.snapshot

    async def enter(
        self,
        request: Request,
        to: str,
        who: UserRecord | str,
        decide: Decision,
        *,
        proved: bool = True,
    ) -> Response:
        """Put a log-in in force, and begin the session that it gives.

        proved: whoever it is has shown so just now, not at some time before.
        """
        user_id = await self.registry.commit(decide, actor(who, request))
        user = self.snapshot.users[user_id]
        if not user.approved:
            self.count(LogIn.REFUSED)
            _log.info("a user waits for approval", user=user.name, address=address(request))
            return pages.waits_for_approval(user)
        self.count(LogIn.DONE)
        _log.info("logged in", user=user.name, address=address(request))
        response = RedirectResponse(to, 303, headers=NOT_KEPT)
        # Never the session from before: somebody else might have given the browser that.
        self.sessions.end(self.sessions.of(request))
        self.sessions.keep(response, self.sessions.new(user_id, proved=proved))
        self.sessions.forget_flow(response)
        return response

    async def own_form(self, request: Request) -> tuple[dict[str, str], Session]:
        """Return a form that we showed in this session. Raises Refused."""
        form, session = await read_form(request), self.sessions.of(request)
        if session is None or not self.sessions.is_own_form(session, form.get("token", "")):
            raise Refused("this form is too old, or came from another site; load the page again")
        return form, session

    def who(self, session: Session | None) -> UserRecord:
        """Return who has logged in. Raises Refused."""
        user = self.sessions.user(session, self.snapshot)
        if user is None:
            raise Refused("you are not logged in any more; load the page again")
        return user

    def with_session(self, request: Request, show: Callable[[str], Response]) -> Response:
        """Show a page with a form; a browser without a session gets one, for the form's token."""
        found = self.sessions.of(request)
        kept = found or self.sessions.new()
        response = show(self.sessions.form_token(kept))
        if found is None:
            self.sessions.keep(response, kept)
        return response

    def take_turn(self, request: Request, name: str | None = None) -> None:
        """Count one try. Raises SlowDown for an address, or a user, with too many."""
        places = [(self._by_address, _place(request))]
        places += [self._account(name)] if name is not None else []
        self._take(request, places, name or "")

    def take_begin(self, request: Request) -> None:
        """Count one log-in that is begun. Raises SlowDown."""
        self._take(request, [(self._begun, _place(request))], "")

    def _account(self, name: str) -> tuple[Throttle, str]:
        """Return whom to count a try for: one user, in whichever way their name is written."""
        user = self.snapshot.user_named(name)
        return (self._by_name, name) if user is None else (self._by_user, str(user.id))

    def _take(self, request: Request, places: list[tuple[Throttle, str]], name: str) -> None:
        now = self.clock.now()
        wait_s = max(throttle.wait_s(key, now) for throttle, key in places)
        if wait_s > 0:
            _log.warning("too many tries", user=ascii(name), address=address(request))
            self.count(LogIn.SLOWED)
            raise SlowDown(wait_s)
        for throttle, key in places:
            throttle.take(key, now)


def actor(who: UserRecord | str, request: Request) -> Actor:
    """Return who does something, for the log of changes."""
    return Actor("user", who if isinstance(who, str) else who.name, address(request))


def address(request: Request) -> str:
    """Return where a request comes from."""
    return request.client.host if request.client else "local"


def _place(request: Request) -> str:
    """Return whom to count; of IPv6 the network, since one machine has many addresses."""
    return place_of(address(request))


def safely(work: Work) -> Work:
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
        except SlowDown as slow:
            reason = f"There were too many tries; come back in {slow.wait_s} s."
            response = pages.problem("Slow down", reason, 429)
            response.headers["retry-after"] = str(slow.wait_s)
            return response
        except ClientDisconnect:
            return Response(status_code=400)

    return endpoint
