"""What `warren relay` can be told, by file, environment or flag. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from warren.edge.settings import (
    HOST,
    BadConfig,
    ServingSettings,
    check_acme,
    check_log,
    check_tls,
    parse_address,
    place_of_state,
    read_settings,
    stun_groups,
)
from warren.netmap.derpmap import DERPMap, DERPNode, DERPRegion


class RelaySettings(ServingSettings, frozen=True, kw_only=True):
    """Every setting. `http` is for /generate_204 alone, by which clients find captive portals."""

    host: str = ""
    """Name or address that machines reach this relay by."""
    server: str = ""
    """The coordinator's URL, which is asked whom to serve; `any` serves everybody."""
    fail_open: bool = True
    """Whether to serve whoever comes while the coordinator does not answer."""
    metrics: str = ""
    """Address of a port for metrics and health checks, plain HTTP and without credentials, such as
    127.0.0.1:9091; empty: none."""
    region_id: int = 901
    region_code: str = ""
    region_name: str = ""


def load(file: Path | None, overrides: Mapping[str, Any]) -> RelaySettings:
    """Return the settings of a TOML file with those of flags on top. Raises BadConfig."""
    settings = read_settings(RelaySettings, file, overrides)
    if not settings.host or not HOST.fullmatch(settings.host):
        raise BadConfig(
            f"host is {settings.host!r}; give the name or address that machines reach this "
            "relay by, such as --host relay2.example.com"
        )
    if settings.server != "any":
        url = urlsplit(settings.server)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
            raise BadConfig(
                f"server is {settings.server!r}; give the coordinator's URL, such as "
                "https://vpn.example.com, or any, to serve everybody"
            )
    parse_address("listen", settings.listen)
    for name in ("http", "metrics"):
        if text := getattr(settings, name):
            parse_address(name, text)
    stun_groups(settings.stun)
    if settings.tls == "off":
        raise BadConfig("tls can't be off: machines speak to relays over TLS")
    check_tls(settings)
    check_acme(settings, settings.host)
    if not 1 <= settings.region_id <= 0xFFFF:
        raise BadConfig("region-id must be between 1 and 65535")
    check_log(settings)
    return settings


def state_directory(settings: RelaySettings) -> Path:
    """Return the state directory: the given one, or the place for this user."""
    return place_of_state(settings.state, "relay")


def admission_url(settings: RelaySettings) -> str:
    """Return where the coordinator says whom to serve; a URL with a path of its own stays."""
    path = urlsplit(settings.server).path
    return settings.server if path not in ("", "/") else settings.server.rstrip("/") + "/verify"


def region_of(settings: RelaySettings, pin: str) -> DERPMap:
    """Return this relay as a file for `warren server --derp-map` names it.

    pin: what machines are to expect of a certificate that nobody vouches for, or nothing.
    """
    ipv4, ipv6 = "", ""
    try:
        version = ip_address(settings.host).version
    except ValueError:
        pass
    else:
        ipv4, ipv6 = (settings.host, "none") if version == 4 else ("none", settings.host)
    groups = stun_groups(settings.stun)
    port = parse_address("listen", settings.listen)[1]
    stun_port = groups[0][0].port if groups else -1
    node = DERPNode(
        name=f"{settings.region_id}a",
        region_id=settings.region_id,
        host_name=settings.host,
        cert_name=pin,
        ipv4=ipv4,
        ipv6=ipv6,
        derp_port=0 if port == 443 else port,
        stun_port=0 if stun_port == 3478 else stun_port,
        can_port80=bool(settings.http) and parse_address("http", settings.http)[1] == 80,
    )
    region = DERPRegion(
        region_id=settings.region_id,
        region_code=settings.region_code or str(settings.region_id),
        region_name=settings.region_name,
        nodes=[node],
    )
    return DERPMap(regions={settings.region_id: region})
