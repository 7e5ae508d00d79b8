"""The message chart of a run: who sent what to whom, and what became of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_ROWS_MAX = 4000


@dataclass
class _Row:
    first_at: float
    last_at: float
    sender: str
    receiver: str
    what: str
    fate: str
    count: int = 1
    detail: str = ""


class Chart:
    """The last rows of a run. Equal ones that follow each other closely become one row."""

    def __init__(self) -> None:
        self._rows: deque[_Row] = deque(maxlen=_ROWS_MAX)

    def add(
        self, at: float, sender: str, receiver: str, what: str, fate: str = "", detail: str = ""
    ) -> None:
        """Add one message. `detail` is told only while the row stands for one message."""
        for row in list(self._rows)[-6:]:
            same = (row.sender, row.receiver, row.what, row.fate) == (sender, receiver, what, fate)
            if same and at - row.last_at < 0.5:
                row.count += 1
                row.last_at = at
                return
        self._rows.append(_Row(at, at, sender, receiver, what, fate, detail=detail))

    def text(self, last: int = 200) -> str:
        """Return the last rows as lines."""
        # A message is noted when its fate is known, which may be after later ones were sent.
        rows = sorted(self._rows, key=lambda row: row.first_at)[-last:]
        width = max((len(row.sender) for row in rows), default=0)
        to_width = max((len(row.receiver) for row in rows), default=0)
        lines = []
        for row in rows:
            line = f"{row.first_at:9.3f} s  {row.sender:>{width}} → {row.receiver:<{to_width}}  "
            line += row.what
            if row.count > 1:
                line += f" ×{row.count} until {row.last_at:.3f} s"
            elif row.detail:
                line += f" {row.detail}"
            lines.append(line + (f"  [{row.fate}]" if row.fate else ""))
        return "\n".join(lines)
