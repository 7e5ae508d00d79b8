"""What bearers say to open the HTTP API, as one fuzz target."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from warren.coordinator.auth import credentials
from warren.coordinator.auth.credentials import Gate, NotAllowed
from warren.coordinator.records import CredentialRecord, UserRecord
from warren.coordinator.snapshot import Snapshot

_WALL = datetime(2026, 1, 1, tzinfo=UTC)
_GATE = Gate(b"fuzz")


def _made(kind: str) -> tuple[str, CredentialRecord]:
    return credentials.mint(
        kind, user_id=1, wall=_WALL, entropy=bytes, life=timedelta(days=1), scopes=["dns"]
    )


_TOKEN, _USER = _made(credentials.API)
_SECRET, _CLIENT = _made(credentials.CLIENT)


def _snapshot(record: CredentialRecord) -> Snapshot:
    user = UserRecord(id=1, name="ann", display_name="", created=_WALL, role="auditor")
    return Snapshot(users={1: user}, credentials={record.id: record})


def entry(data: bytes) -> None:
    """Only what was made opens anything."""
    text = data.decode("latin-1")
    for record in (_USER, _CLIENT):
        try:
            who = _GATE.principal(text, _snapshot(record), _WALL)
        except NotAllowed:
            continue
        assert text in (_TOKEN, _access()) and who.user_id == 1


def _access() -> str:
    return _GATE.grant(_CLIENT.id, _SECRET, [], _snapshot(_CLIENT), _WALL)[0]


def texts() -> list[bytes]:
    """Good credentials, to be damaged."""
    return [text.encode() for text in (_TOKEN, _SECRET, _access())]
