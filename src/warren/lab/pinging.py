"""`warren ping --until-direct` of a lab's node, followed line by line: after how long what came."""

from __future__ import annotations

import json
import time
from typing import Any

from warren.lab.mesh import Node
from warren.lab.program import Program

_POLL_S = 0.01
_LONGER_S = 30.0
"""How much longer than its own timeout a ping may take to end on a busy machine."""


class Pinging:
    """One ping under way. Times are seconds from when the first ping left."""

    def __init__(self, node: Node, peer: str, timeout_s: float, log: str) -> None:
        """log: a name for its output that nothing else on the node's host has."""
        words = ("ping", "--json", "--until-direct", "--timeout", str(timeout_s), peer)
        self._program: Program = node.begin(*words, name=log)
        self._lines: list[tuple[float, dict[str, Any]]] = []
        self._end = time.monotonic() + timeout_s + _LONGER_S

    def poll(self) -> bool:
        """Take in new lines; whether it has ended. One that never ends is killed."""
        running = self._program.running()
        text = self._program.output()
        whole = text[: text.rfind("\n") + 1].splitlines()
        for line in whole[len(self._lines) :]:
            try:
                found = json.loads(line)
            except ValueError:
                found = {}
            self._lines.append((time.monotonic(), found if isinstance(found, dict) else {}))
        if running and time.monotonic() > self._end:
            self.kill()
            return True
        return not running

    def kill(self) -> None:
        """End it now."""
        self._program.kill()

    def wait(self) -> None:
        """Follow it to its end."""
        while not self.poll():
            time.sleep(_POLL_S)

    @property
    def first_s(self) -> float | None:
        """When the first answer came, over whatever path."""
        pongs = self._pongs()
        return self._since(pongs[0][0]) if pongs else None

    @property
    def direct_s(self) -> float | None:
        """When the first direct answer came."""
        last = self.last
        return self._since(self._pongs()[-1][0]) if last and last["via"] == "direct" else None

    @property
    def last(self) -> dict[str, Any] | None:
        """The last answer, as it was printed."""
        pongs = self._pongs()
        return pongs[-1][1] if pongs else None

    @property
    def complaint(self) -> str:
        """What it said instead of an answer."""
        errors = [str(line.get("error", "")) for _, line in self._lines]
        if errors and errors[-1]:
            return errors[-1]
        said = self._program.output().strip().splitlines()
        return said[-1] if said else "no answer"

    def _pongs(self) -> list[tuple[float, dict[str, Any]]]:
        return [(at, line) for at, line in self._lines if line.get("ok")]

    def _since(self, at: float) -> float:
        # The first line's own wait tells when the ping left, and not when the command was started.
        first_at, first = self._lines[0]
        waited_ms = first.get("ms") or 2000.0 * (not first.get("ok"))
        return round(max(0.0, at - first_at + waited_ms / 1000), 3)
