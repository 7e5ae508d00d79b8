"""Who can reach what, by which rule, and what another policy would change."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network

from warren.policy.grants import Grant
from warren.policy.malformed import MalformedPolicy
from warren.policy.meeting import overlap
from warren.policy.ports import ANY, PROTOCOLS, Ports, parse_ports, parse_protocol
from warren.policy.ranges import PUBLIC, PUBLIC_FORMS, Span, span_of_network, wire_form
from warren.policy.targets import INTERNET, SELF
from warren.policy.topology import Node, is_exit
from warren.policy.verdict import World

EVERY_PAIR = 500
"""Up to so many nodes a difference names each; above, a rule for everyone counts as one source."""
_NAMES = {number: name for name, number in sorted(PROTOCOLS.items(), reverse=True)}
_DEFAULT = (PROTOCOLS["tcp"], PROTOCOLS["udp"], PROTOCOLS["icmp"], PROTOCOLS["ipv6-icmp"])


@dataclass(frozen=True, slots=True)
class Way:
    """One rule that lets a source through. `line` is the rule's in the policy file, 0: default."""

    source: str
    target: str
    line: int
    rule: str


@dataclass(frozen=True, slots=True, order=True)
class Access:
    """What one source may reach at one node: an address form or `*`, a protocol, ports."""

    source: str
    target: str
    what: str


def find_nodes(world: World, text: str) -> list[Node]:
    """Return the nodes that a name, an address, a user, a group or a tag means."""
    targets = world.meeting.targets
    if targets.names_nodes(text):
        return list(targets.nodes(text))
    form = _form(world, text)
    spans = [span_of_network(ip_network(form))] if form and "-" not in form else []
    return [
        node
        for node in world.nodes
        if node.name == text or any(own.overlaps(span) for own in node.spans for span in spans)
    ]


def _form(world: World, text: str) -> str | None:
    policy = world.meeting.targets.policy
    return wire_form(policy.hosts.get(text, text))


def parse_end(text: str) -> tuple[str, Ports, int]:
    """Parse `HOST:PORT` or `HOST:PORT/udp`. Raises MalformedPolicy with a sentence."""
    rest, slash, name = text.rpartition("/")
    if not slash or ":" in name:
        rest, name = text, ""
    host, colon, port = rest.rpartition(":")
    if not colon or not host:
        raise MalformedPolicy(f"{text}: write HOST:PORT, such as web:443 or [fd7a::1]:53/udp")
    try:
        protocol = parse_protocol(name) or (PROTOCOLS["tcp"],)
        ports = parse_ports(port)
    except ValueError as error:
        raise MalformedPolicy(f"{text}: {error}") from None
    return host.removeprefix("[").removesuffix("]"), ports, protocol[0]


def ways(world: World, source: Node, end: str) -> list[Way]:
    """Return the rules by which a node reaches `HOST:PORT`. Raises MalformedPolicy."""
    host, ports, protocol = parse_end(end)
    return [
        Way(source.name, name, *_told(grant))
        for name, spans, node in _ends(world, host)
        for grant in _grants(world, source, spans, node)
        if _lets(world, grant, source, spans, node, ports, protocol)
    ]


def who_can(world: World, end: str) -> list[Way]:
    """Return all nodes that reach `HOST:PORT`, each with the first rule that lets it."""
    found = []
    for node in world.nodes:
        found += ways(world, node, end)[:1]
    return found


def rules_of(world: World, login: str) -> list[Grant]:
    """Return the rules that let a user's machines reach something, as the policy orders them."""
    targets = world.meeting.targets
    return [
        grant
        for grant in world.meeting.grants
        if any(word == "*" or login in targets.logins(word) for word in grant.sources)
    ]


def rules_to(world: World, address: str, port: int) -> list[Grant]:
    """Return the rules that let someone reach a port. Raises ValueError for what is no address."""
    targets, spans = world.meeting.targets, [span_of_network(ip_network(address))]
    owners = {
        node.user.login
        for node in find_nodes(world, address)
        if node.user is not None and not node.tags
    }

    def reaches(grant: Grant, word: str) -> bool:
        if word == SELF:
            return any(owners & targets.logins(source) for source in grant.sources)
        return overlap(targets.destination(word), spans)

    return [
        grant
        for grant in world.meeting.grants
        if any(
            any(r.first <= port <= r.last for r in ranges) and reaches(grant, word)
            for by_target in grant.ports.values()
            for word, ranges in by_target.items()
        )
    ]


def _ends(world: World, host: str) -> list[tuple[str, list[Span], Node | None]]:
    nodes = find_nodes(world, host)
    if nodes:
        return [(node.name, node.spans, node) for node in nodes]
    form = _form(world, host)
    if form is None or "-" in form:
        raise MalformedPolicy(f"{host}: no machine, host or address is called so")
    return [(form, [span_of_network(ip_network(form))], None)]


def _grants(world: World, source: Node, spans: list[Span], node: Node | None) -> list[Grant]:
    numbers = world.meeting.from_(source)
    if node is not None and node.user is not None and node.user is source.user:
        numbers = numbers | {one.number for one in world.meeting.resolved if one.owners}
    if node is source:
        return []
    return [world.meeting.grants[number] for number in sorted(numbers)]


def _lets(
    world: World, grant: Grant, source: Node, spans: list[Span], node: Node | None,
    ports: Ports, protocol: int,
) -> bool:  # fmt: skip
    for protocols, by_target in grant.ports.items():
        if protocol not in (protocols or _DEFAULT):
            continue
        for word, ranges in by_target.items():
            if not any(r.first <= ports.first and ports.last <= r.last for r in ranges):
                continue
            if word == SELF:
                if _to_own(world, grant, source, node):
                    return True
            elif any(_leads(world, grant, source, span, node, word) for span in spans):
                return True
    return False


def _to_own(world: World, grant: Grant, source: Node, node: Node | None) -> bool:
    """Whether a rule lets a node reach another one of its owner."""
    if node is None or node.user is None or node.user is not source.user:
        return False
    targets = world.meeting.targets
    named = any(source.user in targets.users(word) for word in grant.sources)
    families = {span.family for span in source.spans} & {span.family for span in node.spans}
    return named and bool(families) and bool(world.meeting.with_posture(grant, [source]))


def _leads(
    world: World, grant: Grant, source: Node, span: Span, node: Node | None, word: str
) -> bool:
    """Whether a rule lets a node reach an address, by its own address of the same family."""
    if grant.via:
        # For networks behind the routers that it names, not for machines.
        named = word == "*" or world.meeting.targets.names_nodes(word)
        if node is not None or named or not _served(world, grant, span):
            return False
    own = [one for one in source.spans if one.family == span.family]
    one = world.meeting.resolved[world.meeting.grants.index(grant)]
    return _reaches(world, word, [span]) and overlap(one.sources, own)


def _served(world: World, grant: Grant, span: Span) -> bool:
    """Whether a router that a rule names leads to an address."""
    tags = set(grant.via)
    public = any(span.overlaps(one) for one in PUBLIC)
    return any(
        any(span.overlaps(route) for route in node.route_spans) or (public and is_exit(node))
        for node in world.nodes
        if tags & set(node.tags)
    )


def _reaches(world: World, word: str, spans: list[Span]) -> bool:
    if word == INTERNET:
        return any(span.overlaps(public) for span in spans for public in PUBLIC)
    return overlap(world.meeting.targets.destination(word), spans)


def _told(grant: Grant) -> tuple[int, str]:
    place = grant.entry.place
    words = f"{', '.join(grant.sources)} → {', '.join(grant.targets)}"
    return place.line, words


_Where = tuple[str, str, str, int]
"""Source, target, the place behind it (or nothing), and a protocol."""


def _packets(world: World) -> dict[_Where, list[Ports]]:
    """Return the ports that each source reaches, joined where they touch."""
    found: dict[_Where, list[Ports]] = {}
    for node in world.nodes:
        for rule in world.compiler.filters(node):
            ends: dict[str, list[Ports]] = {}
            for end in rule.dst_ports:
                ends.setdefault(end.ip, []).append(Ports(end.ports.first, end.ports.last))
            # Joined before they are told of every source, of which there may be many.
            whole = [(place, _joined(p)) for ip, p in ends.items() for place in _places(ip, node)]
            for source in _sources(world, rule.src_ips):
                for protocol in rule.ip_proto or _DEFAULT:
                    for place, ports in whole:
                        found.setdefault((source, node.name, place, protocol), []).extend(ports)
    return {where: _joined(ports) for where, ports in found.items() if where[0] != where[1]}


def _sources(world: World, forms: list[str]) -> list[str]:
    """Return the nodes behind addresses; a rule for everyone names each of a small network."""
    names = sorted(world.meeting.addresses.within(forms, own=True))
    everyone = len(names) == len(world.nodes) > EVERY_PAIR
    return ["everyone"] if everyone else names


def _places(ip: str, node: Node) -> list[str]:
    """Return what a destination is at a node: itself (nothing), or what lies behind it."""
    if ip in PUBLIC_FORMS:
        return ["the internet"]
    behind = [ip if ip != "*" else "its routes"] if overlap([ip], node.route_spans) else []
    if ip == "*" and is_exit(node):
        behind.append("the internet")
    return ([""] if overlap([ip], node.spans) else []) + behind


def _joined(ports: list[Ports]) -> list[Ports]:
    made: list[Ports] = []
    for one in sorted(ports):
        if made and one.first <= made[-1].last + 1:
            made[-1] = Ports(made[-1].first, max(made[-1].last, one.last))
        else:
            made.append(one)
    return made


def _without(ports: list[Ports], gone: list[Ports]) -> list[Ports]:
    left = ports
    for cut in gone:
        left = [
            part
            for one in left
            for part in (
                Ports(one.first, min(one.last, cut.first - 1)),
                Ports(max(one.first, cut.last + 1), one.last),
            )
            if part.first <= part.last
        ]
    return left


def _more(old: dict[_Where, list[Ports]], new: dict[_Where, list[Ports]]) -> set[Access]:
    """Return what `new` has and `old` has not."""
    grouped: dict[tuple[str, str, str, Ports], list[int]] = {}
    for (source, target, place, protocol), ports in new.items():
        for one in _without(ports, old.get((source, target, place, protocol), [])):
            grouped.setdefault((source, target, place, one), []).append(protocol)
    return {
        Access(source, target, _what(place, sorted(protocols), ports))
        for (source, target, place, ports), protocols in grouped.items()
    }


def _what(place: str, protocols: list[int], ports: Ports) -> str:
    names = "/".join(_NAMES.get(number, str(number)) for number in protocols)
    if protocols == sorted(_DEFAULT):
        names = ""
    port = f"ports {ports.first}-{ports.last}"
    if ports == ANY:
        port = "every port"
    elif ports.first == ports.last:
        port = f"port {ports.first}"
    return " ".join(part for part in (place, names, port) if part)


def _others(world: World) -> set[Access]:
    """Return capabilities and log-ins."""
    found: set[Access] = set()
    for node in world.nodes:
        for rule in world.compiler.filters(node):
            names = [name for grant in rule.cap_grant for name in grant.cap_map]
            for source in _sources(world, rule.src_ips) if names else ():
                found |= {Access(source, node.name, name) for name in names}
        for login in world.ssh.policy(node)["rules"]:
            people = [p["nodeIP"] for p in login["principals"]]
            users = [user if user != "*" else "anyone but root"
                     for user, local in sorted(login["sshUsers"].items()) if local]  # fmt: skip
            verb = "log in as" if login["action"].get("accept") else "after a check, log in as"
            for source in sorted(world.meeting.addresses.within(people, own=True)):
                found |= {Access(source, node.name, f"{verb} {user}") for user in users}
    return {one for one in found if one.source != one.target}


def difference(old: World, new: World) -> tuple[list[Access], list[Access]]:
    """Return what is gained and what is lost on the way from one policy to another."""
    before, after = _packets(old), _packets(new)
    had, has = _others(old), _others(new)
    gained = _more(before, after) | (has - had)
    lost = _more(after, before) | (had - has)
    return sorted(gained), sorted(lost)
