"""Lengths of time as people write them: `90s`, `30m`, `24h`, `180d`, `never`."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST = timedelta(days=36500)


def parse_duration(text: str) -> timedelta | None:
    """Read a length of time; None is `never`. Raises ValueError with a sentence."""
    if text == "never":
        return None
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a length of time; write it like 90s, 24h, 180d or never")
    length = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if length > _LONGEST:
        raise ValueError(f"{text!r} is longer than a hundred years; write never")
    return length
