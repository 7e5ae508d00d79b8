"""Fixtures for tests that build networks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
