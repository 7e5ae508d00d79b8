"""Run the Python tests in two halves side by side.

The tests with software of others mostly wait (a WireGuard key is renewed after two minutes), and
the rest mostly computes. The first half's output is shown when the second has ended.
"""

import subprocess
import sys
from pathlib import Path

OTHERS = "tests/interop"
LOG = Path(".build/interop.log")


def main() -> int:
    """Run both halves; 0 when both passed."""
    pytest = [sys.executable, "-m", "pytest"]
    with LOG.open("w") as log:
        waiting = subprocess.Popen([*pytest, OTHERS], stdout=log, stderr=subprocess.STDOUT)
        own = subprocess.run([*pytest, f"--ignore={OTHERS}"], check=False)
        others = waiting.wait()
    print(f"\n{OTHERS}:\n{LOG.read_text()}")
    return own.returncode or others


if __name__ == "__main__":
    sys.exit(main())
