"""What every parser of this room raises, and nothing else."""

from __future__ import annotations


class MalformedControl(ValueError):
    """Bytes from outside do not follow the control protocol (PROTOCOL §2, §3.3)."""
