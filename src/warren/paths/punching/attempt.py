"""What was tried to reach a peer by punching, and how it ended, in a person's words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from warren.netmap.endpoint import Endpoint


class Method(Enum):
    """What this side did."""

    SOCKETS = "many sockets here, the peer guessed"
    CALLS = "many sockets here, the peer was given lists of guesses"
    PROBES = "many sockets there, this node guessed"
    SCAN = "a scan of the ports of the peer's NAT"


class Outcome(Enum):
    """How an attempt ended."""

    UNDER_WAY = "is under way"
    FOUND = "found a path"
    EXHAUSTED = "hit no port"
    UNCONFIRMED = "hit a port, but nothing came back"
    REFUSED = "was refused by the peer"
    ADDRESS_UNKNOWN = "could not learn the own NAT's address"
    SUPERSEDED = "was not needed, as another path was found,"
    STOPPED = "was stopped, as the network changed or nobody sends any more,"


_REFUSALS = {
    2: "its ports vary too",
    3: "punching is switched off there",
    4: "it does not know our NAT's address yet",
    5: "it was busy with another attempt or had a path",
    6: "UDP does not work there",
}


@dataclass
class Attempt:
    """One try. Times are monotonic seconds; `probes` were sent by us, or asked of the peer.

    allocation: how our own NAT gives out ports, where the peer has to guess them.
    """

    method: Method
    target: Endpoint
    began: float
    ended: float | None = None
    outcome: Outcome = Outcome.UNDER_WAY
    sockets: int = 0
    probes: int = 0
    allocation: str = ""
    found: Endpoint | None = None
    refusal: int = 0

    def end(self, outcome: Outcome, now: float) -> None:
        """Note how it ended; the first word counts."""
        if self.ended is None:
            self.outcome, self.ended = outcome, now

    @property
    def succeeded(self) -> bool:
        """Whether it led to a path."""
        return self.outcome is Outcome.FOUND

    def sentence(self) -> str:
        """Say it in one sentence."""
        end = self.outcome.value
        if self.found is not None:
            end += f" at {self.found}"
        if self.ended is not None:
            end += f" after {self.ended - self.began:.1f} s"
        if self.outcome is Outcome.REFUSED and self.refusal in _REFUSALS:
            end += f", because {_REFUSALS[self.refusal]}"
        # A scan seeks the port.
        towards = self.target if self.target.port else self.target.ip
        ports = f"; our NAT's ports are {self.allocation}" if self.allocation else ""
        return f"Punching towards {towards} {end}: {self.method.value} ({self._amount()}){ports}."

    def _amount(self) -> str:
        if self.method is Method.SOCKETS:
            return f"{self.sockets} sockets"
        probes = f"{self.probes} port{'' if self.probes == 1 else 's'} tried"
        return f"{self.sockets} sockets, {probes}" if self.sockets else probes
