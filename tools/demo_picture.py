"""Run the demo and draw what it printed as docs/demo.svg, for the README."""

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

STYLES = {"✓": "bold green", "✗": "bold red", "→": "bold cyan"}


def main() -> int:
    """Draw the picture; the demo's own exit status is this one's."""
    run = subprocess.run(
        [sys.executable, "-m", "warren", "demo"], capture_output=True, text=True, check=False
    )
    if run.returncode:
        print(run.stdout, run.stderr, file=sys.stderr)
        return run.returncode
    console = Console(record=True, width=104, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ make demo", "bold"))
    for line in run.stdout.splitlines():
        text = Text(line)
        if line[:1] in STYLES:
            text.stylize(STYLES[line[0]], 0, 1)
        console.print(text)
    picture = console.export_svg(title="warren demo")
    # No fonts from elsewhere: a picture in a README loads nothing.
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    Path("docs/demo.svg").write_text(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
