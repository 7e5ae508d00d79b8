"""`python -m warren` is the `warren` command."""

from __future__ import annotations

import sys

from warren.cli import main

sys.exit(main())
