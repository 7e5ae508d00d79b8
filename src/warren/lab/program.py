"""A program that runs inside a part of the lab, with its output kept in a file."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.02


class LabTimeout(AssertionError):
    """A condition did not come true in time; the message names it and ends with the logs."""


class ProgramFailed(RuntimeError):
    """A program exited with an error; the message holds the end of what it printed."""


def wait_until(
    probe: Callable[[], T | None],
    deadline_s: float,
    what: str,
    logs: Callable[[], str] = lambda: "",
    pause_s: float = _POLL_S,
) -> T:
    """Call `probe` every `pause_s` until it returns something true, and return that.

    Raises LabTimeout after `deadline_s` seconds. Exceptions of the probe pass through.
    """
    end = time.monotonic() + deadline_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > end:
            tail = logs()
            raise LabTimeout(f"not within {deadline_s:g} s: {what}" + (f"\n{tail}" if tail else ""))
        time.sleep(pause_s)


class Program:
    """A running child. Stopped by `stop`, or by the world that it lives in."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        """Process id; the program itself, not a wrapper."""
        return self._process.pid

    def running(self) -> bool:
        """Whether it has not exited yet."""
        return self._process.poll() is None

    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """Everything that it printed until now, on both streams."""
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 25) -> str:
        """The end of its output, with a heading; for error messages."""
        last = "\n".join(self.output().splitlines()[-lines:])
        code = self.exit_code()
        state = "running" if code is None else f"exited with {code}"
        return f"--- {self.name} ({state}), {self.log}\n{last}"

    def wait_output(self, text: str, deadline_s: float) -> None:
        """Wait until it has printed `text`. Raises LabTimeout, or ProgramFailed if it died."""

        def seen() -> bool:
            if text in self.output():
                return True
            if not self.running():
                raise ProgramFailed(f"{self.name} ended early\n{self.tail()}")
            return False

        wait_until(seen, deadline_s, f"{self.name} says {text!r}", self.tail)

    def send(self, signum: signal.Signals) -> None:
        """Send a signal; nothing happens if it has exited."""
        self._process.send_signal(signum)

    def wait(self, deadline_s: float) -> int:
        """Wait for its end and return its exit code. Raises LabTimeout."""
        try:
            return self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise LabTimeout(
                f"{self.name} still runs after {deadline_s:g} s\n{self.tail()}"
            ) from None

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self._process.kill()
        self._process.wait()

    def send_term(self) -> None:
        """SIGTERM without waiting; nothing happens if it has exited."""
        self._process.terminate()

    def stop(self, grace_s: float = 5.0) -> int:
        """SIGTERM, then SIGKILL after `grace_s`. Returns its exit code."""
        if self.running():
            self._process.terminate()
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.returncode
