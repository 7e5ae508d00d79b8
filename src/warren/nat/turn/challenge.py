"""The client's side of a server's challenge: realm, nonce, key (RFC 8489 §9.2.4, §9.2.5)."""

from __future__ import annotations

from typing import NamedTuple, Self

from warren.nat.stun import MalformedStun
from warren.nat.turn.credentials import (
    MAX_REALM_BYTES,
    Credentials,
    MalformedCredential,
    long_term_key,
    prepare,
)
from warren.nat.turn.message import Integrity, Message
from warren.nat.turn.nonces import MAX_NONCE_BYTES, PASSWORD_ALGORITHMS_BIT, features_of
from warren.nat.turn.numbers import Algorithm, Attribute


class Session(NamedTuple):
    """What requests are signed with until the server wants another nonce."""

    username: str
    realm: str
    nonce: bytes
    offered: bytes | None
    """The server's PASSWORD-ALGORITHMS as it came; the request repeats it (no downgrade)."""
    algorithm: Algorithm
    key: bytes

    @classmethod
    def answer_untrusted(cls, challenge: Message, credentials: Credentials) -> Self:
        """Read a 401 or 438. Raises MalformedStun, MalformedCredential (our own credentials)."""
        realm, nonce = challenge.get(Attribute.REALM), challenge.get(Attribute.NONCE)
        if realm is None or nonce is None:
            raise MalformedStun("a challenge without realm or nonce")
        if len(realm) > MAX_REALM_BYTES or not 0 < len(nonce) <= MAX_NONCE_BYTES:
            raise MalformedStun("a realm or nonce is too long")
        try:
            realm_text = realm.decode()
            prepare(realm_text)
        except (UnicodeDecodeError, MalformedCredential) as error:
            raise MalformedStun("the realm is no text") from error
        offered, algorithm = None, Algorithm.MD5
        if features_of(nonce) & PASSWORD_ALGORITHMS_BIT:
            offered = challenge.get(Attribute.PASSWORD_ALGORITHMS)
            if offered is None:
                # Somebody on the way took it out, so that a weaker hash is used.
                raise MalformedStun("the server's password algorithms were removed")
            algorithm = _choose(offered)
        username = prepare(credentials.username)
        key = long_term_key(username, realm_text, credentials.password, algorithm)
        return cls(username, realm_text, nonce, offered, algorithm, key)

    @property
    def integrity(self) -> Integrity:
        """Servers that offer a choice of algorithms get the stronger integrity, others SHA-1."""
        return "sha1" if self.offered is None else "sha256"

    def attributes(self) -> list[tuple[int, bytes]]:
        """Return what every signed request carries."""
        found: list[tuple[int, bytes]] = [
            (Attribute.USERNAME, self.username.encode()),
            (Attribute.REALM, self.realm.encode()),
            (Attribute.NONCE, self.nonce),
        ]
        if self.offered is not None:
            found.append((Attribute.PASSWORD_ALGORITHMS, self.offered))
            found.append((Attribute.PASSWORD_ALGORITHM, encode_algorithm(self.algorithm)))
        return found


def encode_algorithm(algorithm: Algorithm) -> bytes:
    """Return one entry: number u16, length of its parameters u16 (none)."""
    return algorithm.to_bytes(2, "big") + bytes(2)


def parse_algorithms_untrusted(value: bytes) -> list[int]:
    """Return the numbers in PASSWORD-ALGORITHM(S). Raises MalformedStun."""
    found, at = [], 0
    while at < len(value):
        length = int.from_bytes(value[at + 2 : at + 4], "big")
        if at + 4 + length > len(value):
            raise MalformedStun("a password algorithm is cut")
        found.append(int.from_bytes(value[at : at + 2], "big"))
        at += 4 + length + -length % 4
    return found


def _choose(offered: bytes) -> Algorithm:
    numbers = parse_algorithms_untrusted(offered)
    for algorithm in (Algorithm.SHA256, Algorithm.MD5):
        if algorithm in numbers:
            return algorithm
    raise MalformedStun("the server offers no password algorithm that we know")
