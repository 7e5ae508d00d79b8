"""Run the Python tests in three parts side by side, which take about as long each.

What is named here mostly waits (a WireGuard key is renewed after two minutes, a router's lease
runs out); the rest mostly computes. The output of those parts is shown when the rest has ended.
"""

import subprocess
import sys
from pathlib import Path

WAITING = {
    "interop": (
        "tests/interop",
        "tests/netlab/test_mesh.py",
        "tests/netlab/test_peer_relay.py",
        "tests/netlab/test_why_mesh.py",
    ),
    "netlab": (
        "tests/netlab/test_bench.py",
        "tests/netlab/test_faults.py",
        "tests/netlab/test_grid.py",
        "tests/netlab/test_nat_discovery.py",
        "tests/netlab/test_netcheck_kinds.py",
        "tests/netlab/test_portmapping.py",
        "tests/netlab/test_roaming.py",
        "tests/netlab/test_turn_mesh.py",
        "tests/netlab/test_two_regions.py",
    ),
}
LOGS = Path(".build")


def main() -> int:
    """Run all parts; 0 when all passed."""
    pytest = [sys.executable, "-m", "pytest"]
    parts = []
    for name, paths in WAITING.items():
        log = (LOGS / f"{name}.log").open("w")
        run = subprocess.Popen([*pytest, *paths], stdout=log, stderr=subprocess.STDOUT)
        parts.append((run, log.name, paths))
    ignored = [f"--ignore={path}" for paths in WAITING.values() for path in paths]
    code = subprocess.run([*pytest, *ignored], check=False).returncode
    for run, log_name, paths in parts:
        code = run.wait() or code
        print(f"\n{', '.join(paths)}:\n{Path(log_name).read_text()}")
    return code


if __name__ == "__main__":
    sys.exit(main())
