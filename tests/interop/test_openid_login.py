"""Log-ins by an identity provider: oidc-provider, which is certified and not ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from openid_provider import SECRET, OpenIdProvider, node
from server_program import Program, flags, warren

# `openid_provider` has put the unit tests' folder on the path.
from coordinator_machine import Machine  # isort: skip
from coordinator_world import World, machine_key, request  # isort: skip
from login_office import Office  # isort: skip
from web_browser import Browser, Page  # isort: skip

from warren.coordinator import members
from warren.coordinator.auth import authkeys
from warren.coordinator.config import identity_providers, load
from warren.coordinator.delta import Delta
from warren.coordinator.enforcement import Enforcement
from warren.coordinator.login.oidc import SKEW_S, Provider
from warren.coordinator.login.opening import check_providers
from warren.coordinator.login.providers import ProviderConfig
from warren.coordinator.policies import set_policy
from warren.coordinator.settings import APPROVE_USERS
from warren.coordinator.store import AuditQuestion
from warren.edge.clock import SystemClock
from warren.lab.ports import free_port

PEOPLE: dict[str, Any] = {
    "alice": {
        "email": "Alice@Example.com", "email_verified": True, "name": "Alice <b>A.</b>",
        "groups": ["engineering", "/staff", "sales@example.com", "boss@other.example"],
    },
    "bob": {"email": "bob@example.com", "email_verified": True},
    "carol": {"email": "carol@other.example", "email_verified": True, "groups": ["guests"]},
    "mallory": {"email": "alice@example.com", "email_verified": False},
    "nobody": {"preferred_username": "nobody"},
}  # fmt: skip
HTTP = free_port()


class ShiftedClock(SystemClock):
    """The machine's time, and what tests add to it."""

    seconds = 0.0
    stands: float | None = None

    def now(self) -> float:
        return (super().now() if self.stands is None else self.stands) + self.seconds

    def wall(self) -> datetime:
        return super().wall() + timedelta(seconds=self.seconds)

    def advance(self, seconds: float) -> None:
        self.seconds += seconds

    def stand_still(self) -> None:
        """From now on only `advance` moves `now`, however long something takes."""
        self.stands = super().now()


@pytest.fixture(scope="module")
def running() -> Iterator[OpenIdProvider]:
    program = node()
    if program is None:
        pytest.skip("oidc-provider is not here; `make oidc` installs it")
    callbacks = [
        "http://warren.test/login/company/callback",
        "http://warren.test/login/second/callback",
        f"http://127.0.0.1:{HTTP}/login/company/callback",
    ]
    provider = OpenIdProvider(program, callbacks, PEOPLE)
    yield provider
    provider.stop()


@pytest.fixture
def openid(running: OpenIdProvider) -> Iterator[OpenIdProvider]:
    """The provider; what a test changed of it is undone."""
    yield running
    running.tell(skew_s=0, id_token_life_s=3600, accounts=PEOPLE)


class Network(Office):
    """A server whose people log in by the provider."""

    def __init__(
        self,
        directory: Path,
        openid: OpenIdProvider,
        elsewhere: OpenIdProvider | None = None,
        **more: Any,
    ) -> None:
        world = World(clock=ShiftedClock())  # type: ignore[arg-type]
        fields = {
            "name": "company", "title": "The Company", "issuer": openid.issuer,
            "client_id": "warren", "scopes": ["openid", "profile", "email", "groups"],
        }  # fmt: skip
        self.openid = openid
        self.config = ProviderConfig(**{**fields, **more})  # type: ignore[arg-type]
        second = ProviderConfig(
            name="second", issuer=(elsewhere or openid).issuer, client_id="public",
            scopes=["openid", "profile", "email", "groups"], groups_domain="second.example",
        )  # fmt: skip
        providers = {
            one.name: Provider(
                one, secret, f"http://warren.test/login/{one.name}/callback", world.clock,
                world.entropy,
            )
            for one, secret in ((self.config, SECRET), (second, ""))
        }  # fmt: skip
        super().__init__(directory, world, providers=providers)

    async def begun(self, browser: Browser, to: str = "/account") -> Page:
        """Choose the provider on our page; return its own page."""
        page = await browser.get(f"/login?to={to}")
        (way,) = [link for link in page.links if link.startswith("/login/company?")]
        return await browser.get(way)

    async def log_in(self, login: str, to: str = "/account") -> tuple[Browser, Page]:
        browser = self.browser()
        return browser, await self.openid.log_in(browser, await self.begun(browser, to), login)

    async def back(self, login: str) -> tuple[Browser, str]:
        """Log in at the provider; return the address that it sends the browser back to."""
        browser = self.browser()
        page = await self.begun(browser)
        page = await self.openid.log_in(browser, page, login, follow=False)
        return browser, page.answer.headers["location"]


@pytest.fixture
async def network(tmp_path: Path, openid: OpenIdProvider) -> AsyncIterator[Network]:
    made = Network(tmp_path, openid)
    await made.user("root")
    yield made
    made.store.close()


async def test_a_new_person_lets_a_machine_in_and_keeps_it(network: Network) -> None:
    way = await network.waiting("laptop")
    browser = network.browser()
    page = await browser.get(way)
    assert "Log in with The Company" in page and "Log in with second" in page
    (link,) = [link for link in page.links if link.startswith("/login/company?")]
    page = await network.openid.log_in(browser, await browser.get(link), "alice")
    assert page.url.endswith(way) and "Is this your machine?" in page
    assert "in the network" in await browser.submit(page, way)
    alice = network.known("alice@example.com")
    assert (alice.role, alice.display_name, alice.subject) == ("member", "Alice <b>A.</b>", "alice")
    assert alice.groups == (
        "group:engineering@example.com", "group:sales@example.com", "group:staff@example.com",
    ), "none of a domain that this provider does not speak for"  # fmt: skip
    (node,) = network.registry.snapshot.nodes.values()
    assert node.user_id == alice.id

    # Its key expires; who logs in again has the same machine.
    wall = network.world.clock.wall()
    await network.registry.commit(lambda now: (members.expire(node, wall), None))
    answer = await network.registration.register(
        machine_key("m").public(), request("n2", old="n", hostname="laptop")
    )
    way = answer.auth_url.removeprefix("http://warren.test")
    browser, page = await network.log_in("alice", way)
    await browser.submit(page, way)
    (again,) = network.registry.snapshot.nodes.values()
    assert (again.id, again.ipv4, again.name) == (node.id, node.ipv4, node.name)
    assert again.node_key != node.node_key and again.in_force(network.world.clock.wall())
    entries = await network.registry.history(AuditQuestion())
    assert next(e.target_kind for e in entries if e.actor == "alice@example.com") == "machine"


async def test_who_was_there_by_name_is_found_again(network: Network) -> None:
    await network.log_in("bob")
    bob = network.known("bob@example.com")
    changed = {**PEOPLE, "bob": {"email": "robert@example.com", "email_verified": True}}
    network.openid.tell(accounts=changed)
    await network.log_in("bob")
    assert network.known("robert@example.com").id == bob.id, "the subject is the person"

    wall = network.world.clock.wall()
    await network.registry.commit(
        lambda now: (members.create_user(now, "alice@example.com", "", wall), None)
    )
    prepared = network.known("alice@example.com")
    await network.log_in("alice")
    assert network.known("alice@example.com").id == prepared.id
    assert network.known("alice@example.com").subject == "alice"


async def test_who_did_it_is_never_another_of_that_name(network: Network) -> None:
    """The provider renames Bob to what a user here is called: that one has changed nothing."""
    await network.log_in("bob")
    await network.logged_in("robert@example.com")
    renamed = {"email": "robert@example.com", "email_verified": True, "name": "Robert"}
    network.openid.tell(accounts={**PEOPLE, "bob": renamed})
    _, page = await network.log_in("bob")
    assert "You are bob@example.com" in page
    (entry, *_) = await network.registry.history(AuditQuestion())
    assert (entry.actor, entry.target_name) == ("bob@example.com", "bob@example.com")
    assert (entry.after or {})["display_name"] == "Robert"
    link = await network.user("eve")
    browser = network.browser()
    page = await browser.get(link)
    (way,) = [to for to in page.links if to.startswith("/login/company?")]
    network.openid.tell(accounts={**PEOPLE, "carol": renamed})
    page = await network.openid.log_in(browser, await browser.get(way), "carol")
    assert "You are eve" in page
    (entry, *_) = await network.registry.history(AuditQuestion())
    assert entry.actor == "eve", "who the link was for"


async def test_nobody_takes_over_who_logs_in_another_way(network: Network) -> None:
    await network.logged_in("bob@example.com")
    _, page = await network.log_in("bob")
    assert page.status == 403 and "logs in another way" in page
    assert not network.known("bob@example.com").issuer
    browser, page = await network.log_in("mallory")
    assert page.status == 403 and "does not vouch" in page, "the address is not hers"
    _, page = await network.log_in("nobody")
    assert page.status == 403 and "gives no email" in page
    assert (await browser.get("/account")).url.endswith("/login")


async def test_the_owners_link_makes_who_logs_in_the_owner(network: Network) -> None:
    link = await network.user("stand-in", "owner")
    snapshot = network.registry.snapshot
    (invite,) = (i for i in snapshot.invites.values() if link.endswith("-" + link.split("-")[-1])
                 and i.user_id == network.known("stand-in").id)  # fmt: skip
    from msgspec.structs import replace

    from warren.coordinator.delta import Delta

    await network.registry.commit(
        lambda now: (Delta(invites=(replace(invite, renames=True),)), None)
    )
    browser = network.browser()
    page = await browser.get(link)
    (way,) = [to for to in page.links if to.startswith("/login/company?")]
    page = await network.openid.log_in(browser, await browser.get(way), "alice")
    assert "You are alice@example.com" in page
    assert network.known("alice@example.com").id == invite.user_id
    assert (await browser.get(link)).status == 403, "once"


async def test_a_log_in_that_was_stopped_or_has_taken_too_long(network: Network) -> None:
    browser = network.browser()
    page = await network.openid.cancel(browser, await network.begun(browser))
    assert page.status == 403 and "did not let you in, or you stopped" in page
    browser, url = await network.back("alice")
    network.world.clock.advance(601)
    page = await browser.get(url)
    assert page.status == 403 and "took too long" in page


async def test_an_answer_is_good_once_in_one_browser_and_from_one_provider(
    network: Network,
) -> None:
    browser, url = await network.back("alice")
    other = network.browser()
    assert "not begun in this window" in await other.get(url)
    _, attackers = await network.back("bob")
    assert "not begun in this window" in await browser.get(attackers), "log-in CSRF"

    for part, other in (
        ("state=", "state=x"),
        ("iss=http", "iss=https"),
        ("iss=", "was="),
        ("?", "#"),
        ("/company/", "/second/"),
        ("/company/", "/nowhere/"),
        ("code=", "code=x"),
    ):
        browser, url = await network.back("alice")
        assert part in url
        assert (await browser.get(url.replace(part, other))).status in (403, 404), other
    assert network.registry.snapshot.user_named("alice@example.com") is None
    browser, url = await network.back("alice")
    cookies = {
        cookie.name: cookie.value or "" for cookie in browser.client.cookies.jar
        if cookie.domain == "warren.test"
    }  # fmt: skip
    assert "You are alice" in await browser.get(url)
    assert "was not begun" in await browser.get(url), "the cookie is gone"
    replayed = network.browser()
    replayed.client.cookies.update(cookies)
    assert "finished before" in await replayed.get(url), "and of no use to who kept it"


@pytest.mark.parametrize(
    ("skew_s", "told"),
    [
        (SKEW_S - 20, None),
        (-SKEW_S, None),
        (600, "are both clocks right"),
        (-SKEW_S - 100, "has expired already"),
    ],
)
async def test_clocks_that_differ(network: Network, skew_s: int, told: str | None) -> None:
    network.openid.tell(skew_s=skew_s, id_token_life_s=60)
    _, page = await network.log_in("alice")
    if told is None:
        assert "You are alice" in page
    else:
        assert page.status == 502 and told in page
        assert network.registry.snapshot.user_named("alice@example.com") is None


async def test_another_key_signs_from_now_on(network: Network) -> None:
    await network.log_in("alice")
    network.openid.tell(rotate=True)
    network.world.clock.advance(11)
    _, page = await network.log_in("bob")
    assert "You are bob" in page
    network.openid.tell(rotate=True)
    _, page = await network.log_in("bob")
    assert page.status == 502 and "is not good" in page, "keys are not asked for at every turn"
    network.world.clock.advance(11)
    assert "You are bob" in (await network.log_in("bob"))[1]


async def test_a_provider_that_is_away(network: Network) -> None:
    network.openid.stop()
    network.world.clock.stand_still()
    way = await network.waiting()
    browser = network.browser()
    page = await browser.get("/login/company?to=/account")
    assert page.status == 502 and "cannot be reached now" in page
    assert (await browser.get(way)).status == 200
    network.openid.start()
    assert (await browser.get("/login/company?to=/account")).status == 502, "not asked yet"
    network.world.clock.advance(6)
    browser, url = await network.back("alice")
    network.openid.stop()
    page = await browser.get(url)
    assert page.status == 502 and "cannot be reached now" in page
    network.openid.start()
    assert "You are alice" in (await network.log_in("alice"))[1], "its keys are others now"


@pytest.mark.parametrize(
    ("rules", "inside", "outside", "reason"),
    [
        ({"allowed_domains": ["example.com"]}, "alice", "carol", "of other.example may not"),
        ({"allowed_users": ["Bob@example.com"]}, "bob", "alice", "account alice@example.com"),
        ({"allowed_groups": ["staff"]}, "alice", "bob", "none of the groups"),
        ({"allowed_groups": ["guests", "staff"], "allowed_domains": ["@example.com"]},
         "alice", "carol", "may not log in here"),
    ],
)  # fmt: skip
async def test_who_may_come_in(
    tmp_path: Path, openid: OpenIdProvider, rules: Any, inside: str, outside: str, reason: str
) -> None:
    network = Network(tmp_path, openid, **rules)
    await network.user("root")
    assert f"You are {inside}" in (await network.log_in(inside))[1]
    _, page = await network.log_in(outside)
    assert page.status == 403 and reason in page
    assert len(network.registry.snapshot.users) == 2
    network.store.close()


async def test_a_second_provider_without_a_secret(network: Network) -> None:
    browser = network.browser()
    page = await browser.get("/login/second?to=//evil.example")
    page = await network.openid.log_in(browser, page, "alice")
    assert page.url == "http://warren.test/account" and "You are alice@example.com" in page


async def test_two_providers_that_call_two_people_the_same(
    tmp_path: Path, openid: OpenIdProvider
) -> None:
    """A subject is a person at its own provider only (OpenID Connect Core §2)."""
    program, callback = node(), "http://warren.test/login/second/callback"
    assert program is not None
    others = {
        "alice": {"email": "alice@second.example", "email_verified": True, "groups": ["staff"]},
        "bob": {"email": "bob@example.com", "email_verified": True},
    }
    elsewhere = OpenIdProvider(program, [callback], others)
    network = Network(tmp_path, openid, elsewhere)
    await network.user("root")

    async def at_second(login: str) -> Page:
        browser = network.browser()
        return await elsewhere.log_in(browser, await browser.get("/login/second"), login)

    assert "You are alice@example.com" in (await network.log_in("alice"))[1]
    assert "You are alice@second.example" in await at_second("alice")
    one, other = network.known("alice@example.com"), network.known("alice@second.example")
    assert one.id != other.id and one.subject == other.subject == "alice"
    assert (one.issuer, other.issuer) == (openid.issuer, elsewhere.issuer)
    assert "group:staff@example.com" in one.groups and other.groups == (
        "group:staff@second.example",
    )
    # Nor does one speak for whom the other knows, though it vouches for the same address.
    assert "You are bob" in (await network.log_in("bob"))[1]
    page = await at_second("bob")
    assert page.status == 403 and "logs in another way" in page
    assert network.known("bob@example.com").issuer == openid.issuer
    # An answer of the one is not the other's, whoever's window it is.
    browser = network.browser()
    page = await network.begun(browser)
    page = await openid.log_in(browser, page, "alice", follow=False)
    url = page.answer.headers["location"].replace("/company/", "/second/")
    assert "not begun in this window" in await browser.get(url)
    network.store.close()
    elsewhere.stop()


async def test_groups_that_change_count_from_that_log_in_on(network: Network) -> None:
    wall = network.world.clock.wall()
    policy = """{"grants": [
        {"src": ["group:engineering@example.com"], "dst": ["tag:web"], "ip": ["*"]}],
        "tagOwners": {"tag:web": []}}"""
    text, key = authkeys.mint(
        user_id=network.known("root").id, wall=wall, entropy=network.world.entropy,
        life=timedelta(hours=1), tags=["tag:web"],
    )  # fmt: skip
    await network.registry.commit(lambda now: (Delta(auth_keys=(key,)), None))
    await network.registry.commit(lambda now: (set_policy(now, policy, "", wall), None))
    await network.registration.register(
        machine_key("web").public(), request("web", auth_key=text, hostname="web")
    )
    way = await network.waiting("laptop")
    browser, page = await network.log_in("alice", way)
    await browser.submit(page, way)
    enforced = Enforcement(network.registry.snapshot, wall)
    network.registry.listen(lambda change: enforced.follow(network.registry.snapshot, change, wall))

    def reaches() -> bool:
        nodes = {node.name: node for node in network.registry.snapshot.nodes.values()}
        return enforced.visible(nodes["laptop"], nodes["web"])

    assert reaches()
    for groups, may in ((["sales"], False), (["sales", "/Engineering"], True), (None, False)):
        told = {**PEOPLE["alice"], "groups": groups}
        if groups is None:
            del told["groups"]
        network.openid.tell(accounts={**PEOPLE, "alice": told})
        assert reaches() != may, "what the provider tells counts from the next log-in"
        assert "You are alice" in (await network.log_in("alice"))[1]
        assert reaches() == may
        (entry, *_) = await network.registry.history(AuditQuestion())
        assert entry.target_kind == "user" and entry.after is not None
        assert ("group:engineering@example.com" in entry.after["groups"]) == may
        assert ("group:engineering@example.com" in (entry.before or {})["groups"]) != may
        assert (entry.actor, entry.origin) == ("alice@example.com", "192.0.2.7")


async def test_a_link_that_two_people_use_at_once(network: Network) -> None:
    link = await network.user("stand-in")
    browsers, answers = [], []
    for login in ("alice", "bob"):
        browser = network.browser()
        page = await browser.get(link)
        (way,) = [to for to in page.links if to.startswith("/login/company?")]
        page = await network.openid.log_in(browser, await browser.get(way), login, follow=False)
        browsers.append(browser)
        answers.append(page.answer.headers["location"])
    found = await asyncio.gather(
        *(browser.get(url) for browser, url in zip(browsers, answers, strict=True))
    )
    assert sorted(page.status for page in found) == [200, 403]
    (refused,) = (page for page in found if page.status == 403)
    assert "link has been used" in refused
    users = network.registry.snapshot.users.values()
    assert {user.name for user in users} == {"root", "stand-in"}, "nobody was made beside them"


async def test_a_provider_that_goes_while_somebody_logs_in(network: Network) -> None:
    """It gave the code and is away when that is exchanged: nothing is half done."""
    browser, url = await network.back("alice")
    network.openid.stop()
    page = await browser.get(url)
    assert page.status == 502 and "try again later" in page and "/login" in page.links
    assert network.registry.snapshot.user_named("alice@example.com") is None
    network.openid.start()
    again = await browser.get(url)
    assert again.status == 403 and "begin it again" in again and "/login" in again.links
    page = await network.openid.log_in(browser, await network.begun(browser), "alice")
    # Its keys are others now, and it has forgotten the browser: that is no other person.
    assert "You are alice" in page


async def test_a_suspended_person_stays_out(network: Network) -> None:
    browser, _ = await network.log_in("alice")
    wall = network.world.clock.wall()
    await network.registry.commit(
        lambda now: (members.suspend(now, network.known("alice@example.com"), wall), None)
    )
    assert (await browser.get("/account")).url.endswith("/login")
    _, page = await network.log_in("alice")
    assert page.status == 403 and "is suspended" in page


async def test_a_new_person_waits_for_approval_where_that_is_set(network: Network) -> None:
    await network.registry.commit(lambda now: (Delta(settings={APPROVE_USERS: "true"}), None))
    way = await network.waiting("laptop")
    browser, page = await network.log_in("alice", way)
    assert page.status == 403 and "an administrator has to approve you" in page
    assert (await browser.get("/account")).url.endswith("/login"), "no session was given"
    alice = network.known("alice@example.com")
    assert not alice.approved and not network.registry.snapshot.nodes
    await network.registry.commit(lambda now: (members.approve_user(alice), None))
    browser, page = await network.log_in("alice", way)
    assert "in the network" in await browser.submit(page, way)


async def asked_by_ssh(network: Network, browser: Browser) -> str:
    """Let two machines in, and one log in to the other by SSH; return the link that it shows."""
    for name in ("pc", "web"):
        answer = await network.registration.register(
            machine_key(name).public(), request(name, hostname=name)
        )
        way = answer.auth_url.removeprefix("http://warren.test")
        await browser.submit(await browser.get(way), way)
    ids = {node.name: node.id for node in network.registry.snapshot.nodes.values()}
    target = f"/machine/ssh/action/{ids['pc']}/to/{ids['web']}?local_user=dev"
    action = await network.checks.action(machine_key("web").public(), target)
    return str(action["message"].split("http://warren.test")[1].strip())


async def test_a_log_in_by_ssh_asks_at_the_provider_anew(network: Network) -> None:
    browser, _ = await network.log_in("alice")
    link = await asked_by_ssh(network, browser)
    # The provider knows this browser, and so lets it back at once; that is not enough here.
    page = await network.begun(browser)
    assert page.url.endswith("/account")
    page = await browser.get(link)
    assert "Log in anew" in page and "let me in" not in page
    (way,) = [way for way in page.links if way.startswith("/login/company?")]
    page = await browser.get(way)
    assert "/interaction/" in page.url, "it asks, though it knows the browser"
    page = await network.openid.log_in(browser, page, "alice")
    assert page.url.endswith(link)
    assert "goes on" in await browser.submit(page, link, answer="yes")


async def test_a_provider_that_would_not_ask_anew(network: Network) -> None:
    """Somebody takes out of the request what makes it ask: its own word tells."""
    browser, _ = await network.log_in("alice")
    link = await asked_by_ssh(network, browser)
    await asyncio.sleep(1.1)
    network.world.clock.advance(SKEW_S)
    page = await browser.get(link)
    (way,) = [way for way in page.links if way.startswith("/login/company?")]
    answer = await browser.get(way, follow=False)
    url = answer.answer.headers["location"]
    assert "&prompt=login&max_age=0" in url
    page = await browser.get(url.replace("&prompt=login&max_age=0", "&max_age=86400"))
    assert page.status == 403 and "did not ask you anew" in page
    page = await browser.get(way, follow=False)
    url = page.answer.headers["location"].replace("&prompt=login&max_age=0", "")
    page = await browser.get(url)
    assert page.status == 502 and "does not say when" in page


async def test_another_issuer_than_was_configured(tmp_path: Path, openid: OpenIdProvider) -> None:
    elsewhere = Network(tmp_path, openid, issuer=openid.issuer + "/")
    page = await elsewhere.browser().get("/login/company")
    assert page.status == 502 and f"calls itself '{openid.issuer}'" in page
    elsewhere.store.close()


async def test_a_whole_server_and_a_machine_that_waits(
    tmp_path: Path, openid: OpenIdProvider
) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    providers = tmp_path / "oidc.toml"
    providers.write_text(
        f'[[oidc]]\nname = "company"\nissuer = "{openid.issuer}"\nclient-id = "warren"\n'
        f'client-secret-file = "{tmp_path / "secret"}"\n'
    )
    state, database = tmp_path / "state", f"sqlite:///{tmp_path / 'w.db'}"
    configs = identity_providers(load(None, {"oidc": str(providers)}))
    await asyncio.to_thread(check_providers, configs, "http://warren.test")
    program = Program(state, database, "--oidc", str(providers), http=HTTP)
    machine = await Machine(program.http, "laptop").connect()
    try:
        waiting = await machine.register()
        follow = asyncio.get_running_loop().create_task(machine.register(followup=waiting.auth_url))
        async with httpx.AsyncClient() as client:
            browser = Browser(client)
            page = await browser.get(waiting.auth_url)
            (way,) = [link for link in page.links if link.startswith("/login/")]
            page = await browser.get(f"http://127.0.0.1:{program.http}{way}")
            page = await openid.log_in(browser, page, "alice")
            await browser.submit(page, page.url.partition(str(program.http))[2])
        joined = await asyncio.wait_for(follow, 5)
        assert joined.machine_authorized and joined.login.login_name == "alice@example.com"
        machine.poll()
        await machine.until(lambda view: view.node is not None)
    finally:
        await machine.close()
        program.end()
    openid.stop()
    away = warren("server", *flags(state, database), "--oidc", str(providers), "--check")
    openid.start()
    assert away.returncode == 1 and "company cannot be reached" in away.stderr, away.stderr
