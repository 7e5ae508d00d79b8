"""`warren admin dns`: names and resolvers, told to every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from warren.cli import show
from warren.cli.admin_place import Json, State, client
from warren.cli.table import table

if TYPE_CHECKING:
    from warren.coordinator.api import shapes

app = typer.Typer(
    help="""Names and resolvers that machines are told.

Examples:

  warren admin dns nameservers 9.9.9.9 149.112.112.112 --override

  warren admin dns split corp.example 10.0.0.53

  warren admin dns search corp.example
""",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Servers = Annotated[
    list[str] | None,
    typer.Argument(help="Addresses, ADDRESS:PORT, or URLs of DNS over HTTPS; none: no longer any."),
]


@app.command("show")
def show_(state: State = "", json: Json = False) -> None:
    """Show what is chosen."""
    _show(client(state).dns(), json)


@app.command("nameservers")
def nameservers(
    servers: _Servers = None,
    override: Annotated[
        bool | None,
        typer.Option(
            "--override/--no-override",
            help="Machines ask these instead of their own; otherwise only where they have none.",
        ),
    ] = None,
    exit_node: Annotated[
        bool, typer.Option("--with-exit-node", help="Also while an exit node takes the rest.")
    ] = False,
    state: State = "",
    json: Json = False,
) -> None:
    """Set the resolvers for all names."""
    from msgspec.structs import replace

    from warren.coordinator.api import shapes

    server = client(state)
    now = server.dns()
    chosen = [
        shapes.Resolver(address=address, use_with_exit_node=exit_node) for address in servers or []
    ]
    preferences = now.preferences
    if override is not None:
        preferences = replace(preferences, override_local_dns=override)
    _show(server.set_dns(replace(now, nameservers=chosen, preferences=preferences)), json)


@app.command("split")
def split(
    domain: Annotated[str, typer.Argument(help="Such as corp.example.")],
    servers: _Servers = None,
    state: State = "",
    json: Json = False,
) -> None:
    """Set the resolvers of one domain; without any it has none of its own any more.

    Example: warren admin dns split corp.example 10.0.0.53
    """
    from msgspec.structs import replace

    from warren.coordinator.api import shapes

    server = client(state)
    now = server.dns()
    plain = domain.removesuffix(".").lower()
    others = {name: kept for name, kept in now.split_dns.items() if name != plain}
    chosen = {plain: [shapes.Resolver(address=address) for address in servers or []]}
    _show(server.set_dns(replace(now, split_dns={**others, **chosen})), json)


@app.command("search")
def search(
    domains: Annotated[
        list[str] | None, typer.Argument(help="All of them, beside the network's own; none: none.")
    ] = None,
    state: State = "",
    json: Json = False,
) -> None:
    """Set the domains that short names are tried in."""
    from msgspec.structs import replace

    server = client(state)
    _show(server.set_dns(replace(server.dns(), search_paths=domains or [])), json)


@app.command("magic")
def magic(
    switch: Annotated[str, typer.Argument(help="on or off.", metavar="on|off")],
    state: State = "",
    json: Json = False,
) -> None:
    """Let machines answer the network's names themselves (MagicDNS), or not.

    Example: warren admin dns magic off
    """
    from msgspec.structs import replace

    if switch not in ("on", "off"):
        raise typer.BadParameter(f"{switch!r} is neither on nor off")
    server = client(state)
    now = server.dns()
    preferences = replace(now.preferences, magic_dns=switch == "on")
    _show(server.set_dns(replace(now, preferences=preferences)), json)


def _show(choice: shapes.DnsConfiguration, json: bool) -> None:
    if json:
        show.json(choice)
        return

    def told(servers: list[shapes.Resolver]) -> str:
        return ", ".join(one.address for one in servers) or "none"

    asked = "instead of machines' own" if choice.preferences.override_local_dns else "as a fallback"
    rows = [
        ["MagicDNS", "on" if choice.preferences.magic_dns else "off"],
        ["nameservers", told(choice.nameservers) + (f", {asked}" if choice.nameservers else "")],
        ["search paths", ", ".join(choice.search_paths) or "none"],
    ]
    rows += [[f"for {name}", told(servers)] for name, servers in choice.split_dns.items()]
    table(["", ""], rows, headless=True)
