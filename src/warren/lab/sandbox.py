"""The right to build networks: as root, or inside a user namespace of one's own.

An ordinary user becomes root of a fresh user, network and mount namespace, where `/run` is an
empty tmpfs, so that `ip netns` works and nothing outside can be touched. The change is made in
this very process, so signals and the terminal stay as they were; everything vanishes with it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where `ip` and `nft` live; often missing from an ordinary user's PATH."""

_TOOLS = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux", "setpriv": "util-linux"}


class LabUnavailable(RuntimeError):
    """This machine or this user cannot build a lab; the message says what is missing."""


def missing_packages() -> list[str]:
    """Debian packages whose programs the lab needs and does not find."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
    return sorted(
        {package for tool, package in _TOOLS.items() if not shutil.which(tool, path=path)}
    )


def enter() -> bool:
    """Get ready to build namespaces. True if this process now lives in a user namespace.

    To be called once, early, while the process has a single thread. Raises LabUnavailable.
    """
    missing = missing_packages()
    if missing:
        raise LabUnavailable(
            f"missing programs; install them with: apt install {' '.join(missing)}"
        )
    if _may_build():
        return False
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWNS) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise LabUnavailable(
            f"cannot create a user namespace ({reason}): run as root, or allow them with "
            "sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1"
        )
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise LabUnavailable(
            f"the system does not let this user rule a user namespace ({error.strerror}): run as "
            "root, or allow it with sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        ) from error
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "tmpfs", "/run")
    Path("/run/netns").mkdir()
    return True


def tun_available() -> bool:
    """Whether this process may open /dev/net/tun."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _may_build() -> bool:
    """Whether this process holds CAP_SYS_ADMIN and CAP_NET_ADMIN where it lives."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
            return bool(held >> 12 & 1 and held >> 21 & 1)
    return False


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode != 0:
        raise LabUnavailable(f"cannot mount in the user namespace: {done.stderr.strip()}")
