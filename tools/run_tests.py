"""Run the Python tests in two halves side by side.

What is named here mostly waits (a WireGuard key is renewed after two minutes, a router's lease
runs out); the rest mostly computes. The first half's output is shown when the second has ended.
"""

import subprocess
import sys
from pathlib import Path

WAITING = (
    "tests/interop",
    "tests/netlab/test_nat_discovery.py",
    "tests/netlab/test_netcheck_kinds.py",
    "tests/netlab/test_portmapping.py",
    "tests/netlab/test_two_regions.py",
    "tests/netlab/test_turn_mesh.py",
)
LOG = Path(".build/waiting.log")


def main() -> int:
    """Run both halves; 0 when both passed."""
    pytest = [sys.executable, "-m", "pytest"]
    with LOG.open("w") as log:
        waiting = subprocess.Popen([*pytest, *WAITING], stdout=log, stderr=subprocess.STDOUT)
        rest = subprocess.run([*pytest, *(f"--ignore={path}" for path in WAITING)], check=False)
        waited = waiting.wait()
    print(f"\n{', '.join(WAITING)}:\n{LOG.read_text()}")
    return rest.returncode or waited


if __name__ == "__main__":
    sys.exit(main())
