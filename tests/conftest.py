"""Puts `tests/` and the root on the path (`from vectors.captures import …`); forbids skips."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# pytest adds this file's own folder; `fuzz` is a package beside it.
sys.path.append(str(Path(__file__).parents[1]))

# How long an example takes says more about the machine than about the code.
settings.register_profile("warren", deadline=None)
settings.load_profile("warren")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In `make test` a skip is a failure: a missing part is installed, or the run fails.

    Only tests on vectors that may not be redistributed may say that they did not run.
    """
    report = yield
    if report.skipped and os.environ.get("WARREN_TESTS_SKIP_NOTHING"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        if "vectors" not in reason:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} did not run. {reason}"
    return report
