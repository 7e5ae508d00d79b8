"""Every fuzz target's entry on seeded random and mutated inputs, without a fuzzing engine."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType

import pytest
from fuzz.mutate import mutations
from fuzz.targets import TARGETS, Target

COUNT = 1500
"""Inputs for each target: some seconds for all of them together."""


_SOURCES = Path(__file__).parents[2] / "src"
WHOLE_DATABASES = {
    # They take a database, not bytes; what they read a row with is fuzzed.
    ("dump.py", "add_untrusted"),
    ("source.py", "read_source_untrusted"),
}


def test_every_parser_of_outside_bytes_is_reached_by_a_target() -> None:
    named = {
        (file.name, name)
        for file in _SOURCES.rglob("*.py")
        for name in re.findall(r"def (\w+_untrusted)\b", file.read_text())
    }
    reached: set[tuple[str, str]] = set()

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name.endswith("_untrusted"):
            reached.add((Path(frame.f_code.co_filename).name, frame.f_code.co_name))

    before = sys.getprofile()
    for target in TARGETS:
        inputs = target.seeds()
        sys.setprofile(watch)
        try:
            for data in inputs:
                target.entry(data)
        finally:
            sys.setprofile(before)
    assert named - reached == WHOLE_DATABASES


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
