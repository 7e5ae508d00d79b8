"""Why something that was asked for is not done."""

from __future__ import annotations


class Refused(Exception):
    """The request makes no sense now. The text is one sentence for a person."""


class NotFound(Refused):
    """What the request names does not exist."""


class Conflict(Refused):
    """The request clashes with what exists."""


class Busy(Refused):
    """Too much of this is being done already; it can be asked again soon."""
