"""Runs the fuzz targets: `python -m fuzz [--seconds N] [TARGET …]`.

With `atheris` installed (`pip install atheris`) each target runs under it, guided by coverage,
in a process of its own; without, the seeded mutator takes its place. A finding ends the run with
a non-zero code and the input's file name.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz.mutate import mutations

if TYPE_CHECKING:
    from fuzz.targets import Target

_ROUND = 1000
_MAX_INPUT_BYTES = 16 * 1024


def main() -> int:
    """Run the targets that were named, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="time for each target")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--findings", type=Path, default=Path(".build/fuzz"))
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    options = parser.parse_args()
    if options.inside:
        _guided(options.targets[0], options.seconds, options.findings)
    from fuzz.targets import TARGETS

    known = {target.name: target for target in TARGETS}
    unknown = [name for name in options.targets if name not in known]
    if unknown:
        print(f"no such target: {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    chosen = [known[name] for name in options.targets] or TARGETS
    options.findings.mkdir(parents=True, exist_ok=True)
    guided = importlib.util.find_spec("atheris") is not None
    if not guided:
        print("atheris is not installed (pip install atheris): using the seeded mutator")
    failed = []
    for target in chosen:
        print(f"{target.name}: {options.seconds} s", flush=True)
        run = _in_own_process if guided else _unguided
        if not run(target, options.seconds, options.findings):
            failed.append(target.name)
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _in_own_process(target: Target, seconds: int, findings: Path) -> bool:
    arguments = ["--inside", "--seconds", str(seconds), "--findings", str(findings), target.name]
    return subprocess.run([sys.executable, "-m", "fuzz", *arguments], check=False).returncode == 0


def _guided(name: str, seconds: int, findings: Path) -> None:
    """Run one target under atheris; never returns."""
    import atheris

    # What is imported in here is instrumented: the rooms of this project, not the libraries.
    with atheris.instrument_imports(include=["warren"]):
        from fuzz.targets import TARGETS
    target = next(target for target in TARGETS if target.name == name)
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(target.seeds()):
            (Path(folder) / str(number)).write_bytes(seed)
        arguments = [
            "fuzz",
            folder,
            f"-max_total_time={seconds}",
            f"-max_len={_MAX_INPUT_BYTES}",
            f"-artifact_prefix={findings}/{target.name}-",
            "-verbosity=0",
            "-rss_limit_mb=2048",
            "-timeout=10",
        ]
        atheris.Setup(arguments, target.entry)
        atheris.Fuzz()


def _unguided(target: Target, seconds: int, findings: Path) -> bool:
    end = time.monotonic() + seconds
    seeds = target.seeds()
    for number in itertools.count():
        for data in mutations(seeds, number, _ROUND):
            try:
                target.entry(data)
            except Exception as error:
                path = findings / f"{target.name}-{number}"
                path.write_bytes(data)
                print(f"{target.name}: {error!r}; the input is in {path}")
                return False
            if time.monotonic() > end:
                return True
    return True


if __name__ == "__main__":
    sys.exit(main())
