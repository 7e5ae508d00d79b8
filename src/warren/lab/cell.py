"""What became of one pair of the grid, and whether that is a surprise: values, pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from warren.lab.meeting import Outcome

How = Literal["LAN", "own address", "NAT's address", "guessed port", "IPv6", ""]

LATE_S = 10.0
"""A direct path that took longer is a surprise."""
_IMPROBABLE = "hard"


@dataclass
class Cell:
    """What became of one pair. Times are seconds from the first packet.

    how: what the two ends' addresses for each other are; seconds: until the path was direct.
    first_seconds: until the first answer, over whatever path. cause, why: why a pair is not
    direct, as one word and in sentences; told_by: whether `warren why` says so, or, between two
    stock clients, the kinds of their places. expected: the cause that the kinds of a pair tell,
    whoever is asked; empty where they allow a direct path (`warren.lab.physics`).
    """

    a: str
    b: str
    outcome: Outcome = "unreachable"
    how: How = ""
    seconds: float | None = None
    first_seconds: float | None = None
    paths: tuple[str | None, str | None] = (None, None)
    latency_ms: float | None = None
    expected: str = ""
    cause: str = ""
    told_by: Literal["", "warren why", "kinds"] = ""
    why: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def surprise(self) -> str:
        """What nobody would expect of this pair, as a phrase; empty if there is nothing."""
        if self.outcome == "unreachable":
            return "no answer at all"
        if self.outcome == "direct":
            if self.expected not in ("", _IMPROBABLE):
                return f"direct, though the kinds forbid it ({self.expected})"
            late = self.seconds is not None and self.seconds > LATE_S
            return f"direct only after {self.seconds:.0f} s" if late else ""
        if not self.expected:
            return "relayed, though the kinds allow a direct path"
        if self.told_by == "warren why" and self.cause != self.expected:
            return f"relayed because of {self.expected}, but `warren why` says {self.cause}"
        return ""
