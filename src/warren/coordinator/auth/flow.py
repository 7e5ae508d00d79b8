"""Registration with its waiting: the asynchronous shell around `registration`."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import structlog

from warren.coordinator.api.throttle import Throttle, place_of
from warren.coordinator.audit import Actor
from warren.coordinator.auth import registration
from warren.coordinator.auth.registration import Desk, Outcome
from warren.coordinator.delta import Delta
from warren.coordinator.records import PendingRecord
from warren.coordinator.registry import Registry
from warren.coordinator.settings import Settings, in_force
from warren.coordinator.snapshot import Snapshot
from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.keys import MachinePublic
from warren.netmap.register import RegisterRequest, RegisterResponse

# A follow-up is answered with its own URL after this long; the client then asks again. Short
# enough for the state tables of the middleboxes between.
_WAIT_S = 240.0
# Auth keys tried that nobody gave out: from one address, behind which many machines may be.
_WRONG_PER_S, _WRONG_BURST = 0.2, 30.0

_MAX_HOST_NAME = 100

_log = structlog.get_logger("registration")


class Registration:
    """Answers registrations, and tells those who wait."""

    def __init__(
        self, registry: Registry, settings: Settings, clock: Clock, entropy: Entropy
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._clock = clock
        self._entropy = entropy
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._wrong = Throttle(_WRONG_PER_S, _WRONG_BURST)

    async def register(
        self, machine: MachinePublic, request: RegisterRequest, origin: str = ""
    ) -> RegisterResponse:
        """Answer one request; a follow-up is answered once something happened to it.

        origin: the address that it comes from. Raises StoreProblem.
        """
        if (wait_s := self._slowed_s(request, origin)) > 0:
            return RegisterResponse(
                error="too many wrong auth keys came from this address; come back in "
                f"{max(1, round(wait_s + 0.5))} s"
            )
        deadline = self._clock.now() + _WAIT_S
        while True:
            event = asyncio.Event()
            outcome = await self._decide(machine, request, origin)
            if outcome.wrong_key:
                self._wrong.take(place_of(origin), self._clock.now())
                _log.warning("an auth key was refused", address=origin, machine=str(machine))
            if not outcome.waits_for or self._clock.now() >= deadline:
                return outcome.response
            # Nothing can have happened in between: there was no await since the decision.
            self._waiting[outcome.waits_for].add(event)
            try:
                async with asyncio.timeout(self._patience_s(outcome.waits_for, deadline)):
                    await event.wait()
            except TimeoutError:
                pass
            finally:
                self._forget(outcome.waits_for, event)

    async def approve(
        self, pending_id: str, user_id: int, tags: tuple[str, ...] | None, by: Actor
    ) -> int:
        """Admit a waiting machine; return the node's id. Raises Refused, StoreProblem."""
        node_id = await self._registry.commit(
            lambda snapshot: registration.approve(self._desk(snapshot), pending_id, user_id, tags),
            by,
        )
        self._tell(pending_id)
        return node_id

    async def join(self, pending_id: str, user_id: int, by: Actor) -> int:
        """Admit a waiting machine for who has logged in. Raises Refused, StoreProblem."""
        node_id = await self._registry.commit(
            lambda snapshot: registration.join(self._desk(snapshot), pending_id, user_id), by
        )
        self._tell(pending_id)
        return node_id

    def pending(self, pending_id: str) -> PendingRecord:
        """Return the machine that waits under this id. Raises NotFound."""
        return registration.find_pending(self._desk(self._registry.snapshot), pending_id)

    async def reject(self, pending_id: str, by: Actor) -> None:
        """Turn a waiting machine away. Raises Refused, StoreProblem."""

        def decide(snapshot: Snapshot) -> tuple[Delta, None]:
            return registration.reject(self._desk(snapshot), pending_id), None

        await self._registry.commit(decide, by)
        self._tell(pending_id)

    def _slowed_s(self, request: RegisterRequest, origin: str) -> float:
        """Return for how long no auth key is looked at; machines that are known need none."""
        if request.auth is None or not request.auth.auth_key:
            return 0.0
        if self._registry.snapshot.node_with_key(request.node_key) is not None:
            return 0.0
        return self._wrong.wait_s(place_of(origin), self._clock.now())

    async def _decide(
        self, machine: MachinePublic, request: RegisterRequest, origin: str
    ) -> Outcome:
        def decide(snapshot: Snapshot) -> tuple[Delta | None, Outcome]:
            outcome = registration.register(self._desk(snapshot), machine, request)
            return outcome.delta, outcome

        # A space in it, so that no host name is a user's name.
        name = request.hostinfo.hostname[:_MAX_HOST_NAME] or str(machine)
        return await self._registry.commit(decide, Actor("machine", f"machine {name}", origin))

    def _desk(self, snapshot: Snapshot) -> Desk:
        return Desk(
            snapshot=snapshot,
            settings=in_force(self._settings, snapshot.settings),
            wall=self._clock.wall(),
            entropy=self._entropy,
        )

    def _patience_s(self, pending_id: str, deadline: float) -> float:
        pending = self._registry.snapshot.pending.get(pending_id)
        life_s = (pending.expiry - self._clock.wall()).total_seconds() if pending else 0.0
        return max(0.01, min(deadline - self._clock.now(), life_s))

    def _tell(self, pending_id: str) -> None:
        for event in self._waiting.get(pending_id, ()):
            event.set()

    def _forget(self, pending_id: str, event: asyncio.Event) -> None:
        self._waiting[pending_id].discard(event)
        if not self._waiting[pending_id]:
            del self._waiting[pending_id]
