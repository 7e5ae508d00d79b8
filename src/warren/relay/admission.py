"""Asking a coordinator which clients to serve, by the stock relay's protocol (PROTOCOL §4.3)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from warren.edge.dial import verified_tls
from warren.edge.fetch import FetchFailed
from warren.edge.kept import KeptServer
from warren.keys import NodePublic
from warren.netmap.codec import encode_json
from warren.netmap.derpmap import AdmitRequest, AdmitResponse

_log = structlog.get_logger("admission")

LIMIT_S = 5.0
ASK_AGAIN_S = 300.0
"""Every client is asked after this often: who has left the network is let go by then."""
ALLOWED, DENIED, UNANSWERED = "allowed", "denied", "unanswered"
_AT_ONCE = 16
_MAX_ANSWER_BYTES = 4096


class MalformedAnswer(ValueError):
    """What a coordinator answered is no answer."""


class Admission:
    """Answers for keys. fail_open: whether to serve whoever comes while nobody answers."""

    def __init__(self, url: str, fail_open: bool) -> None:
        self._url = url
        self._fail_open = fail_open
        self._server = KeptServer(url, verified_tls())
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self.counts: Counter[str] = Counter({ALLOWED: 0, DENIED: 0, UNANSWERED: 0})
        self.problem = ""
        """Why the coordinator did not answer last, or nothing."""

    async def admits(self, key: NodePublic) -> bool:
        """Whether to serve a client that comes now. Never raises."""
        answer = await self.ask(key)
        return self._fail_open if answer is None else answer

    async def ask(self, key: NodePublic) -> bool | None:
        """Return the coordinator's answer; None if there is none."""
        async with self._turns:
            try:
                answer = await self._ask(key)
            except (FetchFailed, MalformedAnswer) as error:
                problem = f"{self._url} does not say whom to serve: {error}"
                if self.problem != problem:
                    _log.warning("nobody answers for clients", problem=problem)
                self.problem = problem
                self.counts[UNANSWERED] += 1
                return None
        self.problem = ""
        self.counts[ALLOWED if answer else DENIED] += 1
        return answer

    def ready(self) -> bool:
        """Whether anybody new can be let in."""
        return self._fail_open or not self.problem

    def close(self) -> None:
        """Close the connections to the coordinator."""
        self._server.close()

    async def keep(
        self, connected: Callable[[], set[NodePublic]], kick: Callable[[NodePublic], None]
    ) -> None:
        """Ask again after those who are connected, for ever, and let go whom we are told to."""
        while True:
            await asyncio.sleep(ASK_AGAIN_S)
            await self.look(connected, kick)

    async def look(
        self, connected: Callable[[], set[NodePublic]], kick: Callable[[NodePublic], None]
    ) -> None:
        """Ask after all who are connected, once; no answer changes nothing."""

        async def one(key: NodePublic) -> None:
            if await self.ask(key) is False:
                kick(key)

        waiting: list[Awaitable[None]] = [one(key) for key in connected()]
        await asyncio.gather(*waiting)

    async def _ask(self, key: NodePublic) -> bool:
        question = encode_json(AdmitRequest(node_public=str(key)))
        headers = [("content-type", "application/json")]
        found = await self._server.post(
            question, headers, limit_s=LIMIT_S, max_bytes=_MAX_ANSWER_BYTES
        )
        if found.status != 200:
            raise FetchFailed(f"it answers with status {found.status}")
        return parse_answer_untrusted(found.body)


def parse_answer_untrusted(data: bytes) -> bool:
    """Return whether a coordinator lets a client in. Raises MalformedAnswer."""
    try:
        return msgspec.json.decode(data, type=AdmitResponse).allow
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedAnswer(f"its answer cannot be read ({error})") from error
