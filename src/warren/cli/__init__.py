"""The `warren` command. Only the part of a person's words that is needed gets imported."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from warren.cli.groups import GROUPS
from warren.cli.quick import quick


def main() -> int:
    """Run the command line; return the exit code. No traceback reaches a person."""
    args = sys.argv[1:]
    try:
        if args and args[0] in GROUPS and "_WARREN_COMPLETE" not in os.environ:
            module = import_module(GROUPS[args[0]].module)
            module.app(args=args[1:], prog_name=f"warren {args[0]}")
        elif (run := quick(args)) is not None:
            return run()
        else:
            from warren.cli.app import build

            build(complete="_WARREN_COMPLETE" in os.environ)(args=args, prog_name="warren")
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has gone (`warren status | head`): say nothing, also at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("WARREN_DEBUG"):
            raise
        print(f"warren: {_sentence(error)}", file=sys.stderr)
        return 1
    return 0


def _sentence(error: Exception) -> str:
    """What to tell a person: our own errors are sentences; others get one around them."""
    text = " ".join(str(error).split())
    if type(error).__module__.startswith("warren.") and text:
        return text
    if isinstance(error, OSError | ImportError) and text:
        return f"{text}."
    return f"Something failed inside ({type(error).__name__}: {text}); WARREN_DEBUG=1 shows more."
