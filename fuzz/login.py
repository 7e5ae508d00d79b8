"""What browsers and identity providers say when people log in, as fuzz targets."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from warren.coordinator.auth.sealed import BrokenSeal, Seal
from warren.coordinator.login.claims import (
    MAX_GROUPS,
    NotAdmitted,
    ProviderProblem,
    identity_untrusted,
)
from warren.coordinator.login.forms import HOME, fields_untrusted, way_untrusted
from warren.coordinator.login.oidc import Provider, metadata_untrusted
from warren.coordinator.login.providers import ProviderConfig
from warren.coordinator.login.sessions import Flow, Session
from warren.coordinator.refusal import Refused

_WALL = datetime(2026, 1, 1, tzinfo=UTC)
_CONFIG = ProviderConfig(name="a", issuer="https://a.example", client_id="w")
_METADATA = {
    "issuer": "https://a.example", "authorization_endpoint": "https://a.example/auth",
    "token_endpoint": "https://a.example/token", "jwks_uri": "https://a.example/jwks",
}  # fmt: skip
_CLAIMS = {
    "iss": "https://a.example", "aud": "w", "sub": "1", "iat": 1767225600, "exp": 1767225900,
    "nonce": "n", "email": "ann@example.com", "email_verified": True, "groups": ["a", "/b"],
}  # fmt: skip
_KEY = ECKey.generate_key("P-256", {"kid": "one"})
_TOKEN = jwt.encode({"alg": "ES256", "kid": "one"}, _CLAIMS, _KEY)
_SEAL = Seal(b"fuzz")
_SEALED = (Session("s", 1, 0.0, 1.0), Flow("a", "s", "n", "v", "/account", 1))


class _Clock:
    def now(self) -> float:
        return 0.0

    def wall(self) -> datetime:
        return _WALL


def claims(data: bytes) -> None:
    """Whatever a provider says of someone is a person of bounded size, or a refusal."""
    told = _object(data)
    if told is None:
        return
    try:
        found = identity_untrusted(told, _CONFIG)
    except NotAdmitted:
        return
    assert "@" in found.name and found.name.isprintable() and len(found.groups) <= MAX_GROUPS
    assert all(group.startswith("group:") and group.isprintable() for group in found.groups)


def description(data: bytes) -> None:
    """A provider's description leads to https:// URLs, or nowhere."""
    told = _object(data)
    if told is None:
        return
    try:
        found = metadata_untrusted(told, _CONFIG)
    except ProviderProblem:
        return
    assert found.issuer == _CONFIG.issuer and found.token_endpoint.lower().startswith("http")


def token(data: bytes) -> None:
    """Only the token that was signed is good."""
    text = data.decode("utf-8", "replace")
    provider = Provider(_CONFIG, "", "https://w.example", _Clock(), bytes)
    provider.know(metadata_untrusted(_METADATA, _CONFIG), KeySet([_KEY]))
    try:
        # Everything is known, so that nothing is waited for.
        provider.check(text, "n").send(None)
    except ProviderProblem:
        return
    except StopIteration as done:
        assert text == _TOKEN and done.value["sub"] == "1"


def form(data: bytes) -> None:
    """A form has few fields, and a log-in leads to a page of ours."""
    try:
        fields = fields_untrusted(data)
    except Refused:
        fields = {}
    assert len(fields) <= 20
    for text in (*fields.values(), data.decode("utf-8", "replace")):
        way = way_untrusted(text)
        assert way == HOME or (way.startswith(("/register/", "/invite/")) and "//" not in way)


def cookie(data: bytes) -> None:
    """Only what was sealed opens, and only as what it was."""
    text = data.decode("latin-1")
    for value in _SEALED:
        with suppress(BrokenSeal):
            assert _SEAL.open_untrusted(text, type(value)) == value


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def told() -> list[bytes]:
    """Good claims."""
    return [json.dumps(_CLAIMS).encode()]


def described() -> list[bytes]:
    """A good description."""
    return [json.dumps(_METADATA).encode()]


def tokens() -> list[bytes]:
    """A good token."""
    return [_TOKEN.encode()]


def forms() -> list[bytes]:
    """Forms as our pages send them."""
    return [b"token=ab&to=%2Fregister%2Fabc&name=ann&password=x", b"/invite/abc-def"]


def cookies() -> list[bytes]:
    """A cookie of each kind."""
    return [_SEAL.close(value).encode() for value in _SEALED]
