"""Map request and response (PROTOCOL §3.2, §3.4)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from warren.keys import DiscoPublic, NodePublic
from warren.netmap.derpmap import DERPMap
from warren.netmap.dnsconfig import DNSConfig
from warren.netmap.filterrule import FilterRule
from warren.netmap.node import Hostinfo, Node, PeerChange, UserProfile, WireStruct


class MapRequest(WireStruct, frozen=True, kw_only=True):
    """A long poll (`stream`), a lite update (`omit_peers`) or a one-shot request."""

    version: int
    compress: str = ""
    keep_alive: bool = False
    node_key: NodePublic
    disco_key: DiscoPublic = DiscoPublic.zero()
    stream: bool = False
    hostinfo: Hostinfo | None = None
    map_session_handle: str = ""
    map_session_seq: int = 0
    endpoints: list[str] = []
    endpoint_types: list[int] = []
    tka_head: str = ""
    read_only: bool = False
    omit_peers: bool = False
    debug_flags: list[str] = []


class PingRequest(WireStruct, frozen=True, kw_only=True):
    """The coordinator asks a node to prove that it is there (PROTOCOL §2.9)."""

    url: str
    url_is_noise: bool = False
    log: bool = False
    types: str = ""
    ip: str = ""
    payload: str | None = None


class Debug(WireStruct, frozen=True, kw_only=True):
    """Orders for debugging and for private networks."""

    sleep_seconds: float = 0.0
    disable_log_tail: bool = False
    exit: int | None = None


class DisplayMessage(WireStruct, frozen=True, kw_only=True):
    """A message for the person at the machine."""

    title: str = ""
    text: str = ""
    severity: str = ""
    impacts_connectivity: bool = False
    primary_action: dict[str, Any] | None = None


class TKAInfo(WireStruct, frozen=True, kw_only=True):
    """Tailnet lock: its head, or that it was disabled."""

    head: str = ""
    disabled: bool = False


class MapResponse(WireStruct, frozen=True, kw_only=True):
    """One message of the map stream. None means unchanged; see the table in PROTOCOL §3.4."""

    map_session_handle: str = ""
    seq: int = 0
    keep_alive: bool = False
    ping_request: PingRequest | None = None
    pop_browser_url: str = ""
    node: Node | None = None
    derp_map: DERPMap | None = None
    peers: list[Node] | None = None
    peers_changed: list[Node] | None = None
    peers_removed: list[int] | None = None
    peers_changed_patch: list[PeerChange] | None = None
    peer_seen_change: dict[int, bool] | None = None
    online_change: dict[int, bool] | None = None
    dns_config: DNSConfig | None = None
    domain: str = ""
    collect_services: bool | None = None
    packet_filter: list[FilterRule] | None = None
    packet_filters: dict[str, list[FilterRule] | None] | None = None
    user_profiles: list[UserProfile] | None = None
    health: list[str] | None = None
    display_messages: dict[str, DisplayMessage | None] | None = None
    ssh_policy: dict[str, Any] | None = None
    control_time: datetime | None = None
    tka_info: TKAInfo | None = None
    domain_data_plane_audit_log_id: str = ""
    debug: Debug | None = None
    control_dial_plan: dict[str, Any] | None = None
    client_version: dict[str, Any] | None = None
    default_auto_update: bool | None = None


class EarlyNoise(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The early payload (PROTOCOL §2.5)."""

    node_key_challenge: str = ""
