"""How two machines of the grid meet: one asks for the other, and is watched while it does."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass
from typing import Literal, Protocol

from warren.lab.pinging import Pinging
from warren.lab.stock import StockClient

Outcome = Literal["direct", "relayed", "unreachable"]

_STOCK_EVERY_S = 0.25
_STOCK_FETCH_S = 4.0


@dataclass(frozen=True)
class Met:
    """What became of it. Times are seconds from the first packet.

    path: the address that the asking side uses for the other one; said: an error's words.
    """

    outcome: Outcome = "unreachable"
    seconds: float | None = None
    first_seconds: float | None = None
    path: str | None = None
    latency_ms: float | None = None
    said: str = ""


class Meeting(Protocol):
    """One that is under way."""

    def poll(self) -> bool:
        """Take in what is new; whether it has ended."""

    def give_up(self) -> None:
        """End it now."""

    def met(self) -> Met:
        """What became of it, once it has ended."""


class Ping:
    """A `warren ping --until-direct` of ours."""

    def __init__(self, pinging: Pinging) -> None:
        self._pinging = pinging

    def poll(self) -> bool:
        """Take in what it printed; whether it has ended."""
        return self._pinging.poll()

    def give_up(self) -> None:
        """End it now."""
        self._pinging.kill()

    def met(self) -> Met:
        """What became of it."""
        last = self._pinging.last
        if last is None:
            return Met(said=self._pinging.complaint)
        direct = last["via"] == "direct"
        return Met(
            outcome="direct" if direct else "relayed",
            seconds=self._pinging.direct_s,
            first_seconds=self._pinging.first_s,
            path=last.get("path") if direct else None,
            latency_ms=last.get("ms"),
        )


class StockFetch:
    """A stock client that fetches a peer's page again and again until its path is direct.

    It says in its log when it takes a direct path, and at what moment.
    """

    def __init__(self, client: StockClient, peer: str, key: str, timeout_s: float) -> None:
        """peer: address of the other stock client in the mesh; key: its node key's text."""
        self._client, self._peer, self._key = client, peer, key
        self._timeout_s = timeout_s
        self._ended = threading.Event()
        self._first: float | None = None
        self._direct: tuple[float, str] | None = None
        self._said = "no answer"
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def poll(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """End it now."""
        self._ended.set()
        self._thread.join()

    def met(self) -> Met:
        """What became of it."""
        first = None if self._first is None else round(self._first, 3)
        if self._first is None:
            return Met(said=self._said)
        if self._direct is None:
            return Met(outcome="relayed", first_seconds=first)
        seconds, path = self._direct
        return Met("direct", round(max(0.0, seconds), 3), first, path)

    def _work(self) -> None:
        # Wall seconds, as the client's log has them.
        began = time.time()
        end = time.monotonic() + self._timeout_s
        while time.monotonic() < end and not self._ended.is_set():
            begun = time.monotonic()
            try:
                self._client.get_from_peer(self._peer, timeout_s=_STOCK_FETCH_S)
                if self._first is None:
                    self._first = time.monotonic() - (end - self._timeout_s)
            except (OSError, http.client.HTTPException) as error:
                self._said = str(error) or type(error).__name__
            found = [each for each in self._client.direct_paths(self._key) if each[0] >= began]
            if found and self._first is not None:
                self._direct = (found[-1][0] - began, found[-1][1])
                return
            self._ended.wait(max(0.0, begun + _STOCK_EVERY_S - time.monotonic()))
