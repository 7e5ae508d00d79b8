"""A daemon that `warren up` starts, as a person would start it."""

from __future__ import annotations

import sys
from pathlib import Path

from warren.lab.world import Part

WARREN = [sys.executable, "-m", "warren"]


def socket_in(state: Path) -> list[str]:
    """The words by which a command finds the daemon of a state directory."""
    return ["--socket", str(state / "s")]


def join(part: Part, state: Path, tun: str, url: str, key: str) -> list[str]:
    """Start a daemon, with a device and a host name of this name; its addresses, IPv4 first."""
    up = ["--server", url, "--auth-key", key, "--state", str(state), "--tun", tun, "--port", "0"]
    part.run([*WARREN, "up", *socket_in(state), *up, "--hostname", tun], 30)
    return addresses(part, state)


def addresses(part: Part, state: Path) -> list[str]:
    """What `warren ip` says of the node itself."""
    return part.run([*WARREN, "ip", *socket_in(state)]).split()
