"""Randomness from the operating system."""

from __future__ import annotations

import secrets
from collections.abc import Callable

# How many bytes -> that many unpredictable bytes.
Entropy = Callable[[int], bytes]


def system_entropy(size: int) -> bytes:
    """Return `size` unpredictable bytes."""
    return secrets.token_bytes(size)
