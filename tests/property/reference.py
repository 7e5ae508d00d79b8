"""A slow and obvious reading of a policy: one packet, one rule, one word at a time.

It shares nothing with the compiler: addresses are looked at one by one, by the standard library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

POOLS = ("100.64.0.0/10", "fd7a:115c:a1e0::/48")
CHROME_OS = "100.115.92.0/23"
PRIVATE = ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
EXITS = ("0.0.0.0/0", "::/0")
NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1, "sctp": 132, "ipv6-icmp": 58}
DEFAULT = (6, 17, 1, 58)
PEOPLE = ("autogroup:member", "autogroup:owner", "autogroup:admin")


@dataclass(frozen=True)
class Packet:
    """What arrives at a node: protocol by number, port of its destination."""

    source: str
    target: str
    protocol: int
    port: int


class Reference:
    """Reads a policy (as data) for a topology (as data)."""

    def __init__(self, policy: dict[str, Any], topology: dict[str, Any]) -> None:
        self.policy = policy
        self.nodes: dict[str, dict[str, Any]] = topology["nodes"]
        self.logins = {user["name"]: user["email"] for user in topology["users"]}
        self.owner = topology["users"][0]["email"]

    def rules(self) -> list[dict[str, Any]]:
        """Return acls and grants in one form: dst as (word, ports) for each `ip`."""
        made = []
        for grant in self.policy.get("grants") or []:
            ends = [(word, *split(ip)) for word in grant["dst"] for ip in grant.get("ip") or []]
            made.append({**grant, "ends": ends})
        for acl in self.policy.get("acls") or []:
            protocols = (NUMBERS[acl["proto"]],) if acl.get("proto") else DEFAULT
            ends = [
                (text.rpartition(":")[0].strip("[]"), protocols, ports(one))
                for text in acl["dst"]
                for one in text.rpartition(":")[2].split(",")
            ]
            made.append({**acl, "ends": ends})
        return made

    # Words.

    def addresses(self, name: str) -> list[str]:
        """Return a node's addresses."""
        return [self.nodes[name][key] for key in ("ipv4", "ipv6") if self.nodes[name].get(key)]

    def at(self, address: str) -> str | None:
        """Return the node that an address is of."""
        return next((name for name in self.nodes if address in self.addresses(name)), None)

    def routes(self, name: str) -> list[str]:
        """Return the networks behind a node; an exit is none."""
        return [r for r in self.nodes[name].get("approved_routes") or [] if r not in EXITS]

    def is_exit(self, name: str) -> bool:
        """Whether a node leads to the internet."""
        return any(r in EXITS for r in self.nodes[name].get("approved_routes") or [])

    def login(self, name: str) -> str | None:
        """Return whose a node is; a tagged one is nobody's."""
        node = self.nodes[name]
        return None if node.get("tags") else self.logins.get(node.get("user", ""))

    def is_name(self, word: str) -> bool:
        """Whether a word stands for nodes, not for addresses."""
        return "@" in word or word.startswith(("tag:", "group:", "autogroup:"))

    def names(self, word: str, name: str) -> bool:
        """Whether a word stands for a node."""
        login, tags = self.login(name), self.nodes[name].get("tags") or []
        if word == "autogroup:tagged":
            return bool(tags)
        return word in tags or (login is not None and self.is_user(word, login))

    def is_user(self, word: str, login: str) -> bool:
        """Whether a word stands for a user."""
        if word.startswith("group:"):
            return login in self.policy["groups"][word]
        owner = login == self.owner
        return (
            word in (login, "autogroup:member")
            or (word == "autogroup:owner" and owner)
            or (word == "autogroup:admin" and not owner)
        )

    def holds(self, word: str, address: str) -> bool:
        """Whether a word that stands for addresses has one: an address, network, host, IP set."""
        if word.startswith("ipset:"):
            inside = False
            for line in self.policy["ipsets"][word]:
                verb, _, rest = line.rpartition(" ")
                target = rest.removeprefix("host:")
                meant = is_public(address) if target == "autogroup:internet" else (
                    self.holds(target, address)
                )  # fmt: skip
                inside = (inside and not meant) if verb == "remove" else (inside or meant)
            return inside
        network = self.policy.get("hosts", {}).get(word, word)
        return within(address, network)

    def leads_out(self, word: str) -> bool:
        """Whether a word names the internet, and not only some addresses of it."""
        lines = self.policy["ipsets"][word] if word.startswith("ipset:") else [word]
        return any(line.endswith("autogroup:internet") for line in lines)

    # Both ends of a rule.

    def from_(self, rule: dict[str, Any], source: str) -> bool:
        """Whether an address is one of a rule's sources."""
        name = self.at(source)
        if rule.get("srcPosture"):
            fits = name is not None and self.nodes[name]["attributes"]["node:os"] == "linux"
            return fits and any(
                word in ("*", "autogroup:danger-all")
                or (self.names(word, name) if self.is_name(word) else
                    any(self.holds(word, own) for own in self.addresses(name)))
                for word in rule["src"]
            )  # fmt: skip
        return any(self.is_source(word, source, name) for word in rule["src"])

    def is_source(self, word: str, source: str, name: str | None) -> bool:
        """Whether an address, of a node or of none, is one that a source word stands for."""
        if word == "autogroup:danger-all":
            return True
        if word == "*":
            pool = any(within(source, one) for one in POOLS) and not within(source, CHROME_OS)
            return pool or any(within(source, r) for n in self.nodes for r in self.routes(n))
        if self.is_name(word):
            return name is not None and self.names(word, name)
        return self.holds(word, source)

    def to(self, rule: dict[str, Any], word: str, packet: Packet, at: str) -> bool:
        """Whether a target word lets a packet that arrives at a node go where it is to."""
        own = packet.target in self.addresses(at)
        behind = any(within(packet.target, route) for route in self.routes(at))
        outside = self.is_exit(at) and is_public(packet.target) and not own
        if rule.get("via"):
            if not set(rule["via"]) & set(self.nodes[at].get("tags") or []):
                return False
            if self.leads_out(word) and outside:
                return word == "autogroup:internet" or self.holds(word, packet.target)
            if word == "*" or self.is_name(word) or not self.holds(word, packet.target):
                return False
            # A place that holds some of what it serves is sent whole, with what else it holds.
            whole = not word.startswith("ipset:") and any(
                self.holds(word, end) for route in self.routes(at) for end in ends(route)
            )
            return behind or (own and whole)
        if word == "*":
            return own or behind or outside
        if word == "autogroup:internet":
            return outside
        if word == "autogroup:self":
            sender = self.at(packet.source)
            login = self.login(at)
            return (
                own and sender is not None and login is not None and self.login(sender) == login
                and any(one == "*" or self.is_user(one, login) for one in rule["src"])
            )  # fmt: skip
        if self.is_name(word):
            return own and self.names(word, at)
        if outside:
            return self.leads_out(word) and self.holds(word, packet.target)
        return (own or behind) and self.holds(word, packet.target)

    def accepted_by(self, packet: Packet, at: str) -> list[int]:
        """Return the rules, by number, by which a node lets a packet in."""
        return [
            number
            for number, rule in enumerate(self.rules())
            if any(
                packet.protocol in protocols
                and first <= packet.port <= last
                and self.from_(rule, packet.source)
                and self.to(rule, word, packet, at)
                for word, protocols, (first, last) in rule["ends"]
            )
        ]

    # Who has to do with whom. `samples` are addresses behind routers and of the internet.

    def starts(self, name: str, samples: list[str]) -> list[str]:
        """Return addresses that packets from a node, or from behind it, may come from."""
        behind = [one for one in samples if any(within(one, r) for r in self.routes(name))]
        return self.addresses(name) + behind

    def reaches(self, one: str, other: str, samples: list[str]) -> bool:
        """Whether a rule lets a node, or what is behind it, send anything to another or through."""
        ends = self.starts(other, samples) + [s for s in samples if self.is_exit(other)]
        return any(
            self.from_(rule, start) and self.to(rule, word, Packet(start, end, 6, 0), other)
            for rule in self.rules()
            for start in self.starts(one, samples)
            for end in ends
            for word, *_ in rule["ends"]
        )

    def capable(self, one: str, other: str, samples: list[str]) -> bool:
        """Whether a node has a capability at another, or at an address behind it."""
        return any(
            self.from_(rule, start)
            and self.to(rule, word, Packet(start, end, 6, 0), other)
            and (word != "*" or end in self.addresses(other))
            for rule in self.policy.get("grants") or []
            if rule.get("app") and not rule.get("via")
            for start in self.starts(one, samples)
            for end in self.starts(other, samples)
            for word in rule["dst"]
        )

    def sees(self, one: str, other: str, samples: list[str]) -> bool:
        """Whether two nodes have to do with each other."""
        return any(
            self.reaches(*pair, samples) or self.capable(*pair, samples)
            for pair in ((one, other), (other, one))
        )


def ends(route: str) -> tuple[str, str]:
    """Return the first and the last address of a network."""
    network = ip_network(route)
    return str(network[0]), str(network[-1])


def split(ip: str) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Split a grant's `ip`."""
    name, _, port = ip.rpartition(":")
    return (NUMBERS[name],) if name else DEFAULT, ports(port)


def ports(text: str) -> tuple[int, int]:
    """Return the first and the last port."""
    if text == "*":
        return 0, 65535
    first, _, last = text.partition("-")
    return int(first), int(last or first)


@lru_cache(maxsize=1 << 16)
def within(address: str, form: str) -> bool:
    """Whether an address is in a network, a range, or is the address."""
    found = ip_address(address)
    if re.fullmatch(r"[0-9a-f.:]+-[0-9a-f.:]+", form):
        low, high = (ip_address(one) for one in form.split("-"))
        same = low.version == found.version
        return same and int(low) <= int(found) <= int(high)
    return found in ip_network(form)


def is_public(address: str) -> bool:
    """Whether an address is of the internet."""
    if ":" in address:
        return within(address, "2000::/3")
    return not any(within(address, one) for one in PRIVATE)
