"""Auth keys: `warren-auth-<id>-<secret>`. Only the SHA-256 of the secret is kept.

The secret has 190 bits of its own, so a plain hash is as good as a slow one. Keys that came from
Headscale keep their form, and newer ones the bcrypt hash that they had there.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from warren.coordinator.names import is_tag
from warren.coordinator.records import AuthKeyRecord
from warren.coordinator.refusal import Refused
from warren.edge.entropy import Entropy

PREFIX = "warren-auth-"
_HEADSCALE_PREFIX = "hskey-auth-"
_HEADSCALE_ID_LENGTH = 12
_SHA256_BYTES = 32
_ALPHABET = "23456789abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
_ID_LENGTH = 10
_SECRET_LENGTH = 33


class UnknownKey(Refused):
    """Nobody here gave this key out: it may be a guess."""


def mint(
    *,
    user_id: int,
    wall: datetime,
    entropy: Entropy,
    life: timedelta | None,
    reusable: bool = False,
    ephemeral: bool = False,
    pre_approved: bool = False,
    tags: Collection[str] = (),
    description: str = "",
) -> tuple[str, AuthKeyRecord]:
    """Return a new key's text, shown once, and its record. Raises Refused for a bad tag."""
    for tag in tags:
        if not is_tag(tag):
            raise Refused(f"{tag!r} is not a tag; write it like tag:server")
    key_id, secret = random_text(_ID_LENGTH, entropy), random_text(_SECRET_LENGTH, entropy)
    record = AuthKeyRecord(
        id=key_id,
        user_id=user_id,
        digest=_digest(secret),
        reusable=reusable,
        ephemeral=ephemeral,
        pre_approved=pre_approved,
        tags=tuple(sorted(set(tags))),
        created=wall,
        expiry=None if life is None else wall + life,
        description=description[:254],
    )
    return f"{PREFIX}{key_id}-{secret}", record


def check(text: str, known: Mapping[str, AuthKeyRecord], wall: datetime) -> AuthKeyRecord:
    """Return the record of a key that may be used now.

    Raises Refused, or UnknownKey of it; only who has the secret learns that a key expired or was
    used up.
    """
    key_id, secret = id_and_secret(text)
    record = known.get(key_id)
    if record is None or not _is_secret_of(record, secret):
        raise UnknownKey("the auth key is not known here; ask an administrator for a new one")
    if record.expiry is not None and record.expiry <= wall:
        raise Refused("the auth key has expired; ask an administrator for a new one")
    if not record.usable(wall):
        raise Refused("the auth key was for one machine and has been used; ask for a new one")
    return record


def id_and_secret(text: str) -> tuple[str, str]:
    """Cut a key's text into what it is looked up by and what proves it; both may be empty.

    Headscale's keys are `hskey-auth-<12 characters>-<64 characters>`, or 48 characters without
    any hyphen from before 0.27.
    """
    text = text.strip()
    if text.startswith(_HEADSCALE_PREFIX):
        rest = text.removeprefix(_HEADSCALE_PREFIX)
        return rest[:_HEADSCALE_ID_LENGTH], rest[_HEADSCALE_ID_LENGTH + 1 :]
    if "-" not in text:
        return text[:_HEADSCALE_ID_LENGTH], text[_HEADSCALE_ID_LENGTH:]
    key_id, _, secret = text.removeprefix(PREFIX).partition("-")
    return key_id, secret


def _is_secret_of(record: AuthKeyRecord, secret: str) -> bool:
    if len(record.digest) == _SHA256_BYTES:
        return hmac.compare_digest(record.digest, _digest(secret))
    # Imported here: few servers have such keys.
    import bcrypt

    try:
        return bcrypt.checkpw(secret.encode(), record.digest)
    except ValueError:
        return False


def random_text(length: int, entropy: Entropy) -> str:
    """Return unpredictable letters and digits that people do not mistake for one another."""
    number = int.from_bytes(entropy(length + 8), "big")
    characters = []
    for _ in range(length):
        number, index = divmod(number, len(_ALPHABET))
        characters.append(_ALPHABET[index])
    return "".join(characters)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
