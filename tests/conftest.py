"""Puts `tests/` and the repository's root on the path: `from vectors.captures import sessions`."""

from __future__ import annotations

import sys
from pathlib import Path

# pytest adds this file's own folder; `fuzz` is a package beside it.
sys.path.append(str(Path(__file__).parents[1]))
