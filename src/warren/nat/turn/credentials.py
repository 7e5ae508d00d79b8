"""Long-term credentials: names, passwords, keys (RFC 8489 §9.2; RFC 8265 OpaqueString).

Time-limited ones, as coturn and browsers use them: the name is `END:USER` with the end in Unix
seconds, the password base64(HMAC-SHA1(secret, name)). A server needs to store only the secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from warren.nat.turn.numbers import Algorithm

MAX_NAME_BYTES = 508
"""A USERNAME is shorter than 509 bytes (RFC 8489 §14.3)."""
MAX_REALM_BYTES = 763
MAX_SECRETS = 3

_MAX_END_DIGITS = 12


class MalformedCredential(ValueError):
    """A name, realm or password holds what the wire's profile of text forbids."""


class Credentials(NamedTuple):
    """What a client has."""

    username: str
    password: str


class Account(NamedTuple):
    """What a server knows of a name: the key to check with, and who the quota is charged to."""

    key: bytes
    owner: str


class Accounts(Protocol):
    """Where a server looks names up."""

    def find(self, username: str, realm: str, algorithm: Algorithm) -> tuple[Account, ...]:
        """Return what the name may be; nothing where it is unknown or its time is over."""
        ...


def prepare(text: str) -> str:
    """Return text in the form that is hashed: other spaces become U+0020, then NFC.

    Raises MalformedCredential for an empty text and for control characters. Of OpaqueString
    (RFC 8265 §4.2) the full table of forbidden characters is left out: ASCII is never changed.
    """
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in text)
    if not text or any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        raise MalformedCredential("a name or password is empty or holds control characters")
    return unicodedata.normalize("NFC", spaced)


def long_term_key(username: str, realm: str, password: str, algorithm: Algorithm) -> bytes:
    """Return the key for the integrity (RFC 8489 §18.5.1). Raises MalformedCredential."""
    text = ":".join(map(prepare, (username, realm, password))).encode()
    if algorithm is Algorithm.SHA256:
        return hashlib.sha256(text).digest()
    return hashlib.md5(text, usedforsecurity=False).digest()


def timed_credentials(secret: bytes, owner: str, end_unix_s: int) -> Credentials:
    """Return credentials for a user that end at a time; coturn takes no spaces in `owner`."""
    username = f"{end_unix_s}:{owner}"
    return Credentials(username, _timed_password(secret, username))


class StaticAccounts:
    """Names and passwords from a file or a test."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = {prepare(name): password for name, password in passwords.items()}

    def find(self, username: str, realm: str, algorithm: Algorithm) -> tuple[Account, ...]:
        """Look a name up."""
        password = self._passwords.get(username)
        if password is None:
            return ()
        return (Account(long_term_key(username, realm, password, algorithm), username),)


class TimedAccounts:
    """Names that carry their own end, under secrets that the coordinator shares with the server.

    `secrets`: the present one and those before it; each is tried. `knows`: whether a user still
    belongs here, so that who is removed loses its relay before its credentials end.
    """

    def __init__(
        self,
        secrets: Sequence[bytes],
        wall: Callable[[], datetime],
        knows: Callable[[str], bool] = lambda owner: True,
    ) -> None:
        self._secrets = tuple(secrets)[:MAX_SECRETS]
        self._wall = wall
        self._knows = knows

    def find(self, username: str, realm: str, algorithm: Algorithm) -> tuple[Account, ...]:
        """Compute what the password must be; whether it is, the integrity tells."""
        end, colon, owner = username.partition(":")
        if not colon or not end.isascii() or not end.isdecimal() or len(end) > _MAX_END_DIGITS:
            return ()
        if int(end) <= self._wall().timestamp() or not self._knows(owner):
            return ()
        passwords = (_timed_password(secret, username) for secret in self._secrets)
        return tuple(
            Account(long_term_key(username, realm, password, algorithm), owner)
            for password in passwords
        )


def _timed_password(secret: bytes, username: str) -> str:
    return base64.b64encode(hmac.digest(secret, username.encode(), hashlib.sha1)).decode()
