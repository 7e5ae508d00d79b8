"""Fixtures for tests that build networks."""

from __future__ import annotations

import os

import pytest

from warren.lab import sandbox


@pytest.fixture(scope="session", autouse=True)
def lab_rights() -> None:
    """As an ordinary user, become root of a user namespace; say why where that is impossible."""
    try:
        sandbox.enter()
    except sandbox.LabUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
