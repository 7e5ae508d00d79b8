"""Install what pyproject.toml asks for, with the extras that developing and the demo need."""

import subprocess
import sys
import tomllib
from pathlib import Path


def main() -> int:
    """Install the requirements; print the last lines of the installer only when it fails."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in ("dev", "demo", "postgres"):
        wanted += project["optional-dependencies"][extra]
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *wanted]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        print(*run.stderr.splitlines()[-5:], sep="\n", file=sys.stderr)
        print(
            "warren: the Python libraries could not be installed; the lines above say why",
            file=sys.stderr,
        )
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
