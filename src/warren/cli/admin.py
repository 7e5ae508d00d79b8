"""`warren admin`: users, keys and machines, over the server's socket or its HTTP API."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warren.cli import show
from warren.cli.admin_access import audit, tokens
from warren.cli.admin_dns import app as dns
from warren.cli.admin_machine import add_machine_commands
from warren.cli.admin_network import contacts, settings
from warren.cli.admin_place import Json, State, client, reach_from_anywhere
from warren.cli.admin_policy import app as policy
from warren.cli.admin_users import users
from warren.cli.admin_webhooks import app as webhooks
from warren.cli.table import table

if TYPE_CHECKING:
    from warren.coordinator.admin import shapes

_SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}

app = typer.Typer(
    help="""Manage a server: on its machine and as its user, or from anywhere with an API key.

The server is found by --state, or by --server URL with --key-file FILE; every command can print
--json. What the API does not carry says so.

Examples:

  warren admin users invite alice

  warren admin keys create --user alice --expires 1h

  warren admin nodes approve https://vpn.example.com/register/… --user alice

  warren admin nodes list --server https://vpn.example.com --key-file ~/.warren-key
""",
    **_SETTINGS,
)
keys = typer.Typer(help="Auth keys, with which machines join unattended.", **_SETTINGS)
nodes = typer.Typer(help="The machines of the network.", **_SETTINGS)
app.add_typer(users, name="users")
app.add_typer(keys, name="keys")
app.add_typer(nodes, name="nodes")
app.add_typer(policy, name="policy")
app.add_typer(tokens, name="tokens")
app.add_typer(dns, name="dns")
app.add_typer(webhooks, name="webhooks")
app.command("audit")(audit)
app.command("contacts")(contacts)
app.add_typer(settings, name="settings")

NodeName = Annotated[str, typer.Argument(help="Name, id or address of the machine.")]


@app.command("status")
def status(state: State = "", json: Json = False) -> None:
    """Show the server at a glance."""
    found = client(state).status()
    if json:
        show.json(found)
        return
    table(
        ["", ""],
        [
            ["url", found.url],
            ["domain", found.domain],
            ["version", found.version],
            ["key", found.noise_key],
            ["machines", f"{found.nodes}, {found.online} online, {found.pending} waiting"],
            ["users", str(found.users)],
            ["relay", f"{found.relay_clients} clients, {found.relay.get('packets', 0)} packets"],
            *(["warning", problem] for problem in found.problems),
        ],
        headless=True,
    )


@app.command("regions")
def regions(state: State = "", json: Json = False) -> None:
    """List the relay regions that machines are told, and where each is from.

    That is the server's own, those of --derp-map, and the policy's `derpMap` over them. With
    --json, `derp_map` is in the form that --derp-map takes.

    Example: warren admin regions
    """
    found = client(state).regions()
    if json:
        show.json(found)
        return
    rows = [
        [
            str(number),
            region.region_code,
            region.region_name,
            ", ".join(
                f"{node.host_name}{f':{node.derp_port}' if node.derp_port else ''}"
                for node in region.nodes
                if not node.stun_only
            ),
            str(found.homes.get(number, 0)),
            found.sources.get(number, ""),
        ]
        for number, region in sorted((found.derp_map.regions or {}).items())
        if region is not None
    ]
    table(["region", "code", "name", "relays", "home of", "from"], rows)
    for problem in found.problems:
        print(f"! {problem[:1].upper()}{problem[1:]}.", file=sys.stderr)


@keys.command("create")
def keys_create(
    user: Annotated[
        str, typer.Option(help="Who will own the machines; needed with several users.")
    ] = "",
    reusable: Annotated[bool, typer.Option("--reusable", help="For many machines.")] = False,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Machines go when they are gone.")
    ] = False,
    pre_approved: Annotated[
        bool, typer.Option("--pre-approved", help="Machines need no approval.")
    ] = False,
    tag: Annotated[list[str] | None, typer.Option(help="Tag of the machines; repeatable.")] = None,
    expires: Annotated[str, typer.Option(help="Life of the key: 90s, 24h, 30d, never.")] = "24h",
    description: Annotated[str, typer.Option(help="A note for later.")] = "",
    state: State = "",
    json: Json = False,
) -> None:
    """Make an auth key. Its text is shown once and can't be had again.

    Example: warren admin keys create --user alice --reusable --tag tag:server --expires 30d
    """
    from warren.coordinator.admin.shapes import NewAuthKey

    key = client(state).create_key(
        NewAuthKey(
            user=user,
            reusable=reusable,
            ephemeral=ephemeral,
            pre_approved=pre_approved,
            tags=tag or [],
            expires=expires,
            description=description,
        )
    )
    show.done(key, json, key.key or "")


@keys.command("list")
def keys_list(state: State = "", json: Json = False) -> None:
    """List the auth keys, without their secrets."""
    found = client(state).keys()
    rows = [
        [k.id, k.user, k.state, _kind(k), ",".join(k.tags), str(k.uses), _until(k.expiry)]
        for k in found
    ]
    _list(found, json, ["id", "user", "state", "kind", "tags", "uses", "expires"], rows)


@keys.command("revoke")
def keys_revoke(
    key: Annotated[str, typer.Argument(help="Id of the key, or its text.")],
    state: State = "",
    json: Json = False,
) -> None:
    """Remove an auth key. Machines that joined with it stay.

    Example: warren admin keys revoke hSGrYTeKTn
    """
    gone = client(state).revoke_key(key)
    show.done(gone, json, f"Auth key {gone.id} is gone.")


@nodes.command("list")
def nodes_list(state: State = "", json: Json = False) -> None:
    """List the machines, and those that wait for approval."""
    found = client(state).nodes()
    if json:
        show.json(found)
        return
    rows = [
        [str(n.id), n.name, n.addresses[0], ",".join(n.tags) or n.user, n.os, n.state, _seen(n)]
        for n in found.nodes
    ]
    table(["id", "name", "address", "owner", "os", "state", "seen"], rows)
    if found.pending:
        print("\nWaiting for `warren admin nodes approve`:")
        waiting = [[p.id, p.hostname, p.os, _age(p.created)] for p in found.pending]
        table(["id", "host", "os", "since"], waiting)


@nodes.command("show")
def nodes_show(node: NodeName, state: State = "", json: Json = False) -> None:
    """Show all about one machine.

    Example: warren admin nodes show laptop
    """
    _show(client(state).node(node), json)


@nodes.command("why")
def nodes_why(
    node: NodeName,
    peer: Annotated[str, typer.Argument(help="The machine at the other end of the path.")],
    state: State = "",
    json: Json = False,
) -> None:
    """Ask a connected machine why its path to another is what it is.

    It says what `warren why` would say there: the path, what was tried, what a person could change.

    Example: warren admin nodes why alice bob
    """
    import msgspec

    from warren.cli.explain import show_explanation
    from warren.coordinator.client import AdminError
    from warren.node.schema import Explanation

    answer = client(state).why(node, peer)
    if json:
        sys.stdout.write(msgspec.json.format(answer, indent=2).decode() + "\n")
        return
    try:
        show_explanation(msgspec.json.decode(answer, type=Explanation))
    except msgspec.DecodeError:
        raise AdminError(
            f"{node} has another version than this; --json shows it as it is"
        ) from None


@nodes.command("approve")
def nodes_approve(
    node: Annotated[
        str, typer.Argument(help="Id, URL or host name of a waiting machine, or a machine's name.")
    ],
    user: Annotated[str, typer.Option(help="Who will own it; needed with several users.")] = "",
    tag: Annotated[
        list[str] | None, typer.Option(help="Tag for it, instead of those that it asked for.")
    ] = None,
    state: State = "",
    json: Json = False,
) -> None:
    """Let a waiting machine in.

    Example: warren admin nodes approve https://vpn.example.com/register/… --user alice
    """
    found = client(state).approve(node, user, tag)
    show.done(found, json, f"{found.name} is in the network: {found.addresses[0]}.")


@nodes.command("reject")
def nodes_reject(
    node: Annotated[str, typer.Argument(help="Id, URL or host name of a waiting machine.")],
    state: State = "",
    json: Json = False,
) -> None:
    """Turn a waiting machine away.

    Example: warren admin nodes reject laptop
    """
    answer = client(state).reject(node)
    show.done(answer, json, "It was turned away.")


@nodes.command("rename")
def nodes_rename(
    node: NodeName,
    name: Annotated[str, typer.Argument(help="New name; empty: its host name again.")],
    state: State = "",
    json: Json = False,
) -> None:
    """Give a machine another name.

    Example: warren admin nodes rename laptop front-desk
    """
    found = client(state).rename(node, name)
    show.done(found, json, f"It is called {found.fqdn} now.")


@nodes.command("tag")
def nodes_tag(
    node: NodeName,
    tags: Annotated[list[str] | None, typer.Argument(help="All its tags; none: untag.")] = None,
    state: State = "",
    json: Json = False,
) -> None:
    """Replace a machine's tags. A tagged machine belongs to no person, and its key stays valid.

    Example: warren admin nodes tag web-1 tag:web tag:prod
    """
    found = client(state).tag(node, tags or [])
    show.done(found, json, f"{found.name} has {', '.join(found.tags) or 'no tags'} now.")


@nodes.command("expire")
def nodes_expire(node: NodeName, state: State = "", json: Json = False) -> None:
    """End a machine's key: it must log in again.

    Example: warren admin nodes expire laptop
    """
    found = client(state).expire(node)
    show.done(found, json, f"The key of {found.name} is over.")


@nodes.command("delete")
def nodes_delete(node: NodeName, state: State = "", json: Json = False) -> None:
    """Remove a machine from the network.

    Example: warren admin nodes delete laptop
    """
    found = client(state).delete_node(node)
    show.done(found, json, f"{found.name} is gone.")


def _show(node: shapes.Node, json: bool) -> None:
    if json:
        show.json(node)
        return
    rows = [
        ["name", node.fqdn],
        ["id", f"{node.id} ({node.stable_id})"],
        ["state", node.state + (", ephemeral" if node.ephemeral else "")],
        ["owner", ", ".join(node.tags) or node.user],
        ["addresses", ", ".join(node.addresses)],
        ["host", f"{node.hostname} ({node.os}, {node.client_version})"],
        ["home relay", str(node.home_region or "none")],
        ["endpoints", ", ".join(node.endpoints) or "none"],
        ["joined", _time(node.created)],
        ["seen", _seen(node)],
        ["key expires", _time(node.key_expiry) if node.key_expiry else "never"],
        ["node key", node.node_key],
    ]
    table(["", ""], rows, headless=True)


def _list(value: object, json: bool, columns: list[str], rows: list[list[str]]) -> None:
    if json:
        show.json(value)
    else:
        table(columns, rows)


def _kind(key: shapes.AuthKey) -> str:
    words = ["reusable" if key.reusable else "one-off"]
    words += ["ephemeral"] if key.ephemeral else []
    words += ["pre-approved"] if key.pre_approved else []
    return ", ".join(words)


def _seen(node: shapes.Node) -> str:
    if node.online:
        return "now"
    return _age(node.last_seen) if node.last_seen else "never"


def _age(then: datetime) -> str:
    return _length((datetime.now(UTC) - then).total_seconds()) + " ago"


def _until(then: datetime | None) -> str:
    if then is None:
        return "never"
    seconds = (then - datetime.now(UTC)).total_seconds()
    return f"in {_length(seconds)}" if seconds > 0 else f"{_length(-seconds)} ago"


def _length(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def _time(then: datetime) -> str:
    return then.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


add_machine_commands(nodes)
reach_from_anywhere(app)
