"""The local API's values: what `warren` commands ask the daemon, and what it answers.

Both ends import this room, so a request that does not fit is refused before anything runs.
Times are seconds unless the name says otherwise.
"""

from __future__ import annotations

from typing import Literal

import msgspec

BackendState = Literal["stopped", "starting", "needs-login", "needs-approval", "running", "expired"]
PingKind = Literal["disco", "tsmp", "icmp"]
NatKnown = Literal["unknown", "easy", "likely-hard", "hard"]


class UpRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Join, or change preferences and run. None keeps what was chosen before.

    auth_key: used for this registration only; never stored.
    force_login: get a new node key even when the old one still works.
    """

    server_url: str | None = None
    auth_key: str | None = None
    hostname: str | None = None
    ephemeral: bool = False
    force_login: bool = False
    shields_up: bool | None = None
    accept_routes: bool | None = None
    advertise_tags: list[str] | None = None
    relay_server: bool | None = None


class PingRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One ping. peer: an address, a host name or a full MagicDNS name."""

    peer: str
    kind: PingKind = "disco"
    timeout_s: float = 5.0
    size_bytes: int = 0


class PingReply(msgspec.Struct, kw_only=True):
    """What came back. `ok` false: `error` says why in one sentence.

    via: how the reply travelled; `path` is the peer's address and port when direct, and the
    relayed address at `server`, where that is ours, for `turn`.
    """

    ok: bool
    kind: PingKind
    peer: str
    address: str
    via: Literal["direct", "peer-relay", "turn", "relay", "self", "unknown"] = "unknown"
    path: str | None = None
    server: str | None = None
    region: int | None = None
    region_code: str | None = None
    ms: float | None = None
    error: str = ""


class PathStatus(msgspec.Struct, kw_only=True):
    """How packets to a peer travel now. kind `none`: no relay region is known either.

    kind `peer-relay`: through another machine of the network, whose `address` it is. kind `turn`:
    through a TURN server, by the relayed `address`; `server` where the allocation is this node's,
    and not the peer's. mtu_bytes: the largest packet of the tunnel that was found to pass there;
    None where any does (a relay). mtu_fallbacks: how often a size that had passed passed no more,
    on any direct path to the peer since this node knows it.
    """

    kind: Literal["direct", "peer-relay", "turn", "relay", "none"]
    address: str | None = None
    server: str | None = None
    region: int | None = None
    region_code: str | None = None
    latency_ms: float | None = None
    mtu_bytes: int | None = None
    mtu_fallbacks: int = 0


class PeerStatus(msgspec.Struct, kw_only=True):
    """One peer as this node sees it."""

    id: int
    name: str
    fqdn: str
    addresses: list[str]
    key: str
    online: bool | None
    os: str = ""
    user: str = ""
    tags: list[str] = []
    expired: bool = False
    routes: list[str] = []
    path: PathStatus
    active: bool = False
    rx_bytes: int = 0
    tx_bytes: int = 0
    handshake_ago_s: float | None = None


class SelfStatus(msgspec.Struct, kw_only=True):
    """This node as the coordinator knows it."""

    id: int
    name: str
    fqdn: str
    addresses: list[str]
    key: str
    user: str = ""
    tags: list[str] = []
    home_region: int = 0
    home_region_code: str | None = None
    endpoints: list[str] = []
    key_expiry: str | None = None


class RegionLatency(msgspec.Struct, kw_only=True):
    """What was measured of one relay region; no latency: no answer."""

    region: int
    code: str
    name: str
    latency_ms: float | None = None


class Status(msgspec.Struct, kw_only=True):
    """Everything that `warren status` shows.

    attempt: counts `up` requests; `error` belongs to this attempt.
    seq: grows with each change that a watcher should see.
    """

    version: str
    state: BackendState
    seq: int = 0
    attempt: int = 0
    error: str = ""
    auth_url: str = ""
    server_url: str = ""
    connected: bool = False
    mode: Literal["tun", "userspace"] = "userspace"
    tun: str | None = None
    port: int = 0
    proxy: str | None = None
    offloads: list[str] = []
    threads: int = 1
    """For packets, each way."""
    domain: str = ""
    self_node: SelfStatus | None = msgspec.field(default=None, name="self")
    peers: list[PeerStatus] = []
    regions: list[RegionLatency] = []
    health: list[str] = []
    drops: dict[str, int] = {}
    pid: int = 0
    state_dir: str = ""


class PortMapProtocol(msgspec.Struct, kw_only=True):
    """What came of one way to ask a router for a port (`warren.nat.mapping.Finding`)."""

    protocol: str
    finding: str
    text: str
    """A sentence for a person."""


class RouterReport(msgspec.Struct, kw_only=True):
    """A router that was asked for a port; `external` is what it opened."""

    address: str
    model: str = ""
    external: str | None = None
    protocols: list[PortMapProtocol] = []


class NatReport(msgspec.Struct, kw_only=True):
    """How the NAT or firewall in front behaves, for one IP family (RFC 4787, RFC 5780).

    name: the everyday one. difficulty: open, easy, hard, blocked or unknown. mapped: our addresses
    as servers saw them. ports: kept, sequential, block, random or unknown; port_samples are pairs
    of own and outside port, in the order of asking. liars: servers that the majority contradicts,
    and what they said. dropped: datagrams that were no answers, by reason. meaning: sentences.
    """

    udp: bool
    name: str
    difficulty: str
    translated: bool | None = None
    mapped: list[str] = []
    mapping: str = "unknown"
    filtering: str = "unknown"
    ports: str = "unknown"
    ports_text: str = ""
    port_step: int | None = None
    port_block: list[int] | None = None
    port_samples: list[list[int]] = []
    hairpin: bool | None = None
    mtu_bytes: int | None = None
    servers: list[str] = []
    discovery_server: str | None = None
    liars: dict[str, str] = {}
    dropped: dict[str, int] = {}
    meaning: list[str] = []


class NetcheckReport(msgspec.Struct, kw_only=True):
    """What this machine's network allows. nat4, nat6: None where there is nobody to ask by it.

    captive_portal: None where no relay could be asked.
    """

    udp: bool
    ipv4: str | None = None
    ipv6: str | None = None
    mapping_varies: bool | None = None
    home_region: int = 0
    home_region_code: str | None = None
    regions: list[RegionLatency] = []
    endpoints: list[str] = []
    routers: list[RouterReport] = []
    nat4: NatReport | None = None
    nat6: NatReport | None = None
    captive_portal: bool | None = None


class WhyRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Explain the path to a peer: an address, a host name or a full MagicDNS name."""

    peer: str


class CandidateStatus(msgspec.Struct, kw_only=True):
    """One address at which a peer was tried.

    sources: `map`, `call` (told by the peer over the relay), `ping` (it pinged from there),
    `pong` (it answered from there). result: `used`; `works` (it answers, but another is used);
    `lost` (it answered once); `silent` (it never did); `asked` (a first ping is under way);
    `untried`. why: a phrase that tells why it is not used. seen_as: our address as seen there.
    """

    address: str
    sources: list[str]
    result: Literal["used", "works", "lost", "silent", "asked", "untried"]
    why: str = ""
    pings: int = 0
    pongs: int = 0
    last_ping_ago_s: float | None = None
    last_pong_ago_s: float | None = None
    latency_ms: float | None = None
    seen_as: str | None = None


class SideStatus(msgspec.Struct, kw_only=True):
    """What the network of one side is like; None: not known.

    nat `hard`: symmetric; `likely-hard`: it cannot know itself, and what was seen says so.
    """

    udp: bool | None = None
    ipv6: bool | None = None
    nat: NatKnown = "unknown"
    port_mapping: bool | None = None
    upnp: bool | None = None
    natpmp: bool | None = None
    pcp: bool | None = None


class OwnEndpointStatus(msgspec.Struct, kw_only=True):
    """Where peers are told to try this node."""

    address: str
    source: Literal["local", "stun", "port mapping", "stun address with the local port"]


class Explanation(msgspec.Struct, kw_only=True):
    """Why the path to a peer is what it is.

    cause: one word for what keeps the path from being direct, empty if it is. reasons, advice,
    punching, turn: sentences; advice is what a person could change.
    """

    peer: str
    address: str
    path: PathStatus
    summary: str
    cause: str = ""
    reasons: list[str] = []
    advice: list[str] = []
    punching: list[str] = []
    turn: list[str] = []
    candidates: list[CandidateStatus] = []
    own: SideStatus
    theirs: SideStatus
    own_endpoints: list[OwnEndpointStatus] = []


class ApiError(msgspec.Struct, kw_only=True):
    """The body of every answer that is not 200."""

    error: str
