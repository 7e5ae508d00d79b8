"""What `warren server` can be told, by file, environment or flag. Imports nothing heavy."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from warren.coordinator.durations import parse_duration
from warren.coordinator.login import providers
from warren.edge.settings import (
    HOST,
    ServingSettings,
    check_acme,
    check_log,
    check_tls,
    place_of_state,
    read_settings,
    read_toml,
)
from warren.edge.settings import BadConfig as BadConfig
from warren.edge.settings import parse_address as parse_address
from warren.edge.settings import stun_groups as stun_groups
from warren.nat.turn.grants import MAX_SERVERS, TurnPlace, parse_uri
from warren.netmap.endpoint import Endpoint

_DOMAIN = re.compile(r"(?=.{1,200}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9-]{1,63})+")
_MAX_SECRET_BYTES = 1024
_RESERVED_DOMAINS = ("ts.net", "tailscale.com", "localhost", "local")


class Config(ServingSettings, frozen=True, kw_only=True):
    """Every setting. `http` may be for a reverse proxy or a lab, too."""

    database: str = ""
    """SQLAlchemy URL; empty: SQLite in the state directory."""
    url: str = ""
    """What machines are told; empty: made from this machine's name."""
    turn: str = "off"
    """UDP and TCP port of the TURN server, with its public address, such as 203.0.113.7:5349; TLS
    is on the TCP port, too. With a comma one for each family. `off` for none."""
    turn_allow: str = ""
    """Networks that the TURN server may reach though they are private or its own; with commas."""
    turn_servers: str = ""
    """TURN servers of others, such as coturn, as URIs with commas between them:
    turn:turn.example.com:3478?transport=udp,turns:turn.example.com:5349?transport=tcp"""
    webhook_allow: str = ""
    """Networks where webhooks may be though they are private or its own; with commas."""
    turn_secret: str = ""
    """File with the secret shared with these servers (coturn: use-auth-secret)."""
    metrics: str = ""
    """Address of a port for metrics and health checks, plain HTTP and without credentials, such as
    127.0.0.1:9090; empty: none."""
    domain: str = "warren.internal"
    """MagicDNS suffix."""
    key_expiry: str = "180d"
    ephemeral_after: str = "60s"
    approve_machines: bool = False
    relay: bool = True
    relay_host: str = ""
    """Name or address of the relay in the map; empty: the URL's."""
    relay_port: int = 0
    """TLS port of the relay in the map; 0: the one of `listen`."""
    stun_port: int = 0
    """UDP port of STUN in the map; 0: the one of `stun`."""
    region_id: int = 900
    region_code: str = "warren"
    region_name: str = "Warren"
    derp_map: str = ""
    """Files or URLs with further relay regions, with commas between them: JSON in the form of the
    wire's DERP map, or TOML likewise where the name ends in .toml."""
    verify_clients: bool = True
    """The relay serves only machines of this network."""
    oidc: str | list[providers.ProviderConfig] = ""
    """Identity providers: `[[oidc]]` tables of this file, or another file that has them."""


def load(file: Path | None, overrides: Mapping[str, Any]) -> Config:
    """Return the settings of a TOML file with those of flags on top (None: not given).

    Raises BadConfig.
    """
    config = _with_http(read_settings(Config, file, overrides))
    check(config)
    return config


def _with_http(config: Config) -> Config:
    """Machines that are told to come by plain HTTP find a port for it, also if none was named."""
    try:
        url = urlsplit(config.url)
        port = url.port or 80
    except ValueError:
        return config  # `check` says what is wrong with it.
    if url.scheme != "http" or config.http:
        return config
    return msgspec.structs.replace(config, http=f":{port}")


def check(config: Config) -> None:
    """Look for settings that make no sense, alone or together. Raises BadConfig."""
    for name in ("listen", "http", "stun", "metrics"):
        text = getattr(config, name)
        if name == "stun":
            stun_groups(text)
        elif text:
            parse_address(name, text)
    turn_places(config)
    derp_map_places(config)
    networks("turn-allow", config.turn_allow)
    networks("webhook-allow", config.webhook_allow)
    if external_turn(config):
        turn_secret(config)
    check_tls(config)
    if config.tls == "off" and not config.http:
        raise BadConfig("tls = off leaves no port to listen on; give http, such as 127.0.0.1:8080")
    if not _DOMAIN.fullmatch(config.domain) or config.domain.endswith(_RESERVED_DOMAINS):
        raise BadConfig(
            f"domain is {config.domain!r}; it must be a name with a dot that is yours, "
            "such as mesh.example.com or warren.internal"
        )
    for name in ("key_expiry", "ephemeral_after"):
        try:
            parse_duration(getattr(config, name))
        except ValueError as error:
            raise BadConfig(f"{name.replace('_', '-')}: {error}") from error
    if parse_duration(config.ephemeral_after) is None:
        raise BadConfig("ephemeral-after can't be never; join such machines without ephemeral keys")
    if not 1 <= config.region_id <= 0xFFFF:
        raise BadConfig("region-id must be between 1 and 65535")
    check_log(config)
    for name in ("relay_port", "stun_port"):
        if not 0 <= getattr(config, name) <= 0xFFFF:
            raise BadConfig(f"{name.replace('_', '-')} must be between 1 and 65535")
    if not config.region_code.strip() or not config.region_name.strip():
        raise BadConfig("region-code and region-name can't be empty")
    if config.relay_host and not HOST.fullmatch(config.relay_host):
        raise BadConfig(f"relay-host is {config.relay_host!r}; it is a name or an address")
    identity_providers(config)
    _check_url(config)
    check_acme(config, urlsplit(public_url(config)).hostname or "")


def public_url(config: Config) -> str:
    """Return what machines are told, without a slash at the end."""
    if config.url:
        return config.url.rstrip("/")
    host = socket.getfqdn()
    if config.tls == "off":
        port = parse_address("http", config.http)[1]
        return f"http://{host}" + (f":{port}" if port != 80 else "")
    port = parse_address("listen", config.listen)[1]
    return f"https://{host}" + (f":{port}" if port != 443 else "")


def relay_address(config: Config) -> tuple[str, int] | None:
    """Return host and TLS port of the relay for the map, or None where there can't be one."""
    if not config.relay:
        return None
    url = urlsplit(public_url(config))
    host = config.relay_host or url.hostname or ""
    if config.tls == "off":
        # Something in front ends TLS; the relay is behind it as all else is.
        if url.scheme != "https" and not config.relay_port:
            return None
        return host, config.relay_port or url.port or 443
    return host, config.relay_port or parse_address("listen", config.listen)[1]


def turn_places(config: Config) -> list[Endpoint]:
    """Return where the TURN server listens, at most once for each family. Raises BadConfig."""
    places: list[Endpoint] = []
    for part in config.turn.split(",") if config.turn != "off" else ():
        host, port = parse_address("turn", part.strip())
        if host is None or ip_address(host).is_unspecified or not port:
            raise BadConfig(
                f"turn is {config.turn!r}; write it with the address that others send to, "
                "such as 203.0.113.7:5349"
            )
        places.append(Endpoint.of(ip_address(host), port))
    if len({place.is_v4 for place in places}) != len(places):
        raise BadConfig(f"turn is {config.turn!r}; it can be one address of each family")
    stun_ports = {place.port for group in stun_groups(config.stun) for place in group}
    if any(place.port in stun_ports for place in places):
        raise BadConfig("turn and stun need different ports, such as 5349 and 3478")
    return places


def networks(name: str, text: str) -> list[IPv4Network | IPv6Network]:
    """Read networks with commas between them. Raises BadConfig."""
    try:
        return [ip_network(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise BadConfig(f"{name}: {error}") from error


def external_turn(config: Config) -> list[TurnPlace]:
    """Return the TURN servers of others. Raises BadConfig."""
    places = []
    for uri in (part.strip() for part in config.turn_servers.split(",")):
        place = parse_uri(uri)
        if place is None and uri:
            raise BadConfig(
                f"turn-servers has {uri!r}; write it like turn:turn.example.com:3478?transport=udp "
                "or turns:turn.example.com:5349?transport=tcp"
            )
        places += [place] if place is not None else []
    if len(places) > MAX_SERVERS:
        raise BadConfig(f"turn-servers names {len(places)} servers; {MAX_SERVERS} are the most")
    return places


def derp_map_places(config: Config) -> list[str]:
    """Return the files and URLs with relay regions, in order. Raises BadConfig."""
    places = [part.strip() for part in config.derp_map.split(",") if part.strip()]
    for place in places:
        url = urlsplit(place)
        if "://" in place and (url.scheme not in ("http", "https") or not url.hostname):
            raise BadConfig(f"derp-map has {place!r}; it can be a file, or an https:// URL")
    if len(set(places)) != len(places):
        raise BadConfig("derp-map names the same place twice")
    return places


def identity_providers(config: Config) -> list[providers.ProviderConfig]:
    """Return the providers by which people log in. Raises BadConfig."""
    found = config.oidc
    if isinstance(found, str):
        values = read_toml(Path(found).expanduser()) if found else {}
        try:
            found = msgspec.convert(values, _Providers).oidc
        except msgspec.ValidationError as error:
            raise BadConfig(f"{config.oidc}: {error}") from error
    try:
        providers.check(found)
    except ValueError as error:
        raise BadConfig(f"oidc: {error}") from error
    return found


class _Providers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    oidc: list[providers.ProviderConfig] = []


def turn_secret(config: Config) -> bytes:
    """Return the secret that is shared with the TURN servers of others. Raises BadConfig."""
    if not config.turn_secret:
        raise BadConfig("turn-servers needs turn-secret, a file with the secret shared with them")
    file = Path(config.turn_secret).expanduser()
    try:
        with file.open("rb") as handle:
            secret = handle.read(_MAX_SECRET_BYTES + 1).strip()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadConfig(f"turn-secret: cannot read {file}: {reason}") from error
    if not secret or len(secret) > _MAX_SECRET_BYTES or b"\n" in secret:
        raise BadConfig(
            f"turn-secret: {file} must hold one line, the secret, of at most "
            f"{_MAX_SECRET_BYTES} bytes"
        )
    return secret


def state_directory(config_state: str) -> Path:
    """Return the state directory: the given one, or the place for this user."""
    return place_of_state(config_state, "server")


def _check_url(config: Config) -> None:
    if not config.url:
        return
    try:
        url = urlsplit(config.url)
        bad = url.scheme not in ("http", "https") or url.port == 0
        bad = bad or HOST.fullmatch(url.hostname or "") is None
    except ValueError:
        bad = True
    if bad or url.path not in ("", "/") or url.query or url.fragment or url.username:
        raise BadConfig(f"url is {config.url!r}; write it like https://vpn.example.com")
    if config.tls == "acme" and url.scheme != "https":
        raise BadConfig("tls = acme needs an https:// url with the name for the certificate")
