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
from warren.lab.grid import Grid
from warren.lab.places import PLACES, choose, plan
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
HOME = '[[router]]\nname = "home"\n'
HOST = '[[host]]\nname = "a"\n'


def namespaces(run: str) -> set[str]:
    return {path.name for path in runs.NETNS.glob(f"{runs.PREFIX}{run}-*")}


def test_three_kinds() -> None:
    """Easy NATs meet directly, and a network without UDP is relayed with that as the reason."""
    kinds = "port-restricted,symmetric,udp-blocked"
    done = subprocess.run(
        [*COMMAND, "grid", "--kinds", kinds, "--timeout", "4", "--json"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["failed"] == {}
    cells = {frozenset((cell["a"], cell["b"])): cell for cell in report["pairs"]}
    assert len(cells) == 6
    easy = cells[frozenset({"port-restricted"})]
    assert (easy["outcome"], easy["how"]) == ("direct", "NAT's address"), easy
    assert easy["seconds"] < 4 and easy["latency_ms"] < 1000
    for other in kinds.split(","):
        cell = cells[frozenset({"udp-blocked", other})]
        assert cell["outcome"] == "relayed", cell
        assert cell["cause"] in ("no-udp", "peer-no-udp"), cell
        assert "UDP is blocked" in " ".join(cell["why"])
        assert cell["first_seconds"] < 4
    assert cells[frozenset({"symmetric"})]["outcome"] == "relayed"
    assert "round 2 of 2" in done.stderr


def test_rounds_have_every_pair_once_and_no_machine_twice() -> None:
    names = list(PLACES)
    for count in range(1, len(names) + 1):
        rounds = Grid(choose(names[:count])).rounds()
        pairs = [frozenset((a.name, b.name)) for pairs in rounds for a, b in pairs]
        assert len(pairs) == len(set(pairs)) == count * (count + 1) // 2
        for each in rounds:
            assert len({a.name for a, _ in each}) == len({b.name for _, b in each}) == len(each)


def test_every_place_can_be_built() -> None:
    resolve(plan(PLACES.values()))
    with pytest.raises(InvalidPlan, match="no kind 'moon'"):
        choose(["public", "moon"])


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
            inside = [*COMMAND, "shell", parts["gina"]["namespace"], sys.executable, "-m", "warren"]
            told = subprocess.run(
                [*inside, "ping", "--json", "--count", "1", "hugo"],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert told.returncode == 0, told.stderr
            assert json.loads(told.stdout)["ok"]
    finally:
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Traceback" not in said
    assert not namespaces(run)


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
    assert not ours & {path.name for path in runs.NETNS.glob("wl-*")}


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
