"""The bench's short form: it runs to its end, so that it cannot rot. No figure is judged."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from bench.figure import Figure
from bench.picture import draw

from warren.lab import sandbox

pytestmark = pytest.mark.netlab


def test_the_short_form_measures_and_draws(lab_rights: None) -> None:
    if not sandbox.tun_available():
        pytest.skip("/dev/net/tun cannot be opened by this user")
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--short", "--json"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    figures = {figure["name"]: figure for figure in report["figures"]}
    for name in (
        "tcp1_plain_veth",
        "tcp1_warren",
        "tcp1_wireguard_go",
        "cpu1_warren",
        "bulk_socks",
    ):
        assert figures[name]["median"] > 0
    assert all(figure["samples"] for figure in figures.values())
    proofs = {proof["what"]: proof["counted"] for proof in report["checks"]}
    assert set(proofs) == {
        "packet filter",
        "source check",
        "replay window",
        "authentication",
        "rate limit",
        "reply tracking",
        "counters of bytes",
    }
    assert all(proofs.values())
    svg = draw([Figure(f["name"], f["what"], f["unit"], samples=f["samples"])
                for f in report["figures"]], "today")  # fmt: skip
    assert svg.count("<rect") > 10
    assert "wireguard-go" in svg
