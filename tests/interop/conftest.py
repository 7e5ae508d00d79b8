"""Fixtures for tests that build networks, and for those that need PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql_server import PostgresServer, programs

# The Rust client takes minutes to build, so its test exists where it was built, or asked for.
_RUST_CLIENT = Path(__file__).parent / "rust-client" / "target" / "debug" / "rust-client"
collect_ignore = (
    []
    if _RUST_CLIENT.exists() or os.environ.get("WARREN_TEST_RUST_CLIENT")
    else ["test_rust_client.py"]
)


@pytest.fixture(scope="session", autouse=True)
def in_the_lab(lab_rights: None) -> None:
    """Every test here builds networks."""


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for all tests that ask for one; whoever stops it starts it again."""
    found = programs()
    if found is None:
        pytest.skip("PostgreSQL's server is not here; get it with: apt-get install postgresql")
    server = PostgresServer(found)
    yield server
    server.remove()
