"""A machine as the map shows it (PROTOCOL §3.5, §3.6)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from warren.keys import DiscoPublic, MachinePublic, NodePublic
from warren.netmap.names import wire_name

CapMap = dict[str, list[Any] | None]
"""Capability name → JSON values, or None: present without values."""


class WireStruct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename=wire_name):
    """Base of every control-plane value: immutable, wire names, defaults left out."""


class Service(WireStruct, frozen=True, kw_only=True):
    """A listening service; `peerapi4` and friends are internal ones."""

    proto: str = ""
    port: int = 0
    description: str = ""


class NetInfo(WireStruct, frozen=True, kw_only=True):
    """What a node knows of its network; `preferred_derp` becomes its home region."""

    mapping_varies_by_dest_ip: bool | None = msgspec.field(
        default=None, name="MappingVariesByDestIP"
    )
    working_ipv6: bool | None = None
    os_has_ipv6: bool | None = None
    working_udp: bool | None = None
    working_icmpv4: bool | None = msgspec.field(default=None, name="WorkingICMPv4")
    have_port_map: bool = False
    upnp: bool | None = None
    pmp: bool | None = None
    pcp: bool | None = None
    preferred_derp: int = 0
    link_type: str = ""
    derp_latency: dict[str, float] = {}
    firewall_mode: str = ""


class Hostinfo(WireStruct, frozen=True, kw_only=True):
    """What a node says of itself."""

    ipn_version: str = ""
    frontend_log_id: str = ""
    backend_log_id: str = ""
    os: str = ""
    os_version: str = ""
    container: bool | None = None
    env: str = ""
    distro: str = ""
    distro_version: str = ""
    distro_code_name: str = ""
    app: str = ""
    desktop: bool | None = None
    package: str = ""
    device_model: str = ""
    push_device_token: str = ""
    hostname: str = ""
    shields_up: bool = False
    sharee_node: bool = False
    no_logs_no_support: bool = False
    remote_config: bool = False
    wire_ingress: bool = False
    ingress_enabled: bool = False
    allows_update: bool = False
    machine: str = ""
    go_arch: str = ""
    go_arch_var: str = ""
    go_version: str = ""
    routable_ips: list[str] = []
    request_tags: list[str] = []
    wol_macs: list[str] = []
    services: list[Service] = []
    net_info: NetInfo | None = None
    ssh_host_keys: list[str] = msgspec.field(default=[], name="sshHostKeys")
    cloud: str = ""
    userspace: bool | None = None
    userspace_router: bool | None = None
    app_connector: bool | None = None
    services_hash: str = ""
    peer_relay: bool = False
    exit_node_id: str = ""
    location: dict[str, Any] | None = None
    tpm: dict[str, Any] | None = None
    state_encrypted: bool | None = None


class Node(WireStruct, frozen=True, kw_only=True):
    """One machine of the network. Addresses and routes are CIDR text; `name` ends in a dot."""

    id: int
    stable_id: str = ""
    name: str = ""
    user: int = 0
    sharer: int = 0
    key: NodePublic = NodePublic.zero()
    key_expiry: datetime | None = None
    key_signature: str = ""
    machine: MachinePublic = MachinePublic.zero()
    disco_key: DiscoPublic = DiscoPublic.zero()
    addresses: list[str] = []
    allowed_ips: list[str] | None = None
    """None: the same as `addresses` (capability version 112)."""
    endpoints: list[str] = []
    derp: str = ""
    """Legacy `127.3.3.40:<region>`, for clients below capability version 111."""
    home_derp: int = 0
    hostinfo: Hostinfo = Hostinfo()
    created: datetime | None = None
    cap: int = 0
    tags: list[str] = []
    primary_routes: list[str] = []
    last_seen: datetime | None = None
    online: bool | None = None
    machine_authorized: bool = False
    capabilities: list[str] = []
    cap_map: CapMap = {}
    unsigned_peer_api_only: bool = msgspec.field(default=False, name="UnsignedPeerAPIOnly")
    data_plane_audit_log_id: str = ""
    expired: bool = False
    self_node_v4_masq_addr_for_this_peer: str | None = msgspec.field(
        default=None, name="SelfNodeV4MasqAddrForThisPeer"
    )
    self_node_v6_masq_addr_for_this_peer: str | None = msgspec.field(
        default=None, name="SelfNodeV6MasqAddrForThisPeer"
    )
    is_wireguard_only: bool = False
    is_jailed: bool = False
    exit_node_dns_resolvers: list[Any] = []


class PeerChange(WireStruct, frozen=True, kw_only=True):
    """A patch of one peer: only the members that are present change (PROTOCOL §3.4)."""

    node_id: int
    derp_region: int = 0
    cap: int = 0
    cap_map: CapMap | None = None
    endpoints: list[str] | None = None
    key: NodePublic | None = None
    key_signature: str | None = None
    disco_key: DiscoPublic | None = None
    online: bool | None = None
    last_seen: datetime | None = None
    key_expiry: datetime | None = None


class UserProfile(WireStruct, frozen=True, kw_only=True):
    """A user as peers see them."""

    id: int
    login_name: str = ""
    display_name: str = ""
    profile_pic_url: str = ""
