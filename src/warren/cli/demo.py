"""`warren demo`: the main job, shown live in a lab on this machine."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from warren.lab.demo import Demo, Step

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_MARKS = {
    "waiting": ("·", "dim"),
    "running": ("→", "bold cyan"),
    "done": ("✓", "bold green"),
    "failed": ("✗", "bold red"),
    "skipped": ("-", "yellow"),
}


@app.callback(invoke_without_command=True)
def demo(
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build an internet in namespaces and show a mesh come to life in it.

    Needs nothing outside this machine. As an ordinary user it works in a user namespace.
    """
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    began = time.monotonic()
    with Demo() as story:
        if json:
            for _ in story.run():
                pass
        elif console.is_terminal:
            _show_live(story, console, began)
        else:
            _show_plain(story, console)
    seconds = time.monotonic() - began
    if json:
        _print_json(story, seconds)
    else:
        _print_end(story, console, seconds)
    if not story.ok:
        raise typer.Exit(1)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """End the story once; what cleans up after it is not to be interrupted again."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _show_live(story: Demo, console: Console, began: float) -> None:
    def picture() -> Table:
        return _picture(story, time.monotonic() - began)

    with Live(console=console, get_renderable=picture, refresh_per_second=8):
        for _ in story.run():
            pass


def _picture(story: Demo, seconds: float) -> Table:
    table = Table(box=None, pad_edge=False, title_justify="left", show_header=False)
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", width=7)
    table.add_column(overflow="fold")
    for step in story.steps:
        mark, style = _MARKS[step.state]
        spent = time.monotonic() - step.began if step.state == "running" else step.seconds
        shown = f"{spent:.1f} s" if step.state in ("running", "done", "failed") else ""
        table.add_row(Text(mark, style), Text(step.title, style), shown, step.detail)
    table.add_row("", Text("together", "dim"), Text(f"{seconds:.1f} s", "dim"), "")
    return table


def _show_plain(story: Demo, console: Console) -> None:
    for step in story.run():
        if step.state == "running":
            continue
        console.print(_line(step), markup=False)


def _line(step: Step) -> str:
    mark, _ = _MARKS[step.state]
    return f"{mark} {step.title:<40} {step.seconds:5.1f} s  {step.detail}"


def _print_end(story: Demo, console: Console, seconds: float) -> None:
    machines = story.machines()
    if machines:
        table = Table(title=None, show_edge=False, pad_edge=False)
        for column in machines[0]:
            table.add_column(column)
        for row in machines:
            table.add_row(*row.values())
        console.print()
        console.print(table)
    console.print()
    for note in story.notes:
        console.print(note, markup=False)
    if story.ok:
        console.print(f"Everything worked, in {seconds:.0f} s. Nothing was left behind.")
    else:
        failed = ", ".join(step.name for step in story.steps if step.state == "failed")
        console.print(f"Failed: {failed}. The logs are in {story.kept_logs}.", markup=False)


def _print_json(story: Demo, seconds: float) -> None:
    report = {
        "ok": story.ok,
        "seconds": round(seconds, 3),
        "steps": [
            {
                "name": step.name,
                "title": step.title,
                "state": step.state,
                "seconds": round(step.seconds, 3),
                "detail": step.detail,
                "data": step.data,
            }
            for step in story.steps
        ],
        "machines": story.machines(),
        "notes": story.notes,
        "logs": str(story.kept_logs) if story.kept_logs else None,
    }
    print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
