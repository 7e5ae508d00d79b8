"""Run the tests side by side: those of the lab, which mostly wait, beside what computes.

    tools/run_tests.py            the Python tests
    tools/run_tests.py --all      lint, the engine's tests and long builds beside them

Tests in `tests/netlab` and `tests/interop` (a lease of a router runs out, a key is renewed after
two minutes) are shared by some processes that take a file after the other, the slowest first.
Whatever computes has a lower priority, so that the lab's programs get the processor when they ask
for it: their protocols have deadlines. Logs are in `.build/tests`; the last lines name every
failure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOGS = ROOT / ".build" / "tests"
LAB = ("tests/netlab", "tests/interop")
LAB_WORKERS = 3
"""With two cores: more of them are too many for protocols with deadlines."""

# The files that take longest, as measured on a machine with two cores; they are begun first.
SLOWEST = (
    "tests/netlab/test_netcheck_kinds.py",
    "tests/netlab/test_portmapping.py",
    "tests/netlab/test_turn_mesh.py",
    "tests/netlab/test_mesh.py",
    "tests/interop/test_openid_login.py",
    "tests/interop/test_wireguard_go.py",
    "tests/netlab/test_faults.py",
    "tests/interop/test_api_clients.py",
    "tests/interop/test_postgresql.py",
    "tests/netlab/test_roaming.py",
    "tests/interop/test_backup_between_databases.py",
    "tests/netlab/test_path_mtu.py",
    "tests/interop/test_punching_stock.py",
    "tests/interop/test_rough_paths.py",
    "tests/netlab/test_grid.py",
    "tests/interop/test_stock_client.py",
    "tests/netlab/test_why_places.py",
    "tests/interop/test_stock_grid.py",
    "tests/netlab/test_nat_discovery.py",
    "tests/netlab/test_why_ipv6.py",
    "tests/netlab/test_peer_relay.py",
    "tests/netlab/test_why_mesh.py",
    "tests/netlab/test_one_machine.py",
    "tests/netlab/test_bench.py",
    "tests/netlab/test_hostile.py",
    "tests/interop/test_two_stock_clients.py",
    "tests/netlab/test_two_regions.py",
    "tests/netlab/test_netcheck_networks.py",
    "tests/interop/test_openid_stock.py",
    "tests/netlab/test_demo.py",
    "tests/netlab/test_ipv6_alone.py",
    "tests/netlab/test_punching_nats.py",
)
# What another part builds meanwhile.
LAST = ("tests/interop/test_rust_client.py",)

SHOWN_LINES = 80
"""Of each log with a failure."""
SLOWEST_SHOWN = 10


@dataclass
class Part:
    """One process. record: what tests it ran, where it is pytest."""

    name: str
    argv: Sequence[str]
    nice: int
    record: Path | None = None
    code: int | None = None
    seconds: float = 0.0

    @property
    def log(self) -> Path:
        """Where its output is."""
        return LOGS / f"{self.name.replace(' ', '-')}.log"

    def run(self) -> None:
        """Run it to its end."""
        began = time.monotonic()
        # With CI set pytest shows whole differences, thousands of lines of them.
        env = {name: text for name, text in os.environ.items() if name not in _NOT_FOR_PARTS}
        env["WARREN_TEST_RUST_CLIENT"] = "1"  # cargo waits for one that builds it already
        with self.log.open("w") as out:
            self.code = subprocess.run(
                ["nice", "-n", str(self.nice), *self.argv],
                stdout=out, stderr=subprocess.STDOUT, env=env, cwd=ROOT, check=False,
            ).returncode  # fmt: skip
        self.seconds = time.monotonic() - began
        result = "done" if self.code == 0 else f"FAILED (exit {self.code})"
        print(f"{self.name}: {result} after {self.seconds:.0f} s", flush=True)


_NOT_FOR_PARTS = frozenset({"CI", "BUILD_NUMBER", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"})


@dataclass
class Results:
    """What the records say. seconds: by test, with set-up and end."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    failed: dict[str, str] = field(default_factory=dict)

    def read(self, part: Part) -> None:
        """Take the record of one process in; of one that died, the test that was its last."""
        running = None
        lines = part.record.read_text().splitlines() if part.record and part.record.exists() else []
        for line in lines:
            entry = json.loads(line)
            if "began" in entry:
                running = entry["began"]
                continue
            self.seconds[entry["test"]] += entry["seconds"]
            if entry["when"] == "teardown":
                running = None
            if entry["outcome"] == "failed":
                self.failed.setdefault(entry["test"], entry["error"])
        if running is not None:
            self.failed[running] = f"{part.name} ended here, with exit code {part.code}"


def main(args: Sequence[str]) -> int:
    """Run everything; 0 when all passed."""
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    began = time.monotonic()
    # Programs of the lab write no bytecode, and each would compile what it imports.
    subprocess.run([sys.executable, "-m", "compileall", "-q", "src"], cwd=ROOT, check=True)
    chains = [[part] for part in pytest_parts()]
    if "--all" in args:
        chains.append([make("rust client", ".build/rust-client"), make("engine", "check-rust"),
                       make("lint", "lint")])  # fmt: skip
    threads = [threading.Thread(target=run_in_turn, args=(chain,)) for chain in chains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    parts = [part for chain in chains for part in chain]
    results = Results()
    for part in parts:
        results.read(part)
    tell(parts, results, time.monotonic() - began)
    return int(any(part.code != 0 for part in parts))


def run_in_turn(parts: Iterable[Part]) -> None:
    """Run one part after the other."""
    for part in parts:
        part.run()


def make(name: str, target: str) -> Part:
    """Return a part that is a target of the Makefile."""
    return Part(name, ["make", "--no-print-directory", target], nice=15)


def pytest_parts() -> list[Part]:
    """Return the processes that share the tests of the lab, and the one that has the rest."""
    claims = LOGS / "claims"
    claims.mkdir()
    pytest = [sys.executable, "-m", "pytest", "-p", "tools.suite_worker", "--tb=short"]
    if os.environ.get("CI"):
        # What hypothesis itself does where CI is set: the same examples in each run.
        pytest.append("--hypothesis-profile=ci")
    made = []
    for number in range(1, LAB_WORKERS + 1):
        record = LOGS / f"lab-{number}.jsonl"
        argv = [*pytest, f"--suite-record={record}", f"--suite-claims={claims}", *lab_files()]
        made.append(Part(f"lab {number}", argv, nice=0, record=record))
    record = LOGS / "computing.jsonl"
    ignored = [f"--ignore={path}" for path in LAB]
    argv = [*pytest, f"--suite-record={record}", *ignored]
    return [*made, Part("computing", argv, nice=5, record=record)]


def lab_files() -> list[str]:
    """Return the files of the lab's tests in the order in which they are begun."""
    found = sorted(
        str(path.relative_to(ROOT)) for at in LAB for path in (ROOT / at).rglob("test_*.py")
    )
    slow = {path: place for place, path in enumerate(SLOWEST)}
    return sorted(found, key=lambda path: (path in LAST, slow.get(path, len(slow)), path))


def tell(parts: Sequence[Part], results: Results, seconds: float) -> None:
    """Print what a person, or who reads the end of a CI log, wants to know; failures come last."""
    for part in parts:
        if part.code != 0:
            print(f"\n--- {part.name} ({part.log.relative_to(ROOT)})")
            print("\n".join(extract(part.log.read_text(errors="replace").splitlines())))
    print("\nThe slowest tests:")
    for test, took in sorted(results.seconds.items(), key=lambda each: -each[1])[:SLOWEST_SHOWN]:
        print(f"{took:8.1f} s  {test}")
    print("\nParts, side by side:")
    for part in parts:
        print(f"{part.seconds:8.0f} s  {part.name}")
    print(f"{seconds:8.0f} s  in all: {len(results.seconds)} tests, {len(results.failed)} failed")
    for part in parts:
        if part.code != 0 and part.record is None:
            print(f"FAILED {part.name}: {error_line(part.log)}")
    for test, error in results.failed.items():
        print(f"FAILED {test}: {error}")


def extract(lines: Sequence[str], shown: int = SHOWN_LINES) -> list[str]:
    """Return what a log says of its failures, or its end, in so many lines at most."""
    heads = ("= FAILURES =", "= ERRORS =")
    start = next((at for at, line in enumerate(lines) if any(each in line for each in heads)), None)
    if start is None:
        return list(lines[-shown:])
    told = lines[start:]
    if len(told) <= shown:
        return list(told)
    half = shown // 2
    return [*told[:half], f"… {len(told) - 2 * half} lines more in the log …", *told[-half:]]


def error_line(log: Path) -> str:
    """Return the first line that tells of an error, or else the last one."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() and "make: ***" not in line]
    return (errors[0] if errors else (lines or ["it said nothing"])[-1]).strip()[:300]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
