"""What somebody who installed Warren sees in pytest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from warren.lab.sim import MODELS, SimWorld

pytest_plugins = ["pytester"]

TEST = """
from warren.lab.sim import SimTailnet

def test_fails(warren_world):
    tailnet = SimTailnet(warren_world)
    a, b = tailnet.node("anna", "symmetric"), tailnet.stock("bert", "port-restricted")
    tailnet.settle()
    a.talk_to(b)
    warren_world.run(1.0)
    assert False
"""


def run(pytester: pytest.Pytester, *words: str) -> str:
    pytester.makepyfile(TEST)
    result = pytester.runpytest_inprocess("-p", "warren.pytest_plugin", *words)
    result.assert_outcomes(failed=1)
    return result.stdout.str()


def test_a_failing_run_tells_its_seed_and_chart(pytester: pytest.Pytester) -> None:
    told = run(pytester)
    assert "Warren simulation, seed " in told
    assert "anna → bert" in told and "over the relay: CallMeMaybe" in told


def test_a_seed_can_be_given(pytester: pytest.Pytester) -> None:
    assert "Warren simulation, seed 42," in run(pytester, "--warren-seed", "42")


def test_the_example_of_the_documentation_runs(pytester: pytest.Pytester) -> None:
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    pytester.makepyfile(example)
    pytester.runpytest_inprocess("-p", "warren.pytest_plugin").assert_outcomes(passed=1)
    for name in re.findall(
        r"`([a-z]+(?:-[a-z0-9]+)*)`", page.split("NATs by name:")[1].split(";")[0]
    ):
        assert name in MODELS


def test_a_nat_that_does_not_exist_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"there is no NAT 'symetric'; known: .*symmetric"):
        SimWorld(1).network("symetric")
