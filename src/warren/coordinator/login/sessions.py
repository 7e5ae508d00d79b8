"""Who a browser is: cookies under our seal, and the tokens that forms must bring back.

Nothing of it is stored, so that nobody fills anything up. A session ends by its time, when its
user is suspended or has another password, and by logging out.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from typing import Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from warren.coordinator.auth.authkeys import random_text
from warren.coordinator.auth.sealed import BrokenSeal, Seal
from warren.coordinator.records import UserRecord
from warren.coordinator.snapshot import Snapshot
from warren.edge.clock import Clock
from warren.edge.entropy import Entropy

SESSION_S: Final = 3600
FLOW_S: Final = 600
NOBODY: Final = 0
_MAX_ENDED = 10_000
_T = TypeVar("_T")
_SESSION, _FLOW = "warren", "warren-flow"


class Session(msgspec.Struct, frozen=True, tag="session"):
    """A browser's session; `user_id` 0: nobody has logged in. Times are Unix seconds.

    proved: when they have last shown here that it is them, by a password or by logging in at a
    provider that was told to ask anew; 0: never, the provider may have known them from before.
    """

    sid: str
    user_id: int
    began: float
    ends: float
    proved: float = 0.0


class Flow(msgspec.Struct, frozen=True, tag="flow"):
    """A log-in that was begun, as the browser keeps it until it is back. ends: Unix seconds.

    since: they must have logged in at the provider after this, Unix seconds; 0: whenever.
    """

    provider: str
    state: str
    nonce: str
    verifier: str
    to: str
    ends: int
    since: float = 0.0


class Sessions:
    """Reads and sets cookies. secret: of the seal. secure: over TLS alone."""

    def __init__(self, secret: bytes, secure: bool, clock: Clock, entropy: Entropy) -> None:
        self._seal = Seal(secret)
        self._secure = secure
        self._clock = clock
        self._entropy = entropy
        # What is over before its time, the oldest first: sessions that were logged out of, and
        # log-ins that came back, which strangers can make many of.
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._finished: OrderedDict[str, None] = OrderedDict()
        # The prefix makes browsers refuse what another name or path of this host has set.
        self._prefix = "__Host-" if secure else ""

    def of(self, request: Request) -> Session | None:
        """Return a browser's session, whoever's; None: it has none that holds."""
        session = self._read(request, _SESSION, Session)
        if session is None or session.ends <= self._now() or session.sid in self._ended:
            return None
        return session

    def user(self, session: Session | None, snapshot: Snapshot) -> UserRecord | None:
        """Return who has logged in, if they still may be here."""
        user = snapshot.users.get(session.user_id) if session is not None else None
        if user is None or not user.is_active or session is None:
            return None
        changed = user.password_set
        if changed is not None and changed.timestamp() > session.began:
            return None
        return user

    def new(self, user_id: int = NOBODY, *, proved: bool = False) -> Session:
        """Make a session: at each log-in another, so that nobody knows it from before."""
        now, sid = self._now(), random_text(24, self._entropy)
        return Session(sid, user_id, now, now + SESSION_S, now if proved else 0.0)

    def keep(self, response: Response, session: Session) -> None:
        """Give a browser its session."""
        self._set(response, _SESSION, self._seal.close(session), SESSION_S)

    def end(self, session: Session | None) -> None:
        """End a session, for whoever else may have its cookie as well."""
        if session is not None and session.user_id != NOBODY:
            _remember(self._ended, session.sid)

    def forget(self, response: Response) -> None:
        """Take its session from the browser."""
        self._set(response, _SESSION, "", 0)

    def flow(self, request: Request) -> Flow | None:
        """Return the log-in by a provider that a browser has begun, if it is not over."""
        flow = self._read(request, _FLOW, Flow)
        if flow is None or flow.ends <= self._now() or flow.state in self._finished:
            return None
        return flow

    def keep_flow(self, response: Response, flow: Flow) -> None:
        """Give a browser what it must bring back."""
        self._set(response, _FLOW, self._seal.close(flow), FLOW_S)

    def end_flow(self, flow: Flow) -> None:
        """A log-in was finished: its answer opens nothing a second time."""
        _remember(self._finished, flow.state)

    def forget_flow(self, response: Response) -> None:
        """Take the log-in that was begun from the browser."""
        self._set(response, _FLOW, "", 0)

    def flow_ends(self) -> int:
        """Return when a log-in that begins now is over."""
        return int(self._now()) + FLOW_S

    def form_token(self, session: Session) -> str:
        """Return what each form of this session bears; another site cannot know it."""
        return self._seal.mac(b"form " + session.sid.encode()).hex()

    def is_own_form(self, session: Session | None, token: str) -> bool:
        """Whether a form was ours, shown in this session."""
        return session is not None and hmac.compare_digest(
            token.encode(), self.form_token(session).encode()
        )

    def _read(self, request: Request, name: str, kind: type[_T]) -> _T | None:
        try:
            return self._seal.open_untrusted(request.cookies.get(self._prefix + name, ""), kind)
        except BrokenSeal:
            return None

    def _set(self, response: Response, name: str, value: str, life_s: int) -> None:
        response.set_cookie(
            self._prefix + name,
            value,
            max_age=life_s,
            path="/",
            secure=self._secure,
            httponly=True,
            samesite="lax",  # not strict: the provider's answer comes from elsewhere
        )

    def _now(self) -> float:
        return self._clock.wall().timestamp()


def _remember(ended: OrderedDict[str, None], name: str) -> None:
    ended[name] = None
    if len(ended) > _MAX_ENDED:
        ended.popitem(last=False)
