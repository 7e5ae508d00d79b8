"""The tests that a policy brings along, run before it is taken (§12.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from warren.policy.document import Entry, Policy
from warren.policy.grants import INTERNET, SELF, Grant, is_address
from warren.policy.malformed import MalformedPolicy, Place
from warren.policy.ports import PROTOCOLS, Ports, parse_protocol, split_destination
from warren.policy.postures import Postures
from warren.policy.ranges import Span, parse_spans
from warren.policy.ssh import NONROOT, SshRule, local_part, local_users
from warren.policy.targets import Targets, UnknownTarget
from warren.policy.topology import Node, User

FAILED = "test(s) failed"
_DEFAULT = (PROTOCOLS["tcp"], PROTOCOLS["udp"], PROTOCOLS["icmp"], PROTOCOLS["ipv6-icmp"])


@dataclass(slots=True)
class Failure:
    """One expectation that does not hold."""

    place: Place
    message: str


class Trial:
    """Runs `tests` and `sshTests`."""

    def __init__(
        self, grants: list[Grant], ssh: list[SshRule], targets: Targets, postures: Postures
    ) -> None:
        self.postures = postures
        self.grants = grants
        self.ssh = ssh
        self.targets = targets

    def run(self, policy: Policy) -> list[Failure]:
        """Return what fails. Raises MalformedPolicy for a test that the service refuses to run."""
        for entry in policy.ssh_tests:
            for word in entry.words("dst"):
                if word.startswith("tag:") and word not in policy.tag_owners:
                    raise entry.fail(f'SSH tests dst contains unknown tag "{word}"', "dst")
        found = [failure for entry in policy.tests for failure in self._test(entry)]
        return found + [failure for entry in policy.ssh_tests for failure in self._ssh_test(entry)]

    # Packets.

    def _test(self, entry: Entry) -> list[Failure]:
        source = entry.text("src") or entry.text("user")
        accept, deny = entry.words("accept", "allow"), entry.words("deny")
        failed: list[Failure] = []

        def fail(message: str) -> None:
            failed.append(Failure(entry.place, message))

        if not source:
            fail("a test needs src")
        if not accept and not deny:
            fail("a test needs accept or deny")
        try:
            protocol = parse_protocol(entry.text("proto")) or (PROTOCOLS["tcp"],)
            if source:
                self._known(source)
        except ValueError as error:
            return [*failed, Failure(entry.place, str(error))]
        for wanted, ends in ((True, accept), (False, deny)):
            for end in ends:
                try:
                    allowed = self._allowed(
                        source, end, protocol[0], entry.members.get("srcPostureAttrs")
                    )
                except ValueError as error:
                    fail(f"{end}: {error}")
                    continue
                if allowed != wanted:
                    fail(f"{source} → {end}: expected {'accept' if wanted else 'deny'}")
        return failed

    def _known(self, word: str) -> None:
        self.targets.check(word)
        if "@" in word and not self.targets.users(word):
            raise UnknownTarget(f'user not found: "{word}"')

    def _allowed(self, source: str, end: str, protocol: int, facts: dict[str, Any] | None) -> bool:
        """Whether every address of the source may reach every one of the destination."""
        target, ports = split_destination(end)
        if len(ports) != 1 or ports[0].first != ports[0].last:
            raise ValueError("a test names one port")
        if target in ("*", SELF, INTERNET) or "/" in target:
            raise ValueError("a test names one destination")
        self._known(target)
        if any("/" in form for form in self.targets.destination(target)):
            raise ValueError("a test names one destination")
        grants = [grant for grant in self.grants if self._fits(grant, facts)]
        return all(
            self._passes(grants, source, one, target, other, ports[0], protocol)
            for one in self._members(source)
            for other in self._members(target)
        )

    def _members(self, word: str) -> list[Span | None]:
        """Return the addresses that a word stands for; None where no node bears the name yet."""
        forms = self.targets.destination(word)
        return [span for form in forms for span in parse_spans(form)] or [None]

    def _fits(self, grant: Grant, facts: dict[str, Any] | None) -> bool:
        """Whether a source with the attributes that a test gives it has a grant's posture."""
        return self.postures.satisfied(grant.postures or self.postures.default, facts or {})

    def _passes(
        self, grants: list[Grant], source: str, one: Span | None, target: str, other: Span | None,
        port: Ports, protocol: int,
    ) -> bool:  # fmt: skip
        for grant in grants:
            if not any(self._within(word, source, one) for word in grant.sources):
                continue
            for protocols, by_target in grant.ports.items():
                if protocol not in (protocols or _DEFAULT):
                    continue
                for word, ranges in by_target.items():
                    if any(r.first <= port.first <= r.last for r in ranges) and (
                        self._own(source, target)
                        if word == SELF
                        else self._within(word, target, other)
                    ):
                        return True
        return False

    def _own(self, source: str, target: str) -> bool:
        people = self.targets.users(source)
        return len(people) == 1 and people == self.targets.users(target)

    def _within(self, word: str, name: str, span: Span | None) -> bool:
        if word in (name, "*", "autogroup:danger-all"):
            return True
        if span is None:
            return word == "autogroup:tagged" and name.startswith("tag:")
        forms = self.targets.source(word)
        return any(span.overlaps(s) for form in forms for s in parse_spans(form))

    # Log-ins.

    def _ssh_test(self, entry: Entry) -> list[Failure]:
        source, ends = entry.text("src"), entry.words("dst")
        failed: list[Failure] = []
        expected = [(n, user) for n in ("accept", "check", "deny") for user in entry.words(n)]
        try:
            self._known(source)
            for end in ends:
                self._known(end)
        except ValueError as error:
            return [Failure(entry.place, str(error))]
        if not source or not ends or not expected or any(not user for _, user in expected):
            return [Failure(entry.place, "an SSH test needs src, dst and users")]
        for want, user in expected:
            for end in ends:
                for word in self._ssh_ends(end):
                    got = self._login(source, word, user)
                    if got != want:
                        text = f"{source} → {user}@{end}: expected {want}, found {got}"
                        failed.append(Failure(entry.place, text))
        return failed

    def _ssh_ends(self, word: str) -> list[Node | None]:
        if self.targets.names_nodes(word):
            return list(self.targets.nodes(word)) or [None]
        if is_address(word, self.targets.policy):
            return list(self._at(word)) or [None]
        return [None]

    def _at(self, word: str) -> list[Node]:
        spans = [s for form in self.targets.destination(word) for s in parse_spans(form)]
        nodes = self.targets.topology.nodes
        return [n for n in nodes if any(o.overlaps(s) for o in n.spans for s in spans)]

    def _login(self, source: str, end: Node | None, user: str) -> str:
        for rule in self.ssh:
            for person in self._sources(rule, source):
                if (
                    end is not None
                    and self._reaches(rule, person, end)
                    and (_may_be(rule, person, user))
                ):
                    return "check" if rule.check else "accept"
        return "deny"

    def _sources(self, rule: SshRule, source: str) -> list[User | None]:
        """Return as whom the source matches a rule; None for a node that is tagged."""
        people = self.targets.users(source)
        nodes = [] if self.targets.names_nodes(source) else self._at(source)
        people = people or [node.user for node in nodes if node.user]
        if people:
            named = [u.login for word in rule.sources for u in self.targets.users(word)]
            return list(people) if all(person.login in named for person in people) else []
        nodes = nodes or self.targets.nodes(source)
        for word in rule.sources:
            if word in (source, "*") or (
                nodes and all(n in self.targets.nodes(word) for n in nodes)
            ):
                return [None]
        return []

    def _reaches(self, rule: SshRule, person: User | None, end: Node) -> bool:
        for word in rule.targets:
            if word == SELF:
                if person is not None and end.user is person:
                    return True
            elif word == "*" or end in self.targets.nodes(word):
                return True
        return False


def _may_be(rule: SshRule, person: User | None, user: str) -> bool:
    mapping = local_users(rule.users)
    if person is not None and local_part(rule.users, person) == user:
        return True
    if user == "root":
        return bool(mapping["root"])
    return user in mapping or NONROOT in rule.users


def refuse(failures: list[Failure]) -> None:
    """Raise MalformedPolicy with the service's sentence if anything failed."""
    if failures:
        raise MalformedPolicy(FAILED, failures[0].place)
