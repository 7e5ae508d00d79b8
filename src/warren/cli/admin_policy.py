"""`warren admin policy`: the policy in force on a server, read, checked and replaced."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warren.cli import show
from warren.cli.admin_place import Json, State, client

if TYPE_CHECKING:
    from warren.coordinator.api import shapes
    from warren.coordinator.client import AdminClient

_MAX_BYTES = 1 << 20

app = typer.Typer(
    help="""Who may reach what: the policy in force.

Examples:

  warren admin policy get > policy.hujson

  warren admin policy set policy.hujson

  warren admin policy history
""",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_File = Annotated[Path, typer.Argument(help="A policy file (HuJSON); - reads standard input.")]


@app.command("get")
def get(
    version: Annotated[int, typer.Option(help="An older version, as `history` lists them.")] = 0,
    state: State = "",
    json: Json = False,
) -> None:
    """Print the policy as its author wrote it.

    With --json, its etag too: give that to `set --etag`.
    """
    server = client(state)
    found = server.policy_version(version) if version else server.policy()
    if json:
        show.json(found)
    else:
        sys.stdout.write(found.text if found.text.endswith("\n") else found.text + "\n")


@app.command("set")
def set_(
    file: _File,
    etag: Annotated[
        str, typer.Option(help="Of the policy that was edited: refuse if another is in force.")
    ] = "",
    author: Annotated[str, typer.Option(help="Who changes it, for the history.")] = "",
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also if the policy is kept somewhere else.")
    ] = False,
    state: State = "",
    json: Json = False,
) -> None:
    """Put a policy in force. One that is wrong, or fails its own tests, is refused.

    Example: warren admin policy set policy.hujson --author alice
    """
    from getpass import getuser

    server = client(state)
    if not anyway and (now := _settings(server)) and now.acls_externally_managed_on:
        where = f" at {now.acls_external_link}" if now.acls_external_link else ""
        raise _leave(
            f"The policy is kept somewhere else{where}: change it there, or it comes back. "
            "--anyway sets it here all the same."
        )
    found = server.set_policy(_text(file), author or getuser(), etag or None)
    if json:
        show.json(found)
    else:
        which = f"Version {found.version} of the" if found.version else "The"
        print(f"{which} policy is in force.")
        for warning in found.warnings:
            print(f"! {warning[:1].upper()}{warning[1:]}.", file=sys.stderr)


@app.command("check")
def check(file: _File, state: State = "", json: Json = False) -> None:
    """Say whether the server would take a policy, without changing anything.

    Example: warren admin policy check policy.hujson
    """
    answer = client(state).check_policy(_text(file))
    if json:
        show.json(answer)
    else:
        print(f"{file}: {answer.message}.")


@app.command("history")
def history(state: State = "", json: Json = False) -> None:
    """List the versions that are kept, newest first."""
    found = client(state).policy_history()
    if json:
        show.json(found)
        return
    if not found:
        print("The policy is the one that a new server has.")
    for one in found:
        when = one.created.strftime("%Y-%m-%d %H:%M UTC")
        author = "".join(c if c.isprintable() else "?" for c in one.author)
        print(f"{one.version:5}  {when}  {one.size_bytes:8} bytes  {author}")


@app.command("preview")
def preview(
    file: _File,
    user: Annotated[str, typer.Option(help="Which rules let their machines out.")] = "",
    port: Annotated[
        str, typer.Option(metavar="ADDRESS:PORT", help="Which rules let someone in there.")
    ] = "",
    state: State = "",
    json: Json = False,
) -> None:
    """Say which rules of a policy meet a user, or an address and port.

    Example: warren admin policy preview policy.hujson --port 100.64.0.7:443
    """
    if bool(user) == bool(port):
        raise typer.BadParameter("say either --user NAME or --port ADDRESS:PORT")
    kind, subject = ("user", user) if user else ("ipport", port)
    found = client(state).preview_policy(_text(file), kind, subject)
    if json:
        show.json(found)
        return
    for match in found.matches:
        print(f"line {match.line_number:5}  {', '.join(match.users)} → {', '.join(match.ports)}")
    if not found.matches:
        print(f"No rule meets {subject}.")


def _settings(server: AdminClient) -> shapes.TailnetSettings | None:
    """Return the network's settings; None to a key that may set the policy, but not see them."""
    from warren.coordinator.client import AdminError

    try:
        return server.settings()
    except AdminError:
        return None


def _text(file: Path) -> str:
    try:
        if str(file) == "-":
            data = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise _leave(f"{file}: larger than {_MAX_BYTES} bytes")
        return data.decode()
    except OSError as error:
        raise _leave(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _leave(f"{file}: not UTF-8 text") from None


def _leave(sentence: str) -> typer.Exit:
    typer.echo(sentence, err=True)
    return typer.Exit(1)
