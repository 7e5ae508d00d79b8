"""`warren admin settings` and `contacts`: what holds for the network as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from warren.cli import show
from warren.cli.admin_place import Json, State, client
from warren.cli.table import table

if TYPE_CHECKING:
    from warren.coordinator.api import shapes

settings = typer.Typer(
    help="""What holds for the whole network.

Example: warren admin settings set --approve-machines --key-days 90
""",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@settings.command("show")
def show_settings(state: State = "", json: Json = False) -> None:
    """Show the settings that can be changed while the server runs."""
    _show(client(state).settings(), json)


@settings.command("set")
def set_settings(
    approve_machines: Annotated[
        bool | None,
        typer.Option(
            "--approve-machines/--no-approve-machines",
            help="Also machines with an auth key wait for an administrator.",
        ),
    ] = None,
    approve_users: Annotated[
        bool | None,
        typer.Option(
            "--approve-users/--no-approve-users",
            help="Who comes by an identity provider for the first time waits for an administrator.",
        ),
    ] = None,
    key_days: Annotated[
        int | None, typer.Option(help="Days until a machine has to log in again, 1 to 180.")
    ] = None,
    policy_elsewhere: Annotated[
        bool | None,
        typer.Option(
            "--policy-elsewhere/--no-policy-elsewhere",
            help="The policy is kept in a repository: `policy set` refuses unless told --anyway.",
        ),
    ] = None,
    policy_link: Annotated[str | None, typer.Option(help="Where it is kept, a URL.")] = None,
    state: State = "",
    json: Json = False,
) -> None:
    """Change settings; what is not said stays."""
    from warren.coordinator.api.shapes import SettingsPatch

    wish = SettingsPatch(
        acls_externally_managed_on=policy_elsewhere,
        acls_external_link=policy_link,
        devices_approval_on=approve_machines,
        devices_key_duration_days=key_days,
        users_approval_on=approve_users,
    )
    _show(client(state).change_settings(wish), json)


def contacts(
    kind: Annotated[str, typer.Argument(help="account, support or security.")] = "",
    email: Annotated[str, typer.Argument(help="Whom to write to from now on.")] = "",
    state: State = "",
    json: Json = False,
) -> None:
    """Show whom to write to about the network, or set one of them.

    Example: warren admin contacts security security@example.com
    """
    if kind and not email:
        raise typer.BadParameter("say the address, too")
    server = client(state)
    found = server.set_contact(kind, email) if kind else server.contacts()
    if json:
        show.json(found)
        return
    rows = [[name, getattr(found, name).email] for name in ("account", "support", "security")]
    table(["", ""], rows, headless=True)


def _show(found: shapes.TailnetSettings, json: bool) -> None:
    if json:
        show.json(found)
        return
    days = found.devices_key_duration_days
    table(
        ["", ""],
        [
            ["machines need approval", "yes" if found.devices_approval_on else "no"],
            ["new users need approval", "yes" if found.users_approval_on else "no"],
            ["policy is kept", _kept(found)],
            ["keys expire", f"after {days} days" if days else "never"],
        ],
        headless=True,
    )


def _kept(found: shapes.TailnetSettings) -> str:
    if not found.acls_externally_managed_on:
        return "here"
    return found.acls_external_link or "somewhere else"
