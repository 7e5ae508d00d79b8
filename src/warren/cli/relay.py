"""`warren relay`: a further relay, on a host of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from warren.netmap.derpmap import DERPMap

_HELP = """Run a further relay (DERP and STUN) on a host of its own.

It asks the coordinator which machines to serve, and prints the region to put into the file that
`warren server --derp-map` names. Each setting can be a flag, a variable WARREN_RELAY_… or a line
of the --config file; the first of these that is there counts.

Examples:

  warren relay --server https://vpn.example.com --host fra.example.com --tls acme \
--region-id 901 --region-code fra --region-name Frankfurt

  warren relay --server https://vpn.example.com --host 192.0.2.9 --region-id 902

  warren relay --config /etc/warren/relay.toml --check
"""

app = typer.Typer(
    help=_HELP,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _flag(text: str, variable: str, *names: str) -> Any:
    return typer.Option(*names, help=text, envvar=f"WARREN_RELAY_{variable}")


@app.command(help=_HELP)
def relay(
    context: typer.Context,
    config: Annotated[Path | None, _flag("TOML file with any of these settings.", "CONFIG")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check settings, keys and the coordinator, then end.")
    ] = False,
    server: Annotated[
        str | None, _flag("The coordinator's URL; any: serve everybody.", "SERVER")
    ] = None,
    host: Annotated[
        str | None, _flag("Name or address that machines reach this relay by.", "HOST")
    ] = None,
    region_id: Annotated[int | None, _flag("Number of the region [901].", "REGION_ID")] = None,
    region_code: Annotated[
        str | None, _flag("Short name of the region [its number].", "REGION_CODE")
    ] = None,
    region_name: Annotated[str | None, _flag("Name of the region.", "REGION_NAME")] = None,
    fail_open: Annotated[
        bool | None,
        _flag(
            "Serve whoever comes while the coordinator does not answer [yes, as the stock relay].",
            "FAIL_OPEN",
            "--fail-open/--no-fail-open",
        ),
    ] = None,
    listen: Annotated[str | None, _flag("TLS port [:443].", "LISTEN")] = None,
    http: Annotated[
        str | None, _flag("Plain HTTP, by which machines find captive portals [none].", "HTTP")
    ] = None,
    stun: Annotated[
        str | None, _flag("UDP port of STUN, off, or two addresses: A:3478,B:3478 [:3478].", "STUN")
    ] = None,
    metrics: Annotated[
        str | None,
        _flag("Port for metrics and health checks, such as 127.0.0.1:9091 [none].", "METRICS"),
    ] = None,
    tls: Annotated[str | None, _flag("acme, self-signed or files [self-signed].", "TLS")] = None,
    tls_cert: Annotated[str | None, _flag("PEM chain, for --tls files.", "TLS_CERT")] = None,
    tls_key: Annotated[str | None, _flag("PEM key, for --tls files.", "TLS_KEY")] = None,
    acme_email: Annotated[str | None, _flag("Contact for --tls acme.", "ACME_EMAIL")] = None,
    acme_directory: Annotated[
        str | None, _flag("ACME directory URL [Let's Encrypt].", "ACME_DIRECTORY")
    ] = None,
    acme_ca: Annotated[str | None, _flag("PEM root of a private ACME server.", "ACME_CA")] = None,
    state: Annotated[
        str | None, _flag("Directory of its keys [/var/lib/warren/relay as root].", "STATE")
    ] = None,
    log_level: Annotated[
        str | None, _flag("debug, info, warning or error [info].", "LOG_LEVEL")
    ] = None,
    log_format: Annotated[str | None, _flag("text or json [text].", "LOG_FORMAT")] = None,
) -> None:
    """Read the settings and serve."""
    given = {name: value for name, value in context.params.items() if name not in _NOT_SETTINGS}
    from warren.relay.settings import load, state_directory

    settings = load(config, given)
    from warren.edge.log import configure_logging
    from warren.relay import daemon

    configure_logging("error" if check else settings.log_level, settings.log_format)
    directory = state_directory(settings)
    if check:
        daemon.check(settings, directory)
        print(f"The settings are good: {settings.host}, state in {directory}.")
        return
    daemon.run(settings, directory, _announce)


_NOT_SETTINGS = frozenset({"config", "check"})


def _announce(region: DERPMap) -> None:
    """Say that it serves on stderr, and the region alone on stdout: it may go into a file."""
    import msgspec

    print("Warren relays. Put this region into the file of `warren server --derp-map`:",
          file=sys.stderr, flush=True)  # fmt: skip
    print(msgspec.json.format(msgspec.json.encode(region), indent=2).decode(), flush=True)
