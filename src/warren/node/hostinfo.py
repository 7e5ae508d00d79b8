"""What a node says of itself to its coordinator (PROTOCOL §3.6)."""

from __future__ import annotations

import platform
import re

from warren import __version__
from warren.netmap.node import Hostinfo, NetInfo
from warren.node.state import Prefs

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class MalformedHostname(ValueError):
    """A wished name is no DNS label."""


def check_hostname(text: str) -> str:
    """Return a host name in lower case. Raises MalformedHostname; empty means the machine's."""
    name = text.strip().lower()
    if name and not _LABEL.fullmatch(name):
        raise MalformedHostname(
            f"{text[:80]!r} is no host name: up to 63 letters, digits and inner hyphens."
        )
    return name


def own_hostname() -> str:
    """Return this machine's first name, made into a DNS label."""
    first = platform.node().split(".", 1)[0].lower()
    return re.sub(r"[^a-z0-9]+", "-", first).strip("-")[:63].strip("-") or "machine"


def make_hostinfo(
    prefs: Prefs, log_id: str, net_info: NetInfo | None, *, userspace: bool
) -> Hostinfo:
    """Return the whole Hostinfo."""
    machine = platform.machine()
    return Hostinfo(
        ipn_version=f"{__version__}-warren",
        backend_log_id=log_id,
        os="linux",
        os_version=platform.release(),
        hostname=prefs.hostname or own_hostname(),
        machine=machine,
        go_arch=_ARCHITECTURES.get(machine, machine),
        shields_up=prefs.shields_up,
        no_logs_no_support=True,
        request_tags=prefs.advertise_tags,
        userspace=userspace,
        userspace_router=userspace,
        net_info=net_info,
        peer_relay=prefs.relay_server,
    )
