"""One HTTP request and its answer on a connection that the front door has read the head of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from warren.edge.http import Lobby, hand_over

# A body that has not come whole by then never will, and an answer is taken by then.
BODY_TIMEOUT_S = 30.0
TAKE_TIMEOUT_S = 60.0
# Those who are waited for; beyond it the oldest is dropped, rather than the newest turned away.
MAX_AWAITED = 256
MAX_AT_ONCE = 512


class Exchange(H11Protocol):
    """Serves one request by an ASGI server, then gives the connection back for the next.

    awaited: who has yet to send a body, or to take an answer. again: makes the door that reads
    the next head, which might be an upgrade.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        awaited: Lobby,
        again: Callable[[], asyncio.Protocol],
    ) -> None:
        super().__init__(config, state, {})
        self._awaited = awaited
        self._again = again
        self._limit: asyncio.TimerHandle | None = None
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the request, but not for ever."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._awaited.enter(self)
        self._set_limit(BODY_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._leave()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Drop the connection at once."""
        self._leave()
        self.transport.abort()

    def handle_events(self) -> None:
        """Take what has come of the request."""
        super().handle_events()
        if self._answered:
            self._give_back()
        elif self.cycle is not None and not self.cycle.more_body:
            self._leave()

    def on_response_complete(self) -> None:
        """The answer is written; how much of it was taken is another matter."""
        self.server_state.total_requests += 1
        self._answered = True
        self.connections.discard(self)  # it is no work any more
        self._awaited.enter(self)
        self._set_limit(TAKE_TIMEOUT_S)
        self._give_back()

    def pause_writing(self) -> None:
        """The other side does not read."""
        super().pause_writing()
        self._set_limit(TAKE_TIMEOUT_S)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._answered:
            self._give_back()
        elif self._limit is not None and not self.cycle.more_body:
            self._leave()

    def _give_back(self) -> None:
        """Let a door have the connection, once the request was read and the answer taken."""
        transport, http = self.transport, self.conn
        if transport.is_closing() or self.flow.write_paused:
            return
        self.flow.resume_reading()
        # What is left of a body that nobody wanted is read here, and both sides then begin anew.
        if (http.our_state, http.their_state) not in ((h11.DONE, h11.DONE), (h11.IDLE, h11.IDLE)):
            return
        self._leave()
        hand_over(transport, self._again(), bytes(http.trailing_data[0]))

    def _set_limit(self, seconds: float) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._limit = self.loop.call_later(seconds, self.abort)

    def _leave(self) -> None:
        self._awaited.leave(self)
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None


def exchanges(
    app: Any, again: Callable[[], asyncio.Protocol], limit: int = MAX_AWAITED
) -> Callable[[], asyncio.Protocol]:
    """Return what makes a protocol that serves `app` once on a transport. Needs a running loop."""
    config = served(app, MAX_AT_ONCE)
    state, awaited = ServerState(), Lobby(limit)
    return lambda: Exchange(config, state, awaited, again)


def served(app: Any, limit: int) -> uvicorn.Config:
    """Return how an application is served. limit: of connections at once."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        limit_concurrency=limit,
        ws="none",
    )
    config.load()
    return config
