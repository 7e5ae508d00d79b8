"""Puts a network from Headscale into a server's database, in one transaction, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from warren.coordinator import audit
from warren.coordinator.audit import Actor
from warren.coordinator.backup.making import default_database
from warren.coordinator.delta import Delta
from warren.coordinator.headscale.conversion import convert
from warren.coordinator.headscale.source import (
    NotHeadscale,
    Source,
    read_source_untrusted,
)
from warren.coordinator.policies import PolicyRefused, set_policy
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import Store
from warren.edge.entropy import Entropy
from warren.edge.files import FileLock, owner_only_from_now_on, private_directory

Tell = Callable[[str], None]
"""Is told what is being done now."""
_AUTHOR = "headscale"


class ImportProblem(Exception):
    """A network cannot be taken over. The text is a sentence for a person."""


@dataclass(frozen=True)
class Imported:
    """What was taken over, in numbers, and sentences about what was not, or differs."""

    users: int
    machines: int
    auth_keys: int
    policy: bool
    notes: list[str]


@dataclass(frozen=True)
class PolicyChoice:
    """Which policy is taken over: `text`, else the database's, and with `leave_out` none."""

    text: str | None = None
    leave_out: bool = False


def import_headscale(
    state: Path,
    database: str,
    file: Path,
    policy: PolicyChoice,
    wall: datetime,
    entropy: Entropy,
    tell: Tell,
    *,
    only_look: bool = False,
) -> Imported:
    """Import `file` into the database (its URL, or empty for SQLite in the state directory).

    only_look: everything but the writing. Raises ImportProblem, StoreProblem, FileProblem.
    """
    try:
        tell(f"reading {file}")
        source = read_source_untrusted(file)
    except NotHeadscale as problem:
        raise ImportProblem(str(problem)) from problem
    chosen = "" if policy.leave_out else (policy.text or source.policy)
    if only_look and not state.exists():
        return _decide(Snapshot(), source, chosen, wall, entropy)[1]
    owner_only_from_now_on()
    private_directory(state)
    lock = FileLock(state / "server.lock")
    if not lock.acquire():
        raise ImportProblem(f"a warren server uses {state}; stop it while you import")
    try:
        store = Store.open(database or default_database(state))
        try:
            snapshot = store.load()
            if snapshot.nodes:
                count = len(snapshot.nodes)
                raise ImportProblem(
                    f"there {'is 1 machine' if count == 1 else f'are {count} machines'} here "
                    "already; import into a new --state"
                )
            tell(f"converting {len(source.nodes):,} machines")
            delta, imported = _decide(snapshot, source, chosen, wall, entropy)
            if not only_look:
                tell(f"writing {len(delta.nodes):,} machines")
                actor = Actor("server", "import from headscale", file.name)
                noted = audit.entries(snapshot, delta, actor, wall)
                store.write_now(replace(delta, audit=noted))
            return imported
        finally:
            store.close()
    finally:
        lock.release()


def _decide(
    snapshot: Snapshot, source: Source, policy: str, wall: datetime, entropy: Entropy
) -> tuple[Delta, Imported]:
    converted = convert(source, snapshot, wall, entropy)
    delta = converted.delta()
    if policy:
        try:
            added = set_policy(snapshot.after(delta), policy, _AUTHOR, wall)
        except PolicyRefused as refused:
            raise ImportProblem(
                f"the policy cannot be taken over: {refused}; mend it and give it with --policy "
                "FILE, or leave it out with --without-policy"
            ) from refused
        delta = replace(delta, policies=added.policies, removed_policies=added.removed_policies)
    return delta, Imported(
        users=len(delta.users),
        machines=len(delta.nodes),
        auth_keys=len(delta.auth_keys),
        policy=bool(policy),
        notes=converted.notes,
    )
