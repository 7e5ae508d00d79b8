"""A typed policy, made of a HuJSON file, and what the service says of a wrong one (§12.1-12.4).

The sentences are the service's own where recorded verdicts show them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from warren.netmap.derpmap import DERPMap
from warren.policy.derpmap import read_derp_map
from warren.policy.hujson import Item, Text, parse_hujson_untrusted
from warren.policy.malformed import MalformedPolicy, Place, nearest
from warren.policy.postures import MAX_CONDITIONS, PREFIX, Condition, parse_condition
from warren.policy.ranges import wire_form

SECTIONS = (
    "acls", "attrConfig", "autoApprovers", "defaultSrcPosture", "derpMap", "disableIPv4", "grants",
    "groups", "hosts", "ipsets", "nodeAttrs", "oneCGNATRoute", "postures", "randomizeClientPort",
    "ssh", "sshTests", "tagOwners", "tests",
)  # fmt: skip
ROUTES, EXIT_NODE, SERVICES = (
    f"autoApprovers.{name}" for name in ("routes", "exitNode", "services")
)
ONE_CGNAT_ROUTE = ("", "mac-always", "mac-never")
_MEMBERS = {
    "acls": ("action", "src", "dst", "proto", "srcPosture", "users", "ports"),
    "grants": ("src", "dst", "ip", "app", "srcPosture", "via"),
    "ssh": (
        "action", "src", "dst", "users", "checkPeriod", "acceptEnv", "recorder",
        "enforceRecorder", "srcPosture",
    ),
    "nodeAttrs": ("target", "attr", "app", "ipPool"),
    "tests": ("src", "srcPostureAttrs", "proto", "accept", "deny", "user", "allow"),
    "sshTests": ("src", "dst", "accept", "deny", "check", "srcPostureAttrs"),
}  # fmt: skip


@dataclass(slots=True)
class Entry:
    """One rule of a list section: its members as plain data, and where they stand."""

    members: dict[str, Any]
    place: Place
    places: dict[str, Place] = field(default_factory=dict)
    words_at: dict[tuple[str, str], Place] = field(default_factory=dict)

    def words(self, *names: str) -> list[str]:
        """Return a list of words under the first of `names` that is there, trimmed."""
        for name in names:
            if self.members.get(name) is not None:
                return [str(word).strip() for word in self.members[name]]
        return []

    def text(self, name: str) -> str:
        """Return a word, or nothing."""
        value = self.members.get(name)
        if type(value) is int:  # a protocol may be a number
            return str(value)
        return value.strip() if isinstance(value, str) else ""

    def fail(
        self, message: str, name: str = "", word: str = "", hint: str | None = None
    ) -> MalformedPolicy:
        """Make an error at a member of this entry, or at one word of its list."""
        place = self.words_at.get((name, word)) or self.places.get(name, self.place)
        return MalformedPolicy(message, place, hint)


@dataclass(slots=True)
class Policy:
    """A policy file's sections. `acls` and `grants` are None where they are not given."""

    groups: dict[str, list[str]] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    ipsets: dict[str, list[str]] = field(default_factory=dict)
    tag_owners: dict[str, list[str]] = field(default_factory=dict)
    postures: dict[str, list[Condition]] = field(default_factory=dict)
    default_posture: list[str] = field(default_factory=list)
    acls: list[Entry] | None = None
    grants: list[Entry] | None = None
    ssh: list[Entry] = field(default_factory=list)
    node_attrs: list[Entry] = field(default_factory=list)
    tests: list[Entry] = field(default_factory=list)
    ssh_tests: list[Entry] = field(default_factory=list)
    route_approvers: dict[str, list[str]] = field(default_factory=dict)
    exit_approvers: list[str] = field(default_factory=list)
    service_approvers: dict[str, list[str]] = field(default_factory=dict)
    randomize_client_port: bool = False
    disable_ipv4: bool = False
    one_cgnat_route: str = ""
    derp_map: DERPMap | None = None
    words_at: dict[tuple[str, str, str], Place] = field(default_factory=dict)
    """Where the words stand that a list of a section names: by section, list and word."""

    def fail(
        self, section: str, name: str, word: str, message: str, hint: str | None = None
    ) -> MalformedPolicy:
        """Make an error at one word of a list that is no rule's."""
        where = f'{section}["{name}"]' if name else section
        return MalformedPolicy(
            f"{where}: {message}", self.words_at.get((section, name, word)), hint
        )


@lru_cache(maxsize=2)
def parse_policy_untrusted(source: str) -> Policy:
    """Parse a policy file's text; nobody may change what comes of it, since the last ones are kept.

    Raises MalformedPolicy, with its place.
    """
    text = parse_hujson_untrusted(source)
    return _Reader(text).policy()


class _Reader:
    def __init__(self, text: Text) -> None:
        self.text = text

    def fail(self, item: Item, message: str) -> MalformedPolicy:
        return MalformedPolicy(message, self.text.place(item.start))

    def policy(self) -> Policy:
        root = self.text.root
        if not isinstance(root.value, dict):
            raise self.fail(root, "a policy is an object in braces")
        self.known(root, SECTIONS)
        found: dict[str, Item] = {k: v for k, v in root.value.items() if v.value is not None}
        policy = Policy()
        for name in found:
            policy.words_at[name, "", ""] = self.text.place(root.names[name])
        for name, target in (
            ("groups", policy.groups),
            ("ipsets", policy.ipsets),
            ("tagOwners", policy.tag_owners),
        ):
            if name in found:
                target.update(self.word_lists(found[name], name, policy))
        if "hosts" in found:
            for name, item in self.object(found["hosts"], "hosts").items():
                policy.hosts[name] = self.word(item, f'hosts["{name}"]')
                policy.words_at["hosts", name, ""] = self.text.place(found["hosts"].names[name])
                if wire_form(policy.hosts[name]) is None:
                    raise self.fail(
                        item, f'hosts["{name}"]: "{policy.hosts[name]}": invalid address'
                    )
        self.check_names(policy, found)
        if "postures" in found:
            self.postures(found["postures"], policy)
        if "defaultSrcPosture" in found:
            item = found["defaultSrcPosture"]
            policy.default_posture.extend(self.words(item, "defaultSrcPosture"))
            self.known_postures(item, policy)
        if "autoApprovers" in found:
            self.approvers(found["autoApprovers"], policy)
        if "acls" in found:
            policy.acls = self.entries(found["acls"], "acls")
        if "grants" in found:
            policy.grants = self.entries(found["grants"], "grants")
        for name, entries in (
            ("ssh", policy.ssh),
            ("nodeAttrs", policy.node_attrs),
            ("tests", policy.tests),
            ("sshTests", policy.ssh_tests),
        ):
            if name in found:
                entries.extend(self.entries(found[name], name))
        for name in ("acls", "grants", "ssh"):
            for element in found[name].value if name in found else ():
                self.known_postures(element.value.get("srcPosture"), policy)
        policy.randomize_client_port = self.flag(found, "randomizeClientPort")
        policy.disable_ipv4 = self.flag(found, "disableIPv4")
        if "oneCGNATRoute" in found:
            policy.one_cgnat_route = self.word(found["oneCGNATRoute"], "oneCGNATRoute")
            if policy.one_cgnat_route not in ONE_CGNAT_ROUTE:
                known = ", ".join(f'"{word}"' for word in ONE_CGNAT_ROUTE)
                raise self.fail(found["oneCGNATRoute"], f"oneCGNATRoute: expected one of {known}")
        if "attrConfig" in found:
            self.object(found["attrConfig"], "attrConfig")
        if "derpMap" in found:
            policy.derp_map = read_derp_map(found["derpMap"], self.fail, where="derpMap.")
        return policy

    def flag(self, found: dict[str, Item], name: str) -> bool:
        if name not in found:
            return False
        if not isinstance(found[name].value, bool):
            raise self.fail(found[name], f"{name}: expected true or false")
        return found[name].value is True

    def known(self, item: Item, names: tuple[str, ...]) -> None:
        """Look at the names of members, which may be in any case, and write them as they are known.

        The stock client's own types have `tagowners`, and files of old have `ACLs` and `Users`.
        """
        spelt = {name.lower(): name for name in names}
        members: dict[str, Item] = {}
        places: dict[str, int] = {}
        for name, value in item.value.items():
            place = self.text.place(item.names[name])
            if name.lower() not in spelt:
                near = nearest(name.lower(), spelt)
                hint = f'"{spelt[near[1:-1]]}"' if near else None
                raise MalformedPolicy(f'unknown field "{name}"', place, hint)
            right = spelt[name.lower()]
            if right in members:
                raise MalformedPolicy(f'"{right}" is given twice', place)
            members[right], places[right] = value, item.names[name]
        item.value, item.names = members, places

    def object(self, item: Item, name: str) -> dict[str, Item]:
        if not isinstance(item.value, dict):
            raise self.fail(item, f"{name}: expected an object")
        return item.value

    def word(self, item: Item, name: str) -> str:
        if not isinstance(item.value, str):
            raise self.fail(item, f"{name}: expected a string")
        return item.value.strip()

    def words(self, item: Item, name: str) -> list[str]:
        if item.value is None:
            return []
        if not isinstance(item.value, list):
            raise self.fail(item, f"{name}: expected a list of strings")
        return [self.word(element, name) for element in item.value]

    def word_lists(self, item: Item, section: str, policy: Policy) -> dict[str, list[str]]:
        made = {}
        for name, value in self.object(item, section).items():
            made[name] = self.words(value, f'{section}["{name}"]')
            self.keep_places(value, (section, name), policy)
            policy.words_at[section, name, ""] = self.text.place(item.names[name])
        return made

    def keep_places(self, item: Item, where: tuple[str, str], policy: Policy) -> None:
        for element in item.value or ():
            place = self.text.place(element.start)
            policy.words_at.setdefault((*where, element.value.strip()), place)

    def check_names(self, policy: Policy, found: dict[str, Item]) -> None:
        for name in policy.groups:
            item = found["groups"].value[name]
            if not name.startswith("group:"):
                raise self.fail(item, f"groups[\"{name}\"]: group names must start with 'group:'")
        # Of several groups within groups, the last by name is reported.
        for name in sorted(policy.groups, reverse=True):
            for member in policy.groups[name]:
                if member.startswith("group:"):
                    raise self.fail(
                        found["groups"].value[name],
                        f'groups["{name}"]: "{member}": group members cannot be recursive',
                    )
        for name in policy.tag_owners:
            item = found["tagOwners"].value[name]
            rest = name.removeprefix("tag:")
            if rest == name:
                raise self.fail(item, f"tagOwners[\"{name}\"]: tags must start with 'tag:'")
            if not rest:
                raise self.fail(item, f'tagOwners["{name}"]: tag names must not be empty')
            if not (rest[:1].isascii() and rest[:1].isalpha()):
                raise self.fail(
                    item, f"tagOwners[\"{name}\"]: tag names must start with a letter, after 'tag:'"
                )

    def postures(self, item: Item, policy: Policy) -> None:
        for name, conditions in self.object(item, "postures").items():
            if not name.startswith(PREFIX):
                message = f"postures[\"{name}\"]: posture names must start with '{PREFIX}'"
                raise MalformedPolicy(message, self.text.place(item.names[name]))
            texts = self.words(conditions, f'postures["{name}"]')
            if not 0 < len(texts) <= MAX_CONDITIONS:
                message = f'postures["{name}"]: expected 1 to {MAX_CONDITIONS} conditions'
                raise self.fail(conditions, message)
            policy.postures[name] = []
            policy.words_at["postures", name, ""] = self.text.place(item.names[name])
            for element, text in zip(conditions.value, texts, strict=True):
                try:
                    policy.postures[name].append(parse_condition(text))
                except ValueError as error:
                    raise self.fail(element, str(error)) from None

    def known_postures(self, item: Item | None, policy: Policy) -> None:
        for element in (item.value if item else None) or ():
            if element.value not in policy.postures:
                place = self.text.place(element.start)
                hint = nearest(str(element.value), policy.postures)
                raise MalformedPolicy(f'posture not found: "{element.value}"', place, hint)

    def approvers(self, item: Item, policy: Policy) -> None:
        self.object(item, "autoApprovers")
        self.known(item, ("routes", "exitNode", "services"))
        members: dict[str, Item] = item.value
        if "routes" in members:
            policy.route_approvers.update(self.word_lists(members["routes"], ROUTES, policy))
        if "exitNode" in members:
            policy.exit_approvers.extend(self.words(members["exitNode"], EXIT_NODE))
            self.keep_places(members["exitNode"], (EXIT_NODE, ""), policy)
        if "services" in members:
            policy.service_approvers.update(self.word_lists(members["services"], SERVICES, policy))

    def entries(self, item: Item, section: str) -> list[Entry]:
        if not isinstance(item.value, list):
            raise self.fail(item, f"{section}: expected a list")
        made = []
        for element in item.value:
            self.object(element, section)
            self.known(element, _MEMBERS[section])
            members: dict[str, Item] = element.value
            for name, value in members.items():
                self.check_member(section, name, value)
            places = {name: self.text.place(value.start) for name, value in members.items()}
            words_at = {
                (name, part.value.strip()): self.text.place(part.start)
                for name, value in members.items()
                for part in (value.value if isinstance(value.value, list) else ())
                if isinstance(part.value, str)
            }
            place = self.text.place(element.start)
            made.append(Entry(element.plain(), place, places, words_at))
        return made

    def check_member(self, section: str, name: str, item: Item) -> None:
        """Words are words and lists are lists of words; capabilities are objects."""
        if item.value is None:
            return
        if name == "proto" and type(item.value) is int:
            return
        one_source = name == "src" and section in ("tests", "sshTests")
        if one_source or name in ("action", "proto", "checkPeriod", "user"):
            self.word(item, f"{section}.{name}")
        elif name == "enforceRecorder":
            if not isinstance(item.value, bool):
                raise self.fail(item, f"{section}.{name}: expected true or false")
        elif name in ("app", "srcPostureAttrs"):
            for value in self.object(item, f"{section}.{name}").values():
                if name == "app" and not isinstance(value.value, list | None):
                    raise self.fail(value, f"{section}.{name}: expected a list")
        else:
            self.words(item, f"{section}.{name}")
