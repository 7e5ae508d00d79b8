"""From a provider's claims to a person of ours, or a refusal; pure (OpenID Connect Core §5.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from warren.coordinator.login.providers import ProviderConfig
from warren.coordinator.names import is_user_name
from warren.coordinator.refusal import Refused
from warren.policy.logins import domain_key, login_key

MAX_GROUPS = 500
_MAX_GROUP = 200
_MAX_SUBJECT = 255


class NotAdmitted(Refused):
    """This person may not come in. The text is a sentence for them."""


class ProviderProblem(Refused):
    """The provider cannot be used now. The text is a sentence for a person."""


class Identity(NamedTuple):
    """A person as a provider knows them. groups: as the policy writes them."""

    issuer: str
    subject: str
    name: str
    display_name: str
    groups: tuple[str, ...] = ()
    is_verified_email: bool = False
    """The provider vouches that `name` is an e-mail address of theirs."""


def identity_untrusted(claims: Mapping[str, Any], provider: ProviderConfig) -> Identity:
    """Return who the claims are of. Raises NotAdmitted."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT:
        raise NotAdmitted(f"{provider.label} does not say who you are (there is no good sub)")
    name = claims.get(provider.name_claim)
    by_email = provider.name_claim == "email"
    # Marks that turn text around, and what cannot be seen, make names that look like others.
    name = name.strip() if isinstance(name, str) and name.strip().isprintable() else ""
    if not is_user_name(name):
        raise NotAdmitted(
            f"{provider.label} gives no {provider.name_claim} for you that could be a log-in "
            "name; an administrator can set name-claim and scopes"
        )
    verified = by_email and claims.get("email_verified") in (True, "true")
    if by_email and "@" not in name:
        raise NotAdmitted(f"{provider.label} gives {name!r} as your e-mail address")
    if by_email and not verified and not provider.allow_unverified_email:
        raise NotAdmitted(
            f"{provider.label} does not vouch for your e-mail address; confirm it there, or ask "
            "an administrator for allow-unverified-email"
        )
    if by_email:
        # Upper case in an address means nothing in practice, and would make two of one person.
        name = name.lower()
    told = list(_texts(claims.get(provider.groups_claim)))
    _check_allowed(provider, name, told)
    display = claims.get("name")
    shown = "".join(filter(str.isprintable, display)) if isinstance(display, str) else ""
    return Identity(
        issuer=provider.issuer,
        subject=subject,
        name=name,
        display_name=shown.strip()[:254],
        groups=policy_groups(told, provider, name),
        is_verified_email=verified,
    )


def policy_groups(told: Iterable[str], provider: ProviderConfig, name: str) -> tuple[str, ...]:
    """Return groups as the policy writes them: `group:NAME@DOMAIN`, in lower case.

    A group that brings a domain of its own keeps it if that is one of this provider's: it must
    not speak for others.
    """
    domain = (provider.groups_domain or name.rpartition("@")[2]).lower()
    own = {domain_key(domain), *_domains(provider.allowed_domains)} - {""}
    found: dict[str, None] = {}
    for text in told:
        # Keycloak tells paths: /engineering.
        group = text.strip().removeprefix("/").lower()
        label, at, brought = group.rpartition("@")
        if at and domain_key(brought) not in own:
            continue
        whole = group if at else f"{group}@{domain}"
        if (label if at else group) and len(whole) <= _MAX_GROUP and whole.isprintable():
            found[f"group:{whole}"] = None
        if len(found) == MAX_GROUPS:
            break
    return tuple(sorted(found))


def _check_allowed(provider: ProviderConfig, name: str, groups: list[str]) -> None:
    domain = name.rpartition("@")[2].lower() if "@" in name else ""
    if provider.allowed_domains and domain_key(domain) not in _domains(provider.allowed_domains):
        raise NotAdmitted(f"accounts of {domain or 'no domain'} may not log in here")
    users = {login_key(text.strip()) for text in provider.allowed_users}
    if users and login_key(name) not in users:
        raise NotAdmitted(f"the account {name} may not log in here")
    wanted = {text.removeprefix("/") for text in provider.allowed_groups}
    if wanted and not wanted & {text.removeprefix("/") for text in groups}:
        raise NotAdmitted("your account is in none of the groups that may log in here")


def _domains(texts: Iterable[str]) -> set[str]:
    return {domain_key(text.strip().removeprefix("@")) for text in texts}


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        yield from (item for item in value[: 4 * MAX_GROUPS] if isinstance(item, str))
