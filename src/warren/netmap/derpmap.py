"""The relay regions (PROTOCOL §4.5)."""

from __future__ import annotations

import msgspec

from warren.netmap.node import WireStruct

PIN_PREFIX = "sha256-raw:"
"""What a pinned certificate is written with, in hex: the SHA-256 of its DER."""


class DERPNode(WireStruct, frozen=True, kw_only=True):
    """One relay server. `stun_port` 0 is 3478 and -1 none; `derp_port` 0 is 443."""

    name: str
    region_id: int
    host_name: str = ""
    cert_name: str = ""
    """A TLS name other than the host name, or `sha256-raw:<hex>` of the leaf certificate."""
    ipv4: str = ""
    ipv6: str = ""
    stun_port: int = 0
    stun_only: bool = False
    derp_port: int = 0
    insecure_for_tests: bool = False
    stun_test_ip: str = ""
    can_port80: bool = False


class DERPRegion(WireStruct, frozen=True, kw_only=True):
    """A region: relays that a client treats as one place; nodes in order of preference."""

    region_id: int
    region_code: str = ""
    region_name: str = ""
    latitude: float = 0.0
    longitude: float = 0.0
    avoid: bool = False
    no_measure_no_home: bool = False
    nodes: list[DERPNode] = []


class HomeParams(WireStruct, frozen=True, kw_only=True):
    """Factors on measured latency by region, when a home is chosen."""

    region_score: dict[int, float] | None = None


class DERPMap(WireStruct, frozen=True, kw_only=True):
    """All regions. In a delta, a region of None is deleted and absent regions stay."""

    home_params: HomeParams | None = None
    regions: dict[int, DERPRegion | None] | None = None
    omit_default_regions: bool = msgspec.field(default=False, name="omitDefaultRegions")


class AdmitRequest(WireStruct, frozen=True, kw_only=True):
    """A relay's question whether it may serve a client (PROTOCOL §4.3). `source`: its address."""

    node_public: str = ""
    source: str = ""


class AdmitResponse(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The answer; without `Allow` it is no."""

    allow: bool = False
