"""The HTTP API v2 of a whole server, asked by clients and testers that nobody here wrote."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from tailscale import Tailscale, TailscaleNotFoundError, TailscaleUnauthorizedError
from yarl import URL

from warren.edge.entropy import system_entropy
from warren.keys import MachinePrivate, NodePrivate
from warren.lab.ports import free_port
from warren.netmap.codec import encode_json
from warren.netmap.node import Hostinfo
from warren.netmap.register import Auth, RegisterRequest
from warren.node.control_link import fetch_server_key, open_link

MAIN = [sys.executable, "-m", "warren"]


class Running(NamedTuple):
    """A server as a program, and what opens its API."""

    url: str
    token: str
    state: Path


def admin(state: Path, *args: str) -> Any:
    run = subprocess.run(
        [*MAIN, "admin", *args, "--json", "--state", str(state)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    state = tmp_path_factory.mktemp("server")
    url = f"http://127.0.0.1:{free_port()}"
    program = subprocess.Popen(
        [
            *(*MAIN, "server", "--state", str(state), "--url", url, "--stun", "off"),
            *("--http", url.removeprefix("http://"), "--listen", f"127.0.0.1:{free_port()}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert program.stdout is not None and "Warren serves" in program.stdout.readline()
    token = admin(state, "tokens", "create", "--user", "admin")["text"]
    yield Running(url, token, state)
    program.terminate()
    program.wait(20)


class Redirected:
    """aiohttp's session, as far as the client uses it; it only knows the service's address."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, URL(url)

    async def request(self, method: str, url: URL, **more: Any) -> aiohttp.ClientResponse:
        at = url.with_scheme("http").with_host(str(self._url.host)).with_port(self._url.port)
        return await self._session.request(method, at, **more)


@pytest.fixture
async def client(server: Running) -> AsyncIterator[Tailscale]:
    async with aiohttp.ClientSession() as session:
        yield Tailscale(
            api_key=server.token,
            session=Redirected(session, server.url),  # type: ignore[arg-type]
        )


async def test_the_client_from_pypi(server: Running, client: Tailscale) -> None:
    assert await client.devices() == {}
    made = await client.create_key(reusable=True, tags=["tag:ci"], description="for CI")
    assert made.key.startswith("warren-auth-") and made.key_type == "auth"
    assert (await client.key(made.key_id)).capabilities.devices.create.reusable
    assert made.key_id in {key.key_id for key in await client.keys()}
    await client.delete_key(made.key_id)
    with pytest.raises(TailscaleNotFoundError):
        await client.key(made.key_id)

    (admin_user,) = await client.users()
    assert admin_user.role == "owner" and admin_user.created is not None
    assert (await client.user(admin_user.user_id)).login_name == "admin"

    policy = await client.policy_file()
    assert policy.etag and "//" in policy.policy
    text = '{\n  // Nobody, for now.\n  "grants": [],\n}\n'
    await client.set_policy_file(text, etag=policy.etag)
    assert (await client.policy_file()).policy == text
    assert (await client.validate_policy_file(text)).valid
    wrong = await client.validate_policy_file('{"grants": [{"src": ["group:none"]}]}')
    assert not wrong.valid and wrong.message

    (match,) = (
        await client.preview_policy_rules(
            preview_type="user",
            preview_for="admin",
            policy='{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:443"]}]}',
        )
    ).matches
    assert (match.users, match.ports, match.line_number) == (["*"], ["*:443"], 1)

    await client.update_tailnet_settings(devices_approval_on=True, devices_key_duration_days=90)
    told = await client.tailnet_settings()
    assert (told.devices_approval_on, told.devices_key_duration_days) == (True, 90)


async def test_its_names_and_resolvers(client: Tailscale) -> None:
    assert (await client.dns_preferences()).magic_dns
    told = await client.set_dns_nameservers(dns=["9.9.9.9"])
    assert (told.dns, told.magic_dns) == (["9.9.9.9"], True)
    await client.set_dns_search_paths(search_paths=["corp.example"])
    assert (await client.dns_search_paths()).search_paths == ["corp.example"]
    await client.set_split_dns(
        split_dns={"corp.example": ["10.0.0.53"], "x.example": ["10.0.0.54"]}
    )
    await client.update_split_dns(split_dns={"x.example": []})
    whole = await client.dns_configuration()
    assert set(whole.split_dns) == {"corp.example"} and whole.preferences.magic_dns
    whole.preferences.override_local_dns = True
    await client.set_dns_configuration(whole)
    again = await client.dns_configuration()
    assert again.preferences.override_local_dns and again.nameservers[0].address == "9.9.9.9"
    assert not (await client.set_dns_preferences(magic_dns=False)).magic_dns


async def join(server: Running, auth_key: str) -> None:
    """Let a machine in that says what it is and never comes back."""
    machine = MachinePrivate.from_entropy(system_entropy(32))
    request = RegisterRequest(
        version=113,
        node_key=NodePrivate.from_entropy(system_entropy(32)).public(),
        auth=Auth(auth_key=auth_key),
        hostinfo=Hostinfo(hostname="box", os="linux", routable_ips=["10.1.0.0/16"]),
    )
    key = await fetch_server_key(server.url)
    async with open_link(server.url, machine, key, system_entropy) as link:
        reply = await link.call("POST", "/machine/register", encode_json(request))
        assert reply.status == 200


async def test_its_devices(server: Running, client: Tailscale) -> None:
    began = datetime.now(UTC)
    await join(server, (await client.create_key(preauthorized=True)).key)
    (device,) = (await client.devices()).values()
    assert (device.hostname, device.os, device.authorized) == ("box", "linux", True)
    assert device.name == "box.warren.internal" and device.expires and device.last_seen
    assert device.advertised_routes == ["10.1.0.0/16"] and device.enabled_routes == []
    routes = await client.set_device_routes(device.device_id, routes=["10.1.0.0/16"])
    assert routes.enabled_routes == ["10.1.0.0/16"]
    await client.rename_device(device.device_id, name="crate")
    await client.set_device_tags(device.node_id, tags=["tag:box"])
    await client.set_device_key_expiry(device.device_id, key_expiry_disabled=True)
    await client.set_device_ipv4_address(device.device_id, ipv4_address="100.99.0.1")
    await client.set_device_posture_attribute(device.device_id, "custom:tier", value="gold")
    attributes = await client.device_posture_attributes(device.device_id)
    assert attributes.attributes["custom:tier"] == "gold"
    await client.authorize_device(device.device_id, authorized=False)
    (device,) = (await client.devices()).values()
    assert (device.name, device.tags) == ("crate.warren.internal", ["tag:box"])
    assert device.key_expiry_disabled and device.authorized is False
    assert "100.99.0.1" in device.addresses
    logs = await client.configuration_audit_logs(start=began, end=datetime.now(UTC))
    renamed = next(log for log in logs if log.new == {"name": "crate", "renamed": True})
    assert renamed.actor.login_name == "admin" and renamed.target.name == "crate"
    assert [log.event_time for log in logs] == sorted(log.event_time for log in logs)
    await client.expire_device_key(device.device_id)
    await client.delete_device(device.device_id)
    assert await client.devices() == {}


def go_program(name: str) -> Path:
    program = Path(__file__).parents[2] / ".build/bin" / name
    if not program.exists():
        pytest.skip(f"{name} is not here; `make go-peers` builds it")
    return program


async def test_the_client_in_go(server: Running, client: Tailscale) -> None:
    """All that the public Go client asks, and so the Terraform provider too."""
    program = go_program("go-client")
    await join(server, (await client.create_key(preauthorized=True)).key)
    (device,) = (await client.devices()).values()
    run = await asyncio.create_subprocess_exec(
        program, server.url, server.token, device.node_id,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, problems = await run.communicate()
    assert run.returncode == 0, problems.decode()
    assert int(out.split()[0]) >= 70


def test_webhooks_as_the_services_own_receiver_reads_them(tmp_path: Path) -> None:
    script = Path(__file__).with_name("webhook_delivery.py")
    inside = 'ip link set lo up && exec "$@"'
    run = subprocess.run(
        ["unshare", "--net", "sh", "-c", inside, "-", sys.executable, str(script),
         str(go_program("webhooks")), str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    taken, refused = run.stdout.splitlines()
    assert "events received" in taken and "userCreated warren.internal User bob created" in taken
    assert "signature does not match" in refused


async def test_its_webhooks(server: Running, client: Tailscale) -> None:
    made = await client.create_webhook(
        endpoint_url="https://hooks.example/", subscriptions=["nodeCreated"]
    )
    assert made.secret and made.subscriptions == ["nodeCreated"]
    await client.test_webhook(made.endpoint_id)
    turned = await client.rotate_webhook_secret(made.endpoint_id)
    assert turned.secret not in (None, made.secret)
    await client.update_webhook(made.endpoint_id, subscriptions=["userCreated", "nodeDeleted"])
    (shown,) = await client.webhooks()
    assert shown.subscriptions == ["nodeDeleted", "userCreated"] and shown.secret is None
    await client.delete_webhook(made.endpoint_id)
    assert await client.webhooks() == []


async def test_it_gets_its_own_access_tokens(server: Running) -> None:
    made = admin(server.state, "tokens", "create", "--scope", "devices:core:read")
    async with aiohttp.ClientSession() as session:
        client = Tailscale(
            oauth_client_id=made["id"],
            oauth_client_secret=made["text"],
            session=Redirected(session, server.url),  # type: ignore[arg-type]
        )
        assert isinstance(await client.devices(), dict)
        await client.close()
        wrong = Tailscale(api_key="wrong", session=Redirected(session, server.url))  # type: ignore[arg-type]
        with pytest.raises(TailscaleUnauthorizedError):
            await wrong.devices()


def test_it_does_as_it_says_of_itself(server: Running) -> None:
    """schemathesis: what the description allows is answered as it says, what not is refused."""
    schema = schemathesis.openapi.from_url(f"{server.url}/api/v2/openapi.json")
    checks = [
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
        negative_data_rejection,
    ]
    headers = {"Authorization": f"Bearer {server.token}"}
    bounded = settings(
        max_examples=6,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    answered: dict[str, set[int]] = defaultdict(set)
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/oauth/token":
            continue  # tried above; wrong credentials would lock the rest out

        note = answered[operation.label].add

        @bounded
        @hypothesis.given(case=operation.as_strategy())
        def one(case: Any) -> None:
            answer = case.call_and_validate(headers=headers, checks=checks)
            # What is not offered says so; all else works, or is the asker's fault.
            assert answer.status_code < 500 or answer.status_code == 501, answer.text
            note(answer.status_code)  # noqa: B023 - it runs at once

        one()
    carried_out = [label for label, codes in answered.items() if min(codes) < 300]
    assert len(answered) >= 70 and len(carried_out) >= 25, answered
