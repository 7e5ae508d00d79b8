"""How answers look in a terminal. Notes go to stderr, results to stdout."""

from __future__ import annotations

import sys

import msgspec

from warren.node.schema import (
    NatReport,
    NetcheckReport,
    PeerStatus,
    PingReply,
    RegionLatency,
    Status,
)

_STATES = {
    "stopped": "Stopped. `warren up` brings this machine back.",
    "starting": "Starting.",
    "needs-login": "Not logged in.",
    "needs-approval": "Waits for an administrator's approval.",
    "expired": "The node key has expired; `warren up --force-login` logs in anew.",
    "running": "Running.",
}


def json(value: object) -> None:
    """Print one JSON document."""
    data = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(data.decode() + "\n")


def done(value: object, json_wanted: bool, sentence: str) -> None:
    """Say that something was done, or print what came of it as JSON."""
    if json_wanted:
        json(value)
    else:
        print(sentence)


def json_line(value: object) -> None:
    """Print one line of JSON, at once."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Say something beside the result."""
    print(text, file=sys.stderr, flush=True)


def joined(status: Status) -> None:
    """Show that the machine is in."""
    assert status.self_node is not None
    me = status.self_node
    print(f"{me.fqdn.rstrip('.') or me.name} is up: {', '.join(me.addresses)}")
    if status.proxy:
        print(f"Userspace mode: SOCKS5 and HTTP CONNECT on {status.proxy}.")
    for line in status.health:
        print(f"! {line}")


def login(url: str, *, qr: bool, json: bool) -> None:
    """Show where a person logs in."""
    if json:
        json_line({"state": "needs-login", "auth_url": url})
        return
    note(f"\nTo join this machine, open\n\n    {url}\n")
    if qr:
        import segno

        segno.make(url, error="l").terminal(out=sys.stderr, compact=True)
    note("Waiting for approval (an administrator may also use `warren admin nodes approve`) …")


def status(value: Status) -> None:
    """Show the whole picture."""
    if value.state != "running":
        print(_STATES[value.state])
    if value.error:
        print(f"! {value.error}")
    if value.auth_url:
        print(f"Log in at {value.auth_url}")
    for line in value.health:
        print(f"! {line}")
    me = value.self_node
    if me is None:
        return
    home = me.home_region_code or (str(me.home_region) if me.home_region else "none")
    how = f"tun {value.tun}" if value.mode == "tun" else f"userspace, proxy {value.proxy or 'off'}"
    rows = [[me.addresses[0] if me.addresses else "-", me.name, me.user, f"this one ({how})"]]
    rows += [_peer_row(peer) for peer in value.peers]
    table(rows)
    link = "connected" if value.connected else "not connected"
    print(f"\n{link} to {value.server_url}, home relay {home}, UDP port {value.port}")
    if len(value.regions) > 1:
        known = sorted(value.regions, key=lambda region: (region.latency_ms or 1e9, region.region))
        print("relays: " + ", ".join(f"{_region(r)} {_latency(r)}" for r in known))


def _region(region: RegionLatency) -> str:
    """Name a region for people, and by the code and number that other places show."""
    if region.name:
        return f"{region.name} ({region.code}, {region.region})"
    return f"{region.code} ({region.region})"


def _latency(region: RegionLatency) -> str:
    return "no answer" if region.latency_ms is None else f"{region.latency_ms:.1f} ms"


def _peer_row(peer: PeerStatus) -> list[str]:
    parts = []
    if peer.expired:
        parts.append("key expired")
    elif peer.online is False:
        parts.append("offline")
    if peer.active or peer.rx_bytes or peer.tx_bytes:
        path = peer.path
        if path.kind == "direct":
            latency = f" {path.latency_ms:.1f} ms" if path.latency_ms is not None else ""
            parts.append(f"direct {path.address}{latency}")
        elif path.kind == "peer-relay":
            parts.append(f"peer relay {path.address}")
        elif path.kind == "turn":
            parts.append(_turn(path.address, path.server))
        elif path.kind == "relay":
            parts.append(f"relay {path.region_code or path.region}")
        parts.append(f"rx {size(peer.rx_bytes)} tx {size(peer.tx_bytes)}")
    owner = peer.user or ",".join(peer.tags)
    address = peer.addresses[0] if peer.addresses else "-"
    return [address, peer.name, owner, ", ".join(parts) or "idle"]


def _turn(relayed: str | None, server: str | None) -> str:
    """Name a path through TURN: whose relayed address, and at which server."""
    return f"TURN {relayed} at {server}" if server else f"the peer's TURN {relayed}"


def table(rows: list[list[str]]) -> None:
    """Print rows in aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def pong(reply: PingReply) -> None:
    """Print one ping's outcome."""
    if not reply.ok:
        print(f"no pong from {reply.peer}: {reply.error}", flush=True)
        return
    where = {
        "direct": f"via {reply.path}",
        "peer-relay": f"via peer relay {reply.path}",
        "turn": f"via {_turn(reply.path, reply.server)}",
        "relay": f"via relay {reply.region_code or ''}({reply.region})",
        "self": "by itself: this is this machine",
        "unknown": f"by {reply.kind}",
    }[reply.via]
    taken = f" in {reply.ms:.0f} ms" if reply.ms is not None and reply.ms >= 1 else ""
    if reply.ms is not None and reply.ms < 1:
        taken = f" in {reply.ms:.1f} ms"
    kind = "" if reply.kind == "disco" else f" ({reply.kind})"
    print(f"pong from {reply.peer} ({reply.address}) {where}{taken}{kind}", flush=True)


def netcheck(report: NetcheckReport) -> None:
    """Print what the network allows: one fact a line, and then what it means."""
    varies = {None: "unknown", False: "no (easy NAT or none)", True: "yes (hard NAT)"}
    portal = {None: "unknown", False: "no", True: "yes: sign in to this network first"}
    rows = [
        ["UDP", "works" if report.udp else "blocked"],
        ["IPv4", report.ipv4 or "none"],
        ["IPv6", report.ipv6 or "none"],
        ["mapping varies by destination", varies[report.mapping_varies]],
    ]
    families = [("IPv4", report.nat4), ("IPv6", report.nat6)]
    for family, nat in families:
        if nat is not None:
            rows += [[f"{family} {fact}", value] for fact, value in _nat_rows(nat)]
    rows.append(["captive portal", portal[report.captive_portal]])
    rows.append(["home relay", report.home_region_code or "none"])
    rows += [["endpoint", endpoint] for endpoint in report.endpoints]
    for region in report.regions:
        rows.append([f"relay {_region(region)}", _latency(region)])
    for router in report.routers:
        rows += [[f"router {router.address}", protocol.text] for protocol in router.protocols]
    table(rows)
    for family, nat in families:
        if nat is not None and nat.meaning and (nat.udp or not report.udp):
            print(f"\n{family}: {' '.join(nat.meaning)}")


def _nat_rows(nat: NatReport) -> list[tuple[str, str]]:
    rows = [("NAT", f"{nat.name} ({nat.difficulty})" if nat.udp else nat.name)]
    if not nat.udp:
        return rows
    if nat.translated:
        rows.append(("mapping", nat.mapping))
    rows.append(("filtering", nat.filtering))
    if nat.translated:
        rows.append(("ports", nat.ports_text))
    if nat.hairpin is not None:
        rows.append(("hairpin", "yes" if nat.hairpin else "no"))
    if nat.mtu_bytes is not None:
        rows.append(("MTU", f"{nat.mtu_bytes} bytes pass whole"))
    rows += [("server not believed", f"{server} says {said}") for server, said in nat.liars.items()]
    return rows
