"""Rows of Headscale's database: SQLite keeps any value in any column."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from warren.coordinator.headscale.conversion import convert
from warren.coordinator.headscale.source import Source, key_from, node_from, user_from
from warren.coordinator.snapshot import Snapshot

_NOW = datetime(2026, 3, 1, tzinfo=UTC)


def rows(data: bytes) -> None:
    """Read three rows and make records of them."""
    try:
        user, key, node = (_row(value) for value in json.loads(data))
    except (ValueError, TypeError, RecursionError):
        return
    source = Source(
        users=(user_from(user),),
        keys=(key_from(key, {}),),
        nodes=(node_from(node, {}), node_from(node | {"node_key": "nodekey:" + "9" * 64}, {})),
        policy="",
    )
    made = convert(source, Snapshot(), _NOW, bytes)
    snapshot = Snapshot().after(made.delta())
    assert all(found.user_id in snapshot.users for found in snapshot.nodes.values())
    assert len({found.ipv4 for found in snapshot.nodes.values()}) == len(snapshot.nodes)


def examples() -> list[bytes]:
    """A user, a key and a machine."""
    user = {
        "id": 1,
        "name": "ann",
        "email": "ann@example.com",
        "created_at": "2024-01-01 00:00:00Z",
    }
    key = {"id": 1, "prefix": "abcdef012345", "hash": "$2a$10$", "user_id": 1, "reusable": True}
    node = {
        "id": 1,
        "machine_key": "mkey:" + "1" * 64,
        "node_key": "nodekey:" + "2" * 64,
        "disco_key": "discokey:" + "3" * 64,
        "endpoints": '["192.0.2.1:41641"]',
        "host_info": '{"Hostname": "laptop", "RoutableIPs": ["10.0.0.0/24"]}',
        "ipv4": "100.64.0.1",
        "ipv6": "fd7a:115c:a1e0::1",
        "given_name": "laptop",
        "user_id": 1,
        "tags": '["tag:web"]',
        "auth_key_id": 1,
        "expiry": "2027-01-02 03:04:05.123456789+02:00",
        "approved_routes": '["10.0.0.0/24"]',
    }
    return [json.dumps([user, key, node]).encode()]


def _row(value: Any) -> dict[str, Any]:
    return {**value}
