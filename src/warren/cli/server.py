"""`warren server`: coordinator, relay and STUN in one process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warren.cli import server_backup, server_import

if TYPE_CHECKING:
    from warren.coordinator.config import Config
    from warren.coordinator.daemon import Ready

_HELP = """Run a coordinator with its relay and STUN, from one directory.

Each setting can be a flag, a variable WARREN_SERVER_… or a line of the --config file; the first
of these that is there counts.

Examples:

  warren server --url https://vpn.example.com --tls acme

  warren server --url http://192.0.2.7:8080 --listen :8443

  warren server --config /etc/warren/server.toml --check

  warren server --derp-map /etc/warren/regions.json   (read again when it changes, or at SIGHUP)

  warren server backup /var/backups/warren.zip
"""

app = typer.Typer(
    help=_HELP,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _flag(text: str, variable: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, envvar=f"WARREN_SERVER_{variable}", **more)


@app.callback()
def serve(
    context: typer.Context,
    config: Annotated[Path | None, _flag("TOML file with any of these settings.", "CONFIG")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check settings and state, then end.")
    ] = False,
    state: Annotated[
        str | None,
        _flag("Directory of keys and database [/var/lib/warren/server as root].", "STATE"),
    ] = None,
    database: Annotated[
        str | None, _flag("SQLAlchemy URL of the database [SQLite in --state].", "DATABASE")
    ] = None,
    url: Annotated[
        str | None, _flag("What machines are told [https:// and this host's name].", "URL")
    ] = None,
    listen: Annotated[str | None, _flag("TLS port for everything [:443].", "LISTEN")] = None,
    http: Annotated[
        str | None,
        _flag("Plain HTTP beside it, for a reverse proxy or a lab [none, or --url's].", "HTTP"),
    ] = None,
    stun: Annotated[
        str | None,
        _flag("UDP port of STUN, off, or two addresses: A:3478,B:3478 [:3478].", "STUN"),
    ] = None,
    turn: Annotated[
        str | None,
        _flag("Public address and port of the TURN server, or off [off].", "TURN"),
    ] = None,
    turn_allow: Annotated[
        str | None,
        _flag("Private networks that TURN may reach, with commas [none].", "TURN_ALLOW"),
    ] = None,
    metrics: Annotated[
        str | None,
        _flag("Port for metrics and health checks, such as 127.0.0.1:9090 [none].", "METRICS"),
    ] = None,
    webhook_allow: Annotated[
        str | None,
        _flag("Private networks where webhooks may be, with commas [none].", "WEBHOOK_ALLOW"),
    ] = None,
    turn_servers: Annotated[
        str | None,
        _flag("Other TURN servers: turn:HOST:PORT?transport=udp, with commas.", "TURN_SERVERS"),
    ] = None,
    turn_secret: Annotated[
        str | None, _flag("File with the secret shared with --turn-servers.", "TURN_SECRET")
    ] = None,
    tls: Annotated[
        str | None, _flag("acme, self-signed, files or off [self-signed].", "TLS")
    ] = None,
    tls_cert: Annotated[str | None, _flag("PEM chain, for --tls files.", "TLS_CERT")] = None,
    tls_key: Annotated[str | None, _flag("PEM key, for --tls files.", "TLS_KEY")] = None,
    acme_email: Annotated[str | None, _flag("Contact for --tls acme.", "ACME_EMAIL")] = None,
    acme_directory: Annotated[
        str | None, _flag("ACME directory URL [Let's Encrypt].", "ACME_DIRECTORY")
    ] = None,
    acme_ca: Annotated[str | None, _flag("PEM root of a private ACME server.", "ACME_CA")] = None,
    domain: Annotated[
        str | None, _flag("Suffix of machine names [warren.internal].", "DOMAIN")
    ] = None,
    key_expiry: Annotated[
        str | None, _flag("Life of a machine's key, such as 90d or never [180d].", "KEY_EXPIRY")
    ] = None,
    ephemeral_after: Annotated[
        str | None,
        _flag("How long an ephemeral machine may be away [60s].", "EPHEMERAL_AFTER"),
    ] = None,
    approve_machines: Annotated[
        bool | None,
        _flag(
            "An administrator approves each machine, auth key or not.",
            "APPROVE_MACHINES",
            "--approve-machines/--no-approve-machines",
        ),
    ] = None,
    relay: Annotated[
        bool | None, _flag("Serve a relay on the TLS port.", "RELAY", "--relay/--no-relay")
    ] = None,
    relay_host: Annotated[
        str | None, _flag("Relay's name or address in the map [the URL's].", "RELAY_HOST")
    ] = None,
    relay_port: Annotated[
        int | None, _flag("Relay's TLS port in the map [the one of --listen].", "RELAY_PORT")
    ] = None,
    stun_port: Annotated[
        int | None, _flag("STUN's port in the map [the one of --stun].", "STUN_PORT")
    ] = None,
    region_id: Annotated[int | None, _flag("Number of the region [900].", "REGION_ID")] = None,
    region_code: Annotated[
        str | None, _flag("Short name of the region [warren].", "REGION_CODE")
    ] = None,
    region_name: Annotated[str | None, _flag("Name of the region [Warren].", "REGION_NAME")] = None,
    derp_map: Annotated[
        str | None,
        _flag("Files or URLs with more relay regions, with commas [none].", "DERP_MAP"),
    ] = None,
    verify_clients: Annotated[
        bool | None,
        _flag(
            "The relay serves only machines of this network [yes].",
            "VERIFY_CLIENTS",
            "--verify-clients/--no-verify-clients",
        ),
    ] = None,
    oidc: Annotated[
        str | None, _flag("File with [[oidc]] tables, if --config has none [none].", "OIDC")
    ] = None,
    log_level: Annotated[
        str | None, _flag("debug, info, warning or error [info].", "LOG_LEVEL")
    ] = None,
    log_format: Annotated[str | None, _flag("text or json [text].", "LOG_FORMAT")] = None,
) -> None:
    """Read the settings and serve."""
    if context.invoked_subcommand is not None:
        return
    given = {name: value for name, value in context.params.items() if name not in _NOT_SETTINGS}
    from warren.coordinator.config import load, state_directory

    settings = load(config, given)
    directory = state_directory(settings.state)
    from warren.coordinator import daemon
    from warren.edge.log import configure_logging

    configure_logging(settings.log_level, settings.log_format)
    if check:
        daemon.check(settings, directory)
        print(_summary(settings, directory))
        return
    daemon.run(settings, directory, lambda ready: _announce(ready, directory))


server_backup.add_commands(app)
app.add_typer(server_import.app, name="import")

_NOT_SETTINGS = frozenset({"config", "check"})


def _summary(settings: Config, directory: Path) -> str:
    from warren.coordinator.config import public_url

    return f"The settings are good: {public_url(settings)}, state in {directory}."


def _announce(ready: Ready, directory: Path) -> None:
    print(f"Warren serves {ready.url} ({ready.ports}).")
    for warning in ready.warnings:
        print(f"! {warning}.", file=sys.stderr)
    if ready.first is not None:
        print(
            "\nThis is the first start. Become its owner in a browser, within a day, at:\n\n"
            f"    {ready.first.owner}\n\n"
            f"(another link: warren admin users invite admin --state {directory})\n\n"
            "Join a first machine with:\n\n"
            f"    {ready.first.join}\n\n"
            f"More keys: warren admin keys create --state {directory} --user admin\n"
        )
    sys.stdout.flush()
