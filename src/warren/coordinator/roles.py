"""What each role may do: one table, read by the HTTP API and, through users' roles, the policy.

A scope names a part of the API; `NAME:read` allows looking, `NAME` also changing. The names are
those of the service that existing tools were written for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

READ: Final = ":read"
ALL: Final = "all"

SCOPES: Final = frozenset(
    {
        "account_settings",
        "api_access_tokens",
        "auth_keys",
        "devices:core",
        "devices:posture_attributes",
        "devices:routes",
        "dns",
        "feature_settings",
        "logs:configuration",
        "networking_settings",
        "oauth_keys",
        "policy_file",
        "users",
        "webhooks",
    }
)

OWNER: Final = "owner"
MEMBER: Final = "member"

ROLES: Final[dict[str, frozenset[str]]] = {
    OWNER: frozenset({ALL}),
    "admin": frozenset({ALL}),
    "network-admin": frozenset(
        {
            "all:read",
            "devices:routes",
            "dns",
            "networking_settings",
            "policy_file",
            "webhooks",
        }
    ),
    "it-admin": frozenset(
        {
            "all:read",
            "auth_keys",
            "devices:core",
            "devices:posture_attributes",
            "feature_settings",
            "users",
            "webhooks",
        }
    ),
    "auditor": frozenset({"all:read"}),
    "billing-admin": frozenset(),
    MEMBER: frozenset(),
}
"""Role → what it may do. A member joins machines, and sees of the rest what the policy shows.

The policy's `autogroup:ROLE` are these (a test asks), and what it decides by role, it asks here.
"""


def administers(role: str) -> bool:
    """Whether a role may change anything of the network."""
    return any(not scope.endswith(READ) for scope in ROLES.get(role, ()))


def allows(held: Iterable[str], scope: str) -> bool:
    """Whether scopes that are held include one that is needed."""
    held = frozenset(held)
    if ALL in held or scope in held:
        return True
    if scope.endswith(READ):
        return f"{ALL}{READ}" in held or scope.removesuffix(READ) in held
    return False


def common(one: Iterable[str], other: Iterable[str]) -> frozenset[str]:
    """Return the scopes that both allow."""
    one, other = frozenset(one), frozenset(other)
    every = (name + suffix for name in (*SCOPES, ALL) for suffix in ("", READ))
    return frozenset(scope for scope in every if allows(one, scope) and allows(other, scope))


def covers(held: Iterable[str], role: str) -> bool:
    """Whether scopes that are held allow all that a role may do; what is no role may do nothing."""
    held = frozenset(held)
    return all(allows(held, scope) for scope in ROLES.get(role, ()))


def unknown(scopes: Iterable[str]) -> list[str]:
    """Return those that are no scopes, in order."""
    return sorted(s for s in set(scopes) if s.removesuffix(READ) not in SCOPES | {ALL})
