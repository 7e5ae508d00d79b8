"""`warren admin webhooks`: who is told of what happens."""

from __future__ import annotations

from typing import Annotated

import typer

from warren.cli import show
from warren.cli.admin_place import Json, State, client
from warren.cli.table import table

app = typer.Typer(
    help="""Webhooks: who is told when machines join or go, when the policy changes, and so on.

Examples:

  warren admin webhooks create https://hooks.example.com/warren

  warren admin webhooks create https://hooks.slack.com/… --provider slack --event nodeCreated
""",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, as `list` shows it.")]
_Events = Annotated[
    list[str] | None,
    typer.Option("--event", help="Such as nodeCreated; repeatable [all of the network's]."),
]
_ALL = "categoryTailnetManagement"


@app.command("create")
def create(
    url: Annotated[str, typer.Argument(help="Where to post to, https://…")],
    event: _Events = None,
    provider: Annotated[
        str, typer.Option(help="slack, mattermost, googlechat or discord, for its form.")
    ] = "",
    state: State = "",
    json: Json = False,
) -> None:
    """Make a webhook. The secret that signs what is sent is shown this once.

    Example: warren admin webhooks create https://hooks.example.com/warren --event nodeCreated
    """
    from warren.coordinator.api.shapes import NewWebhook

    new = NewWebhook(endpoint_url=url, provider_type=provider, subscriptions=event or [_ALL])
    made = client(state).create_webhook(new)
    if json:
        show.json(made)
    else:
        print(f"id      {made.endpoint_id}\nsecret  {made.secret}")


@app.command("list")
def listed(state: State = "", json: Json = False) -> None:
    """List webhooks, what waits for each, and why one was not reached."""
    found = client(state).webhooks()
    if json:
        show.json(found)
        return
    table(
        ["id", "url", "events", "waiting", "problem"],
        [
            [w.endpoint_id, w.endpoint_url, ", ".join(w.subscriptions), str(w.waiting), w.problem]
            for w in found
        ],
    )


@app.command("subscribe")
def subscribe(
    webhook: _Id,
    event: _Events = None,
    state: State = "",
    json: Json = False,
) -> None:
    """Replace what a webhook is told of.

    Example: warren admin webhooks subscribe k3Jd0 --event policyUpdate
    """
    changed = client(state).subscribe_webhook(webhook, event or [_ALL])
    if json:
        show.json(changed)
    else:
        print(f"{changed.endpoint_id} is told of {', '.join(changed.subscriptions)}.")


@app.command("rotate")
def rotate(webhook: _Id, state: State = "", json: Json = False) -> None:
    """Give a webhook another secret, shown this once; the old one signs nothing more.

    Example: warren admin webhooks rotate k3Jd0
    """
    changed = client(state).rotate_webhook(webhook)
    if json:
        show.json(changed)
    else:
        print(changed.secret)


@app.command("test")
def test(webhook: _Id, state: State = "", json: Json = False) -> None:
    """Send a webhook a test event; `list` says soon whether it was taken.

    Example: warren admin webhooks test k3Jd0
    """
    tried = client(state).test_webhook(webhook)
    if json:
        show.json(tried)
    else:
        print(f"A test event is on its way to {tried.endpoint_url}.")


@app.command("delete")
def delete(webhook: _Id, state: State = "", json: Json = False) -> None:
    """Remove a webhook, with what still waits for it.

    Example: warren admin webhooks delete k3Jd0
    """
    gone = client(state).delete_webhook(webhook)
    if json:
        show.json(gone)
    else:
        print(f"{gone.endpoint_url} is told of nothing any more.")
