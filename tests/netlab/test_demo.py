"""`warren demo` as a person runs it: it shows the main job, and cleans up when interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from warren.lab import runs
from warren.lab.program import wait_until

pytestmark = [pytest.mark.netlab, pytest.mark.interop]

COMMAND = [sys.executable, "-m", "warren", "demo", "--json"]


def test_the_whole_story() -> None:
    runs.clean()
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=150, check=False)
    report = json.loads(done.stdout)
    told = "\n".join(
        f"{step['name']}: {step['state']}: {step['detail']}" for step in report["steps"]
    )
    assert done.returncode == 0, told + done.stderr
    assert report["ok"] and {step["state"] for step in report["steps"]} == {"done"}, told
    assert len(report["machines"]) == 4
    assert runs.clean() == []  # what a run that is over has left behind


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(signum: signal.Signals) -> None:
    with subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        wait_until(lambda: len(runs.of_process(child.pid)) >= 10, 15, "the demo builds its network")
        ours = runs.of_process(child.pid)
        os.kill(child.pid, signum)
        _, said = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "Traceback" not in said
    assert not [name for name in ours if (runs.NETNS / name).exists()]
