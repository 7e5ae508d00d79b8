"""A stock client, and ours, without a key: their users log in at oidc-provider and let them in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import httpx
import pytest
from openid_provider import SECRET, OpenIdProvider, node

from web_browser import Browser  # isort: skip

from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan
from warren.lab.stock import StockClient
from warren.lab.world import World

pytestmark = [pytest.mark.netlab, pytest.mark.interop, pytest.mark.usefixtures("stock_client")]

PLAN = Plan(
    routers=(),
    hosts=(
        Host("server", address="198.51.100.10"),
        Host("phone", address="198.51.100.20"),
        Host("laptop", address="198.51.100.30"),
    ),
)
PEOPLE = {
    name: {"email": f"{name}@example.com", "email_verified": True, "groups": ["staff"]}
    for name in ("alice", "bob")
}


@pytest.fixture
def world() -> Iterator[World]:
    with World(PLAN) as built:
        yield built


@pytest.fixture
def openid(world: World) -> Iterator[OpenIdProvider]:
    program = node()
    if program is None:
        pytest.skip("oidc-provider is not here; `make oidc` installs it")
    callback = "http://198.51.100.10/login/company/callback"
    started = world["server"].inside(lambda: OpenIdProvider(program, [callback], PEOPLE))
    yield started
    started.stop()


def let_in(world: World, openid: OpenIdProvider, url: str, login: str) -> None:
    """What a person does with the link that a machine shows."""

    async def browse() -> None:
        async with httpx.AsyncClient() as client:
            browser = Browser(client)
            page = await browser.get(url)
            (way,) = [link for link in page.links if link.startswith("/login/")]
            page = await openid.log_in(browser, await browser.get(f"{root}{way}"), login)
            done = await browser.submit(page, page.url.removeprefix(root))
            assert "is in the network" in done, done.text

    root = url.partition("/register/")[0]
    world["server"].inside(lambda: asyncio.run(browse()))


def test_they_join_by_a_log_in_and_see_each_other(world: World, openid: OpenIdProvider) -> None:
    secret, providers = world.scratch / "secret", world.scratch / "oidc.toml"
    secret.write_text(SECRET)
    providers.write_text(
        f'[[oidc]]\nname = "company"\nissuer = "{openid.issuer}"\nclient-id = "warren"\n'
        f'client-secret-file = "{secret}"\nscopes = ["openid", "email", "groups"]\n'
    )
    server = Server(world["server"], world.scratch / "state", more=["--oidc", str(providers)])
    server.start()
    policy = world.scratch / "policy.hujson"
    policy.write_text(
        '{"grants": [{"src": ["group:staff@example.com"], "dst": ["*"], "ip": ["*"]}]}'
    )
    server.admin("policy", "set", str(policy))

    phone = StockClient(world["phone"], "phone", server=server.url, state=world.scratch / "phone")
    phone.start()

    def link() -> str | None:
        found = re.findall(rf"{re.escape(server.url)}/register/\w+", "\n".join(phone.messages()))
        return found[-1] if found else None

    let_in(world, openid, world.wait(link, 20, "the stock client shows a link"), "alice")
    phone.wait_joined()

    laptop = Node(world["laptop"], "laptop", world.scratch / "laptop", tun=False)
    laptop.start()
    laptop.wait_daemon()
    command = laptop.begin_up(server.url, None)

    def shown() -> str | None:
        found = re.search(rf"{re.escape(server.url)}/register/\w+", command.output())
        return found[0] if found else None

    let_in(world, openid, world.wait(shown, 20, "warren up shows a link"), "bob")
    laptop.finish_up(command)
    owners = {found["name"]: found["user"] for found in server.nodes()}
    assert owners == {"phone": "alice@example.com", "laptop": "bob@example.com"}
    world.wait(lambda: laptop.peer("phone"), 10, "the policy's group shows it")

    assert server.admin("users", "invite", "carol")["url"].startswith(f"{server.url}/invite/")

    # Shut out, it stops; let in again, and logged in again, it is the machine that it was.
    before = server.node("phone")
    server.admin("users", "suspend", "alice@example.com")
    phone.wait_state("NeedsLogin", 10)
    server.admin("users", "restore", "alice@example.com")
    phone.stop()
    phone.start()
    let_in(world, openid, world.wait(link, 20, "it shows another link"), "alice")
    phone.wait_joined()
    after = server.node("phone")
    assert before is not None and after is not None
    assert (after["id"], after["addresses"]) == (before["id"], before["addresses"])
    assert after["node_key"] != before["node_key"]
