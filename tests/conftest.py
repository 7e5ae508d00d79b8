"""Puts `tests/` and the repository's root on the path: `from vectors.captures import sessions`."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

# pytest adds this file's own folder; `fuzz` is a package beside it.
sys.path.append(str(Path(__file__).parents[1]))

# How long an example takes says more about the machine than about the code.
settings.register_profile("warren", deadline=None)
settings.load_profile("warren")
