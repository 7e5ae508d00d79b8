"""What the database may hold otherwise than the snapshot, and the delta that settles it; pure.

A connection that breaks while a change is written leaves open whether it was: the database may
have what was refused here. And what machines reported while it was away is in force, yet not
stored. Both are settled by writing the records in question once more, as the snapshot has them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from warren.coordinator.delta import KINDS, Delta
from warren.coordinator.snapshot import Snapshot


class Doubt:
    """The ids in question, by kind: at most as many as there are records."""

    def __init__(self) -> None:
        self._ids: dict[str, set[Any]] = defaultdict(set)

    def note(self, delta: Delta) -> None:
        """Of this delta nobody knows whether it was written."""
        for kind in KINDS:
            self._ids[kind].update(record.id for record in getattr(delta, kind))
            self._ids[kind].update(delta.removed(kind))
        self._ids["settings"].update(delta.settings)

    def clear(self) -> None:
        """The database is as the snapshot again."""
        self._ids.clear()

    def repair(self, snapshot: Snapshot) -> Delta | None:
        """Return what makes the database as the snapshot again; None: it is."""
        if not any(self._ids.values()):
            return None
        parts: dict[str, Any] = {
            "settings": _known(snapshot.settings, self._ids["settings"]),
        }
        for kind in KINDS:
            known = _known(getattr(snapshot, kind), self._ids[kind])
            parts[kind] = tuple(known.values())
            parts[f"removed_{kind}"] = tuple(self._ids[kind] - known.keys())
        return Delta(**parts)


def _known(records: Mapping[Any, Any], ids: set[Any]) -> dict[Any, Any]:
    return {key: records[key] for key in ids if key in records}
