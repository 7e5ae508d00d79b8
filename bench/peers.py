"""Other VPNs that may be installed: each joins two hosts of a lab with a tunnel of its own.

The stock client is one where WARREN_BENCH_TAILSCALED is the path of its daemon, beside which its
command `tailscale` lies.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from warren.keys import NodePrivate
from warren.lab.program import Program, ProgramFailed, wait_until
from warren.lab.world import Part, World

STOCK_VARIABLE = "WARREN_BENCH_TAILSCALED"


class Ends(NamedTuple):
    """Two hosts to be joined. server, auth_key: for one that needs a coordinator."""

    world: World
    a: Part
    b: Part
    server: str
    auth_key: str


Joined = tuple[str, list[Program]]
"""The second host's address in the tunnel, and the programs that carry it."""

# wireguard-go's control socket lives in /run, which the two ends would share: one of their own.
_WIREGUARD = """
conf=$(cat "$1")
mount -t tmpfs run /run
mkdir -p /run/wireguard
export WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1
(until printf '%s\\n' "$conf" | wg setconf wgo /dev/stdin 2>/dev/null; do sleep 0.05; done
ip address add "$2" dev wgo
ip link set wgo up mtu 1280) &
exec wireguard-go -f wgo
"""
_NEBULA = """
pki: {{ca: {ca}, cert: {cert}, key: {key}}}
static_host_map: {{{hosts}}}
lighthouse: {{am_lighthouse: false}}
listen: {{host: 0.0.0.0, port: 4242}}
cipher: chachapoly
tun: {{dev: neb, mtu: 1280}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
"""


@dataclass(frozen=True)
class Peer:
    """One other VPN. needs: the programs that must be on the path.

    own_hosts: it takes the network's addresses for its own and cannot share a host with Warren.
    """

    name: str
    needs: tuple[str, ...]
    join: Callable[[Ends], Joined]
    own_hosts: bool = False


def installed() -> list[Peer]:
    """Those that this machine has."""
    found = [peer for peer in _PEERS if all(shutil.which(word) for word in peer.needs)]
    if daemon := os.environ.get(STOCK_VARIABLE):
        command = str(Path(daemon).parent / "tailscale")
        found.append(
            Peer("stock client", (daemon, command), partial(_stock, daemon, command), True)
        )
    return found


def _wireguard_go(ends: Ends) -> Joined:
    world, a, b = ends.world, ends.a, ends.b
    keys = [NodePrivate.from_entropy(os.urandom(32)) for _ in range(2)]
    programs = []
    for own, (part, other) in enumerate(((a, b), (b, a))):
        private = base64.b64encode(keys[own].reveal()).decode()
        public = base64.b64encode(keys[1 - own].public().raw).decode()
        conf = world.scratch / f"wireguard-{part.name}.conf"
        conf.write_text(
            f"[Interface]\nPrivateKey = {private}\nListenPort = 51820\n[Peer]\n"
            f"PublicKey = {public}\nAllowedIPs = 10.9.0.0/24\nEndpoint = {other.address}:51820\n"
        )
        argv = ["sh", "-c", _WIREGUARD, "sh", str(conf), f"10.9.0.{own + 1}/24"]
        programs.append(part.spawn(argv, "wireguard-go"))
    return _answering(a, "10.9.0.2", programs)


def _nebula(ends: Ends) -> Joined:
    world, a, b = ends.world, ends.a, ends.b
    place = world.scratch / "nebula"
    place.mkdir()

    def certify(*words: str) -> None:
        a.run(["sh", "-c", 'cd "$1"; shift; exec nebula-cert "$@"', "sh", str(place), *words])

    certify("ca", "-name", "bench")
    programs = []
    for number, (part, other) in enumerate(((a, b), (b, a)), start=1):
        certify("sign", "-name", part.name, "-ip", f"10.8.0.{number}/24")
        conf = place / f"{part.name}.yaml"
        conf.write_text(
            _NEBULA.format(
                ca=place / "ca.crt",
                cert=place / f"{part.name}.crt",
                key=place / f"{part.name}.key",
                hosts=f'"10.8.0.{3 - number}": ["{other.address}:4242"]',
            )
        )
        programs.append(part.spawn(["nebula", "-config", str(conf)], "nebula"))
    return _answering(a, "10.8.0.2", programs)


def _openvpn(ends: Ends) -> Joined:
    world, a, b = ends.world, ends.a, ends.b
    made = {part.name: _self_signed(world.scratch / f"openvpn-{part.name}") for part in (a, b)}
    programs = []
    for number, (part, other) in enumerate(((a, b), (b, a)), start=1):
        cert, key, _ = made[part.name]
        role = ["--tls-server", "--dh", "none"] if part is b else ["--tls-client"]
        argv = [
            *("openvpn", "--dev", "ovpn", "--dev-type", "tun", "--proto", "udp"),
            *("--remote", str(other.address), "--port", "1194", "--tun-mtu", "1280"),
            *("--ifconfig", f"10.7.0.{number}", f"10.7.0.{3 - number}", *role),
            *("--cert", str(cert), "--key", str(key), "--peer-fingerprint", made[other.name][2]),
            *("--data-ciphers", "CHACHA20-POLY1305"),
        ]
        programs.append(part.spawn(argv, "openvpn"))
    return _answering(a, "10.7.0.2", programs)


def _stock(daemon: str, command: str, ends: Ends) -> Joined:
    programs = []
    for part in (ends.a, ends.b):
        place = ends.world.scratch / f"stock-{part.name}"
        place.mkdir()
        argv = [daemon, "--statedir", str(place), "--socket", str(place / "socket")]
        argv += ["--tun", "stock0", "--port", "41641", "--no-logs-no-support"]
        program = part.spawn(argv, "tailscaled")
        socket = place / "socket"
        wait_until(socket.exists, 20, "the stock daemon listens", program.tail)
        part.run(
            [
                *(command, "--socket", str(socket), "up", "--login-server", ends.server),
                *("--auth-key", ends.auth_key, "--hostname", f"stock-{part.name}"),
                *("--accept-dns=false", "--netfilter-mode=off", "--timeout", "30s"),
            ],
            40,
        )
        programs.append(program)
    ask = [command, "--socket", str(ends.world.scratch / f"stock-{ends.b.name}" / "socket")]
    address = str(json.loads(ends.b.run([*ask, "status", "--json"]))["TailscaleIPs"][0])
    return _answering(ends.a, address, programs)


def _self_signed(stem: Path) -> tuple[Path, Path, str]:
    """A certificate, its key, and its SHA-256 fingerprint as OpenVPN writes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, stem.name)])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )
    cert, private = stem.with_suffix(".crt"), stem.with_suffix(".key")
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.touch(0o600)
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert, private, made.fingerprint(hashes.SHA256()).hex(":").upper()


def _answering(a: Part, address: str, programs: list[Program]) -> Joined:
    def answers() -> bool:
        for program in programs:
            if not program.running():
                raise ProgramFailed(f"{program.name} ended early\n{program.tail()}")
        try:
            a.run(["ping", "-n", "-c", "1", "-W", "1", address])
        except ProgramFailed:
            return False
        return True

    said = programs[0].tail
    wait_until(answers, 30, f"{programs[0].name} reaches {address}", said)
    return address, programs


_PEERS = (
    Peer("wireguard-go", ("wireguard-go", "wg"), _wireguard_go),
    Peer("nebula", ("nebula", "nebula-cert"), _nebula),
    Peer("OpenVPN", ("openvpn",), _openvpn),
)
