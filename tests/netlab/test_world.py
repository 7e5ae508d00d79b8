"""A world builds, isolates, and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from warren.lab import runs
from warren.lab.plan import Host, InvalidPlan, Plan, Router, resolve
from warren.lab.program import LabTimeout, ProgramFailed, wait_until
from warren.lab.world import World

pytestmark = pytest.mark.netlab

V4 = Router("r", kind="symmetric", address="203.0.113.9")
V6 = Router("s", kind="firewall", lan=None, lan_v6="2001:db8:5::/64")
PLAN = Plan(hosts=(Host("a", address="198.51.100.10"), Host("b", address="203.0.113.10")))


def namespaces() -> set[str]:
    return runs.of_process(os.getpid())


def test_programs_are_isolated_and_end_with_the_world() -> None:
    before = namespaces()
    with World(PLAN) as world:
        assert "203.0.113.10" in world["b"].run(["ip", "-4", "addr"])
        world["b"].run(["sh", "-c", "echo nameserver 192.0.2.1 > /etc/resolv.conf"])
        assert "192.0.2.1" not in Path("/etc/resolv.conf").read_text()
        program = world["a"].spawn(["sh", "-c", "echo started; sleep 600"], "sleeper")
        program.wait_output("started", 5)
        orphan = world["a"].run(["sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"]).strip()
    assert not program.running()
    assert not Path(f"/proc/{orphan}/cmdline").exists() or runs._is_zombie(int(orphan))
    assert namespaces() == before


def test_failures_are_told_in_words() -> None:
    with World(PLAN) as world:
        with pytest.raises(ProgramFailed, match="exit 3: oh no"):
            world["a"].run(["sh", "-c", "echo oh no; exit 3"])
        with pytest.raises(ProgramFailed, match="no end after"):
            world["a"].run(["sleep", "60"], timeout_s=0.1)
        program = world["a"].spawn(["sh", "-c", "echo broken; exit 1"], "broken")
        with pytest.raises(ProgramFailed, match="broken"):
            program.wait_output("never said", 5)
        with pytest.raises(LabTimeout, match="pigs fly"):
            wait_until(lambda: False, 0.05, "pigs fly")


def test_a_program_without_capabilities_has_none() -> None:
    with World(PLAN) as world:
        program = world["a"].spawn(
            ["grep", "CapEff", "/proc/self/status"], "caps", unprivileged=True
        )
        assert program.wait(5) == 0
        assert program.output().split()[1].strip("0") == ""


def test_a_killed_run_is_removed_by_the_next() -> None:
    code = (
        "import sys, time\n"
        "from warren.lab.plan import *; from warren.lab.world import World\n"
        "world = World(Plan(hosts=(Host('a', address='198.51.100.10'),))).__enter__()\n"
        "world['a'].spawn(['sh', '-c', 'echo up; exec sleep 600'], 's').wait_output('up', 5)\n"
        "print(world['a'].namespace, world.programs[0].pid, flush=True); time.sleep(600)\n"
    )
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        namespace, pid = child.stdout.readline().split()
        kept = runs.NETNS / namespace
        lived = kept.exists()
        runs.clean()
        spared = kept.exists()
        os.kill(child.pid, signal.SIGKILL)
    wait_until(
        lambda: not Path(f"/proc/{pid}").exists() or runs._is_zombie(int(pid)), 5, "child dies"
    )
    assert lived
    assert spared, "a living run is left alone"
    runs.clean()
    assert not kept.exists()


def test_a_namespace_whose_run_is_gone_is_removed() -> None:
    name = f"{runs.PREFIX}{secrets.token_hex(3)}-left"
    runs.command(["ip", "netns", "add", name])
    assert name.split("-")[1] in runs.clean()
    assert not (runs.NETNS / name).exists()


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(hosts=(Host("A!", address="198.51.100.1"),)), "cannot be a name"),
        (Plan(hosts=(Host("a"),)), "needs an address"),
        (Plan(hosts=(Host("a", address="10.0.0.1"),)), "is not in one of"),
        (Plan(hosts=(Host("a", behind="nobody"),)), "no router"),
        (
            Plan(hosts=(Host("a", address="192.0.2.1"), Host("a", address="192.0.2.2"))),
            "two parts",
        ),
        (
            Plan(hosts=(Host("a", address="192.0.2.1"), Host("b", address="192.0.2.1"))),
            "used twice",
        ),
        (
            Plan(hosts=(Host("a", address="192.0.2.1", extra=("2001:db8::2",)),)),
            "is beside no IPv6 one",
        ),
        (Plan(hosts=(Host("a", ipv6="2001:db8::1", extra=("192.0.2.1",)),)), "beside no IPv4 one"),
        (Plan(hosts=(Host("a", ipv6="2001:db8::1", extra=("2001:db8::1",)),)), "used twice"),
        (Plan(hosts=(Host("a", ipv6="2001:db8::1", extra=("fe80::1",)),)), "is not in 2001:db8"),
        (Plan(hosts=(), routers=(Router("r", kind="magic", address="192.0.2.1"),)), "no NAT kind"),
        (Plan(hosts=(), routers=(Router("r", kind="symmetric", behind="r"),)), "behind itself"),
        (
            Plan(
                hosts=(Host("a", behind="r", address="10.0.0.1"),),
                routers=(Router("r", kind="symmetric", address="192.0.2.1"),),
            ),
            "is not in 192.168.1.0/24",
        ),
        (Plan(hosts=(Host("a", behind="r", ipv6="2001:db8::1"),), routers=(V4,)), "no IPv6 for it"),
        (Plan(hosts=(Host("a", behind="s", ipv6="2001:db8::1"),), routers=(V6,)), "is not in"),
        (Plan(hosts=(Host("a", behind="s", address="10.0.0.1"),), routers=(V6,)), "no IPv4 for it"),
        (Plan(hosts=(Host("a", ipv6="2001:db8:5::9"),), routers=(V6,)), "belongs to the network"),
        (Plan(hosts=(), routers=(replace(V6, address="192.0.2.1"),)), "no IPv4 address"),
        (Plan(hosts=(), routers=(replace(V6, lan_v6=None),)), "IPv4, IPv6 or both"),
        (Plan(hosts=(), routers=(replace(V6, lan_v6="2001:db8::/48"),)), "is not a /64"),
        (Plan(hosts=(), routers=(replace(V6, lan_v6="fe80::/64"),)), "is not a /64"),
        (Plan(hosts=(), routers=(replace(V6, lan_v6="x"),)), "not an IPv6 network"),
        (Plan(hosts=(), routers=(V6, replace(V6, name="t"))), "is behind s already"),
        (Plan(hosts=(), routers=(V4, replace(V6, behind="r"))), "r has no IPv6 for it"),
        (
            Plan(hosts=(), routers=(V6, Router("t", kind="symmetric", behind="s"))),
            "s has no IPv4 for it",
        ),
        (
            Plan(hosts=(Host("a", behind="s", ipv6="2001:db8:5::1"),), routers=(V6,)),
            "used twice",
        ),
        (
            Plan(
                hosts=tuple(Host(f"h{n}", behind="r") for n in range(6)),
                routers=(replace(V4, lan="10.0.0.0/29"),),
            ),
            "is full",
        ),
    ],
)
def test_a_contradictory_plan_is_refused(plan: Plan, words: str) -> None:
    with pytest.raises(InvalidPlan, match=words):
        resolve(plan)
