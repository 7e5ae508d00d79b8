"""What an examination means, in the words that people use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from warren.nat.allocation import Style
from warren.nat.behaviour import Dependence, NatBehaviour

Difficulty = Literal["open", "easy", "hard", "blocked", "unknown"]

TUNNEL_WIRE_BYTES = {4: 1340, 6: 1360}
"""A whole packet of the tunnel (1280 bytes) on the wire: WireGuard's 32 bytes, UDP, IP."""

_CONES = {
    Dependence.NOTHING: "full cone",
    Dependence.ADDRESS: "address-restricted cone",
    Dependence.ADDRESS_AND_PORT: "port-restricted cone",
    Dependence.NOT_PORT: "full or address-restricted cone",
}
_FIREWALLS = {
    Dependence.NOTHING: "no NAT, no firewall",
    Dependence.ADDRESS: "no NAT, a firewall by address",
    Dependence.ADDRESS_AND_PORT: "no NAT, a stateful firewall",
    Dependence.NOT_PORT: "no NAT, no firewall or one by address",
}
_HARD = (Dependence.ADDRESS, Dependence.ADDRESS_AND_PORT, Dependence.DESTINATION)


class Explained(NamedTuple):
    """name: the everyday one. difficulty: of direct connections. meaning: whole sentences."""

    name: str
    difficulty: Difficulty
    meaning: tuple[str, ...]


def explain(found: NatBehaviour) -> Explained:
    """Return what a person should know of one IP family."""
    return Explained(_name(found), _difficulty(found), tuple(_sentences(found)))


def ports_in_words(found: NatBehaviour) -> str:
    """Say how ports are given out, e.g. `sequential, step 2`."""
    ports = found.ports
    if ports.style is Style.SEQUENTIAL:
        return f"sequential, step {ports.step}"
    if ports.style is Style.BLOCK:
        return f"random in the block {ports.first}-{ports.last}"
    return {Style.KEPT: "the same outside as inside", Style.RANDOM: "random"}.get(
        ports.style, "unknown"
    )


def _name(found: NatBehaviour) -> str:
    if not found.udp:
        return "UDP blocked"
    if found.translated is False:
        return _FIREWALLS.get(found.filtering, "no NAT")
    if found.mapping in _HARD:
        return "symmetric NAT"
    if found.mapping is Dependence.NOTHING:
        return _CONES.get(found.filtering, "cone NAT")
    if found.ports.style is Style.UNKNOWN:
        return "NAT of unknown kind"
    return "NAT, probably a cone" if _keeps_ports(found) else "NAT, probably symmetric"


def _keeps_ports(found: NatBehaviour) -> bool:
    """One server alone shows how ports are given out, which makes the kind likely."""
    return found.ports.style is Style.KEPT


def _difficulty(found: NatBehaviour) -> Difficulty:
    if not found.udp:
        return "blocked"
    if found.translated is False:
        return "open" if found.filtering is Dependence.NOTHING else "easy"
    if found.mapping in _HARD:
        return "hard"
    return "easy" if found.mapping is Dependence.NOTHING else "unknown"


def _sentences(found: NatBehaviour) -> Iterator[str]:
    for server, said in sorted(found.liars.items(), key=str):
        yield (
            f"The STUN server {server} says that this machine is {said}; "
            "most others say otherwise, so it is not believed."
        )
    if not found.udp:
        yield "No server answers by UDP, so all traffic takes a relay."
        return
    yield _reach(found)
    if found.hairpin is not None:
        yield (
            "Two machines behind this NAT can also meet at its outside address."
            if found.hairpin
            else "Two machines behind this NAT can meet only at their inside addresses."
        )
    if found.discovery_server is None:
        yield (
            "No STUN server here has another address or port, so nobody can say what this "
            "network lets in; the server's --stun can be given two addresses."
        )
    wire = TUNNEL_WIRE_BYTES[found.mapped[0].ip.version] if found.mapped else 0
    if 0 < found.mtu_bytes < wire:
        yield (
            f"Packets of more than {found.mtu_bytes} bytes do not arrive whole, and the tunnel "
            f"sends up to {wire}."
        )


def _reach(found: NatBehaviour) -> str:
    if found.translated is False:
        if found.filtering is Dependence.NOTHING:
            return "Every peer can reach this machine directly."
        return (
            "Direct connections work with every peer; one behind a symmetric NAT may take seconds."
        )
    if found.mapping in _HARD:
        return _reach_of_symmetric(found)
    if found.mapping is not Dependence.NOTHING:
        return _reach_of_likely(found)
    if found.filtering in (Dependence.NOTHING, Dependence.ADDRESS, Dependence.NOT_PORT):
        return "Direct connections work with every peer, also behind a symmetric NAT."
    return (
        "Direct connections work with every peer; one behind a symmetric NAT takes some seconds "
        "of trying ports."
    )


def _reach_of_likely(found: NatBehaviour) -> str:
    if found.ports.style is Style.UNKNOWN:
        return "Whether direct connections work will show; too few servers answered to say."
    if _keeps_ports(found):
        return (
            "It keeps ports, so direct connections probably work with every peer; only a second "
            "server can tell for certain."
        )
    return (
        f"{_reach_of_symmetric(found)} It does not keep ports, which makes it likely; only a "
        "second server can tell for certain."
    )


def _reach_of_symmetric(found: NatBehaviour) -> str:
    ports = found.ports
    how = "its ports are random, so that meeting a port-restricted peer takes seconds of trying"
    if ports.style is Style.SEQUENTIAL:
        how = "its ports follow one another, so that peers can predict them"
    elif ports.style is Style.BLOCK:
        size = ports.last - ports.first + 1
        how = f"its ports come from a block of about {size}, so that peers need to try only those"
    return (
        f"Direct connections work with peers that are not behind a symmetric NAT too; {how}. "
        "With another symmetric NAT it takes a port mapping or IPv6 on one side."
    )
