"""What an operator says of an identity provider; and which of its people may come in."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

SECRET_VARIABLE = "WARREN_SERVER_OIDC_{name}_SECRET"  # noqa: S105 - where a secret is, not one
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MAX_SECRET_BYTES = 4096
MAX_PROVIDERS = 20


class ProviderConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"
):
    """One `[[oidc]]` table of the configuration file."""

    name: str
    """A short word, part of the address that the provider sends people back to."""
    title: str = ""
    """What people read on the button; empty: the name."""
    issuer: str
    """The provider's URL, from which all else is learned (OpenID Connect Discovery)."""
    client_id: str
    client_secret_file: str = ""
    """Empty: the variable WARREN_SERVER_OIDC_<NAME>_SECRET; without either, a public client."""
    ca: str = ""
    """A PEM file with the root of a private authority."""
    scopes: list[str] = msgspec.field(default_factory=lambda: ["openid", "profile", "email"])
    name_claim: str = "email"
    """What becomes the log-in name, by which the policy knows a person: name only a claim that
    people cannot choose for themselves."""
    allow_unverified_email: bool = False
    """Take e-mail addresses that the provider does not vouch for: some never do."""
    allow_no_auth_time: bool = False
    """Take the word of a provider, which does not say when, that it has asked somebody anew where
    the policy checks a log-in by SSH: some never say."""
    groups_claim: str = "groups"
    groups_domain: str = ""
    """`group:NAME@DOMAIN` in the policy; empty: the domain of each person's log-in name."""
    allowed_domains: list[str] = []
    allowed_groups: list[str] = []
    allowed_users: list[str] = []
    """Each list that is not empty must be met."""

    @property
    def admits_everyone(self) -> bool:
        """Whether an account there is enough."""
        return not (self.allowed_domains or self.allowed_groups or self.allowed_users)

    @property
    def label(self) -> str:
        """What people read."""
        return self.title or self.name


def check(providers: list[ProviderConfig], environ: Mapping[str, str] = os.environ) -> None:
    """Look for what makes no sense. Raises ValueError with a sentence's rest."""
    names = [provider.name for provider in providers]
    if len(providers) > MAX_PROVIDERS:
        raise ValueError(f"there are {len(providers)} of them; {MAX_PROVIDERS} are the most")
    for provider in providers:
        if not _NAME.fullmatch(provider.name):
            raise ValueError(f"name is {provider.name!r}; it is a short word such as company")
        if names.count(provider.name) > 1:
            raise ValueError(f"two providers are called {provider.name!r}")
        if not is_safe_url(provider.issuer) or urlsplit(provider.issuer).query:
            raise ValueError(
                f"issuer of {provider.name} is {provider.issuer!r}; it is an https:// URL"
            )
        if not provider.client_id:
            raise ValueError(f"client-id of {provider.name} is empty")
        if "openid" not in provider.scopes:
            raise ValueError(f"scopes of {provider.name} must have openid among them")
        if provider.ca and not Path(provider.ca).is_file():
            raise ValueError(f"ca of {provider.name} is {provider.ca!r}: there is no such file")
        client_secret(provider, environ)


def client_secret(provider: ProviderConfig, environ: Mapping[str, str] = os.environ) -> str:
    """Return the client's secret; empty for a public client. Raises ValueError."""
    if not provider.client_secret_file:
        variable = SECRET_VARIABLE.format(name=provider.name.upper().replace("-", "_"))
        return environ.get(variable, "").strip()
    file = Path(provider.client_secret_file).expanduser()
    try:
        with file.open("rb") as handle:
            secret = handle.read(_MAX_SECRET_BYTES + 1).strip()
        text = secret.decode("ascii")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(
            f"client-secret-file of {provider.name}: cannot read {file}: {reason}"
        ) from error
    except UnicodeDecodeError:
        text = ""
    if not text or len(text) > _MAX_SECRET_BYTES or "\n" in text:
        raise ValueError(f"client-secret-file of {provider.name}: {file} must hold one line")
    return text


def is_safe_url(text: object) -> bool:
    """Whether this is an https:// URL, or one of this machine itself."""
    # Before it is read: urlsplit leaves out line ends, which a header must not have.
    if not isinstance(text, str) or len(text) > 2048 or not (text.isascii() and text.isprintable()):
        return False
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        return False
    if not host or port == 0 or url.username or url.fragment:
        return False
    return url.scheme == "https" or (url.scheme == "http" and host in _LOOPBACK)
