"""The tests that a policy brings along, run before it is taken (§12.4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from warren.policy.document import Entry, Policy
from warren.policy.grants import Grant, is_address
from warren.policy.malformed import MalformedPolicy, Place, nearest, readable
from warren.policy.ports import PROTOCOLS, Ports, parse_protocol, split_destination
from warren.policy.postures import Postures
from warren.policy.ranges import Span, parse_spans, wire_form
from warren.policy.ssh import NONROOT, SshRule, local_part
from warren.policy.targets import INTERNET, SELF, Targets, UnknownTarget
from warren.policy.topology import Node, User
from warren.policy.words_at import WordsAt

_T = TypeVar("_T")
_MAX_STEPS = 1_000_000
"""Rules that all tests together may look at: some seconds."""
FAILED = "test(s) failed"
_Protocols = tuple[int, ...]
_EITHER = (PROTOCOLS["tcp"], PROTOCOLS["udp"])
"""What a test means that names no protocol: it passes by one of them."""
_DEFAULT = (PROTOCOLS["tcp"], PROTOCOLS["udp"], PROTOCOLS["icmp"], PROTOCOLS["ipv6-icmp"])


@dataclass(slots=True)
class Failure:
    """One expectation that does not hold."""

    place: Place
    message: str

    def sentence(self) -> str:
        """Return one line for a person, whatever the test's words are."""
        return f"line {self.place.line}, column {self.place.column}: {readable(self.message)}"


class Trial:
    """Runs `tests` and `sshTests`."""

    def __init__(
        self, grants: list[Grant], ssh: list[SshRule], targets: Targets, postures: Postures
    ) -> None:
        self.postures = postures
        self.grants = grants
        self.ssh = ssh
        self.targets = targets
        self._steps = 0
        self._place: Place | None = None
        self._asking = [n for n, grant in enumerate(grants) if grant.postures or postures.default]
        # Grants by the words at their ends; what a test's words come to is kept.
        self._by_source: dict[str, list[int]] = {}
        self._by_target: dict[str, list[tuple[int, tuple[int, ...], list[Ports]]]] = {}
        for number, grant in enumerate(grants):
            for word in grant.sources:
                self._by_source.setdefault(word, []).append(number)
            for protocols, by_target in grant.ports.items():
                for word, ranges in by_target.items():
                    if grant.via and (word == "*" or targets.names_nodes(word)):
                        continue  # it is for networks behind routers
                    self._by_target.setdefault(word, []).append((number, protocols, ranges))
        self._admitted: dict[str, set[frozenset[int]]] = {}
        self._reached: dict[tuple[str, _Protocols, int], set[frozenset[int]]] = {}
        self._logins = [
            frozenset(login for word in rule.sources for login in targets.logins(word))
            for rule in ssh
        ]
        self._for_source: dict[str, list[tuple[SshRule, User | None]]] = {}

    @cached_property
    def _sources_at(self) -> WordsAt:
        return WordsAt(self._by_source, self.targets)

    @cached_property
    def _targets_at(self) -> WordsAt:
        return WordsAt(set(self._by_target) - {SELF, INTERNET}, self.targets)

    def run(self, policy: Policy) -> list[Failure]:
        """Return what fails. Raises MalformedPolicy for a test that the service refuses to run."""
        self._steps = 0
        for entry in policy.ssh_tests:
            for word in entry.words("dst"):
                if word.startswith("tag:") and word not in policy.tag_owners:
                    message = f'SSH tests dst contains unknown tag "{word}"'
                    raise entry.fail(message, "dst", word, nearest(word, policy.tag_owners, 0.7))
                if word == INTERNET or self._is_network(word):
                    message = f'SSH tests dst contains disallowed element "{word}"'
                    raise entry.fail(message, "dst", word)
        found = [failure for entry in policy.tests for failure in self._test(entry)]
        return found + [failure for entry in policy.ssh_tests for failure in self._ssh_test(entry)]

    def _is_network(self, word: str) -> bool:
        """Whether a word is, or a host's name stands for, more than one address."""
        form = wire_form(self.targets.policy.hosts.get(word, word))
        return form is not None and any(one.first != one.last for one in parse_spans(form))

    # Packets.

    def _test(self, entry: Entry) -> list[Failure]:
        self._place = entry.place
        source = entry.text("src") or entry.text("user")
        accept, deny = entry.words("accept", "allow"), entry.words("deny")
        failed: list[Failure] = []

        def fail(message: str, word: str = "") -> None:
            failed.append(Failure(_place(entry, word), message))

        if not source:
            fail("a test needs src")
        if not accept and not deny:
            fail("a test needs accept or deny")
        try:
            wanted_protocols = parse_protocol(entry.text("proto")) or _EITHER
            if source:
                self._known(source)
        except ValueError as error:
            return [*failed, Failure(entry.place, str(error))]
        for wanted, ends in ((True, accept), (False, deny)):
            for end in ends:
                try:
                    allowed = self._allowed(
                        source, end, wanted_protocols, entry.members.get("srcPostureAttrs")
                    )
                except ValueError as error:
                    fail(f"{end}: {error}", end)
                    continue
                if allowed != wanted:
                    fail(f"{source} → {end}: expected {'accept' if wanted else 'deny'}", end)
        return failed

    def _known(self, word: str) -> None:
        self.targets.check(word)
        if "@" in word and not self.targets.users(word):
            raise UnknownTarget(f'user not found: "{word}"')

    def _allowed(
        self, source: str, end: str, protocols: _Protocols, facts: dict[str, Any] | None
    ) -> bool:
        """Whether every address of the source may reach every one of the destination."""
        target, ports = split_destination(end)
        if len(ports) != 1 or ports[0].first != ports[0].last:
            raise ValueError("a test names one port")
        if target in ("*", SELF, INTERNET) or "/" in target:
            raise ValueError("a test names one destination")
        self._known(target)
        if any("/" in form or "-" in form for form in self.targets.destination(target)):
            raise ValueError("a test names one destination")
        wanting = self._wanting(facts)
        ways = self._reaching(target, protocols, ports[0].first)
        if self._own(source, target):
            ways = {way | self._to_own(protocols, ports[0].first) for way in ways}
        return all(
            any(number not in wanting for number in one & other)
            for one in self._admitting(source)
            for other in ways
        )

    def _members(self, word: str) -> list[Span | None]:
        """Return the addresses that a word stands for; None where no node bears the name yet."""
        forms = self.targets.destination(word)
        return [span for form in forms for span in parse_spans(form)] or [None]

    def _wanting(self, facts: dict[str, Any] | None) -> frozenset[int]:
        """Return the grants whose posture a source with these attributes has not."""
        if not self._asking:
            return frozenset()
        return frozenset(
            number
            for number in self._asking
            if not self.postures.satisfied(
                self.grants[number].postures or self.postures.default, facts or {}
            )
        )

    def _admitting(self, source: str) -> set[frozenset[int]]:
        """Return the grants whose sources an address of `source` is in, of every address once."""
        if source not in self._admitted:
            self._admitted[source] = {
                frozenset(
                    number
                    for word in self._meant(source, span, self._sources_at)
                    for number in self._spend(self._by_source.get(word, []))
                )
                for span in self._members(source)
            }
        return self._admitted[source]

    def _reaching(self, target: str, wanted: _Protocols, port: int) -> set[frozenset[int]]:
        """Return the grants that lead to an address of `target`, of every address once."""
        key = (target, wanted, port)
        if key not in self._reached:
            self._reached[key] = {
                frozenset(
                    number
                    for word in self._meant(target, span, self._targets_at)
                    for number, protocols, ranges in self._spend(self._by_target.get(word, []))
                    if _lets(protocols, ranges, wanted, port)
                )
                for span in self._members(target)
            }
        return self._reached[key]

    def _to_own(self, wanted: _Protocols, port: int) -> frozenset[int]:
        return frozenset(
            number
            for number, protocols, ranges in self._spend(self._by_target.get(SELF, []))
            if _lets(protocols, ranges, wanted, port)
        )

    def _own(self, source: str, target: str) -> bool:
        people = self.targets.users(source)
        return len(people) == 1 and people == self.targets.users(target)

    def _meant(self, name: str, span: Span | None, words: WordsAt) -> set[str]:
        """Return the rules' words that mean an address which `name` stands for."""
        found = {name, "*", "autogroup:danger-all"}
        if span is not None:
            return found | words.at(span)
        return found | ({"autogroup:tagged"} if name.startswith("tag:") else set())

    def _spend(self, steps: list[_T]) -> list[_T]:
        """Count work, so that no file of tests takes for ever. Raises MalformedPolicy."""
        self._steps += len(steps)
        if self._steps > _MAX_STEPS:
            raise MalformedPolicy(
                "these tests take too long; write fewer of them, or name fewer machines in each",
                self._place,
            )
        return steps

    # Log-ins.

    def _ssh_test(self, entry: Entry) -> list[Failure]:
        self._place = entry.place
        source, ends = entry.text("src"), entry.words("dst")
        failed: list[Failure] = []
        facts = entry.members.get("srcPostureAttrs")
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
                    got = self._login(source, word, user, facts)
                    if got != want:
                        text = f"{source} → {user}@{end}: expected {want}, found {got}"
                        failed.append(Failure(_place(entry, user), text))
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

    def _login(self, source: str, end: Node | None, user: str, facts: dict[str, Any] | None) -> str:
        if end is None:
            return "deny"
        for rule, person in self._spend(self._rules_for(source)):
            if (
                _may_be(rule, person, user)
                and self._reaches(rule, person, end)
                and self.postures.satisfied(rule.postures or self.postures.default, facts or {})
            ):
                return "check" if rule.check else "accept"
        return "deny"

    def _rules_for(self, source: str) -> list[tuple[SshRule, User | None]]:
        """Return the rules that are for a source, with who of it logs in; None: a tagged node."""
        if source not in self._for_source:
            self._spend(self.ssh)
            nodes = [] if self.targets.names_nodes(source) else self._at(source)
            people = self.targets.users(source) or [node.user for node in nodes if node.user]
            if people:
                logins = {person.login for person in people}
                found: list[tuple[SshRule, User | None]] = [
                    (rule, person)
                    for rule, named in zip(self.ssh, self._logins, strict=True)
                    if logins <= named
                    for person in people
                ]
            else:
                names = {node.name for node in nodes or self.targets.nodes(source)}
                found = [(rule, None) for rule in self.ssh if self._is_for(rule, source, names)]
            self._for_source[source] = found
        return self._for_source[source]

    def _is_for(self, rule: SshRule, source: str, names: set[str]) -> bool:
        """Whether a source that is nobody's machines is one of a rule's."""
        return any(
            word in (source, "*") or (names and names <= self.targets.names(word))
            for word in rule.sources
        )

    def _reaches(self, rule: SshRule, person: User | None, end: Node) -> bool:
        for word in rule.targets:
            if word == SELF:
                if person is not None and end.user is person:
                    return True
            elif word == "*" or end.name in self.targets.names(word):
                return True
        return False


def _place(entry: Entry, word: str) -> Place:
    """Return where a test names a word, or where the test begins."""
    names = ("accept", "allow", "deny", "check")
    return next((at for n in names if (at := entry.words_at.get((n, word)))), entry.place)


def _lets(protocols: _Protocols, ranges: list[Ports], wanted: _Protocols, port: int) -> bool:
    """Whether a rule lets one of the wanted protocols through to a port."""
    return not set(wanted).isdisjoint(protocols or _DEFAULT) and any(
        r.first <= port <= r.last for r in ranges
    )


def _may_be(rule: SshRule, person: User | None, user: str) -> bool:
    if user == "root":
        if "root" in rule.users:
            return True
    elif user in rule.users or NONROOT in rule.users:
        return True
    return person is not None and local_part(rule.users, person) == user


def refuse(failures: list[Failure]) -> None:
    """Raise MalformedPolicy with the service's sentence if anything failed."""
    if failures:
        raise MalformedPolicy(FAILED, failures[0].place)
