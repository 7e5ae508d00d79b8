"""What machines ask inside their Noise session (PROTOCOL §2.7)."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
import structlog

from warren.coordinator import members, questions, ssh_checks
from warren.coordinator.auth.flow import Registration
from warren.coordinator.delta import Delta
from warren.coordinator.presence import Presence
from warren.coordinator.questions import Questions
from warren.coordinator.records import NodeRecord
from warren.coordinator.refusal import NotFound
from warren.coordinator.registry import Registry
from warren.coordinator.session import Maps, frame, ghost_of
from warren.coordinator.settings import Settings
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.ssh_checks import SshChecks
from warren.coordinator.store import StoreProblem
from warren.edge.clock import Clock
from warren.keys import MachinePublic
from warren.netmap.codec import MalformedMessage, decode_request_untrusted, encode_json
from warren.netmap.endpoint import Endpoint, MalformedEndpoint
from warren.netmap.messages import MapRequest
from warren.netmap.register import RegisterRequest

_log = structlog.get_logger("machine")

# Long polls of node keys that nobody here has: anyone can open one, so they are few.
MAX_STRANGERS = 500

# Asked by stock clients, not served yet; they tolerate 501 (PROTOCOL §2.7).
_NOT_SERVED = frozenset(
    {
        "/machine/update-health",
        "/machine/set-device-attr",
        "/machine/audit-log",
        "/machine/id-token",
        "/machine/feature/query",
        "/machine/whoami",
        "/machine/set-dns",
    }
)


class Reply(Protocol):
    """The way back of one request."""

    def start(self, status: int, content_type: str = "application/json") -> None:
        """Send the status; the body follows."""
        ...

    def write(self, data: bytes) -> None:
        """Send a piece of the body, without waiting."""
        ...

    def roomy(self) -> bool:
        """Whether most of what was written is on its way."""
        ...

    async def drain(self) -> None:
        """Wait until it is. Raises ConnectionError."""
        ...

    def finish(self, data: bytes = b"") -> None:
        """Send the last piece."""
        ...


class MachineApi:
    """Routes the requests of machines. The machine key of each is proven by its session."""

    def __init__(
        self,
        registry: Registry,
        registration: Registration,
        maps: Maps,
        presence: Presence,
        settings: Settings,
        clock: Clock,
        questions: Questions,
        checks: SshChecks,
    ) -> None:
        self._registry = registry
        self._registration = registration
        self._maps = maps
        self._presence = presence
        self._settings = settings
        self._clock = clock
        self._questions = questions
        self._checks = checks
        self._strangers = 0

    async def handle(
        self, machine: MachinePublic, source: str, method: str, target: str, body: bytes,
        reply: Reply,
    ) -> None:  # fmt: skip
        """Answer one request. source: the address that it comes from.

        Raises ConnectionError when the machine is gone.
        """
        path = target.partition("?")[0]
        try:
            if (method, path) == ("POST", "/machine/register"):
                await self._register(machine, source, body, reply)
            elif (method, path) == ("POST", "/machine/map"):
                await self._map(machine, body, reply)
            elif method == "POST" and path.startswith(questions.PATH):
                self._answer(machine, path, body, reply)
            elif method == "GET" and path.startswith(ssh_checks.PATH):
                await self._ssh_action(machine, target, reply)
            elif path in _NOT_SERVED:
                _refuse(reply, 501, "this server does not offer that yet")
            else:
                _refuse(reply, 404, "there is nothing here")
        except MalformedMessage as error:
            _refuse(reply, 400, f"the request cannot be read: {error}")
        except StoreProblem as problem:
            _log.error("a change was refused", problem=str(problem))
            _refuse(reply, 503, f"the server cannot store changes now: {problem}")

    async def _register(
        self, machine: MachinePublic, source: str, body: bytes, reply: Reply
    ) -> None:
        request = decode_request_untrusted(body, RegisterRequest)
        response = await self._registration.register(machine, request, source)
        if response.error:
            _log.info(
                "registration refused", machine=str(machine), address=source, reason=response.error
            )
        reply.start(200)
        reply.finish(encode_json(response))

    def _answer(self, machine: MachinePublic, path: str, body: bytes, reply: Reply) -> None:
        if self._questions.take(machine, path.removeprefix(questions.PATH), body):
            reply.start(200)
            reply.finish()
        else:
            _refuse(reply, 404, "nobody asked this machine that, or not any more")

    async def _ssh_action(self, machine: MachinePublic, target: str, reply: Reply) -> None:
        try:
            action = await self._checks.action(machine, target)
        except NotFound as error:
            _refuse(reply, 404, str(error))
            return
        reply.start(200)
        reply.finish(msgspec.json.encode(action))

    async def _map(self, machine: MachinePublic, body: bytes, reply: Reply) -> None:
        request = decode_request_untrusted(body, MapRequest)
        node = self._registry.snapshot.node_with_key(request.node_key)
        if node is not None and node.machine_key != machine:
            _refuse(reply, 403, "this node key belongs to another machine")
        elif node is None:
            await self._map_of_stranger(request, reply)
        elif request.stream:
            await self._long_poll(node, request, reply)
        else:
            await self._take_facts(node.id, request)
            self._map_of(node, request, reply)

    def _map_of(self, node: NodeRecord, request: MapRequest, reply: Reply) -> None:
        reply.start(200)
        if request.omit_peers:
            reply.finish()
            return
        session = self._maps.one_shot(node.id)
        reply.finish(frame(session, request.compress == "zstd"))

    async def _map_of_stranger(self, request: MapRequest, reply: Reply) -> None:
        if not request.stream or self._strangers >= MAX_STRANGERS:
            _refuse(reply, 404, "this node is not known here; log in again")
            return
        reply.start(200)
        response = ghost_of(request.node_key, self._settings.domain, self._clock.wall())
        self._strangers += 1
        try:
            reply.write(frame(response))
            await self._maps.keep_alive(reply)
        finally:
            self._strangers -= 1

    async def _long_poll(self, node: NodeRecord, request: MapRequest, reply: Reply) -> None:
        session = self._maps.open(node.id, request.compress == "zstd")
        reply.start(200)
        try:
            self._presence.arrived(node.id)
            await self._take_facts(node.id, request)
            await session.run(reply)
            reply.finish()
        finally:
            if self._maps.close(node.id, session):
                self._presence.left(node.id)

    async def _take_facts(self, node_id: int, request: MapRequest) -> None:
        """Take over what the request says of the node.

        A streaming request is for reading (cap 68): of it only what may not be missed, the keys
        of this connection; endpoints and host info come in a lite update beside it. That it
        reads is what makes it online.
        """
        facts: dict[str, Any] = {"version": request.version}
        if request.stream:
            facts["online"] = True
        if not request.disco_key.is_zero:
            facts["disco_key"] = request.disco_key
        if not request.stream:
            facts["endpoints"] = _endpoints(request.endpoints)
        wall = self._clock.wall()

        def decide(snapshot: Snapshot) -> Delta | None:
            node = snapshot.nodes.get(node_id)
            if node is None:
                return None
            if request.hostinfo is not None and (not request.stream or not node.version):
                facts["hostinfo"] = request.hostinfo
            return members.observed(snapshot, node, wall, facts)

        await self._registry.observe(decide)


def _endpoints(texts: list[str]) -> tuple[str, ...]:
    """Return the endpoints that can be read, in their order, at most 64."""
    found: dict[str, None] = {}
    for text in texts[: 4 * members.MAX_ENDPOINTS]:
        try:
            found[str(Endpoint.parse(text))] = None
        except MalformedEndpoint:
            continue
    return tuple(found)[: members.MAX_ENDPOINTS]


def _refuse(reply: Reply, status: int, reason: str) -> None:
    reply.start(status, "text/plain; charset=utf-8")
    reply.finish(reason.encode() + b"\n")
