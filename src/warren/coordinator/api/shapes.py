"""What the API takes and gives, with the wire's names (PROTOCOL §13)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

NEVER = datetime(1, 1, 1, tzinfo=UTC)
"""Go's zero time, which stands for no time at all."""


class Shape(msgspec.Struct, kw_only=True, rename="camel"):
    """A JSON object; what it does not know it lets pass, as the tools of others know more."""


class Latency(Shape, kw_only=True, omit_defaults=True):
    """How far a relay region is."""

    latency_ms: float
    preferred: bool = False


class Connectivity(Shape, kw_only=True):
    """How a device can be reached. `latency`: of relay regions, by their names."""

    endpoints: list[str] = []
    mapping_varies_by_dest_ip: bool | None = msgspec.field(
        name="mappingVariesByDestIP", default=None
    )
    latency: dict[str, Latency] = {}
    client_supports: dict[str, bool | None] = {}


class Distro(Shape, kw_only=True):
    """What a Linux device runs."""

    name: str
    version: str
    code_name: str


class Device(Shape, kw_only=True):
    """A machine. `id` is its number, `nodeId` its stable id; both name it."""

    id: str
    node_id: str
    name: str
    hostname: str
    addresses: list[str]
    user: str
    os: str
    client_version: str
    created: datetime
    expires: datetime
    last_seen: datetime | None
    connected_to_control: bool
    authorized: bool
    is_external: bool = False
    is_ephemeral: bool
    key_expiry_disabled: bool
    blocks_incoming_connections: bool
    update_available: bool = False
    ssh_enabled: bool
    machine_key: str
    node_key: str
    tags: list[str] | msgspec.UnsetType = msgspec.UNSET
    tailnet_lock_key: str = ""
    tailnet_lock_error: str = ""
    advertised_routes: list[str] | msgspec.UnsetType = msgspec.UNSET
    enabled_routes: list[str] | msgspec.UnsetType = msgspec.UNSET
    client_connectivity: Connectivity | msgspec.UnsetType = msgspec.UNSET
    distro: Distro | msgspec.UnsetType = msgspec.UNSET


class Devices(Shape, kw_only=True):
    """All machines."""

    devices: list[Device]


class Authorization(Shape, kw_only=True):
    """Whether a machine may take part."""

    authorized: bool


class Name(Shape, kw_only=True):
    """A name; empty: the host's own."""

    name: str


class Tags(Shape, kw_only=True):
    """All tags from now on."""

    tags: list[str]


class KeyExpiry(Shape, kw_only=True):
    """Whether a machine's key never expires."""

    key_expiry_disabled: bool


class Address(Shape, kw_only=True):
    """An IPv4 address of the network."""

    ipv4: str


class NewRoutes(Shape, kw_only=True):
    """All routes that are approved from now on."""

    routes: list[str]


class Routes(Shape, kw_only=True):
    """What a machine offers, and what of it is approved."""

    advertised_routes: list[str]
    enabled_routes: list[str]


class Attributes(Shape, kw_only=True):
    """Posture attributes of a machine."""

    attributes: dict[str, str | bool | int | float]
    expiries: dict[str, datetime] = {}


class NewAttribute(Shape, kw_only=True):
    """A posture attribute's value."""

    value: str | bool | int | float
    expiry: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    comment: str = ""


class ManyAttributes(Shape, kw_only=True):
    """Posture attributes of several machines; null removes one."""

    nodes: dict[str, dict[str, NewAttribute | None]]
    comment: str = ""


class DeviceRequest(Shape, kw_only=True):
    """A machine that waits to join."""

    id: str
    hostname: str
    os: str
    requested_tags: list[str]
    created: datetime
    expires: datetime
    node_key: str


class DeviceRequests(Shape, kw_only=True):
    """Machines that wait to join."""

    requests: list[DeviceRequest]


class DeviceApproval(Shape, kw_only=True):
    """For whom a machine joins: a log-in name; empty: the only user. Tags null: as it asked."""

    user: str = ""
    tags: list[str] | None = None


class Joined(Shape, kw_only=True):
    """The machine that is in the network now."""

    id: str
    node_id: str


class PolicyVersion(Shape, kw_only=True):
    """One version of the policy, without its text."""

    version: int
    etag: str
    author: str
    created: datetime
    size_bytes: int


class PolicyVersions(Shape, kw_only=True):
    """Versions that are kept, the newest first."""

    versions: list[PolicyVersion]


class CreateDevices(Shape, kw_only=True):
    """What machines join with a key."""

    reusable: bool = False
    ephemeral: bool = False
    preauthorized: bool = False
    tags: list[str] | None = None


class DeviceCapabilities(Shape, kw_only=True):
    """What a key may do to devices."""

    create: CreateDevices = msgspec.field(default_factory=CreateDevices)


class Capabilities(Shape, kw_only=True):
    """What a key is for."""

    devices: DeviceCapabilities = msgspec.field(default_factory=DeviceCapabilities)


class NewKey(Shape, kw_only=True):
    """What makes an auth key (`auth`) or an OAuth client (`client`)."""

    key_type: str = "auth"
    capabilities: Capabilities = msgspec.field(default_factory=Capabilities)
    expiry_seconds: int = 0
    description: str = ""
    scopes: list[str] | None = None
    tags: list[str] | None = None


class Key(Shape, kw_only=True, omit_defaults=True):
    """An auth key, API token or OAuth client. `key` only in the answer that made it."""

    id: str
    key_type: str
    key: str = ""
    description: str = ""
    created: datetime
    expires: datetime = NEVER
    revoked: datetime = NEVER
    invalid: bool = False
    expiry_seconds: int = 0
    user_id: str = ""
    capabilities: Capabilities | None = None
    scopes: list[str] = []
    tags: list[str] = []


class Keys(Shape, kw_only=True):
    """Keys."""

    keys: list[Key]


class User(Shape, kw_only=True):
    """A person."""

    id: str
    display_name: str
    login_name: str
    profile_pic_url: str = ""
    tailnet_id: str
    created: datetime
    type: str = "member"
    role: str
    status: str
    device_count: int
    last_seen: datetime | None
    currently_connected: bool
    last_login: datetime | None = None
    """This, how they log in and their groups the service has not: Warren's own."""
    logs_in_by: str = ""
    groups: list[str] = []


class Users(Shape, kw_only=True):
    """People."""

    users: list[User]


class Role(Shape, kw_only=True):
    """A user's role from now on."""

    role: str


class UserInvite(Shape, kw_only=True, omit_defaults=True):
    """A person who was invited. `inviteUrl` only in the answer that made it."""

    id: str
    role: str
    tailnet_id: str
    email: str
    expires: datetime
    invite_url: str = ""


class NewUserInvite(Shape, kw_only=True):
    """Whom to invite: `email` is whom they log in as. `expirySeconds` 0: three days."""

    role: str = "member"
    email: str = ""
    display_name: str = ""
    expiry_seconds: int = 0


class TailnetSettings(Shape, kw_only=True):
    """The network's settings."""

    acls_externally_managed_on: bool = False
    acls_external_link: str = ""
    devices_approval_on: bool
    devices_auto_updates_on: bool = False
    devices_key_duration_days: int
    users_approval_on: bool = False
    users_role_allowed_to_join_external_tailnets: str = "none"
    network_flow_logging_on: bool = False
    regional_routing_on: bool = False
    posture_identity_collection_on: bool = False
    https_enabled: bool = False


class SettingsPatch(Shape, kw_only=True):
    """Settings to change; what is left out stays."""

    acls_externally_managed_on: bool | None = None
    acls_external_link: str | None = None
    devices_approval_on: bool | None = None
    devices_auto_updates_on: bool | None = None
    devices_key_duration_days: int | None = None
    users_approval_on: bool | None = None
    users_role_allowed_to_join_external_tailnets: str | None = None
    network_flow_logging_on: bool | None = None
    regional_routing_on: bool | None = None
    posture_identity_collection_on: bool | None = None
    https_enabled: bool | None = None


class Nameservers(Shape, kw_only=True):
    """Resolvers for all names, from now on."""

    dns: list[str]


class NameserversSet(Shape, kw_only=True):
    """Resolvers for all names, and whether machines answer the network's names."""

    dns: list[str]
    magic_dns: bool = msgspec.field(name="magicDNS")


class DnsPreferences(Shape, kw_only=True):
    """Whether machines answer the network's names themselves."""

    magic_dns: bool = msgspec.field(name="magicDNS")


class SearchPaths(Shape, kw_only=True):
    """Domains that short names are tried in, beside the network's own."""

    search_paths: list[str]


class Resolver(Shape, kw_only=True):
    """A nameserver: an address, `ADDRESS:PORT`, or a URL of DNS over HTTPS."""

    address: str
    use_with_exit_node: bool = False


class DnsConfigurationPreferences(Shape, kw_only=True):
    """`overrideLocalDNS`: the nameservers go before those that a machine has itself."""

    override_local_dns: bool = msgspec.field(name="overrideLocalDNS", default=False)
    magic_dns: bool = msgspec.field(name="magicDNS", default=False)


class DnsConfiguration(Shape, kw_only=True):
    """All of it; what is left out is empty, or off."""

    nameservers: list[Resolver] = []
    split_dns: dict[str, list[Resolver]] = msgspec.field(name="splitDNS", default_factory=dict)
    search_paths: list[str] = []
    preferences: DnsConfigurationPreferences = msgspec.field(
        default_factory=DnsConfigurationPreferences
    )


class PreviewMatch(Shape, kw_only=True):
    """A rule of a policy: who, to where, and on which line it stands."""

    users: list[str]
    ports: list[str]
    postures: list[str] = []
    line_number: int


class Preview(Shape, kw_only=True):
    """The rules that meet a user, or an address and port."""

    type: str
    preview_for: str
    matches: list[PreviewMatch]


class NewOAuthClient(Shape, kw_only=True):
    """What an OAuth client may do from now on."""

    key_type: str = "client"
    scopes: list[str]
    tags: list[str] | None = None
    description: str = ""


class Contact(Shape, kw_only=True):
    """Whom to write to. Nobody here verifies it."""

    email: str
    fallback_email: str = ""
    needs_verification: bool = False


class Contacts(Shape, kw_only=True):
    """Whom to write to about the account, about help, and about security."""

    account: Contact
    support: Contact
    security: Contact


class NewContact(Shape, kw_only=True):
    """An address to write to; left out: the one there was."""

    email: str | None = None


class Webhook(Shape, kw_only=True, omit_defaults=True):
    """Where events are sent, and which. `secret` only in the answers that made it."""

    endpoint_id: str
    endpoint_url: str
    provider_type: str
    creator_login_name: str
    created: datetime
    last_modified: datetime
    subscriptions: list[str]
    secret: str = ""
    waiting: int = 0
    """Events that it has not heard of yet."""
    problem: str = ""
    """Why it could not be reached the last time."""


class Webhooks(Shape, kw_only=True):
    """Webhooks."""

    webhooks: list[Webhook]


class NewWebhook(Shape, kw_only=True):
    """What makes a webhook. `providerType`: slack, mattermost, googlechat or discord; or empty."""

    endpoint_url: str
    provider_type: str = ""
    subscriptions: list[str]


class Subscriptions(Shape, kw_only=True):
    """What a webhook is told of from now on."""

    subscriptions: list[str]


class LogActor(Shape, kw_only=True):
    """Who changed something."""

    id: str
    type: str
    login_name: str
    display_name: str


class LogTarget(Shape, kw_only=True):
    """What was changed."""

    id: str
    name: str
    type: str


class LogEntry(Shape, kw_only=True):
    """A change, as the configuration log has it."""

    event_group_id: str = msgspec.field(name="eventGroupID")
    event_time: datetime
    origin: str
    action: str
    actor: LogActor
    target: LogTarget
    old: Any
    new: Any


class Logs(Shape, kw_only=True):
    """A part of the log, oldest first."""

    version: str = "1.1"
    tailnet_id: str
    logs: list[LogEntry]


class AccessToken(msgspec.Struct, kw_only=True):
    """The answer to a client's credentials (RFC 6749 §5.1)."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105
    expires_in: int
    scope: str


class TestFailure(msgspec.Struct, kw_only=True):
    """What a policy's test says."""

    user: str = ""
    errors: list[str] = []


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Why a request was not carried out: RFC 9457 (without a type of its own, which means that
    the status says all), and `message` for the tools of others."""

    title: str
    status: int
    detail: str
    message: str
    data: list[TestFailure] = []
