"""How `make test` runs the tests: files are shared, deaths are noticed, failures are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tools import run_tests
from tools.run_tests import Part, Results
from tools.suite_worker import MAX_ERROR_CHARS, claim

ROOT = Path(__file__).parents[3]
SLEEPER = """
import time, pytest
@pytest.fixture(scope="module")
def shared():
    yield
    print("torn down")
@pytest.mark.parametrize("n", range(3))
def test_it(shared, n):
    time.sleep(0.1)
"""
FAILING = """
def test_lists():
    assert list(range(3000)) == list(range(1, 3001)), "of three thousand numbers"
"""


def start(at: Path, name: str, files: Sequence[str]) -> tuple[subprocess.Popen[str], Part]:
    record = at / f"{name}.jsonl"
    argv = [
        *(sys.executable, "-m", "pytest", "-p", "tools.suite_worker", "-p", "no:cacheprovider"),
        *("--rootdir", str(at), "-c", os.devnull, "--tb=short", "-s"),
        *(f"--suite-record={record}", f"--suite-claims={at / 'claims'}", *files),
    ]
    env = {name: text for name, text in os.environ.items() if name != "CI"}
    env |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    pipe = subprocess.PIPE
    program = subprocess.Popen(argv, cwd=at, env=env, stdout=pipe, text=True)
    return program, Part(name, argv, 0, record)


def run(at: Path, files: dict[str, str], workers: int) -> tuple[Results, list[str], list[Part]]:
    """Share the files; the results, what each process said, and the processes."""
    (at / "claims").mkdir()
    for name, text in files.items():
        (at / name).write_text(text)
    started = [start(at, f"w{number}", list(files)) for number in range(workers)]
    said, parts, results = [], [], Results()
    for program, part in started:
        said.append(program.communicate(timeout=60)[0])
        part.code = program.returncode
        parts.append(part)
        results.read(part)
    return results, said, parts


def test_each_file_is_run_by_one_process_and_every_test_once(tmp_path: Path) -> None:
    files = {f"test_{letter}.py": SLEEPER for letter in "abcdef"}
    results, said, parts = run(tmp_path, files, 2)
    assert set(results.seconds) == {f"{name}::test_it[{n}]" for name in files for n in range(3)}
    assert results.failed == {} and [part.code for part in parts] == [0, 0]
    ran = [[json.loads(line) for line in part.record.open()] for part in parts if part.record]
    began = [entry["began"] for entries in ran for entry in entries if "began" in entry]
    assert len(began) == len(set(began)) == 18
    assert sum(text.count("torn down") for text in said) == 6, "fixtures live as long as their file"
    both = [{entry.get("began", "").partition("::")[0] for entry in entries} for entries in ran]
    assert both[0] & both[1] <= {""}


def test_a_failure_is_named_with_its_first_line(tmp_path: Path) -> None:
    results, said, parts = run(tmp_path, {"test_f.py": FAILING, "test_a.py": SLEEPER}, 1)
    assert parts[0].code == 1
    ((test, error),) = results.failed.items()
    assert test == "test_f.py::test_lists"
    assert error.startswith("AssertionError: of three thousand numbers")
    assert len(error) <= MAX_ERROR_CHARS + 1 and "\n" not in error
    assert len(said[0].splitlines()) < 60, "differences are cut"
    shown = run_tests.extract(said[0].splitlines(), 10)
    assert "FAILURES" in shown[0] and len(shown) <= 11


def test_a_process_that_dies_and_a_file_that_cannot_be_read_are_failures(tmp_path: Path) -> None:
    dies = "import os\ndef test_abort(): os._exit(134)\n"
    results, _, parts = run(tmp_path, {"test_d.py": dies}, 1)
    assert parts[0].code == 134
    assert results.failed == {"test_d.py::test_abort": "w0 ended here, with exit code 134"}
    other = tmp_path / "other"
    other.mkdir()
    results, _, parts = run(other, {"test_b.py": "import nothing_like_that\n"}, 1)
    assert parts[0].code != 0
    ((test, error),) = results.failed.items()
    assert test == "test_b.py" and "nothing_like_that" in error


def test_what_was_taken_is_not_taken_twice(tmp_path: Path) -> None:
    assert claim(tmp_path, "tests/a/test_b.py") and not claim(tmp_path, "tests/a/test_b.py")


def test_the_last_lines_name_every_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_tests, "LOGS", tmp_path / ".build")
    monkeypatch.setattr(run_tests, "ROOT", tmp_path)
    (tmp_path / ".build").mkdir()
    argv = ["sh", "-c", "yes filler | head -n 5000; echo 'error[E0308]: mismatched types'; exit 2"]
    lint, good = Part("lint", argv, 1), Part("good", ["true"], 1)
    run_tests.run_in_turn([lint, good])
    assert (lint.code, good.code) == (2, 0)
    results = Results(failed={"tests/a.py::test_b": "AssertionError: no"})
    results.seconds["tests/a.py::test_b"] = 1.5
    run_tests.tell([lint, good], results, 60.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "FAILED lint: error[E0308]: mismatched types",
        "FAILED tests/a.py::test_b: AssertionError: no",
    ]
    assert "     1.5 s  tests/a.py::test_b" in lines
    assert len(lines) < run_tests.SHOWN_LINES + 25


def test_every_file_of_the_lab_has_its_turn() -> None:
    found = run_tests.lab_files()
    there = {
        f"{folder}/{path.name}"
        for folder in run_tests.LAB
        for path in (ROOT / folder).glob("test_*.py")
    }
    assert set(found) == there and len(found) == len(there)
    assert {*run_tests.SLOWEST, *run_tests.LAST} <= there, "a file that is no more"
    assert tuple(found[: len(run_tests.SLOWEST)]) == run_tests.SLOWEST
    assert found[-1] == run_tests.LAST[-1]
