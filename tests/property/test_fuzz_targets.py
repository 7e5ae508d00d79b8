"""Every fuzz target's entry on seeded random and mutated inputs, without a fuzzing engine."""

from __future__ import annotations

import pytest
from fuzz.mutate import mutations
from fuzz.targets import TARGETS, Target

COUNT = 1500
"""Inputs for each target: some seconds for all of them together."""


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_only_malformed_is_raised(target: Target) -> None:
    for data in mutations(target.seeds(), seed=1, count=COUNT // target.cost):
        try:
            target.entry(data)
        except Exception as error:
            pytest.fail(f"{error!r} on {data.hex()}")


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_megabyte_of_one_byte(target: Target) -> None:
    for byte in (0, 1, 0x5B, 0xFF):
        target.entry(bytes([byte]) * (1 << 20))
