"""The relay's side: sessions for pairs of clients, each bound by a handshake (PROTOCOL §5.12).

A session has a number (VNI) and two clients, known by their disco keys. Each proves that it
receives where it sends from: it returns a challenge that only this server can have made for that
address. When both have, datagrams with the number go from one address to the other; that is the
engine's work, and this machine only says between which addresses. No state is kept for a
challenge, and no answer is longer than what it answers.

Numbers start at random: those of stock servers start at 1, and a node that uses such a server
beside being one must not take the one's packets for the other's.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from warren.disco.messages import (
    AllocateUDPRelayEndpointRequest,
    AllocateUDPRelayEndpointResponse,
    BindUDPRelayEndpoint,
    BindUDPRelayEndpointAnswer,
    BindUDPRelayEndpointChallenge,
    Message,
    UDPRelayEndpoint,
)
from warren.keys import DiscoPublic
from warren.netmap.endpoint import Endpoint
from warren.paths.peer_relay import limits

_SECRET_BYTES = 32
_NS = 1_000_000_000

Pair = tuple[DiscoPublic, DiscoPublic]


class Challenged(NamedTuple):
    """A challenge to seal for `receiver` and send, with the control bit."""

    to: Endpoint
    vni: int
    receiver: DiscoPublic
    message: BindUDPRelayEndpointChallenge


class Forward(NamedTuple):
    """Pass the session's datagrams on between these addresses; `ends` None: no longer."""

    vni: int
    ends: tuple[Endpoint, Endpoint] | None


@dataclass(slots=True)
class _Session:
    vni: int
    lamport_id: int
    clients: Pair
    asked_by: DiscoPublic
    allocated_at: float
    generations: list[int] = field(default_factory=lambda: [0, 0])
    """Of the handshake under way on each side; 0 for none."""
    bound: list[Endpoint | None] = field(default_factory=lambda: [None, None])
    heard_at: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def ends(self) -> tuple[Endpoint, Endpoint] | None:
        a, b = self.bound
        return None if a is None or b is None else (a, b)

    def ends_at(self) -> float:
        if self.ends() is None:
            return self.allocated_at + limits.BIND_S
        return min(self.heard_at) + limits.STEADY_S


class RelayServer:
    """All sessions of one relay. `key` is the server's own disco key, not its node's."""

    def __init__(self, key: DiscoPublic, entropy: Callable[[int], bytes], now: float) -> None:
        self.key = key
        self._entropy = entropy
        self._secrets = [entropy(_SECRET_BYTES)]
        self._secret_at = now
        self._lamport_id = 0
        self._next_vni = 1 + int.from_bytes(entropy(3), "big") % limits.VNI_MAX
        self._addresses: tuple[Endpoint, ...] = ()
        self._by_vni: dict[int, _Session] = {}
        self._by_pair: dict[Pair, _Session] = {}
        self._transmits: deque[Challenged] = deque()
        self._events: deque[Forward] = deque()
        self.dropped: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._by_vni)

    def set_addresses(self, addresses: Iterable[Endpoint]) -> None:
        """Take where clients can reach this server, best first."""
        self._addresses = tuple(dict.fromkeys(addresses))[: limits.ADDRESSES_MAX]

    def clients(self, vni: int) -> Pair | None:
        """Return whose messages a session takes, for the opening of their boxes."""
        session = self._by_vni.get(vni)
        return session.clients if session else None

    def allocate(
        self, request: AllocateUDPRelayEndpointRequest, sender: DiscoPublic, now: float
    ) -> AllocateUDPRelayEndpointResponse | None:
        """Answer a request of a client that may use this relay. None: no answer is due.

        A pair that has a session gets the same again.
        """
        first, second = sorted(request.clients)
        if sender not in (first, second) or first == second or self.key in (first, second):
            self._drop("allocation for others")
            return None
        if not self._addresses:
            self._drop("allocation before any address is known")
            return None
        session = self._by_pair.get((first, second))
        if session is None:
            asked = sum(known.asked_by == sender for known in self._by_vni.values())
            if len(self._by_vni) >= limits.SESSIONS_MAX or asked >= limits.SESSIONS_PER_CLIENT_MAX:
                self._drop("too many sessions")
                return None
            session = self._open((first, second), sender, now)
        elif session.ends() is None:
            session.allocated_at = now
        return AllocateUDPRelayEndpointResponse(
            request.generation,
            UDPRelayEndpoint(
                server=self.key,
                clients=session.clients,
                lamport_id=session.lamport_id,
                vni=session.vni,
                bind_lifetime_ns=int(limits.BIND_S * _NS),
                steady_state_lifetime_ns=int(limits.STEADY_S * _NS),
                endpoints=self._addresses,
            ),
        )

    def receive(
        self, message: Message, sender: DiscoPublic, vni: int, src: Endpoint, now: float
    ) -> None:
        """Take an opened bind message that came with the control bit."""
        session = self._by_vni.get(vni)
        if not isinstance(message, BindUDPRelayEndpoint | BindUDPRelayEndpointAnswer):
            self._drop("not a bind message")
        elif session is None or message.vni != vni or sender not in session.clients:
            self._drop("bind of no session")
        else:
            side = session.clients.index(sender)
            if message.remote != session.clients[1 - side]:
                self._drop("bind of no session")
            elif isinstance(message, BindUDPRelayEndpoint):
                self._challenge(session, side, message, src, now)
            else:
                self._bind(session, side, message, src, now)

    def across(self, vni: int, src: Endpoint) -> Endpoint | None:
        """Return where a session's datagram from `src` goes, for those that the engine sent up.

        Stock clients ping right behind their answer and only once: such a ping is here before
        the engine knows the session.
        """
        session = self._by_vni.get(vni)
        ends = session.ends() if session else None
        if ends is None or src not in ends:
            return None
        return ends[1 - ends.index(src)]

    def note_heard(
        self, vni: int, a_ago_s: float | None, b_ago_s: float | None, now: float
    ) -> None:
        """Take from the engine how long ago each side sent something; None for never."""
        session = self._by_vni.get(vni)
        if session is None:
            return
        for side, ago_s in enumerate((a_ago_s, b_ago_s)):
            if ago_s is not None:
                session.heard_at[side] = max(session.heard_at[side], now - ago_s)

    def handle_timeout(self, now: float) -> None:
        """End what is over. Have `note_heard` told first."""
        for session in list(self._by_vni.values()):
            if now >= session.ends_at():
                self._close(session)

    def next_timeout(self) -> tuple[float, str] | None:
        """Tell when `handle_timeout` is due."""
        if not self._by_vni:
            return None
        return min(session.ends_at() for session in self._by_vni.values()), "a session ends"

    def close(self) -> None:
        """End all sessions."""
        for session in list(self._by_vni.values()):
            self._close(session)

    def poll_transmit(self) -> Challenged | None:
        """Return the next message to send."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> Forward | None:
        """Return the next change of what the engine forwards."""
        return self._events.popleft() if self._events else None

    def _open(self, clients: Pair, sender: DiscoPublic, now: float) -> _Session:
        while self._next_vni in self._by_vni:
            self._advance_vni()
        self._lamport_id += 1
        session = _Session(self._next_vni, self._lamport_id, clients, sender, now)
        self._advance_vni()
        self._by_vni[session.vni] = self._by_pair[clients] = session
        return session

    def _advance_vni(self) -> None:
        self._next_vni = self._next_vni % limits.VNI_MAX + 1

    def _close(self, session: _Session) -> None:
        del self._by_vni[session.vni], self._by_pair[session.clients]
        if session.ends() is not None:
            self._events.append(Forward(session.vni, None))

    def _challenge(
        self, session: _Session, side: int, bind: BindUDPRelayEndpoint, src: Endpoint, now: float
    ) -> None:
        self._renew_secret(now)
        session.generations[side] = bind.generation
        mac = _mac(self._secrets[0], bind, src)
        challenge = BindUDPRelayEndpointChallenge(bind.vni, bind.generation, bind.remote, mac)
        receiver = session.clients[side]
        self._transmits.append(Challenged(src, session.vni, receiver, challenge))

    def _bind(
        self,
        session: _Session,
        side: int,
        answer: BindUDPRelayEndpointAnswer,
        src: Endpoint,
        now: float,
    ) -> None:
        self._renew_secret(now)
        if answer.generation != session.generations[side]:
            self._drop("answer of no handshake")
            return
        macs = (_mac(secret, answer, src) for secret in self._secrets)
        if not any(hmac.compare_digest(mac, answer.challenge) for mac in macs):
            self._drop("answer to no challenge of ours")
            return
        session.generations[side] = 0
        session.bound[side] = src
        session.heard_at[side] = now
        if (ends := session.ends()) is not None:
            self._events.append(Forward(session.vni, ends))

    def _renew_secret(self, now: float) -> None:
        age_s = now - self._secret_at
        if age_s < limits.SECRET_S:
            return
        kept = self._secrets[:1] if age_s < 2 * limits.SECRET_S else []
        self._secrets = [self._entropy(_SECRET_BYTES), *kept]
        self._secret_at = now

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def _mac(
    secret: bytes, bind: BindUDPRelayEndpoint | BindUDPRelayEndpointAnswer, src: Endpoint
) -> bytes:
    numbers = bind.vni.to_bytes(4, "big") + bind.generation.to_bytes(4, "big")
    text = numbers + bind.remote.raw + src.pack()
    return hashlib.blake2s(text, key=secret, digest_size=32).digest()
