"""A figure: samples of one quantity, told by their median and spread."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Figure:
    """Samples of `what` in `unit`. goal: what the project wants, in words; empty for none."""

    name: str
    what: str
    unit: str
    goal: str = ""
    samples: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    def row(self) -> list[str]:
        """Name, median, spread, number of samples and goal, as a person reads them."""
        if not self.samples:
            return [self.what, "-", self.note or "not measured", "0", self.goal]
        spread = f"{_short(min(self.samples))} … {_short(max(self.samples))}"
        shown = f"{_short(self.median)} {self.unit}"
        return [self.what, shown, spread, str(len(self.samples)), self.goal]

    def data(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "name": self.name,
            "what": self.what,
            "unit": self.unit,
            "goal": self.goal,
            "median": self.median if self.samples else None,
            "samples": self.samples,
            "note": self.note,
        }


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
