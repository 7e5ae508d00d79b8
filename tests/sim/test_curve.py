"""The measured curve of punching agrees with what theory says."""

from __future__ import annotations

import random

import pytest
from bench.punching import COUNTS, probes_needed, share, theory, theory_distinct, whole_run


def test_theory() -> None:
    assert theory(174) == pytest.approx(0.4994, abs=0.001)
    assert theory(256) == pytest.approx(0.6386, abs=0.001)
    assert theory(1024) == pytest.approx(0.983, abs=0.001)
    assert all(0 <= theory_distinct(count) - theory(count) < 0.002 for count in COUNTS)


def test_guesses_hit_as_often_as_theory_says() -> None:
    """3,000 runs: three standard errors, and the few probes that known ports take first."""
    rng = random.Random(5)
    needed = [probes_needed(rng) for _ in range(3000)]
    for count in COUNTS:
        assert share(needed, count) == pytest.approx(theory_distinct(count), abs=0.045)


def test_a_whole_run_counts_its_probes() -> None:
    took, probes = whole_run(1, "symmetric", stock=False)
    assert took is not None and probes is not None
    assert probes / 100 < took < probes / 100 + 1.5
