"""Values that we give out and know again: readable by whoever has them, made by nobody else."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TypeVar

import msgspec

_T = TypeVar("_T")
_MAX_TEXT = 4096


class BrokenSeal(ValueError):
    """Not a value of ours."""


class Seal:
    """Closes and opens values under a MAC (HMAC-SHA256). secret: of this purpose alone."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def close(self, value: msgspec.Struct) -> str:
        """Return the value as letters, digits, `-`, `_` and one `.`."""
        body = msgspec.json.encode(value)
        return f"{_text(body)}.{_text(self.mac(body))}"

    def open_untrusted(self, text: str, kind: type[_T]) -> _T:
        """Return the value of this kind that `close` made. Raises BrokenSeal."""
        body_text, _, mac_text = text.partition(".")
        try:
            body, mac = _bytes(body_text), _bytes(mac_text)
        except ValueError:
            raise BrokenSeal from None
        if len(text) > _MAX_TEXT or not hmac.compare_digest(mac, self.mac(body)):
            raise BrokenSeal
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError:
            # Ours, but of another kind, or of another version of this program.
            raise BrokenSeal from None

    def mac(self, body: bytes) -> bytes:
        """Return the MAC of some bytes."""
        return hmac.digest(self._secret, body, hashlib.sha256)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
