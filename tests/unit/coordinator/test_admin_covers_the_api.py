"""`warren admin` does all that the API does: run against it, the commands ask every operation."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from coordinator_server import Running, joined
from test_admin_from_anywhere import far_client, run
from typer import Typer, main
from typer.testing import CliRunner

from warren.cli.admin import app
from warren.cli.policy import app as policy_app
from warren.coordinator.api import not_offered
from warren.coordinator.api.application import OPERATIONS, PREFIX
from warren.coordinator.api_client import ApiClient

NOT_ASKED = {
    **{
        f"{method} /tailnet/{{tailnet}}/dns/{part}": "a part of what dns/configuration is, whole"
        for part in ("nameservers", "preferences", "searchpaths", "split-dns")
        for method in ("GET", "POST", "PATCH", "PUT")
    },
    "PATCH /tailnet/{tailnet}/device-attributes": "for programs: people name one machine",
    "GET /user-invites/{invite}": "as the list has it",
    "POST /user-invites/{invite}/resend": "not offered",
}


def operation_of(method: str, path: str) -> str:
    plain = path.removeprefix(PREFIX).partition("?")[0]
    for operation in OPERATIONS:
        pattern = re.sub(r"\{\w+\}", "[^/]+", operation.path)
        if operation.method == method and re.fullmatch(pattern, plain):
            return f"{method} {operation.path}"
    return f"{method} {plain}"


async def test_every_operation_has_a_command(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    exchange = ApiClient._exchange

    def noted(self: ApiClient, method: str, path: str, *more: Any) -> Any:
        answer = exchange(self, method, path, *more)
        asked.add(operation_of(method, path))
        return answer

    monkeypatch.setattr(ApiClient, "_exchange", noted)
    far = await far_client(running)
    monkeypatch.setenv("WARREN_ADMIN_SERVER", far._where)
    monkeypatch.setenv("WARREN_ADMIN_KEY", far._key)
    policy = tmp_path / "policy.hujson"
    policy.write_text('{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["443"]}]}')

    async def told(line: str) -> Any:
        return json.loads(await run(*line.split(), "--json"))

    async with joined(running, "one"):
        for line in (
            "users invite bob --role auditor", "users list", "users invites", "users uninvite bob",
            "users role bob member", "users suspend bob", "users restore bob",
            "users approve bob", "users delete bob", "settings show", "settings set --key-days 9",
            "contacts", "contacts support a@b.example", "dns show", "dns search a.example",
            "nodes list", "nodes show one", "nodes rename one first", "nodes unapprove first",
            "nodes approve first", "nodes tag first tag:a", "nodes expire first",
            "nodes routes first", "nodes routes first --none", "nodes address first 100.99.0.1",
            "nodes key-expiry first off", "nodes attributes first custom:a gold --expires 1h",
            "nodes attributes first custom:a --remove", "nodes delete first",
            "policy get", f"policy check {policy}", f"policy set {policy}", "policy history",
            "policy get --version 1", f"policy preview {policy} --user admin", "audit", "keys list",
        ):  # fmt: skip
            await told(line)
        for line in ("approve", "reject"):
            waits = asyncio.create_task(wait_for_approval(running, line))  # noqa: TID251
            while not (await told("nodes list"))["pending"]:
                await asyncio.sleep(0.05)
            await told(f"nodes {line} {line}" + (" --user admin" if line == "approve" else ""))
            await waits
    key = await told("keys create --expires 1h")
    await told(f"keys revoke {key['id']}")
    client = await told("tokens create --scope dns:read --description names")
    changed = await told(f"tokens change {client['id']} --scope dns --tag tag:a")
    assert (changed["scopes"], changed["tags"]) == (["dns"], ["tag:a"])
    assert changed["description"] == "names"
    await told(f"tokens revoke {client['id']}")
    hook = (await told("webhooks create https://x.invalid/"))["endpointId"]
    for verb in ("subscribe", "rotate", "test", "delete"):
        await told(f"webhooks {verb} {hook}")
    await told("webhooks list")
    await run("who-can", "100.99.0.1:22", "--json", of=policy_app)
    untold = {f"{o.method} {o.path}" for o in not_offered.OPERATIONS} | NOT_ASKED.keys()
    wanted = {f"{o.method} {o.path}" for o in OPERATIONS} - untold
    assert asked - {"POST /oauth/token"} == wanted


async def wait_for_approval(running: Running, name: str) -> None:
    """Ask to join without a key, until somebody has decided."""
    from coordinator_machine import Machine

    machine = await Machine(running.http, name).connect()
    first = await machine.register()
    await machine.register(followup=first.auth_url)
    await machine.close()


def commands(group: Typer, *names: str) -> dict[str, Any]:
    """Return every command below a group, by its words."""
    made = main.get_command(group)
    found: dict[str, Any] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        below = getattr(command, "commands", None)
        if below is None:
            found[" ".join(path)] = command
            return
        for name, each in below.items():
            walk(each, (*path, name))

    walk(made, names)
    return found


@pytest.mark.parametrize(("words", "command"), commands(app).items())
def test_every_command_helps_and_can_print_json(words: str, command: Any) -> None:
    names = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "--state", "--server", "--key-file"} <= names
    shown = CliRunner().invoke(app, [*words.split(), "--help"])
    assert shown.exit_code == 0
    needed = [p for p in command.params if p.param_type_name == "argument" and p.required]
    if needed:
        assert f"warren admin {words} " in shown.output, "an example says more than a synopsis"


@pytest.mark.parametrize("words", ["users list", "nodes list", "keys list", "audit", "dns show"])
def test_a_server_that_is_down_is_said_so(words: str, tmp_path: Path) -> None:
    for args, said in (
        (["--state", str(tmp_path)], "no server runs with the state directory"),
        (
            ["--server", "http://127.0.0.1:9", "--key-file", str(tmp_path / "key")],
            "does not answer",
        ),
    ):
        (tmp_path / "key").write_text("warren-api-x-y")
        result = CliRunner().invoke(app, [*words.split(), *args])
        assert result.exit_code == 1 and said in str(result.exception)
