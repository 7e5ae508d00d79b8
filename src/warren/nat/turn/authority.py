"""A TURN server's judgement of who sent a request (RFC 8489 §9.2.4, in the order of §9.2.3).

What has not proven that it receives at its address is answered at a limited rate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from warren.nat.stun import MalformedStun
from warren.nat.turn.allocation import Flow, Transport, TurnCounters
from warren.nat.turn.challenge import encode_algorithm, parse_algorithms_untrusted
from warren.nat.turn.credentials import MAX_NAME_BYTES, Accounts, MalformedCredential
from warren.nat.turn.limits import AnswerRate
from warren.nat.turn.message import Integrity, Message, encode_message, error_value
from warren.nat.turn.nonces import Nonces
from warren.nat.turn.numbers import Algorithm, Attribute, Class, Code

_OFFERED = encode_algorithm(Algorithm.SHA256) + encode_algorithm(Algorithm.MD5)


class Signer(NamedTuple):
    """Who signed a request, and how the answer is to be signed."""

    owner: str
    key: bytes
    integrity: Integrity


class Authority:
    """Lets signed requests through, and answers the others."""

    def __init__(
        self,
        accounts: Accounts,
        realm: str,
        nonces: Nonces,
        rate: AnswerRate,
        counters: TurnCounters,
        answer: Callable[[Flow, bytes], None],
    ) -> None:
        self._accounts = accounts
        self._realm = realm
        self._nonces = nonces
        self._rate = rate
        self._counters = counters
        self._answer = answer

    def judge(self, flow: Flow, message: Message, now: float) -> Signer | None:
        """Return who signed a request; None if it was answered, or not worth an answer."""
        try:
            found = self._check(flow, message, now)
        except MalformedStun:
            found = Code.BAD_REQUEST
        if isinstance(found, Signer):
            return found
        self._counters.unauthenticated += 1
        extra: list[tuple[int, bytes]] = []
        if found is not Code.BAD_REQUEST:
            extra = [
                (Attribute.REALM, self._realm.encode()),
                (Attribute.NONCE, self._nonces.mint(flow.identity(), now)),
                (Attribute.PASSWORD_ALGORITHMS, _OFFERED),
            ]
        self.refuse_stranger(flow, message, found, extra, now)
        return None

    def refuse_stranger(
        self,
        flow: Flow,
        message: Message,
        code: Code,
        extra: list[tuple[int, bytes]],
        now: float,
    ) -> None:
        """Answer with an error, unless the source has had its share of them."""
        if flow.transport is Transport.UDP and not self._rate.may_answer(flow.client.ip, now):
            self._counters.silenced += 1
            return
        attributes = [(int(Attribute.ERROR_CODE), error_value(code)), *extra]
        data = encode_message(
            message.method,
            Class.ERROR,
            message.tx_id,
            attributes,
            fingerprint=message.fingerprint,
        )
        self._answer(flow, data)

    def _check(self, flow: Flow, message: Message, now: float) -> Signer | Code:
        if message.sha1_at is None and message.sha256_at is None:
            return Code.UNAUTHENTICATED
        name, realm = message.get(Attribute.USERNAME), message.get(Attribute.REALM)
        nonce = message.get(Attribute.NONCE)
        if name is None or realm is None or nonce is None or len(name) > MAX_NAME_BYTES:
            return Code.BAD_REQUEST
        if not self._nonces.holds(nonce, flow.identity(), now):
            return Code.STALE_NONCE
        algorithm = _algorithm(message)
        if algorithm is None:
            return Code.BAD_REQUEST
        try:
            username = name.decode()
            accounts = self._accounts.find(username, self._realm, algorithm)
        except (UnicodeDecodeError, MalformedCredential):
            accounts = ()
        if realm != self._realm.encode():
            return Code.UNAUTHENTICATED
        integrity: Integrity = "sha1" if message.sha256_at is None else "sha256"
        for account in accounts:
            if message.verifies(account.key, integrity):
                return Signer(account.owner, account.key, integrity)
        return Code.UNAUTHENTICATED


def _algorithm(message: Message) -> Algorithm | None:
    """Return what the password was hashed with; None: the choice was tampered with."""
    offered, chosen = (
        message.get(Attribute.PASSWORD_ALGORITHMS),
        message.get(Attribute.PASSWORD_ALGORITHM),
    )
    if offered is None and chosen is None:
        return Algorithm.MD5  # a client of before RFC 8489
    if offered != _OFFERED or chosen is None or message.sha256_at is None:
        return None
    numbers = parse_algorithms_untrusted(chosen)
    return Algorithm(numbers[0]) if len(numbers) == 1 and numbers[0] in (1, 2) else None
