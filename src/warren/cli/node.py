"""The commands of a machine: up, down, logout, status, ip, ping, why, netcheck, daemon."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from warren.cli import show
from warren.cli.limits import MAX_PORT, MAX_THREADS
from warren.cli.quick import print_status
from warren.node.client import (
    DaemonAbsent,
    DaemonOptions,
    NodeClient,
    NodeError,
    start_daemon,
)
from warren.node.locate import places
from warren.node.schema import (
    PeerStatus,
    PingKind,
    PingRequest,
    SelfStatus,
    Status,
    UpRequest,
    WhyRequest,
)

_REACH_TIMEOUT_S = 30.0
_WATCH_S = 5.0
_PING_PAUSE_S = 1.0
_PING_PAUSE_DIRECT_S = 0.25

Socket = Annotated[
    Path | None,
    typer.Option("--socket", envvar="WARREN_SOCKET", help="The daemon's local socket."),
]
State = Annotated[
    Path | None,
    typer.Option("--state", envvar="WARREN_STATE", help="The node's state directory."),
]
Tun = Annotated[
    str | None,
    typer.Option(
        envvar="WARREN_TUN",
        help="Name of the TUN device, or `none` for userspace mode. Root has warren0.",
    ),
]
Port = Annotated[
    int | None,
    typer.Option(envvar="WARREN_PORT", min=0, max=MAX_PORT, help="UDP port; 0 takes any."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_commands(app: typer.Typer) -> None:
    """Register the node's commands."""
    for command, epilog in (
        (up, "Example: warren up --server https://mesh.example.com --auth-key wk-…"),
        (down, "Example: sudo warren down"),
        (logout, "Example: sudo warren logout"),
        (status, "Example: warren status --json"),
        (ip, "Example: warren ip -4 laptop"),
        (ping, "Example: warren ping --until-direct --timeout 10 laptop"),
        (why, "Example: warren why laptop"),
        (netcheck, "Example: warren netcheck --json"),
        (version, "Example: warren version"),
        (daemon, "Example: warren daemon --state /srv/node2 --tun warren1 --port 41642"),
    ):
        app.command(epilog=epilog)(command)


def up(
    server: Annotated[
        str | None,
        typer.Option(envvar="WARREN_SERVER", help="The coordinator's URL (once)."),
    ] = None,
    auth_key: Annotated[
        str | None,
        typer.Option(
            envvar="WARREN_AUTH_KEY", help="Join with this key; file:PATH reads it from a file."
        ),
    ] = None,
    hostname: Annotated[str | None, typer.Option(help="Name to ask for.")] = None,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Be forgotten when this node goes away.")
    ] = False,
    force_login: Annotated[
        bool, typer.Option("--force-login", help="Log in anew with a new node key.")
    ] = False,
    shields_up: Annotated[bool | None, typer.Option(help="Let nothing in but replies.")] = None,
    accept_routes: Annotated[
        bool | None, typer.Option(help="Use subnet routes of other machines.")
    ] = None,
    advertise_tags: Annotated[
        str | None, typer.Option(help="Tags to ask for, with commas between them.")
    ] = None,
    relay_server: Annotated[
        bool | None, typer.Option(help="Pass traffic on between other machines (a peer relay).")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Give up after this many seconds.")
    ] = None,
    qr: Annotated[bool, typer.Option(help="Show the log-in URL as a QR code too.")] = True,
    json: Annotated[
        bool, typer.Option("--json", help="Print lines of JSON: a log-in URL, then the status.")
    ] = False,
    socket: Socket = None,
    state: State = None,
    tun: Tun = None,
    port: Port = None,
) -> None:
    """Join a network, or come back to it. Starts a daemon if none runs."""
    where = places(state, socket)
    client = NodeClient(where.socket)
    try:
        client.status(peers=False)
    except DaemonAbsent:
        pid = start_daemon(DaemonOptions(where, tun, port))
        show.note(f"Started the warren daemon in the background (process {pid}).")
    else:
        if tun is not None or port is not None:
            show.note("--tun and --port are for a daemon that is started; one runs already.")
    request = UpRequest(
        server_url=server,
        auth_key=_read_key(auth_key),
        hostname=hostname,
        ephemeral=ephemeral,
        force_login=force_login,
        shields_up=shields_up,
        accept_routes=accept_routes,
        advertise_tags=None if advertise_tags is None else _split(advertise_tags),
        relay_server=relay_server,
    )
    final = _await_up(client, client.up(request), timeout, qr=qr, json=json)
    if json:
        show.json_line(final)
    else:
        show.joined(final)


def down(json: Json = False, socket: Socket = None) -> None:
    """Leave the network alone until the next `up`; the log-in stays."""
    result = NodeClient(places(None, socket).socket).down()
    show.json(result) if json else show.note("Down. `warren up` brings this machine back.")


def logout(json: Json = False, socket: Socket = None) -> None:
    """Expire this machine's key at the coordinator, and stop."""
    result = NodeClient(places(None, socket).socket).log_out()
    show.json(result) if json else show.note("Logged out.")


def status(
    json: Json = False,
    peers: Annotated[bool, typer.Option(help="Show the peers too.")] = True,
    socket: Socket = None,
) -> None:
    """Show this machine, its peers, and how each is reached. Exit code 1 unless running."""
    if code := print_status(json, peers, socket):
        raise typer.Exit(code)


def ip(
    peer: Annotated[str | None, typer.Argument(help="A peer; this machine if left out.")] = None,
    only4: Annotated[bool, typer.Option("-4", help="Only the IPv4 address.")] = False,
    only6: Annotated[bool, typer.Option("-6", help="Only the IPv6 address.")] = False,
    json: Json = False,
    socket: Socket = None,
) -> None:
    """Print the addresses of this machine or of a peer."""
    result = NodeClient(places(None, socket).socket).status(peers=peer is not None)
    addresses = _addresses(result, peer)
    if only4 != only6:
        addresses = [a for a in addresses if (":" in a) is only6]
    if not addresses:
        raise NodeError(f"{peer or 'This machine'} has no such address.")
    show.json({"addresses": addresses}) if json else print("\n".join(addresses))


def ping(
    peer: Annotated[str, typer.Argument(help="Name or address of a machine.")],
    count: Annotated[
        int | None, typer.Option("--count", "-c", min=1, help="Pings to send [default: 3].")
    ] = None,
    until_direct: Annotated[
        bool, typer.Option("--until-direct", help="Go on until the path is direct.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Give up after this many seconds.")
    ] = 10.0,
    kind: Annotated[
        str,
        typer.Option(
            help="disco measures the path, tsmp goes through WireGuard, "
            "icmp asks the other machine's own stack."
        ),
    ] = "disco",
    json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON for each ping.")
    ] = False,
    socket: Socket = None,
) -> None:
    """Ping a machine and show the path: a relay region, or an address.

    Exit code 0 if a pong came, and with --until-direct only if it came directly.
    """
    if kind not in ("disco", "tsmp", "icmp"):
        raise typer.BadParameter("--kind is disco, tsmp or icmp")
    known: dict[str, PingKind] = {"disco": "disco", "tsmp": "tsmp", "icmp": "icmp"}
    client = NodeClient(places(None, socket).socket)
    deadline = time.monotonic() + timeout
    left = count if count is not None else (sys.maxsize if until_direct else 3)
    answered = direct = False
    while left > 0 and (remaining := deadline - time.monotonic()) > 0:
        begun = time.monotonic()
        wait_s = min(remaining, 2.0 if until_direct else 5.0)
        reply = client.ping(PingRequest(peer=peer, kind=known[kind], timeout_s=wait_s))
        show.json_line(reply) if json else show.pong(reply)
        left -= 1
        answered = answered or reply.ok
        direct = reply.ok and reply.via in ("direct", "self")
        if until_direct and direct:
            break
        if left > 0:
            pause = _PING_PAUSE_DIRECT_S if until_direct else _PING_PAUSE_S
            time.sleep(max(0.0, min(begun + pause, deadline) - time.monotonic()))
    if not answered:
        raise NodeError(f"No pong from {peer}.")
    if until_direct and not direct:
        raise NodeError(f"No direct path to {peer} within {timeout:g} s; the relay carries on.")


def why(
    peer: Annotated[str, typer.Argument(help="Name or address of a machine.")],
    json: Json = False,
    socket: Socket = None,
) -> None:
    """Explain the path to a machine: what was tried, what failed, and what you could change."""
    result = NodeClient(places(None, socket).socket).why(WhyRequest(peer=peer))
    if json:
        show.json(result)
        return
    from warren.cli.explain import show_explanation

    show_explanation(result)


def netcheck(json: Json = False, socket: Socket = None) -> None:
    """Measure what this network allows: UDP, NAT, relays and their latency."""
    result = NodeClient(places(None, socket).socket).netcheck()
    show.json(result) if json else show.netcheck(result)


def version(json: Json = False) -> None:
    """Print the version."""
    from warren import __version__

    show.json({"version": __version__}) if json else print(__version__)


def daemon(
    state: State = None,
    socket: Socket = None,
    tun: Tun = None,
    port: Port = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            envvar="WARREN_PROXY",
            help="Userspace mode: SOCKS5 and HTTP CONNECT here [default: 127.0.0.1:1055].",
        ),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(
            envvar="WARREN_THREADS",
            min=0,
            max=MAX_THREADS,
            help="Threads for packets each way; 0: one for two cores, four at most.",
        ),
    ] = 0,
    print_unit: Annotated[
        bool, typer.Option("--print-unit", help="Print a systemd unit and exit.")
    ] = False,
) -> None:
    """Run the node in the foreground, for service managers."""
    if print_unit:
        from warren.node.unit import unit_text

        print(unit_text(state, socket, tun, port, proxy, threads or None), end="")
        return
    from warren.node.daemon import run_daemon

    run_daemon(places(state, socket), tun=tun, port=port, proxy=proxy, threads=threads)


def _await_up(
    client: NodeClient, status: Status, timeout: float | None, *, qr: bool, json: bool
) -> Status:
    """Watch until the node runs. A person at a browser gets all the time, a network 30 s."""
    attempt = status.attempt
    began = time.monotonic()
    shown_url = shown_error = ""
    told_approval = False
    while status.state != "running":
        if status.attempt != attempt:
            raise NodeError("Another `warren up` or `warren down` has taken over.")
        if status.state in ("needs-login", "stopped") and status.error:
            raise NodeError(status.error)
        if status.state == "stopped":
            raise NodeError("The node was stopped meanwhile.")
        if status.state == "needs-approval" and not told_approval:
            show.note("This machine waits for an administrator's approval.")
            told_approval = True
        if status.auth_url and status.auth_url != shown_url:
            shown_url = status.auth_url
            show.login(shown_url, qr=qr, json=json)
        if status.state == "starting" and status.error and status.error != shown_error:
            shown_error = status.error
            show.note(f"Still trying: {shown_error}")
        patient = status.state in ("needs-login", "needs-approval")
        limit = timeout if timeout is not None else (None if patient else _REACH_TIMEOUT_S)
        if limit is not None and time.monotonic() - began > limit:
            raise NodeError(status.error or f"Not up after {limit:g} s: {_missing(status)}.")
        wait_s = _WATCH_S if limit is None else min(_WATCH_S, began + limit - time.monotonic())
        status = client.watch(status.seq, max(0.05, wait_s))
    return status


def _missing(status: Status) -> str:
    """What is still to happen before the node is up."""
    if status.state == "needs-login":
        return f"nobody has let this machine in yet at {status.auth_url or status.server_url}"
    if status.state == "needs-approval":
        return "an administrator has not approved this machine yet"
    return f"{status.server_url or 'the coordinator'} has not answered"


def _read_key(text: str | None) -> str | None:
    if text is None or not text.startswith("file:"):
        return text
    path = Path(text.removeprefix("file:"))
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NodeError(f"Cannot read the auth key from {path}.") from error


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _addresses(status: Status, peer: str | None) -> list[str]:
    if status.self_node is None:
        raise NodeError("This machine has no address yet; `warren up` joins a network.")
    if peer is None:
        return status.self_node.addresses
    wanted = peer.lower().rstrip(".")
    machines: list[SelfStatus | PeerStatus] = [status.self_node, *status.peers]
    for known in machines:
        if wanted in (known.name.lower(), known.fqdn.lower().rstrip("."), *known.addresses):
            return known.addresses
    raise NodeError(f"There is no machine {peer!r} in this network.")
