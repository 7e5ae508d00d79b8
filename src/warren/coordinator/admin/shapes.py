"""What the administration API takes and gives; server and client share it. Light to import."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from warren.netmap.derpmap import DERPMap


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user. `nodes` counts theirs."""

    id: int
    name: str
    display_name: str
    created: datetime
    role: str = "member"
    nodes: int = 0
    suspended: bool = False
    approved: bool = True
    logs_in: str = ""
    """How: `password`, a provider's URL, or nothing yet."""
    groups: list[str] = []
    last_login: datetime | None = None


class NewInvite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes a one-time link. must_exist: do not create the user."""

    role: str = "member"
    display_name: str = ""
    expires: str = "3d"
    must_exist: bool = False


class Invite(msgspec.Struct, frozen=True, kw_only=True):
    """A one-time link; the answer that made it is the only one that holds it."""

    user: str
    url: str
    expiry: datetime


class Role(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user's role from now on."""

    role: str


class NewUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes a user."""

    name: str
    display_name: str = ""


class AuthKey(msgspec.Struct, frozen=True, kw_only=True):
    """An auth key, without its secret. `state` is `usable`, `used` or `expired`."""

    id: str
    user: str
    state: str
    reusable: bool
    ephemeral: bool
    pre_approved: bool
    tags: list[str]
    created: datetime
    expiry: datetime | None
    uses: int
    description: str = ""
    key: str | None = None
    """The text that joins a machine: only in the answer that made it."""


class NewAuthKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes an auth key. `expires` is a length of time such as `24h` or `never`.

    user: who will own the machines; empty: the only user.
    """

    user: str = ""
    reusable: bool = False
    ephemeral: bool = False
    pre_approved: bool = False
    tags: list[str] = []
    expires: str = "24h"
    description: str = ""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of the network. `state` is `online`, `offline`, `expired` or `unapproved`."""

    id: int
    stable_id: str
    name: str
    fqdn: str
    user: str
    state: str
    online: bool
    authorized: bool
    expired: bool
    ephemeral: bool
    addresses: list[str]
    tags: list[str]
    os: str
    hostname: str
    client_version: str
    capability_version: int
    home_region: int
    endpoints: list[str]
    created: datetime
    last_seen: datetime | None
    key_expiry: datetime | None
    node_key: str
    machine_key: str
    disco_key: str


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that waits for approval."""

    id: str
    hostname: str
    os: str
    requested_tags: list[str]
    created: datetime
    expiry: datetime
    node_key: str


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """All machines, and those that wait."""

    nodes: list[Node]
    pending: list[Pending]


class Rename(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new name; empty: the host's own again."""

    name: str


class Tags(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All tags of a node from now on."""

    tags: list[str]


class Approval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For whom a waiting machine joins; empty: the only user. Tags None: those it asked for."""

    user: str = ""
    tags: list[str] | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The policy in force. `version` 0 is the one that a new server has.

    warnings: sentences on what it does that is perhaps not meant.
    """

    text: str
    etag: str
    version: int = 0
    author: str = ""
    created: datetime | None = None
    warnings: list[str] = []


class RelayRegions(msgspec.Struct, frozen=True, kw_only=True):
    """The DERP map that machines are told, where each region is from, and whose home it is.

    derp_map: in the wire's form. sources: a file, a URL, "this server" or "the policy", by region.
    homes: machines by region. problems: sentences.
    """

    derp_map: DERPMap
    sources: dict[int, str] = {}
    homes: dict[int, int] = {}
    problems: list[str] = []


class NewPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy to check or to put in force. `etag` is of the text that was edited."""

    text: str
    author: str = ""
    etag: str | None = None


class PolicyVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the policy, without its text."""

    version: int
    etag: str
    author: str
    created: datetime
    size_bytes: int


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What opens the HTTP API, without its secret: a user's token or a program's OAuth client."""

    id: str
    kind: str
    user: str
    role: str
    scopes: list[str]
    tags: list[str]
    created: datetime
    expiry: datetime | None
    description: str = ""
    text: str | None = None
    """The token itself: only in the answer that made it."""


class NewToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes a token. Scopes make it an OAuth client, which has these and no role.

    user: whose it is; empty: the only user. expires: a length of time or `never`.
    """

    user: str = ""
    scopes: list[str] = []
    tags: list[str] = []
    expires: str = "90d"
    description: str = ""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change: who made it, from where, and what differs. Ids count up."""

    id: int
    time: datetime
    actor_kind: str
    actor: str
    origin: str
    action: str
    target_kind: str
    target: str
    target_name: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The server at a glance."""

    version: str
    url: str
    domain: str
    noise_key: str
    users: int
    nodes: int
    online: int
    pending: int
    relay_clients: int
    relay: dict[str, int]
    problems: list[str] = []
    """What is wrong with the stored policy, in sentences."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was not carried out, in one sentence."""

    message: str


class NodeProblem(msgspec.Struct, frozen=True):
    """Why a node does not answer what it was asked: its local API's own shape."""

    error: str
