"""A pytest plugin: several pytest processes share the files of one run, and keep a record.

Each process collects the same files and takes one after the other that no other process has
taken: `--suite-claims DIRECTORY` is where they say so. The order is that of the command line. What
happened is written at once to `--suite-record FILE`, as JSON lines, so that it is known also of a
process that died.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MAX_ERROR_CHARS = 300


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup("suite")
    group.addoption("--suite-claims", type=Path, help="where processes say what they take")
    group.addoption("--suite-record", type=Path, help="where the outcome of each test is written")


def pytest_configure(config: pytest.Config) -> None:
    """Begin the record."""
    if (path := config.getoption("--suite-record")) is not None:
        config.pluginmanager.register(Record(path))


def claim(directory: Path, name: str) -> bool:
    """Take a name for this process; False if it is another's already."""
    try:
        os.close(os.open(directory / name.replace("/", "+"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _claimed(items: list[pytest.Item], directory: Path) -> Iterator[pytest.Item]:
    """Yield the tests of one file after the other, and claim each file as its turn comes."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    for name, tests in files.items():
        if claim(directory, name):
            yield from tests


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """As pytest's own loop, over what this process claims."""
    directory = session.config.getoption("--suite-claims")
    if directory is None or session.testsfailed or session.config.option.collectonly:
        return None
    tests = _claimed(session.items, directory)
    item = next(tests, None)
    while item is not None:
        # The next one decides which fixtures go on living.
        following = next(tests, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


class Record:
    """Writes {"began": test}, then {"test", "when", "outcome", "seconds", "error"} a phase."""

    def __init__(self, path: Path) -> None:
        self._out = path.open("w", buffering=1)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._write(began=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test has ended."""
        self._note(report, report.when, report.duration)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file was read; those that could not be are told."""
        if report.failed:
            self._note(report, "collect", 0.0)

    def _note(
        self, report: pytest.TestReport | pytest.CollectReport, when: str | None, seconds: float
    ) -> None:
        self._write(
            test=report.nodeid,
            when=when,
            outcome=report.outcome,
            seconds=seconds,
            error=first_line(report.longrepr) if report.failed else "",
        )

    def _write(self, **fields: Any) -> None:
        self._out.write(json.dumps(fields) + "\n")


def first_line(longrepr: object) -> str:
    """Return the first line of what went wrong, shortened."""
    crash = getattr(longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(longrepr)
    # Of a module that can't be imported the last line says why.
    lines = [line for line in text.splitlines() if line.strip()]
    line = lines[0 if crash is not None else -1] if lines else "?"
    return line.strip() if len(line) <= MAX_ERROR_CHARS else line[:MAX_ERROR_CHARS] + "…"
