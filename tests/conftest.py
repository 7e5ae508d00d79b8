"""Puts `tests/` and the root on the path (`from vectors.captures import …`); forbids skips."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from warren.lab import sandbox, stock

# pytest adds this file's own folder; `fuzz` is a package beside it.
sys.path.append(str(Path(__file__).parents[1]))

# How long an example takes says more about the machine than about the code.
settings.register_profile("warren", deadline=None)
settings.load_profile("warren")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In `make test` and CI a skip is a failure: a missing part is installed, or the run fails.

    Only tests on vectors that may not be redistributed may say that they did not run.
    """
    report = yield
    complete = os.environ.get("WARREN_TESTS_SKIP_NOTHING") or os.environ.get("CI")
    if report.skipped and complete:
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        if "vectors" not in reason:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} did not run. {reason}"
    return report


@pytest.fixture(scope="session")
def lab_rights() -> None:
    """As an ordinary user, become root of a user namespace; say why where that is impossible."""
    try:
        sandbox.enter()
    except sandbox.LabUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def stock_client() -> None:
    """The stock client is installed."""
    try:
        stock.caddy_binary()
    except sandbox.LabUnavailable as error:
        pytest.skip(str(error))
