"""Log-ins by SSH that the policy has checked: held until their user was asked (PROTOCOL §9.3).

The machine that is logged in to asks, inside its Noise session. It is told to show a link, and to
ask once more; that is answered when whoever owns the other machine has logged in anew at the link
and said yes or no. What was passed is kept in the database, so a restart asks nobody again; a link
that waits is forgotten, and the machine is given another.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, quote

from warren.coordinator.auth.authkeys import random_text
from warren.coordinator.delta import Delta
from warren.coordinator.records import NodeRecord, SshPassRecord, ssh_pass_id
from warren.coordinator.refusal import NotFound, Refused
from warren.coordinator.snapshot import Snapshot
from warren.edge.clock import Clock
from warren.edge.entropy import Entropy
from warren.keys import MachinePublic
from warren.policy.ssh import MAX_CHECK_S

PATH: Final = "/machine/ssh/action/"
PAGE: Final = "/ssh/"
WAIT_S: Final = 240.0
"""How long one request is held, as a registration's is; the machine then asks again."""
LIFE_S: Final = 1800.0
"""How long a link is good: stock machines give up after this."""
MAX_WAITING: Final = 1000
MAX_WAITING_OF_ONE: Final = 20
MAX_PASSED: Final = 10_000
_ID_LETTERS = 24
_MAX_NAME = 64
_IDS = re.compile(re.escape(PATH) + r"([0-9]{1,19})/to/([0-9]{1,19})")
_ACCEPT = {
    "accept": True,
    "allowAgentForwarding": True,
    "allowLocalPortForwarding": True,
    "allowRemotePortForwarding": True,
}

# source, target, local user -> for how long a check holds, None: none is asked for
HoldsFor = Callable[[NodeRecord, NodeRecord, str], float | None]


class Verdict(Enum):
    """What came of a check."""

    OPEN = 0
    YES = 1
    NO = 2


class Login(NamedTuple):
    """A log-in by SSH. user_id: of the person at `source`. Both machines by id."""

    source: int
    user_id: int
    target: int
    local_user: str


class Asked(NamedTuple):
    """What a machine asks with. check_id: of the link that it was given; empty: none yet."""

    source: int
    target: int
    local_user: str
    check_id: str


class Check:
    """One link."""

    def __init__(self, login: Login, created: datetime) -> None:
        self.login = login
        self.created = created
        self.verdict = Verdict.OPEN
        self.decided = asyncio.Event()


class SshChecks:
    """The checks that wait. url: the server's, for people."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        holds_for: HoldsFor,
        url: str,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._snapshot = snapshot
        self._holds_for = holds_for
        self._url = url.rstrip("/")
        self._clock = clock
        self._entropy = entropy
        self._checks: dict[str, Check] = {}

    async def action(self, machine: MachinePublic, target: str) -> dict[str, Any]:
        """Answer a machine with an SSHAction. Raises NotFound: it may not ask that."""
        asked = parse_target_untrusted(target)
        login, check_id = self._login(machine, asked), asked.check_id
        holds_s = self._asked_s(login)
        if holds_s is None:
            return _rejected("The network's policy does not let you in here.")
        check = self._checks.get(check_id)
        if check is not None and check.login == login:
            return await self._held(check_id, check)
        passed = self._snapshot().ssh_passes.get(ssh_pass_id(*login))
        if passed is not None and self._clock.wall() < passed.passed + timedelta(seconds=holds_s):
            return _ACCEPT
        if not login.user_id:
            return _rejected("The policy asks for a check here, and a tagged machine has no user.")
        return self._begin(login)

    def find(self, check_id: str, user_id: int) -> Check:
        """Return what a user is asked. Raises NotFound, Refused."""
        self._forget_old()
        check = self._checks.get(check_id)
        if check is None or check.verdict is not Verdict.OPEN:
            raise NotFound("nobody waits here any more; log in by SSH once more")
        if check.login.user_id != user_id:
            raise Refused("this log-in comes from somebody else's machine; leave it to them")
        return check

    def decide(self, check_id: str, user_id: int, yes: bool) -> Login:
        """Tell who waits of a user's answer; `passing` keeps a yes. Raises NotFound, Refused."""
        check = self.find(check_id, user_id)
        check.verdict = Verdict.YES if yes else Verdict.NO
        check.decided.set()
        return check.login

    def _login(self, machine: MachinePublic, asked: Asked) -> Login:
        nodes, wall = self._snapshot().nodes, self._clock.wall()
        source, node = nodes.get(asked.source), nodes.get(asked.target)
        if node is None or node.machine_key != machine or not node.in_force(wall):
            raise NotFound("this machine may not ask that")
        if source is None or not source.in_force(wall):
            raise NotFound("there is no such machine")
        user_id = 0 if source.tags else source.user_id
        return Login(source.id, user_id, node.id, asked.local_user)

    def _asked_s(self, login: Login) -> float | None:
        nodes = self._snapshot().nodes
        source, target = nodes.get(login.source), nodes.get(login.target)
        if source is None or target is None:
            return None
        return self._holds_for(source, target, login.local_user)

    def _begin(self, login: Login) -> dict[str, Any]:
        self._forget_old()
        waiting = [c for c in self._checks.values() if c.verdict is Verdict.OPEN]
        of_one = sum(check.login.target == login.target for check in waiting)
        if len(self._checks) >= MAX_WAITING or of_one >= MAX_WAITING_OF_ONE:
            return _rejected("Too many log-ins wait for their users; try again later.")
        check_id = random_text(_ID_LETTERS, self._entropy)
        self._checks[check_id] = Check(login, self._clock.wall())
        link = f"{self._url}{PAGE}{check_id}"
        return {
            "message": f"# This network asks who you are before it lets you in.\n# Visit: {link}\n",
            **_hold(login, check_id),
        }

    async def _held(self, check_id: str, check: Check) -> dict[str, Any]:
        left_s = LIFE_S - (self._clock.wall() - check.created).total_seconds()
        try:
            async with asyncio.timeout(max(0.0, min(WAIT_S, left_s))):
                await check.decided.wait()
        except TimeoutError:
            if left_s > WAIT_S:
                return _hold(check.login, check_id)
            self._checks.pop(check_id, None)
            return _rejected("Nobody has answered at the link; log in once more.")
        self._checks.pop(check_id, None)
        # What the policy says may have changed meanwhile.
        if check.verdict is Verdict.YES and self._asked_s(check.login) is not None:
            return _ACCEPT
        return _rejected("This log-in was turned away.")

    def _forget_old(self) -> None:
        oldest = self._clock.wall() - timedelta(seconds=LIFE_S)
        for check_id in [i for i, check in self._checks.items() if check.created < oldest]:
            del self._checks[check_id]


def passing(snapshot: Snapshot, login: Login, wall: datetime) -> Delta:
    """Keep that a check was passed now; what is too old, or too much, goes."""
    record = SshPassRecord(id=ssh_pass_id(*login), **login._asdict(), passed=wall)
    gone = set(outdated(snapshot, wall))
    left = [one for one in snapshot.ssh_passes.values() if one.id not in gone | {record.id}]
    left.sort(key=lambda one: one.passed)
    gone.update(one.id for one in left[: max(0, len(left) + 1 - MAX_PASSED)])
    return Delta(ssh_passes=(record,), removed_ssh_passes=tuple(gone - {record.id}))


def outdated(snapshot: Snapshot, wall: datetime) -> list[str]:
    """Return passed checks that no policy can let count any more: too old, or a machine is gone."""
    oldest = wall - timedelta(seconds=MAX_CHECK_S)
    nodes = snapshot.nodes
    return [
        one.id
        for one in snapshot.ssh_passes.values()
        if one.passed <= oldest or one.source not in nodes or one.target not in nodes
    ]


def parse_target_untrusted(target: str) -> Asked:
    """Read `/machine/ssh/action/ID/to/ID?local_user=…&check=…`. Raises NotFound."""
    path, _, text = target.partition("?")
    ids = _IDS.fullmatch(path)
    try:
        query = parse_qs(text, max_num_fields=8)
    except ValueError:
        query = {}
    local_user = query.get("local_user", [""])[0]
    if ids is None or not 0 < len(local_user) <= _MAX_NAME or not local_user.isprintable():
        raise NotFound("there is nothing here")
    return Asked(int(ids[1]), int(ids[2]), local_user, query.get("check", [""])[0])


def _hold(login: Login, check_id: str) -> dict[str, Any]:
    # The host is not looked at: the request goes through the machine's Noise session.
    user = quote(login.local_user, safe="")
    return {
        "holdAndDelegate": f"https://unused{PATH}{login.source}/to/{login.target}"
        f"?local_user={user}&check={check_id}"
    }


def _rejected(why: str) -> dict[str, Any]:
    return {"reject": True, "message": f"# {why}\n"}
