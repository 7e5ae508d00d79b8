"""What the coordinator knows, as immutable values; the store keeps them, the mapper shows them.

Times are aware and in UTC. An id is an integer above zero that is never used again, not even
after its owner is gone: stock clients keep state by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import msgspec

from warren.keys import DiscoPublic, MachinePublic, NodePublic
from warren.netmap.node import Hostinfo


class UserRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A person (or a group of machines) that owns nodes. `name` is the login name.

    role: what the policy's autogroups call it, such as `owner`, `admin` or `member`.
    """

    id: int
    name: str
    display_name: str
    created: datetime
    role: str = "member"
    issuer: str = ""
    """The identity provider that knows this person, by its URL, …"""
    subject: str = ""
    """… and what it calls them, for ever; both empty: nobody logs in as this user by a provider."""
    groups: tuple[str, ...] = ()
    """The policy's names of their groups at the provider, as of the last log-in."""
    password: str = ""
    """The argon2 hash of a password, in its usual text form; empty: there is none."""
    password_set: datetime | None = None
    suspended: bool = False
    last_login: datetime | None = None
    approved: bool = True
    """An administrator has let them in, or did not have to."""

    @property
    def is_active(self) -> bool:
        """Whether anything of theirs opens anything."""
        return self.approved and not self.suspended


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that joined. `online` alone is not stored: it is false after a start."""

    id: int
    stable_id: str
    user_id: int
    machine_key: MachinePublic
    node_key: NodePublic
    disco_key: DiscoPublic = DiscoPublic.zero()
    ipv4: IPv4Address
    ipv6: IPv6Address
    name: str
    """The first label of its DNS name, unique in the network."""
    renamed: bool = False
    """An administrator chose the name; it no longer follows the host name."""
    hostinfo: Hostinfo = Hostinfo()
    endpoints: tuple[str, ...] = ()
    version: int = 0
    """The client's capability version."""
    tags: tuple[str, ...] = ()
    created: datetime
    key_expiry: datetime | None = None
    authorized: bool = True
    ephemeral: bool = False
    last_seen: datetime | None = None
    auth_key_id: str | None = None
    approved_routes: tuple[str, ...] = ()
    """Routes (CIDR) that an administrator approved; a policy may approve more."""
    attributes: Mapping[str, str | int | float | bool] = {}
    """What a policy's postures may ask for, set by an administrator or a program."""
    attribute_expiries: Mapping[str, datetime] = {}
    """When some of the attributes are removed by themselves."""
    online: bool = False

    @property
    def home_derp(self) -> int:
        """The relay region where this node is at home; 0 is unknown."""
        return self.hostinfo.net_info.preferred_derp if self.hostinfo.net_info else 0

    @property
    def never_spoke(self) -> bool:
        """Whether it was imported and has not asked this server for anything yet."""
        return self.version == 0

    def expired(self, wall: datetime) -> bool:
        """Whether the node key's time is over."""
        return self.key_expiry is not None and self.key_expiry <= wall

    def in_force(self, wall: datetime) -> bool:
        """Whether this node takes part in the network: approved, and its key not expired."""
        return self.authorized and not self.expired(wall)


class AuthKeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An auth key without its secret: only the SHA-256 of that is kept."""

    id: str
    user_id: int
    digest: bytes
    reusable: bool
    ephemeral: bool
    pre_approved: bool
    tags: tuple[str, ...]
    created: datetime
    expiry: datetime | None
    uses: int = 0
    description: str = ""

    def usable(self, wall: datetime) -> bool:
        """Whether a new machine could still join with it."""
        return (self.expiry is None or wall < self.expiry) and (self.reusable or not self.uses)


class PendingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that waits for an administrator. `rejected` ones are kept until they expire."""

    id: str
    machine_key: MachinePublic
    node_key: NodePublic
    old_node_key: NodePublic
    hostinfo: Hostinfo
    version: int
    ephemeral: bool
    created: datetime
    expiry: datetime
    rejected: bool = False


class PolicyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the policy, as its author wrote it. Versions count up from 1."""

    id: int
    text: str
    author: str
    created: datetime

    @property
    def etag(self) -> str:
        """Return what stands for this text: an editor gives it back to say what was edited."""
        return etag_of(self.text)


class CredentialRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What opens the HTTP API: a user's own token, or a program's OAuth client.

    kind: `api` (may do what its user may) or `client` (may do what its scopes say). Only the
    SHA-256 of the secret is kept. tags: those that a client's keys must bear.
    """

    id: str
    kind: str
    user_id: int
    digest: bytes
    scopes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    created: datetime
    expiry: datetime | None = None
    description: str = ""

    def usable(self, wall: datetime) -> bool:
        """Whether its time is not over."""
        return self.expiry is None or wall < self.expiry


class WebhookRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Where events are sent, and which. The secret is kept as it is: it signs what is sent.

    provider: whose form the events have; empty: the service's own. creator: a log-in name.
    """

    id: str
    url: str
    provider: str
    subscriptions: tuple[str, ...]
    secret: str
    creator: str
    created: datetime
    modified: datetime


class DeliveryRecord(msgspec.Struct, frozen=True):
    """An event, as JSON, that one webhook has not heard of yet. Ids count up."""

    id: int
    webhook_id: str
    created: datetime
    event: str


class InviteRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A one-time link with which a user first logs in, or sets another password.

    Only the SHA-256 of its secret is kept. renames: the user has a stand-in's name and takes the
    one of whoever logs in by a provider.
    """

    id: str
    user_id: int
    digest: bytes
    created: datetime
    expiry: datetime
    renames: bool = False


class SshPassRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A check of a log-in by SSH that was passed. source, target: ids of machines, perhaps gone.

    id: `ssh_pass_id` of the four things that it holds for, so that the latest is the only one.
    """

    id: str
    source: int
    user_id: int
    target: int
    local_user: str
    passed: datetime


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One change, as the audit log has it. `id` is given by the database, counting up.

    before, after: the fields that differ; None: there was nothing, or is nothing any more.
    """

    id: int = 0
    wall: datetime
    actor_kind: str
    actor: str
    origin: str
    action: str
    target_kind: str
    target: str
    target_name: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def ssh_pass_id(source: int, user_id: int, target: int, local_user: str) -> str:
    """Return what a passed check is kept by."""
    return f"{source}.{user_id}.{target}.{local_user}"


def etag_of(text: str) -> str:
    """Return a hexadecimal digest of a policy's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
