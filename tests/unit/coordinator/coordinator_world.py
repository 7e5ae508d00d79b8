"""A coordinator in one process for tests: its own clock, counted entropy, a real database."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from warren.coordinator.auth import authkeys
from warren.coordinator.auth.registration import Desk, Outcome, register
from warren.coordinator.delta import Delta
from warren.coordinator.members import create_user
from warren.coordinator.records import AuthKeyRecord
from warren.coordinator.settings import Settings
from warren.coordinator.snapshot import Snapshot
from warren.keys import LockPublic, MachinePrivate, MachinePublic, NodePrivate, NodePublic
from warren.netmap.node import Hostinfo
from warren.netmap.register import ZERO_TIME, Auth, RegisterRequest

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONG_AGO = datetime.fromtimestamp(123, UTC)


class FakeClock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return 1000 + self.seconds

    def wall(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


class CountedEntropy:
    """Different bytes at each call, the same in each run."""

    def __init__(self, seed: str = "warren") -> None:
        self.seed, self.count = seed, 0

    def __call__(self, size: int) -> bytes:
        self.count += 1
        data = b""
        while len(data) < size:
            data += hashlib.sha256(f"{self.seed} {self.count} {len(data)}".encode()).digest()
        return data[:size]


def machine_key(name: str) -> MachinePrivate:
    return MachinePrivate.from_entropy(hashlib.sha256(b"machine " + name.encode()).digest())


def node_key(name: str) -> NodePrivate:
    return NodePrivate.from_entropy(hashlib.sha256(b"node " + name.encode()).digest())


@dataclass
class World:
    """The pure part: a snapshot that decisions are applied to at once."""

    settings: Settings = field(default_factory=lambda: Settings(url="http://warren.test"))
    clock: FakeClock = field(default_factory=FakeClock)
    entropy: CountedEntropy = field(default_factory=CountedEntropy)
    snapshot: Snapshot = field(default_factory=Snapshot)

    def desk(self) -> Desk:
        return Desk(
            snapshot=self.snapshot,
            settings=self.settings,
            wall=self.clock.wall(),
            entropy=self.entropy,
        )

    def apply(self, delta: Delta | None) -> Delta | None:
        if delta is not None:
            self.snapshot = self.snapshot.after(delta)
        return delta

    def user(self, name: str) -> int:
        delta = create_user(self.snapshot, name, "", self.clock.wall())
        self.apply(delta)
        return delta.users[0].id

    def auth_key(self, user_id: int, **fields: Any) -> tuple[str, AuthKeyRecord]:
        fields.setdefault("life", timedelta(hours=1))
        text, record = authkeys.mint(
            user_id=user_id, wall=self.clock.wall(), entropy=self.entropy, **fields
        )
        self.apply(Delta(auth_keys=(record,)))
        return text, record

    def register(self, machine: str, node: str, **fields: Any) -> Outcome:
        outcome = register(self.desk(), machine_key(machine).public(), request(node, **fields))
        self.apply(outcome.delta)
        return outcome


def request(
    node: str,
    *,
    old: str = "",
    auth_key: str = "",
    expiry: datetime = ZERO_TIME,
    hostname: str = "host",
    **fields: Any,
) -> RegisterRequest:
    tags = fields.pop("request_tags", [])
    return RegisterRequest(
        version=113,
        node_key=node_key(node).public(),
        old_node_key=node_key(old).public() if old else NodePublic.zero(),
        nl_key=LockPublic.zero(),
        auth=Auth(auth_key=auth_key) if auth_key else None,
        expiry=expiry,
        hostinfo=Hostinfo(hostname=hostname, os="linux", request_tags=tags),
        **fields,
    )


__all__ = ["LONG_AGO", "START", "CountedEntropy", "FakeClock", "MachinePublic", "World"]
