"""A right policy file, edited as people and programs get it wrong, and every question about it.

The input is a seed: mutated bytes are no policies, but edits of a policy's words nearly are.
"""

from __future__ import annotations

import json
import random
import re

from fuzz.policy import POLICIES, TOPOLOGY
from warren.policy.explain import difference, find_nodes, ways, who_can
from warren.policy.hujson import MAX_BYTES
from warren.policy.idle import idle_parts
from warren.policy.malformed import MalformedPolicy
from warren.policy.standins import stand_ins
from warren.policy.topology import Topology, parse_topology_untrusted
from warren.policy.verdict import World, read, read_stored, verdict_untrusted

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/|[{}\[\]:,]|[-+.\w]+|\s+|.', re.DOTALL)
_WORDS = (
    '""', '"*"', '"a@b"', '"group:none"', '"tag:none"', '"tag:"', '"ipset:x"', '"svc:x"',
    '"autogroup:self"', '"autogroup:internet"', '"autogroup:danger-all"', '"autogroup:nobody"',
    '"web:0"', '"web:99999999999"', '"web:80-"', '"*:*:*"', '"::/0"', '"fe80::1%eth0"',
    '"[::1]:80"', '"10.0.0.9-10.0.0.1"', '"posture:none"', '"accept"', '"check"',
    '"1e9h"', '"-1m"', '"tcp"',
    '"ж"', '"\\u202e"', '"\\u0000"', '"\\ud800"', '"🚀"', '"é"', '"e\u0301"', '"\\q"', '"x',
    "null", "true", "0", "-0", "1e999", "-1E-999", "9" * 401, "0.1.2", "NaN", "{}", "[]", "[[]]",
)  # fmt: skip
_COMMENTS = ("// why", "// \n", "/* */", "/* \n */", "/* never ends", "//", "/", "# no", "\ufeff")
_NAMES = (
    '"acls"', '"ACLs"', '"grants"', '"src"', '"dst"', '"users"', '"ports"', '"ip"', '"app"',
    '"via"',
    '"target"', '"action"', '"acl"', '"Src"', '"tagowners"', '"__proto__"', '"tests"', '"ssh"',
)  # fmt: skip
_WHOLE = json.dumps(POLICIES[0], indent=1).replace('"acls"', '// rules\n "acls"')
_ENDS = ("web:80", "tag:router:22", "10.1.2.3:53/udp", "8.8.8.8:443", "ann@example.com:1", "x", "")


def edited(source: str, generator: random.Random) -> str:
    """Return a text of which up to four words are others, elsewhere, twice or gone."""
    words = _TOKEN.findall(source)
    if generator.random() < 0.7:
        return _still_json(words, generator)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(words) + 1)
        end = at + generator.choice((1, 1, 2, 3, 8, 40))
        match generator.randrange(9):
            case 0:
                del words[at:end]
            case 1:
                words[at:at] = words[at:end]
            case 2:
                words[at:at] = generator.choices(words or [""], k=2)
            case 3 | 4:
                words[at : at + 1] = [generator.choice(_WORDS)]
            case 5:
                words[at:at] = [generator.choice(_COMMENTS)]
            case 6:
                words[at : at + 1] = [generator.choice(_NAMES)]
            case 7:
                depth = generator.choice((3, 60, 70, 5000))
                opened = generator.choice(("[", '{"a":', "[{"))
                words[at:at] = [opened * depth]
            case 8 if at < len(words):
                place = generator.randrange(len(words[at]) + 1)
                extra = generator.choice(("x", "é", "\u200b", "\x00", "\n", '"', "\\", " "))
                words[at] = words[at][:place] + extra + words[at][place:]
    return "".join(words)


def _still_json(words: list[str], generator: random.Random) -> str:
    """Return a text that parses, mostly, and so gets further: names, values and comments."""
    for _ in range(generator.randint(1, 3)):
        values = [n for n, word in enumerate(words) if word[:1] == '"']
        at = generator.choice(values)
        match generator.randrange(4):
            case 0 | 1:
                words[at] = generator.choice(_WORDS[:40])
            case 2:
                words[at] = generator.choice((str.upper, str.lower, str.title))(words[at])
            case 3:
                words[at] = f"/* why */ {words[at]} // {generator.choice(_WORDS)}\n"
    return "".join(words)


def entry(data: bytes) -> None:
    """Edit the policy by a seed and ask all there is to ask; each answer is one or is refused."""
    generator = random.Random(data)
    _ask(edited(_WHOLE, generator))


def _ask(source: str) -> None:
    answer = verdict_untrusted({"policy": source, "topology": TOPOLOGY})
    assert answer["http_code"] == 200 or answer["http_message"]
    json.dumps(answer)
    for topology in (parse_topology_untrusted(TOPOLOGY), Topology([], [])):
        try:
            checked = read(source, topology)
        except MalformedPolicy as error:
            _look(error, source)
            _mend(source)
            return
        assert all(part.sentence().isprintable() for part in idle_parts(checked.policy))
        _compare(World(checked), source)


def _look(error: MalformedPolicy, source: str) -> None:
    """Whoever reads an error is told a place that is in the file, in one line."""
    assert error.sentence().isprintable(), error.sentence()
    if len(source.encode(errors="surrogatepass")) > MAX_BYTES:
        return
    assert error.place is not None, error.message
    lines = source.split("\n")
    assert 1 <= error.place.line <= len(lines)
    assert 1 <= error.place.column <= len(lines[error.place.line - 1]) + 1


def _mend(source: str) -> None:
    try:
        World(read_stored(source, parse_topology_untrusted(TOPOLOGY))[0])
    except MalformedPolicy as error:
        _look(error, source)


def _compare(world: World, source: str) -> None:
    try:
        world.checked.trial().run(world.checked.policy)
        stand_ins(world.checked.policy)
    except MalformedPolicy as error:
        _look(error, source)
    before = World(read(json.dumps(POLICIES[0]), parse_topology_untrusted(TOPOLOGY)))
    difference(before, world)
    for end in _ENDS:
        try:
            who_can(world, end)
            for node in find_nodes(world, "ann@example.com"):
                ways(world, node, end)
        except MalformedPolicy as error:
            assert error.sentence().isprintable()


def seeds() -> list[bytes]:
    """Any bytes are a seed."""
    return [b"", b"policy", bytes(range(9))]
