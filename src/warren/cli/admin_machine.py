"""`warren admin nodes`: a machine's routes, posture attributes, key and address."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer

from warren.cli import show
from warren.cli.admin_place import Json, State, client
from warren.cli.table import table

_Node = Annotated[str, typer.Argument(help="Name, id or address of the machine.")]


def add_machine_commands(app: typer.Typer) -> None:
    """Add the commands to `warren admin nodes`."""
    app.command("routes")(routes)
    app.command("attributes")(attributes)
    app.command("key-expiry")(key_expiry)
    app.command("unapprove")(unapprove)
    app.command("address")(address)


def routes(
    node: _Node,
    approve: Annotated[
        list[str] | None, typer.Argument(help="All routes to approve, such as 10.0.0.0/8.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Approve all that it offers.")] = False,
    nothing: Annotated[bool, typer.Option("--none", help="Approve none.")] = False,
    state: State = "",
    json: Json = False,
) -> None:
    """Show what a machine offers to route and what of it is approved, or approve.

    Example: warren admin nodes routes router-1 10.0.0.0/8 0.0.0.0/0 ::/0
    """
    if sum((bool(approve), everything, nothing)) > 1:
        raise typer.BadParameter("say routes, or --all, or --none")
    server = client(state)
    found = server.routes(node)
    if everything:
        found = server.set_routes(node, found.advertised_routes)
    elif approve or nothing:
        found = server.set_routes(node, approve or [])
    if json:
        show.json(found)
        return
    known = dict.fromkeys([*found.advertised_routes, *found.enabled_routes])
    rows = [
        [
            route,
            "yes" if route in found.advertised_routes else "no",
            "yes" if route in found.enabled_routes else "no",
        ]
        for route in known
    ]
    table(["route", "offered", "approved"], rows)


def attributes(
    node: _Node,
    name: Annotated[str, typer.Argument(help="Of an attribute to set: custom:name.")] = "",
    value: Annotated[str, typer.Argument(help="A word, a number, true or false.")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Remove it instead.")] = False,
    expires: Annotated[
        str, typer.Option(help="It goes by itself after so long: 12h, 30d [never].")
    ] = "",
    state: State = "",
    json: Json = False,
) -> None:
    """Show what a policy's postures may ask of a machine, or set one attribute.

    Example: warren admin nodes attributes laptop custom:tier gold --expires 30d
    """
    if name and not value and not remove:
        raise typer.BadParameter("say the attribute's value, or --remove")
    if expires and (remove or not name):
        raise typer.BadParameter("--expires goes with a name and a value")
    expiry = _moment(expires)
    server = client(state)
    if remove:
        found = server.delete_attribute(node, name)
    elif name:
        found = server.set_attribute(node, name, _value(value), expiry)
    else:
        found = server.attributes(node)
    if json:
        show.json(found)
        return
    rows = [
        [key, msgspec.json.encode(told).decode(), _day(found.expiries.get(key))]
        for key, told in found.attributes.items()
    ]
    table(["attribute", "value", "until"], rows)


def key_expiry(
    node: _Node,
    switch: Annotated[str, typer.Argument(metavar="on|off", help="on: its key expires.")],
    state: State = "",
    json: Json = False,
) -> None:
    """Let a machine's key expire, or not.

    Example: warren admin nodes key-expiry server-1 off
    """
    if switch not in ("on", "off"):
        raise typer.BadParameter(f"{switch!r} is neither on nor off")
    found = client(state).set_key_expiry(node, switch == "on")
    if json:
        show.json(found)
    elif found.key_expiry is None:
        print(f"The key of {found.name} does not expire.")
    else:
        print(f"The key of {found.name} expires on {found.key_expiry.date().isoformat()}.")


def unapprove(node: _Node, state: State = "", json: Json = False) -> None:
    """Take a machine's approval back: it takes no part until `approve` lets it in again.

    Example: warren admin nodes unapprove laptop
    """
    found = client(state).unapprove(node)
    show.done(found, json, f"{found.name} takes no part any more.")


def address(
    node: _Node,
    ipv4: Annotated[str, typer.Argument(help="An address of 100.64.0.0/10 that is free.")],
    state: State = "",
    json: Json = False,
) -> None:
    """Give a machine another address; its IPv6 address follows.

    Example: warren admin nodes address server-1 100.64.0.53
    """
    found = client(state).readdress(node, ipv4)
    if json:
        show.json(found)
    else:
        print(f"{found.name} has {' and '.join(found.addresses)} now.")


def _moment(expires: str) -> datetime | None:
    from warren.coordinator.durations import parse_duration

    try:
        life = parse_duration(expires) if expires else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return datetime.now(UTC) + life if life else None


def _day(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC") if moment else ""


def _value(text: str) -> str | bool | float:
    """Read a number or a truth value as JSON has them; all else is a text."""
    try:
        return msgspec.json.decode(text.encode(), type=bool | int | float)
    except msgspec.DecodeError:
        return text
