"""From `ssh` rules to the SSHPolicy of each node (§9.1, §12.6)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from warren.policy.document import Entry, Policy
from warren.policy.grants import check_source
from warren.policy.logins import domain_key
from warren.policy.malformed import nearest
from warren.policy.postures import Postures
from warren.policy.ranges import parse_spans
from warren.policy.targets import SELF, Targets, UnknownTarget
from warren.policy.topology import Node, User

NONROOT = "autogroup:nonroot"
MAX_CHECK_S = 168 * 3600
"""For how long a check may hold at most, in seconds."""
_CHECK_S = 12 * 3600.0
_ACCEPT = {
    "accept": True,
    "allowAgentForwarding": True,
    "allowLocalPortForwarding": True,
    "allowRemotePortForwarding": True,
}
_CHECK = {
    "holdAndDelegate": "https://unused/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID"
    "?local_user=$LOCAL_USER"
}
_UNRECORDED = "This session must be recorded, and no recorder can be reached."
_LOCAL_PART = re.compile(r"localpart:\*@(.+)")
_EVERYONE_AT = re.compile(r"user:\*@(.+)")
_PASSKEY = "passkey"
"""Stands for a domain where people log in without one, and belongs to every network."""
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


@dataclass(slots=True)
class SshRule:
    """One rule of the policy, checked. check_s: for how long a check holds."""

    check: bool
    sources: list[str]
    targets: list[str]
    users: list[str]
    accept_env: list[str]
    postures: list[str] = field(default_factory=list)
    check_s: float = _CHECK_S
    recorders: list[str] = field(default_factory=list)
    enforce_recorder: bool = False


def parse_duration_s(text: str) -> float:
    """Parse `1h30m` as the service writes durations. Raises ValueError with its words."""
    sign = -1 if text[:1] == "-" else 1
    rest = text.lstrip("+-") if text[:1] in "+-" else text
    parts = _DURATION.findall(rest)
    whole = "".join(number + unit for number, unit in parts)
    if rest == "0":
        return 0.0
    if not parts or whole != rest or len(rest) > 40:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _duration_text(seconds: float) -> str:
    sign, whole = "-" if seconds < 0 else "", int(abs(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{sign}{hours}h{minutes}m{rest}s"
    return f"{sign}{minutes}m{rest}s" if minutes else f"{sign}{rest}s"


def read_ssh(policy: Policy, targets: Targets) -> list[SshRule]:
    """Return the rules, those that ask for a check first. Raises MalformedPolicy."""
    rules = [_read(entry, targets) for entry in policy.ssh]
    return sorted(rules, key=lambda rule: not rule.check)


def _read(entry: Entry, targets: Targets) -> SshRule:
    action = entry.text("action")
    if not action:
        raise entry.fail("action must be specified")
    if action not in ("accept", "check"):
        hint = nearest(action, ("accept", "check"))
        raise entry.fail(f'"{action}" is not a valid action', "action", hint=hint)
    users = entry.words("users")
    if not users:
        raise entry.fail("users must be specified")
    for word in users:
        if word in ("", "*"):
            raise entry.fail(f'user "{word}" is not valid', "users", word)
    environment = entry.words("acceptEnv")
    if "" in environment:
        raise entry.fail("acceptEnv values cannot be empty", "acceptEnv")
    check_s = _read_check_s(entry)
    sources, ends = entry.words("src"), entry.words("dst")
    homes = (_PASSKEY, targets.topology.domain)
    any_home = not targets.topology.domain
    foreign = (
        "is not associated with this Tailnet and cannot be used in user:*@<domain> expressions"
    )
    for word in sources:
        check_source(entry, word)
        found = _EVERYONE_AT.fullmatch(word)
        if found and not any_home and domain_key(found[1]) not in homes:
            raise entry.fail(f"[ssh] {found[1]} {foreign}", "src", word)
        try:
            targets.check(word)
        except UnknownTarget as error:
            raise entry.fail(str(error), "src", word, error.hint) from None
    _check_owners(entry, sources, ends, targets)
    for word in ends:
        if word != SELF and not targets.names_nodes(word):
            raise entry.fail(f'invalid dst "{word}"', "dst", word)
        try:
            targets.check(word)
        except UnknownTarget as error:
            raise entry.fail(str(error), "dst", word, error.hint) from None
    for word in users:
        found = _LOCAL_PART.fullmatch(word)
        if found and not any_home and domain_key(found[1]) not in homes:
            raise entry.fail(f"{found[1]} {foreign}", "users", word)
    recorders = entry.words("recorder")
    for word in recorders:
        if not word.startswith("tag:"):
            raise entry.fail(f'recorder "{word}": expected a tag', "recorder", word)
        try:
            targets.check(word)
        except UnknownTarget as error:
            raise entry.fail(str(error), "recorder", word, error.hint) from None
    enforced = entry.members.get("enforceRecorder") is True
    if enforced and not recorders:
        raise entry.fail("enforceRecorder needs a recorder", "enforceRecorder")
    postures = entry.words("srcPosture")
    return SshRule(
        action == "check", sources, ends, users, environment, postures, check_s, recorders, enforced
    )


def _check_owners(entry: Entry, sources: list[str], ends: list[str], targets: Targets) -> None:
    """Only its user may log in to a person's device (§12.4)."""
    tagged = any(word.startswith("tag:") or word == "autogroup:tagged" for word in sources)
    for word in ends:
        if "@" in word and any(source != word for source in sources):
            message = f'dst "{word}": only this user may be the source; use {SELF}'
            raise entry.fail(message, "dst")
        if tagged and (word == SELF or targets.is_people(word)):
            raise entry.fail(f'dst "{word}": tags may not log in to devices of users', "dst")


def _read_check_s(entry: Entry) -> float:
    period = entry.text("checkPeriod")
    if period in ("", "always"):
        return 0.0 if period else _CHECK_S
    try:
        seconds = parse_duration_s(period)
    except ValueError as error:
        raise entry.fail(str(error), "checkPeriod") from None
    if seconds < 0:
        message = f"checkPeriod {_duration_text(seconds)} must be a positive duration"
        raise entry.fail(message, "checkPeriod")
    if seconds > MAX_CHECK_S:
        message = f"checkPeriod {_duration_text(seconds)} is above the max (168h)"
        raise entry.fail(message, "checkPeriod")
    return seconds


def local_users(words: list[str]) -> dict[str, str]:
    """Return who may be logged in as, without what depends on the person."""
    mapping = {"root": ""}
    for word in words:
        if word == NONROOT:
            mapping["*"] = "="
        elif not _LOCAL_PART.fullmatch(word):
            mapping[word] = word
    return mapping


def local_part(words: list[str], user: User) -> str | None:
    """Return the local part by which a user may log in as themselves."""
    for word in words:
        if (found := _LOCAL_PART.fullmatch(word)) and user.domain == domain_key(found[1]):
            return user.login.rpartition("@")[0]
    return None


class SshCompiler:
    """Makes the SSH policy of each node."""

    def __init__(self, rules: list[SshRule], targets: Targets, postures: Postures) -> None:
        self.rules = rules
        self.postures = postures
        self._personal = [any(_LOCAL_PART.fullmatch(word) for word in r.users) for r in rules]
        self.targets = targets
        self._named: list[tuple[list[User], frozenset[str]]] = [
            self._people(rule) for rule in self.rules
        ]
        self.follow()

    def follow(self) -> None:
        """Take in that other nodes are there, of the same users."""
        self._sources: dict[int, list[str]] = {}

    def policy(self, node: Node) -> dict[str, Any]:
        """Return a node's SSHPolicy as it travels."""
        numbers = range(len(self.rules))
        return {"rules": [made for number in numbers for made in self.compiled(number, node)]}

    def check_s(self, source: Node, node: Node, local_user: str) -> float | None:
        """Return for how long a check holds; None: no rule asks for one of this log-in."""
        for number, rule in enumerate(self.rules):
            if rule.check and any(
                _is_for(made, source, local_user) for made in self.compiled(number, node)
            ):
                return rule.check_s
        return None

    def compiled(self, number: int, node: Node) -> list[dict[str, Any]]:
        """Return what one rule says to one node."""
        rule = self.rules[number]
        made: list[dict[str, Any]] = []
        people, logins = self._named[number]
        if SELF in rule.targets and node.user and node.user.login in logins:
            made += self._for_user(rule, node.user)
        ends = [word for word in rule.targets if word != SELF]
        reached = any(word == "*" or node.name in self.targets.names(word) for word in ends)
        if not self._personal[number]:
            if reached:
                if number not in self._sources:
                    self._sources[number] = self._principals(rule, people)
                made += self._rule(rule, self._sources[number], local_users(rule.users))
            return made
        for user in people:
            # The service hands a person's own rules to that person's devices too.
            if ends and (reached or node.user is user):
                made += self._for_user(rule, user)
        if reached:
            tagged = [a for n in self._tagged(rule) for a in n.addresses]
            made += self._rule(rule, _sorted(tagged), local_users(rule.users))
        elif ends and node in self._tagged(rule):
            made += self._rule(rule, _sorted(node.addresses), local_users(rule.users))
        return made

    def _people(self, rule: SshRule) -> tuple[list[User], frozenset[str]]:
        """Return the users that a rule's sources name, in their order, and their log-ins."""
        logins = frozenset(
            login
            for word in rule.sources
            if word == "*" or self.targets.is_people(word)
            for login in self.targets.logins(word)
        )
        return [user for user in self.targets.topology.users if user.login in logins], logins

    def _tagged(self, rule: SshRule) -> list[Node]:
        """Return tagged sources, one with two tags of `autogroup:tagged` twice as on the wire."""
        found: list[Node] = []
        for word in rule.sources:
            if word in ("autogroup:tagged", "*"):
                found += [n for n in self.targets.topology.nodes for _ in n.tags]
            elif word.startswith("tag:"):
                found += self.targets.nodes(word)
        return self._with_posture(rule, found)

    def _owned(self, rule: SshRule, user: User) -> list[Node]:
        return self._with_posture(rule, self.targets.owned(user))

    def _with_posture(self, rule: SshRule, nodes: list[Node]) -> list[Node]:
        wanted = rule.postures or self.postures.default
        return [node for node in nodes if self.postures.holds(wanted, node)]

    def _for_user(self, rule: SshRule, user: User) -> list[dict[str, Any]]:
        mine = _sorted([a for node in self._owned(rule, user) for a in node.addresses])
        made = self._rule(rule, mine, local_users(rule.users))
        if name := local_part(rule.users, user):
            made += self._rule(rule, mine, {name: name})
        return made

    def _rule(
        self, rule: SshRule, addresses: list[str], users: dict[str, str]
    ) -> list[dict[str, Any]]:
        if not addresses:
            return []
        made: dict[str, Any] = {
            "principals": [{"nodeIP": address} for address in addresses],
            "sshUsers": users,
            "action": self._action(rule),
        }
        if rule.accept_env:
            made["acceptEnv"] = rule.accept_env
        return [made]

    def _action(self, rule: SshRule) -> dict[str, Any]:
        """Return what a rule does, with where its sessions are recorded (§9.1, §9.4)."""
        action: dict[str, Any] = dict(_CHECK if rule.check else _ACCEPT)
        nodes = {n.name: n for word in rule.recorders for n in self.targets.nodes(word)}
        if nodes:
            action["recorders"] = [
                f"[{address}]:80" if ":" in address else f"{address}:80"
                for node in nodes.values()
                for address in node.addresses
            ]
        if rule.enforce_recorder:
            if not nodes:
                # A machine that is told of no recorder would not record, and let people in.
                return {"reject": True, "message": f"# {_UNRECORDED}\n"}
            action["onRecordingFailure"] = {
                "RejectSessionWithMessage": f"# {_UNRECORDED}\n",
                "TerminateSessionWithMessage": f"# {_UNRECORDED}\n",
            }
        return action

    def _principals(self, rule: SshRule, people: list[User]) -> list[str]:
        found = [a for user in people for node in self._owned(rule, user) for a in node.addresses]
        found += [a for node in self._tagged(rule) for a in node.addresses]
        for word in rule.sources:
            if word != "*" and not self.targets.names_nodes(word):
                found += self._at(rule, word)
        return _sorted(found)

    def _at(self, rule: SshRule, word: str) -> list[str]:
        """Return the addresses that a word is, or of nodes with a posture if one is asked for."""
        forms = list(self.targets.source(word))
        if not (rule.postures or self.postures.default):
            return forms
        spans = [span for form in forms for span in parse_spans(form)]
        nodes = self.targets.topology.nodes
        met = [n for n in nodes if any(own.overlaps(s) for own in n.spans for s in spans)]
        return [address for node in self._with_posture(rule, met) for address in node.addresses]


def _is_for(made: dict[str, Any], source: Node, local_user: str) -> bool:
    """Whether a rule as it travels is for who comes from `source` as a node's `local_user`."""
    users = made["sshUsers"]
    if users.get(local_user, users.get("*", "")) not in ("=", local_user):
        return False
    spans = [span for form in made["principals"] for span in parse_spans(form["nodeIP"])]
    return any(own.overlaps(span) for own in source.spans for span in spans)


def _sorted(addresses: list[str]) -> list[str]:
    return sorted(addresses, key=lambda address: (":" in address, address))
