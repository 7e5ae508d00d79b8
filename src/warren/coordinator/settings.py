"""What an operator decides about the network as a whole.

The configuration gives it when the program starts; a few of it administrators may change while
it runs, and what they chose is kept in the database and goes before the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

# Stock clients from 1.80 on. Below it a node would need the legacy DERP string and filled
# AllowedIPs (before 111 and 112); 113 is also the oldest that the other self-hosted
# coordinator serves, so nobody who moves here loses a machine.
MINIMUM_VERSION = 113


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Network-wide settings.

    url: what machines are told, without a slash at its end. domain: of MagicDNS names.
    key_expiry: life of a node key, None for ever. ephemeral_after: how long an ephemeral node
    may be away. approve_machines: an auth key alone does not admit a machine.
    """

    url: str
    domain: str = "warren.internal"
    key_expiry: timedelta | None = timedelta(days=180)
    ephemeral_after: timedelta = timedelta(seconds=60)
    pending_life: timedelta = timedelta(minutes=30)
    approve_machines: bool = False


APPROVE_MACHINES = "network.approve_machines"
APPROVE_USERS = "network.approve_users"
KEY_EXPIRY_DAYS = "network.key_expiry_days"
POLICY_ELSEWHERE, POLICY_LINK = "network.policy_elsewhere", "network.policy_link"
"""Whether the policy is kept somewhere else, such as a repository, and where."""


def approves_users(chosen: Mapping[str, str]) -> bool:
    """Whether who comes by an identity provider for the first time waits for an administrator."""
    return chosen.get(APPROVE_USERS) == "true"


def in_force(settings: Settings, chosen: Mapping[str, str]) -> Settings:
    """Return the settings with what administrators chose; `chosen` are a snapshot's settings."""
    if APPROVE_MACHINES in chosen:
        settings = replace(settings, approve_machines=chosen[APPROVE_MACHINES] == "true")
    if KEY_EXPIRY_DAYS in chosen:
        settings = replace(settings, key_expiry=timedelta(days=int(chosen[KEY_EXPIRY_DAYS])))
    return settings
