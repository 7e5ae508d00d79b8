"""What every parser of this room raises, and nothing else."""

from __future__ import annotations


class MalformedDerp(ValueError):
    """Bytes from outside do not follow the relay protocol (PROTOCOL §4)."""
