"""Fixtures for tests that build networks."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def in_the_lab(lab_rights: None) -> None:
    """Every test here builds networks."""
