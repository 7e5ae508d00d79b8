"""Which server `warren admin` means, for all of its commands: this machine's, or one far away."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from warren.coordinator.client import AdminClient

State = Annotated[
    str,
    typer.Option(
        envvar="WARREN_SERVER_STATE",
        help="The server's state directory [/var/lib/warren/server as root].",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Server = Annotated[
    str,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="WARREN_ADMIN_SERVER",
        help="Use the HTTP API of this server, from anywhere, instead of its socket.",
    ),
]
KeyFile = Annotated[
    str,
    typer.Option(
        "--key-file",
        metavar="FILE",
        envvar="WARREN_ADMIN_KEY_FILE",
        help="File with an API key or client secret for --server [or WARREN_ADMIN_KEY].",
    ),
]
_KEY = "WARREN_ADMIN_KEY"
_MAX_KEY_BYTES = 4096


class _Away(NamedTuple):
    server: str = ""
    key_file: str = ""


_away: ContextVar[_Away] = ContextVar("away", default=_Away())  # noqa: B039


def client(state: str) -> AdminClient:
    """Return a client of the server that `--server` names, else of the one with this state.

    state: empty: the usual place. Raises AdminError.
    """
    from warren.coordinator.client import AdminClient, AdminError
    from warren.coordinator.config import state_directory

    server, key_file = _away.get()
    if not server:
        if key_file:
            raise AdminError("--key-file goes with --server URL")
        return AdminClient(state_directory(state))
    from warren.coordinator.api_client import ApiClient

    return ApiClient(server, _key(key_file))


def reach_from_anywhere(app: typer.Typer) -> None:
    """Give every command that has `--state` also `--server` and `--key-file`."""
    for info in app.registered_commands:
        if info.callback is not None and "state" in inspect.signature(info.callback).parameters:
            info.callback = _with_server(info.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            reach_from_anywhere(group.typer_instance)


def _with_server(command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def run(*args: Any, server: str, key_file: str, **named: Any) -> Any:
        token = _away.set(_Away(server, key_file))
        try:
            return command(*args, **named)
        finally:
            _away.reset(token)

    options = {"server": Server, "key_file": KeyFile}
    signature = inspect.signature(command, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default="", annotation=kind)
        for name, kind in options.items()
    ]
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *more]
    )
    run.__annotations__ = {**inspect.get_annotations(command, eval_str=True), **options}
    return run


def _key(key_file: str) -> str:
    from warren.coordinator.client import AdminError

    if not key_file:
        if key := os.environ.get(_KEY, "").strip():
            return key
        raise AdminError(
            f"--server needs an API key: --key-file FILE, or {_KEY} in the environment; "
            "`warren admin tokens create` on the server makes one"
        )
    file = Path(key_file).expanduser()
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_KEY_BYTES + 1)
        text = data.decode("ascii").strip()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AdminError(f"cannot read {file}: {reason}") from error
    except UnicodeDecodeError:
        text = ""
    if not text or len(data) > _MAX_KEY_BYTES or "\n" in text:
        raise AdminError(f"{file} does not hold an API key on one line")
    return text
