"""`warren lab grid` and `warren lab up` as a person runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from warren.lab import runs
from warren.lab.description import MAX_FILE_BYTES, parse_description_untrusted
from warren.lab.pairs import Pair, every_pair, in_rounds, named_pairs
from warren.lab.places import PLACES, SIDES, choose, plan
from warren.lab.plan import InvalidPlan, resolve
from warren.lab.program import wait_until
from warren.lab.reading import MalformedDescription

pytestmark = pytest.mark.netlab

COMMAND = [sys.executable, "-m", "warren", "lab"]

NETWORK = """
[[router]]
name = "carrier"
kind = "carrier-block"
[[router]]
name = "home"
kind = "symmetric"
behind = "carrier"
[[host]]
name = "gina"
behind = "home"
node = true
[[host]]
name = "hugo"
node = true
[[host]]
name = "six"
ipv6 = "2001:db8::77"
"""
FETCH = (
    "from urllib.request import urlopen; "
    "print(urlopen('https://coordinator.lab/key?v=130', timeout=9).read().decode())"
)
HOME = '[[router]]\nname = "home"\n'
HOST = '[[host]]\nname = "a"\n'


def namespaces(run: str) -> set[str]:
    return {path.name for path in runs.NETNS.glob(f"{runs.PREFIX}{run}-*")}


PAIRS = {
    "double-nat:double-nat": "NAT's address",
    "cgnat-hairpin:cgnat-hairpin": "NAT's address",
    "one-lan:one-lan": "LAN",
    "symmetric-ipv6:symmetric-ipv6": "IPv6",
    "ipv6-only:ipv6-only": "IPv6",
    "cgnat:cgnat": "same-nat",
    "http-proxy:public": "no-udp",
}
"""How each is direct, or else what `warren why` gives as the cause."""


def test_the_right_path_or_the_right_reason() -> None:
    """Two customers of one carrier, two machines of one LAN, two NATs in a row, IPv6, a proxy."""
    done = subprocess.run(
        [*COMMAND, "grid", "--pairs", ",".join(PAIRS), "--timeout", "5", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["failed"] == {}
    cells = {f"{cell['a']}:{cell['b']}": cell for cell in report["pairs"]}
    assert cells.keys() == PAIRS.keys()
    for name, cell in cells.items():
        assert cell["first_seconds"] < 4, cell
        assert cell["surprise"] == "", cell
        expected = PAIRS[name]
        if cell["outcome"] == "direct":
            assert cell["how"] == expected, cell
            assert cell["seconds"] < 5 and cell["latency_ms"] < 1000
        else:
            said = (cell["outcome"], cell["cause"], cell["told_by"])
            assert said == ("relayed", expected, "warren why"), cell
    lan = cells["one-lan:one-lan"]["paths"]
    assert {path.rpartition(".")[0] for path in lan} == {"192.168.1"}
    carrier = cells["cgnat-hairpin:cgnat-hairpin"]["paths"]
    assert len({path.partition(":")[0] for path in carrier}) == 1, "the carrier's own address"
    told = {name: " ".join([*cell["why"], *cell["advice"]]) for name, cell in cells.items()}
    assert "behind one NAT" in told["cgnat:cgnat"] and "hairpin" in told["cgnat:cgnat"]
    assert "UDP is blocked here" in told["http-proxy:public"]
    assert "round 1 of 1: 7 pairs" in done.stderr


def test_rounds_have_every_pair_once_and_no_machine_twice() -> None:
    names = list(PLACES)
    for count in range(1, len(names) + 1):
        for ordered in (False, True):
            pairs = every_pair(choose(names[:count]), ordered)
            rounds = in_rounds(pairs)
            assert sorted(map(id_of, pairs)) == sorted(id_of(p) for each in rounds for p in each)
            every = {id_of(p) if ordered else "".join(sorted(id_of(p))) for p in pairs}
            assert len(every) == len(pairs) == (count**2 if ordered else count * (count + 1) // 2)
            for each in rounds:
                assert len({a.name for a, _ in each}) == len({b.name for _, b in each}) == len(each)
            assert len(rounds) <= count + 1
            few = in_rounds(pairs, 3)
            assert sorted(map(id_of, pairs)) == sorted(id_of(p) for each in few for p in each)
            assert max(map(len, few)) <= 3


def id_of(pair: Pair) -> str:
    return f"{pair[0].name}:{pair[1].name}"


def test_every_place_can_be_built() -> None:
    resolve(plan((side, place) for place in PLACES.values() for side in SIDES))
    assert [place.name for place in choose(["cone", "public"])] == ["public", "full-cone"]
    known = [*PLACES, *(place.short for place in PLACES.values())]
    assert len(set(known)) == len(known), "a short name means one place"
    for words, said in (
        (["public", "moon"], "no kind 'moon'; known"),
        (["symetric"], "did you mean 'symmetric'"),
        ([], "no kind was named"),
    ):
        with pytest.raises(InvalidPlan, match=said):
            choose(words)
    for pairs, said in ((["public"], "KIND:KIND"), (["public:mon"], "no kind"), ([], "no pair")):
        with pytest.raises(InvalidPlan, match=said):
            named_pairs(pairs)


def test_a_described_network_is_up_until_it_is_interrupted(tmp_path: Path) -> None:
    file = tmp_path / "network.toml"
    file.write_text(NETWORK)
    child = subprocess.Popen(
        [*COMMAND, "up", str(file), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] != "}\n":
            lines.append(child.stdout.readline())
            assert lines[-1], child.communicate()[1]
        report = json.loads("".join(lines))
        parts = {part["name"]: part for part in report["parts"]}
        run = parts["gina"]["namespace"].removeprefix(runs.PREFIX).partition("-")[0]
        assert parts["gina"]["problem"] == parts["hugo"]["problem"] == ""
        assert parts["gina"]["addresses"] == ["192.168.2.2"]
        assert parts["six"]["addresses"] == ["2001:db8::77"]
        if os.geteuid() == 0:
            into = [*COMMAND, "shell", parts["gina"]["namespace"], sys.executable]
            told = said_by(*into, "-m", "warren", "ping", "--json", "--count", "1", "hugo")
            assert json.loads(told)["ok"]
            # Names and certificates are those of the network.
            assert "mkey:" in said_by(*into, "-c", FETCH)
    finally:
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Traceback" not in said
    assert not namespaces(run)


def said_by(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_interrupted_grid_leaves_nothing() -> None:
    """One of all kinds, which is what it makes when it is asked for nothing in particular."""
    with subprocess.Popen(
        [*COMMAND, "grid"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        wait_until(lambda: len(held(child.pid)) >= 40, 20, "the grid builds its network")
        ours = held(child.pid)
        os.kill(child.pid, signal.SIGTERM)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Traceback" not in said
    # Not only those of before: the one that was just being made goes as well.
    assert not namespaces(next(iter(ours)).split("-")[1])


def held(pid: int) -> set[str]:
    return runs.of_process(pid)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "^line 1: there is no table 'x'; there are"),
        ("[[hots]]", "^line 1: there is no table 'hots'; did you mean 'host'"),
        ("host = 1", r"^host: it is written \[\[host\]\], once for each"),
        ("[host]", "once for each"),
        ("[[host]]", r"the \[\[host\]\] number 1 has no 'name'"),
        (
            '[[host]]\nname = "a"\nbehnid = "r"',
            r"^line 3: the \[\[host\]\] 'a' has no key 'behnid'; d",
        ),
        ('[[host]]\nname = "a"\nnode = "x"', r"\] 'a': node: expected 'bool', got 'str'"),
        ('[[router]]\nname = "a"\nipv6 = "x"', r"\] 'a': ipv6: invalid enum value 'x'"),
        ('[[host]]\nname = "a', "^line 2, column 10: unterminated string$"),
        ('[[host]]\nname: "a"', "^line 2, column 5: expected '='"),
        ("a = 2020-02-30", "impossible value|^line 1, column"),
        ("", "no \\[\\[host\\]\\]"),
        ('[[host]]\nname = "A b"', "cannot be a name"),
        ('[[host]]\nname = "a"\nbehind = "r"', "no router 'r'"),
        (HOME + '[[host]]\nname = "a"\nbehind = "hmoe"', "no router 'hmoe'; did you mean 'home'"),
        (HOME + 'kind = "symetric"\n[[host]]\nname = "a"', "did you mean 'symmetric'"),
        (HOME + 'ipv6 = "alone"\nlan = "10.0.0.0/8"\n[[host]]\nname = "a"', "no lan"),
        (HOME + '[[host]]\nname = "a"\nbehind = "home"\nipv6 = "2001:db8::1"', "no IPv6 for it"),
        ("".join(f'[[router]]\nname="r{n}"\nkind="public"\n' for n in range(16)) + HOST, "give it"),
        ('[[host]]\nname = "a"\naddress = "8.8.8.8"', "is not in one of"),
        ('[[host]]\nname = "a"\naddress = "wrong"', "not an IPv4 address"),
        ('[[host]]\nname = "a"\nipv6 = "::1"', "is not in 2001:db8::/32"),
        ('[[host]]\nname = "server"\nnode = true', "is taken"),
        ('[[router]]\nname = "r"\nkind = "q"\n[[host]]\nname = "a"', "no NAT kind 'q'"),
        ('[[router]]\nname = "r"\nlan = "10.0.0.0/31"\n[[host]]\nname = "a"', "too small"),
        ('[[router]]\nname = "r"\nlan = "no"\n[[host]]\nname = "a"', "not an IPv4 network"),
        ('[[router]]\nname = "r"\nbehind = "r"\n[[host]]\nname = "a"', "behind itself"),
        ('[[host]]\nname = "a"\n' * 61, "more than 60"),
        ("\0", "^line 1, column 1: "),
        ("a = " + "[" * 5000, "nested too deeply"),
        ("a" * 5000 + " = 1", "^line 1: there is no table 'a{40}…'"),
        ("#" * (MAX_FILE_BYTES + 1), "larger than"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(MalformedDescription, match=words) as raised:
        parse_description_untrusted(text.encode())
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(MalformedDescription, match=r"^line 2, column 3: this is not UTF-8"):
        parse_description_untrusted(b"# \xc3\xa4\n\xc3\xa4b\xff\xfe")
