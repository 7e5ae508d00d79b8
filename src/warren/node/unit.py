"""The systemd unit of a node."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def unit_text(
    state: Path | None,
    socket: Path | None,
    tun: str | None,
    port: int | None,
    proxy: str | None = None,
    threads: int | None = None,
) -> str:
    """Return a unit that runs this installation's daemon with the given options."""
    command = [sys.executable, "-m", "warren", "daemon"]
    options = {
        "--state": state,
        "--socket": socket,
        "--tun": tun,
        "--port": port,
        "--proxy": proxy,
        "--threads": threads,
    }
    for flag, value in options.items():
        if value is not None:
            command += [flag, str(value)]
    chosen = [state, socket.parent if socket else None]
    writable = "".join(
        f"ReadWritePaths={_quoted(f'-{path}')}\n" for path in chosen if path is not None
    )
    return f"""\
[Unit]
Description=Warren node
Documentation=https://github.com/warren-mesh/warren
Wants=network-online.target
After=network-online.target

[Service]
Type=simple
ExecStart={" ".join(_quoted(word.replace("$", "$$")) for word in command)}
StateDirectory=warren
StateDirectoryMode=0700
RuntimeDirectory=warren
RuntimeDirectoryMode=0755
Restart=on-failure
RestartSec=2
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_DAC_OVERRIDE
DeviceAllow=/dev/net/tun rw
ProtectSystem=strict
ProtectHome=read-only
{writable}PrivateTmp=yes
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
"""


def _quoted(word: str) -> str:
    """Return a word as systemd reads it back (systemd.syntax(7), "Quoting"; % is a specifier)."""
    word = word.replace("%", "%%")
    if re.fullmatch(r"[\w@%+=:,./$-]+", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
