"""`warren admin tokens` and `audit`: who may use the HTTP API, and what was changed."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from warren.cli import show
from warren.cli.admin_place import Json, State, client
from warren.cli.table import table

_PAGE = 1000

tokens = typer.Typer(
    help="""What opens the HTTP API: tokens of users, and OAuth clients of programs.

Examples:

  warren admin tokens create --user alice --expires 30d

  warren admin tokens create --scope devices:core:read --scope policy_file --description CI
""",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@tokens.command("create")
def create(
    user: Annotated[str, typer.Option(help="Whose it is; needed with several users.")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="Make an OAuth client with this scope, such as devices:core:read."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="What an OAuth client's auth keys must bear.")
    ] = None,
    expires: Annotated[str, typer.Option(help="Its life, such as 30d, or never.")] = "90d",
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    state: State = "",
    json: Json = False,
) -> None:
    """Make a token that may do what its user may, or an OAuth client. Shown this once."""
    from warren.coordinator.admin import shapes

    made = client(state).create_token(
        shapes.NewToken(
            user=user,
            scopes=scope or [],
            tags=tag or [],
            expires=expires,
            description=description,
        )
    )
    if json:
        show.json(made)
    elif made.kind == "client":
        print(f"client id      {made.id}\nclient secret  {made.text}")
    else:
        print(made.text)


@tokens.command("list")
def listed(state: State = "", json: Json = False) -> None:
    """List tokens and OAuth clients, without their secrets."""
    found = client(state).tokens()
    if json:
        show.json(found)
        return
    table(
        ["id", "kind", "user", "may", "expires", "description"],
        [
            [
                t.id,
                t.kind,
                t.user,
                ", ".join(t.scopes) or f"as {t.role}",
                t.expiry.date().isoformat() if t.expiry else "never",
                t.description,
            ]
            for t in found
        ],
    )


@tokens.command("change")
def change(
    token: Annotated[str, typer.Argument(help="An OAuth client's id, as `list` shows it.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="What it may do from now on; repeatable [as before].")
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(help="What its auth keys must bear from now on; repeatable [as before]."),
    ] = None,
    description: Annotated[str | None, typer.Option(help="What it is for [as before].")] = None,
    state: State = "",
    json: Json = False,
) -> None:
    """Change what an OAuth client may do; its secret stays.

    Example: warren admin tokens change k3Jd0 --scope dns --scope devices:core:read
    """
    from warren.coordinator.api import shapes

    server = client(state)
    now = server.token(token)
    changed = server.change_token(
        token,
        shapes.NewOAuthClient(
            key_type=now.key_type,
            scopes=now.scopes if scope is None else scope,
            tags=now.tags if tag is None else tag,
            description=now.description if description is None else description,
        ),
    )
    show.done(changed, json, f"{changed.id} may do {', '.join(changed.scopes)} now.")


@tokens.command("revoke")
def revoke(
    token: Annotated[str, typer.Argument(help="Its id, as `list` shows it.")],
    state: State = "",
    json: Json = False,
) -> None:
    """Remove a token or an OAuth client; it opens nothing from now on.

    Example: warren admin tokens revoke k3Jd0
    """
    gone = client(state).revoke_token(token)
    if json:
        show.json(gone)
    else:
        print(f"{gone.id} opens nothing any more.")


def audit(
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    since: Annotated[str, typer.Option(help="Only of the last 24h, 7d, …")] = "",
    export: Annotated[
        bool, typer.Option("--export", help="All, as JSON lines, the newest first.")
    ] = False,
    state: State = "",
    json: Json = False,
) -> None:
    """Show what was changed: when, by whom, from where, and what differs.

    Example: warren admin audit --since 7d --export > audit.jsonl
    """
    import msgspec

    server, start = client(state), _start(since)
    found, before = 0, None
    rows: list[Any] = []
    while export or found < limit:
        page = server.audit(_PAGE if export else min(_PAGE, limit - found), before, start)
        if export:
            for entry in page:
                sys.stdout.write(msgspec.json.encode(entry).decode() + "\n")
        else:
            rows += page
        found += len(page)
        if not page:
            break
        before = page[-1].id
    if json and not export:
        show.json(rows)
    elif not export:
        table(
            ["time", "who", "from", "what", "before", "after"],
            [
                [
                    e.time.strftime("%Y-%m-%d %H:%M:%S"),
                    e.actor,
                    e.origin,
                    f"{e.action} {e.target_kind} {e.target_name or e.target}",
                    _short(e.before),
                    _short(e.after),
                ]
                for e in rows
            ],
        )


def _short(told: dict[str, Any] | None) -> str:
    if told is None:
        return "-"
    text = ", ".join(f"{name}={value}" for name, value in told.items())
    return text if len(text) <= 80 else text[:79] + "…"


def _start(since: str) -> datetime | None:
    from warren.coordinator.durations import parse_duration

    try:
        life = parse_duration(since) if since else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return datetime.now(UTC) - life if life else None
