"""`python -m warren`: the same as the `warren` command."""

import sys

from warren.cli import main

if __name__ == "__main__":
    sys.exit(main())
