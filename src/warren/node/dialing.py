"""TCP connections through the tunnel in userspace mode: dial, then splice with a socket."""

from __future__ import annotations

import asyncio

from warren.engine.commands import Dial, Hangup, Splice
from warren.engine.events import Dialed
from warren.engine.protocol import Engine

DIALS_MAX = 512


class DialFailed(Exception):
    """The tunnel could not connect. The text is one sentence."""


class Dialer:
    """Hands `Dial` to the engine and joins its answers with who waits for them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._next_id = 1
        self._waiting: dict[int, asyncio.Future[str]] = {}

    async def dial(self, to: str, timeout_s: float) -> int:
        """Connect to `ip:port` inside the network and return the connection's id.

        The id must be given to `splice` or `hang_up`. Raises DialFailed.
        """
        if len(self._waiting) >= DIALS_MAX:
            raise DialFailed("too many connections are being opened")
        number = self._next_id
        self._next_id += 1
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._engine.apply([Dial(id=number, to=to)])
        try:
            async with asyncio.timeout(timeout_s):
                error = await answer
        except BaseException as reason:
            self.hang_up(number)
            if isinstance(reason, TimeoutError):
                raise DialFailed(f"{to} did not answer within {timeout_s:g} s") from None
            raise
        finally:
            del self._waiting[number]
        if error:
            raise DialFailed(error)
        return number

    def splice(self, number: int, fd: int) -> None:
        """Join a connection with a socket; the engine owns `fd` from here."""
        self._engine.apply([Splice(id=number, fd=fd)])

    def hang_up(self, number: int) -> None:
        """Drop a connection that was not spliced."""
        self._engine.apply([Hangup(id=number)])

    def finish(self, event: Dialed) -> None:
        """Take the engine's answer; one that nobody waits for any more is hung up."""
        answer = self._waiting.get(event.id)
        if answer is not None and not answer.done():
            answer.set_result(event.error)
        elif not event.error:
            self.hang_up(event.id)
