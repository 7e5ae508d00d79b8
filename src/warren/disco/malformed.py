"""What every parser of this room raises, and nothing else."""

from __future__ import annotations


class MalformedDisco(ValueError):
    """Bytes from outside are not a disco packet or message, or not one made for us."""


class UnknownMessage(MalformedDisco):
    """A well-sealed message of a type that this version does not know; to be ignored."""
