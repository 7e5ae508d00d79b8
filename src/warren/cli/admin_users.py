"""`warren admin users`: who there is, how they log in, who is shut out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from warren.cli import show
from warren.cli.admin_place import Json, State, client
from warren.cli.table import table

if TYPE_CHECKING:
    from warren.coordinator.admin import shapes

users = typer.Typer(
    help="""Who owns machines, and how they log in.

Examples:

  warren admin users invite alice@example.com

  warren admin users role alice@example.com admin

  warren admin users suspend bob@example.com
""",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[str, typer.Argument(help="Log-in name.")]


@users.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Log-in name: an e-mail address or a word.")],
    display_name: Annotated[str, typer.Option(help="Name for people.")] = "",
    state: State = "",
    json: Json = False,
) -> None:
    """Add a user.

    Example: warren admin users create alice@example.com --display-name "Alice"
    """
    user = client(state).create_user(name, display_name)
    show.done(user, json, f"User {user.name} is there.")


@users.command("invite")
def invite(
    name: Name,
    role: Annotated[str, typer.Option(help="Role of a new user.")] = "member",
    display_name: Annotated[str, typer.Option(help="Name for people, of a new user.")] = "",
    expires: Annotated[str, typer.Option(help="Life of the link, such as 24h.")] = "3d",
    state: State = "",
    json: Json = False,
) -> None:
    """Print a one-time link, with which a user (made if need be) first logs in.

    Whoever opens it chooses a password, or logs in by an identity provider, and is that user.

    Example: warren admin users invite alice@example.com --role admin
    """
    from warren.coordinator.admin.shapes import NewInvite

    new = NewInvite(role=role, display_name=display_name, expires=expires)
    made = client(state).invite(name, new)
    show.done(made, json, made.url)


@users.command("password")
def password(
    name: Name,
    expires: Annotated[str, typer.Option(help="Life of the link, such as 24h.")] = "24h",
    state: State = "",
    json: Json = False,
) -> None:
    """Print a one-time link, with which a user who is there sets another password.

    Example: warren admin users password alice@example.com
    """
    from warren.coordinator.admin.shapes import NewInvite

    made = client(state).invite(name, NewInvite(expires=expires, must_exist=True))
    show.done(made, json, made.url)


@users.command("invites")
def invites(state: State = "", json: Json = False) -> None:
    """List one-time links that were not used yet. What they are was shown when they were made."""
    found = client(state).invitations()
    if json:
        show.json(found)
        return
    table(
        ["id", "user", "role", "expires"],
        [[i.id, i.email, i.role, i.expires.strftime("%Y-%m-%d %H:%M UTC")] for i in found],
    )


@users.command("uninvite")
def uninvite(
    name: Annotated[str, typer.Argument(help="Log-in name, or a link's id.")],
    state: State = "",
    json: Json = False,
) -> None:
    """Take a user's one-time links back: they open nothing any more. The user stays.

    Example: warren admin users uninvite alice@example.com
    """
    gone = client(state).uninvite(name)
    show.done(gone, json, f"The link of {gone[0].email} opens nothing any more.")


def _how(user: shapes.User) -> str:
    if user.suspended:
        return "suspended"
    return (user.logs_in or "-") if user.approved else "waits for approval"


@users.command("list")
def listed(state: State = "", json: Json = False) -> None:
    """List the users."""
    found = client(state).users()
    if json:
        show.json(found)
        return
    table(
        ["id", "name", "display name", "role", "logs in by", "machines", "last log-in"],
        [
            [
                str(u.id),
                u.name,
                u.display_name,
                u.role,
                _how(u),
                str(u.nodes),
                u.last_login.strftime("%Y-%m-%d %H:%M") if u.last_login else "never",
            ]
            for u in found
        ],
    )


@users.command("role")
def role(
    name: Name,
    role: Annotated[str, typer.Argument(help="owner, admin, network-admin, it-admin, …")],
    state: State = "",
    json: Json = False,
) -> None:
    """Give a user another role.

    Example: warren admin users role alice admin
    """
    user = client(state).set_role(name, role)
    show.done(user, json, f"User {user.name} is {user.role} now.")


@users.command("approve")
def approve(name: Name, state: State = "", json: Json = False) -> None:
    """Let a user in who waits for it (see `warren admin settings set --approve-users`).

    Example: warren admin users approve alice@example.com
    """
    user = client(state).approve_user(name)
    show.done(user, json, f"User {user.name} may log in.")


@users.command("suspend")
def suspend(name: Name, state: State = "", json: Json = False) -> None:
    """Shut a user out: their machines are cut off, their keys and tokens open nothing.

    Example: warren admin users suspend bob@example.com
    """
    user = client(state).suspend(name)
    show.done(user, json, f"User {user.name} is suspended.")


@users.command("restore")
def restore(name: Name, state: State = "", json: Json = False) -> None:
    """Let a suspended user in again; each of their machines has to log in.

    Example: warren admin users restore bob@example.com
    """
    user = client(state).restore(name)
    show.done(user, json, f"User {user.name} may log in again.")


@users.command("delete")
def delete(
    name: Name,
    machines: Annotated[bool, typer.Option("--machines", help="With all their machines.")] = False,
    state: State = "",
    json: Json = False,
) -> None:
    """Remove a user with their keys and tokens; one who owns machines only with --machines.

    Example: warren admin users delete bob@example.com --machines
    """
    user = client(state).delete_user(name, machines)
    show.done(user, json, f"User {user.name} is gone.")
