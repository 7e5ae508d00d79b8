"""Passwords of local users: argon2id (RFC 9106), beside the event loop and few at a time."""

from __future__ import annotations

import asyncio

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from warren.coordinator.refusal import Refused

MIN_CHARACTERS = 10
MAX_BYTES = 1024
# Each takes 64 MiB for its time; whoever asks for many at once waits.
_AT_ONCE = 2


class Passwords:
    """Makes and checks hashes. hasher: with how much work."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._turn = asyncio.Semaphore(_AT_ONCE)
        # What nobody's password fits, so that a name that is not known takes as long as one.
        self._nobody = ""

    async def make(self, password: str, name: str) -> str:
        """Return the hash of a new password. Raises Refused for one that is too easy."""
        if len(password) < MIN_CHARACTERS:
            raise Refused(f"a password has at least {MIN_CHARACTERS} characters")
        if len(password.encode()) > MAX_BYTES:
            raise Refused(f"a password has at most {MAX_BYTES} bytes")
        if password.casefold() in (name.casefold(), name.partition("@")[0].casefold()):
            raise Refused("the password must not be the name")
        async with self._turn:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def fits(self, kept: str, password: str) -> bool:
        """Whether a password is the one of this hash; an empty hash takes as long, in vain."""
        if len(password.encode()) > MAX_BYTES:
            return False
        async with self._turn:
            return await asyncio.to_thread(self._fits, kept, password)

    async def renewed(self, kept: str, password: str) -> str:
        """Return a right password's hash with today's work, where it was made with another."""
        if not self._hasher.check_needs_rehash(kept):
            return kept
        async with self._turn:
            return await asyncio.to_thread(self._hasher.hash, password)

    def _fits(self, kept: str, password: str) -> bool:
        if not kept and not self._nobody:
            self._nobody = self._hasher.hash("nobody's")
        try:
            return self._hasher.verify(kept or self._nobody, password) and bool(kept)
        except (Argon2Error, InvalidHashError):
            return False
