"""Fixtures for tests that build networks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from warren.lab import sandbox

# The Rust client takes minutes to build, so its test exists where it was built, or asked for.
_RUST_CLIENT = Path(__file__).parent / "rust-client" / "target" / "debug" / "rust-client"
collect_ignore = (
    []
    if _RUST_CLIENT.exists() or os.environ.get("WARREN_TEST_RUST_CLIENT")
    else ["test_rust_client.py"]
)


@pytest.fixture(scope="session", autouse=True)
def lab_rights() -> None:
    """As an ordinary user, become root of a user namespace; say why where that is impossible."""
    try:
        sandbox.enter()
    except sandbox.LabUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
