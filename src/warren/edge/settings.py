"""What programs are told by file, environment or flag: read, and checked where they are alike.

Imports nothing heavy.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from warren.nat.places import group_places
from warren.netmap.endpoint import Endpoint

HOST = re.compile(r"[A-Za-z0-9.:_-]{1,253}")
_TLS_MODES = ("acme", "self-signed", "files", "off")
_S = TypeVar("_S", bound=msgspec.Struct)


class BadConfig(Exception):
    """A setting makes no sense. The text is one sentence that names it."""


class ServingSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"
):
    """What every program that serves is told; TOML keys are the flags' names without the dashes.

    Addresses to listen on are `HOST:PORT`, `[V6]:PORT` or `:PORT` for all addresses.
    """

    state: str = ""
    """Directory of keys and whatever else is kept; empty: the place for this user."""
    listen: str = ":443"
    """TLS port for everything."""
    http: str = ""
    """Plain HTTP beside it; empty: none."""
    stun: str = ":3478"
    """UDP port; `off` for none. Two addresses, with a comma between them, or one address with two
    ports let machines find out how their NAT behaves."""
    tls: str = "self-signed"
    """Where the certificate is from: `acme`, `self-signed`, `files` or, for some, `off`."""
    tls_cert: str = ""
    """PEM chain, for files."""
    tls_key: str = ""
    """PEM key, for files."""
    acme_email: str = ""
    acme_directory: str = "https://acme-v02.api.letsencrypt.org/directory"
    acme_ca: str = ""
    """A PEM file with the root of a private ACME server; empty: the system's."""
    log_level: str = "info"
    log_format: str = "text"


def read_settings(kind: type[_S], file: Path | None, overrides: Mapping[str, Any]) -> _S:
    """Return the settings of a TOML file with those of flags on top (None: not given).

    Raises BadConfig.
    """
    values = read_toml(file) if file is not None else {}
    values.update(
        {name.replace("_", "-"): value for name, value in overrides.items() if value is not None}
    )
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise BadConfig(
                f"there is no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise BadConfig(f"a setting has the wrong type: {error}") from error


def parse_address(name: str, text: str) -> tuple[str | None, int]:
    """Read `HOST:PORT`, `[V6]:PORT` or `:PORT`; no host means all. Raises BadConfig."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 0xFFFF:
        raise BadConfig(f"{name} is {text!r}; write it like 0.0.0.0:443 or :443")
    bare = host.removeprefix("[").removesuffix("]")
    if bare:
        try:
            ip_address(bare)
        except ValueError as error:
            raise BadConfig(f"{name} is {text!r}, and {bare!r} is not an address") from error
    return bare or None, int(port)


def stun_groups(text: str) -> list[list[Endpoint]]:
    """Return the sockets to open for STUN: a group answers for each other. Raises BadConfig.

    `off` gives none. A port without an address is one group of the unspecified IPv4 address.
    """
    if text == "off":
        return []
    endpoints = []
    for part in text.split(","):
        host, port = parse_address("stun", part.strip())
        endpoints.append(Endpoint.of(ip_address(host or "0.0.0.0"), port))  # noqa: S104
    try:
        return group_places(endpoints)
    except ValueError as error:
        raise BadConfig(f"stun is {text!r}, but {error}") from error


def check_tls(config: ServingSettings) -> None:
    """Look whether the mode is one, and has what it needs. Raises BadConfig."""
    if config.tls not in _TLS_MODES:
        raise BadConfig(f"tls is {config.tls!r}; it can be {', '.join(_TLS_MODES)}")
    if config.tls == "files" and not (config.tls_cert and config.tls_key):
        raise BadConfig("tls = files needs tls-cert and tls-key")


def check_acme(config: ServingSettings, host: str) -> None:
    """Look whether a certificate can be had for a host. Raises BadConfig."""
    if config.tls != "acme":
        return
    directory = urlsplit(config.acme_directory)
    if directory.scheme != "https" or not directory.hostname:
        raise BadConfig(f"acme-directory is {config.acme_directory!r}; it is an https:// URL")
    if config.acme_ca and not Path(config.acme_ca).is_file():
        raise BadConfig(f"acme-ca is {config.acme_ca!r}, and there is no such file")
    with suppress(ValueError):
        ip_address(host)
        raise BadConfig(f"tls = acme needs a name in the url; {host} is an address")


def check_log(config: ServingSettings) -> None:
    """Look whether the log can be so. Raises BadConfig."""
    if config.log_level not in ("debug", "info", "warning", "error"):
        raise BadConfig("log-level can be debug, info, warning or error")
    if config.log_format not in ("text", "json"):
        raise BadConfig("log-format can be text or json")


def place_of_state(given: str, program: str) -> Path:
    """Return a program's state directory: the given one, or the place for this user."""
    if given:
        return Path(given).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/warren") / program
    from platformdirs import user_state_path

    return user_state_path("warren") / program


def read_toml(file: Path) -> dict[str, Any]:
    """Return what a TOML file says. Raises BadConfig."""
    try:
        with file.open("rb") as handle:
            return tomllib.load(handle)
    except OSError as error:
        raise BadConfig(f"cannot read {file}: {(error.strerror or str(error)).lower()}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{file} is not TOML: {error}") from error
