"""Asking a connected node something: an HTTP request inside a PingRequest (c2n, PROTOCOL §2.9).

The request goes down the node's long poll; its answer comes back as a request of the node's own,
to a path that nobody can guess and that only this node's machine key may use.
"""

from __future__ import annotations

import asyncio
import base64
from typing import NamedTuple
from urllib.parse import urlsplit

import h11

from warren.coordinator.refusal import Conflict
from warren.coordinator.session import Maps
from warren.edge.entropy import Entropy
from warren.keys import MachinePublic
from warren.netmap.messages import PingRequest

PATH = "/machine/c2n/"
ANSWER_LIMIT_S = 10.0
OPEN_MAX = 64
UNREADABLE = 502
"""The status of an answer that is no HTTP response."""
_ID_BYTES = 16


class NodeAnswer(NamedTuple):
    """What a node answered: the status and body of an HTTP response."""

    status: int
    body: bytes


class _Asked(NamedTuple):
    machine: MachinePublic
    answer: asyncio.Future[NodeAnswer]


class Questions:
    """Questions under way, at most `OPEN_MAX`. url: the server's own, for nodes."""

    def __init__(self, maps: Maps, url: str, entropy: Entropy) -> None:
        self._maps = maps
        # Inside Noise stock clients make no request but of https.
        self._url = f"https://{urlsplit(url).netloc}"
        self._entropy = entropy
        self._open: dict[str, _Asked] = {}

    async def ask(
        self,
        node_id: int,
        machine: MachinePublic,
        name: str,
        target: str,
        limit_s: float = ANSWER_LIMIT_S,
    ) -> NodeAnswer:
        """GET `target` of a node. name: what a person calls it. Raises Conflict."""
        if len(self._open) >= OPEN_MAX:
            raise Conflict(f"{OPEN_MAX} questions are under way; ask again in a moment")
        http = h11.Connection(h11.CLIENT)
        request = http.send(h11.Request(method="GET", target=target, headers=[("Host", "node")]))
        request = (request or b"") + (http.send(h11.EndOfMessage()) or b"")
        number = self._entropy(_ID_BYTES).hex()
        ping = PingRequest(
            url=f"{self._url}{PATH}{number}",
            url_is_noise=True,
            types="c2n",
            payload=base64.b64encode(request).decode(),
        )
        if not self._maps.ask(node_id, ping):
            raise Conflict(
                f"{name} is not connected now, and only a connected machine can be asked"
            )
        answer: asyncio.Future[NodeAnswer] = asyncio.get_running_loop().create_future()
        self._open[number] = _Asked(machine, answer)
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except TimeoutError:
            raise Conflict(f"{name} did not answer within {limit_s:g} s") from None
        finally:
            del self._open[number]

    def take(self, machine: MachinePublic, number: str, body: bytes) -> bool:
        """Take what a machine sent to a question's path; False: it was not asked that."""
        asked = self._open.get(number)
        if asked is None or asked.machine != machine or asked.answer.done():
            return False
        asked.answer.set_result(parse_answer_untrusted(body))
        return True


def parse_answer_untrusted(data: bytes) -> NodeAnswer:
    """Read a serialised HTTP response; one that cannot be read is `UNREADABLE`. Never raises."""
    http = h11.Connection(h11.CLIENT)
    status, body = 0, bytearray()
    try:
        http.send(h11.Request(method="GET", target="/", headers=[("Host", "node")]))
        http.send(h11.EndOfMessage())
        http.receive_data(data)
        http.receive_data(b"")
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif not isinstance(event, h11.InformationalResponse):
                return NodeAnswer(UNREADABLE, b"")
    except h11.RemoteProtocolError:
        return NodeAnswer(UNREADABLE, b"")
    return NodeAnswer(status, bytes(body))
