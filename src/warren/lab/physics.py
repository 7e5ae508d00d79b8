"""What two places allow by their routers alone: whether a direct path can be, or what forbids it.

Pure, and known to the lab only because it built the routers: nodes find the same out by themselves
(`warren why`), so the two are held against each other. Causes have the names of `warren why`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from warren.lab.kinds import KINDS, NatKind
from warren.lab.places import Place

Cause = Literal["", "no-udp", "peer-no-udp", "no-common-family", "hard-hard", "same-nat", "hard"]
"""Empty: a direct path can be. `hard`: only to a port that must be guessed."""

_STRICTEST = "address-and-port-dependent"


@dataclass(frozen=True)
class Side:
    """One of two machines: its name, its place, and whether it searches for ports that no server
    saw, as Warren does and a stock client does not."""

    name: str
    place: Place
    guesses: bool


def cause(a: Side, b: Side) -> Cause:
    """What keeps a direct path from being; a side that guesses ports finds a way for `hard`."""
    if not _udp(a):
        return "no-udp"
    if not _udp(b):
        return "peer-no-udp"
    common = _families(a) & _families(b)
    if not common:
        return "no-common-family"
    if 6 in common or _one_lan(a, b):
        # Between two firewalls, which let in what was written to, and keep every port.
        return ""
    if _hard(a) and _hard(b):
        return "hard-hard"
    if _same_nat(a, b):
        return "same-nat"
    for hard, easy in ((a, b), (b, a)):
        # Where the easy side lets in every port of an address, the hard one's ping opens the way.
        if _hard(hard) and _strict(easy) and not hard.guesses:
            return "hard"
    return ""


def sentence(a: Side, b: Side) -> str:
    """The same for a person."""
    found = cause(a, b)
    if found == "no-udp":
        return f"The network of {a.name} lets no UDP out."
    if found == "peer-no-udp":
        return f"The network of {b.name} lets no UDP out."
    if found == "no-common-family":
        six, four = (a, b) if 6 in _families(a) else (b, a)
        return f"{six.name} has IPv6 alone and {four.name} IPv4 alone."
    if found == "hard-hard":
        return (
            "Both NATs are symmetric (each destination sees another port): a direct path is not "
            "possible without a mapping."
        )
    if found == "same-nat":
        return (
            f"{a.name} and {b.name} are behind one NAT, which does not connect its own customers "
            "with each other (no hairpin)."
        )
    if found == "hard":
        hard, easy = (a, b) if _hard(a) else (b, a)
        return (
            f"The NAT of {hard.name} is symmetric and that of {easy.name} lets in only the port "
            "that it wrote to, so a port would have to be guessed, which a stock client does not."
        )
    return "What lies between the two allows a direct path; none was found."


def _routers(side: Side) -> list[NatKind]:
    return [KINDS[name] for name in side.place.routers]


def _udp(side: Side) -> bool:
    return all(router.udp and router.forward for router in _routers(side))


def _families(side: Side) -> set[int]:
    return {"": {4}, "beside": {4, 6}, "alone": {6}}[side.place.ipv6]


def _hard(side: Side) -> bool:
    return any(router.mapping == _STRICTEST for router in _routers(side))


def _strict(side: Side) -> bool:
    return any(router.filtering == _STRICTEST for router in _routers(side))


def _one_lan(a: Side, b: Side) -> bool:
    return a.place is b.place and 0 < a.place.shared == len(a.place.routers)


def _same_nat(a: Side, b: Side) -> bool:
    shared = _routers(a)[: a.place.shared] if a.place is b.place else []
    return bool(shared) and not shared[-1].hairpin
