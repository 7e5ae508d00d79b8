"""ID tokens and answers that a provider, or somebody in its place, has made up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from coordinator_world import CountedEntropy, FakeClock
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from msgspec.structs import replace

from warren.coordinator.config import BadConfig, identity_providers, load
from warren.coordinator.login import oidc
from warren.coordinator.login.claims import NotAdmitted, ProviderProblem, identity_untrusted
from warren.coordinator.login.oidc import SKEW_S, Provider
from warren.coordinator.login.providers import ProviderConfig, check, client_secret
from warren.coordinator.login.sessions import Flow

ISSUER = "https://login.example.com"
CONFIG = ProviderConfig(name="company", issuer=ISSUER, client_id="warren")
KEY = RSAKey.generate_key(2048, {"kid": "one"})
EC = ECKey.generate_key("P-256", {"kid": "two"})
DISCOVERY = {
    "issuer": ISSUER, "authorization_endpoint": f"{ISSUER}/auth?tenant=a",
    "token_endpoint": f"{ISSUER}/token", "jwks_uri": f"{ISSUER}/jwks",
    "response_types_supported": ["code"],
}  # fmt: skip


class Faked(Provider):
    """A provider whose answers are written here, by URL."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        clock = FakeClock()
        super().__init__(CONFIG, "secret", "https://w.example/cb", clock, CountedEntropy())
        self.clock, self.answers = clock, dict(answers)
        self.asked: list[tuple[str, Any, Any]] = []

    async def _ask(self, method, url, headers=None, form=None, *, refusable=False):  # type: ignore[no-untyped-def]
        self.asked.append((url, headers, form))
        answer = self.answers[url.removeprefix(ISSUER)]
        return answer() if callable(answer) else answer


def faked(token: Any = None, **more: Any) -> Faked:
    keys = {"keys": [KEY.as_dict(private=False), EC.as_dict(private=False),
                     {"kty": "AKP", "kid": "of the future", "alg": "ML-DSA-44"}]}  # fmt: skip
    answers = {
        "/.well-known/openid-configuration": {**DISCOVERY, **more},
        "/jwks": keys,
        "/token": {"id_token": token, "access_token": "a"},
    }
    return Faked(answers)


def claims(flow: Flow, provider: Faked, **changed: Any) -> dict[str, Any]:
    now = int(provider.clock.wall().timestamp())
    good = {
        "iss": ISSUER, "aud": "warren", "sub": "1", "iat": now, "exp": now + 300,
        "nonce": flow.nonce, "email": "ann@example.com", "email_verified": True,
    }  # fmt: skip
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


async def finish(provider: Faked, token_of: Any) -> dict[str, Any]:
    _, flow = await provider.begin("/account", 0)
    provider.answers["/token"] = {"id_token": token_of(flow), "access_token": "a"}
    return await provider.finish(flow, {"code": "c", "state": flow.state})


@pytest.mark.parametrize(("key", "algorithm"), [(KEY, "RS256"), (KEY, "PS384"), (EC, "ES256")])
async def test_good_tokens(key: Any, algorithm: str) -> None:
    provider = faked()
    header = {"alg": algorithm, "kid": key.kid}
    found = await finish(provider, lambda flow: jwt.encode(header, claims(flow, provider), key,
                                                           algorithms=[algorithm]))  # fmt: skip
    assert identity_untrusted(found, CONFIG).name == "ann@example.com"
    _, headers, form = provider.asked[-2] if provider.asked[-1][2] is None else provider.asked[-1]
    assert form["code_verifier"] and headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize("told", ["bücher.example", "xn--bcher-kva.example"])
@pytest.mark.parametrize("allowed", ["Bücher.example", "@XN--bcher-kva.example"])
def test_allowed_domains_and_users_in_either_form(told: str, allowed: str) -> None:
    user = f"ann@{allowed.removeprefix('@')}"
    config = replace(CONFIG, allowed_domains=[allowed], allowed_users=[user])
    person = {"sub": "1", "email_verified": True, "groups": [f"ops@{told}", "x@other.example"]}
    found = identity_untrusted(person | {"email": f"ann@{told}"}, config)
    assert found.groups == (f"group:ops@{told}",)
    for other in (f"bob@{told}", "ann@bucher.example"):
        with pytest.raises(NotAdmitted):
            identity_untrusted(person | {"email": other}, config)


WRONG = [
    {"iss": "https://evil.example"}, {"iss": None}, {"iss": ISSUER + "/"}, {"aud": "other"},
    {"aud": None}, {"aud": []}, {"aud": ["warren", "other"]}, {"azp": "other"},
    {"aud": ["warren", "other"], "azp": "other"}, {"sub": None}, {"sub": 5}, {"nonce": "other"},
    {"nonce": None}, {"exp": None}, {"exp": "soon"}, {"exp": 1}, {"iat": None}, {"iat": 10**11},
    {"nbf": 10**11}, {"exp": 1e308},
]  # fmt: skip


@pytest.mark.parametrize("changed", WRONG, ids=str)
async def test_tokens_for_others_and_from_others(changed: dict[str, Any]) -> None:
    provider = faked()
    header = {"alg": "RS256", "kid": "one"}

    def token(flow: Flow) -> str:
        return jwt.encode(header, claims(flow, provider, **changed), KEY)

    if changed == {"exp": 1e308}:
        await finish(provider, token)
        return
    with pytest.raises(ProviderProblem):
        await finish(provider, token)


@pytest.mark.parametrize(
    ("ago_s", "refused"),
    [
        (0, None),
        (SKEW_S, None),
        (SKEW_S + 1, "did not ask you anew"),
        (None, "does not say when"),
        ("soon", "not good"),
        (True, "not good"),
    ],
)
async def test_when_somebody_has_logged_in(ago_s: Any, refused: str | None) -> None:
    provider = faked()
    url, flow = await provider.begin("/ssh/abc", 0, anew=True)
    assert "prompt=login" in url and "max_age=0" in url
    when = int(flow.since) - ago_s if type(ago_s) is int else ago_s
    token = jwt.encode({"alg": "RS256", "kid": "one"}, claims(flow, provider, auth_time=when), KEY)
    provider.answers["/token"] = {"id_token": token}
    if refused is None:
        await provider.finish(flow, {"code": "c", "state": flow.state})
        return
    with pytest.raises((NotAdmitted, ProviderProblem), match=refused):
        await provider.finish(flow, {"code": "c", "state": flow.state})
    # Where nobody was to be asked anew, it does not matter; nor where an operator says so.
    _, at_ease = await provider.begin("/account", 0)
    token = jwt.encode(
        {"alg": "RS256", "kid": "one"}, claims(at_ease, provider, auth_time=when), KEY
    )
    provider.answers["/token"] = {"id_token": token}
    await provider.finish(at_ease, {"code": "c", "state": at_ease.state})
    if ago_s is None:
        provider.config = replace(CONFIG, allow_no_auth_time=True)
        token = jwt.encode({"alg": "RS256", "kid": "one"}, claims(flow, provider), KEY)
        provider.answers["/token"] = {"id_token": token}
        await provider.finish(flow, {"code": "c", "state": flow.state})


async def test_several_audiences_with_ours_as_the_party() -> None:
    provider = faked()
    header = {"alg": "RS256", "kid": "one"}
    changed = {"aud": ["warren", "other"], "azp": "warren"}
    await finish(provider, lambda flow: jwt.encode(header, claims(flow, provider, **changed), KEY))


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
async def test_signatures_that_prove_nothing() -> None:
    provider = faked()
    stranger = RSAKey.generate_key(2048, {"kid": "one"})
    public = OctKey.import_key(json.dumps(KEY.as_dict(private=False)))
    secret = OctKey.import_key("secret")

    def signed(header: dict[str, str], key: Any, algorithm: str) -> Any:
        return lambda flow: jwt.encode(header, claims(flow, provider), key, algorithms=[algorithm])

    none = {"alg": "none"}
    for token in (
        signed({"alg": "RS256", "kid": "one"}, stranger, "RS256"),
        signed({"alg": "RS256", "kid": "three"}, stranger, "RS256"),
        signed({"alg": "HS256", "kid": "one"}, public, "HS256"),
        signed({"alg": "HS256"}, secret, "HS256"),
        signed({**none, "kid": "one"}, secret, "none"),
        lambda flow: None,
        lambda flow: 5,
        lambda flow: "",
        lambda flow: "a.b.c",
        lambda flow: "é" * 10,
        lambda flow: jwt.encode({"alg": "RS256", "kid": "one"}, claims(flow, provider), KEY)[:-9],
        lambda flow: "." * 1_000_000,
    ):
        with pytest.raises(ProviderProblem):
            await finish(provider, token)


async def test_keys_are_asked_for_once_a_while_whatever_tokens_name() -> None:
    provider = faked()
    for number in range(20):
        with pytest.raises(ProviderProblem):
            header = {"alg": "RS256", "kid": f"made up {number}"}
            await finish(
                provider, lambda flow, h=header: jwt.encode(h, claims(flow, provider), KEY)
            )
    assert sum(url.endswith("/jwks") for url, _, _ in provider.asked) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"token_endpoint": None}, {"jwks_uri": ""}, {"issuer": 5}, {"issuer": "https://other.example"},
        {"token_endpoint": "http://login.example.com/token"}, {"jwks_uri": "file:///etc/passwd"},
        {"authorization_endpoint": "javascript:alert(1)"}, {"userinfo_endpoint": "ftp://x"},
        {"jwks_uri": "https://user@evil.example/"}, {"jwks_uri": "https://[::1"},
        {"authorization_endpoint": "https://login.example.com/a\r\nset-cookie: x=y"},
        {"token_endpoint": "https://login.example.com/\ttoken"},
        {"authorization_endpoint": "https://login.example.com/\u202e"},
    ],
    ids=str,
)  # fmt: skip
async def test_descriptions_that_lead_elsewhere(bad: dict[str, Any]) -> None:
    with pytest.raises(ProviderProblem):
        await faked(**bad).discover()


@pytest.mark.parametrize(
    "keys", [{}, {"keys": 5}, {"keys": []}, {"keys": [5]}, {"keys": [{"kty": "RSA"}]}, {"keys": {}}]
)
async def test_keys_that_are_none(keys: Any) -> None:
    provider = faked()
    provider.answers["/jwks"] = keys
    with pytest.raises(ProviderProblem):
        await provider.discover()


async def test_userinfo_of_somebody_else() -> None:
    provider = faked(userinfo_endpoint=f"{ISSUER}/me")
    header = {"alg": "RS256", "kid": "one"}
    for told, reason in (({"sub": "2"}, "somebody else"), ({}, "somebody else")):
        provider.answers["/me"] = told
        with pytest.raises(ProviderProblem, match=reason):
            await finish(provider, lambda flow: jwt.encode(header, claims(flow, provider), KEY))
    provider.answers["/me"] = {"sub": "1", "email": "root@example.com", "groups": ["a"]}
    found = await finish(provider, lambda flow: jwt.encode(header, claims(flow, provider), KEY))
    assert found["email"] == "ann@example.com", "what is signed goes before"
    assert found["groups"] == ["a"]


async def test_answers_that_are_not_an_objects_json(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = iter(
        [
            httpx.Response(200, content=b"[" * 100_000),
            httpx.Response(200, content=b"x" * ((1 << 20) + 1)),
            httpx.Response(200, json=[1]),
            httpx.Response(200, content=b"\xff"),
            httpx.Response(302, headers={"location": "http://169.254.169.254/"}),
            httpx.Response(500, json={"error": "é\r\n" * 500}),
        ]
    )
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return next(bodies)

    client = httpx.AsyncClient
    monkeypatch.setattr(
        oidc.httpx, "AsyncClient", lambda **_: client(transport=httpx.MockTransport(answer))
    )
    provider = Provider(CONFIG, "", "https://w.example/cb", FakeClock(), CountedEntropy())
    for _ in range(6):
        with pytest.raises(ProviderProblem):
            await provider.discover()
    assert next(bodies, None) is None
    assert set(asked) == {f"{ISSUER}/.well-known/openid-configuration"}, "redirects lead nowhere"


async def test_one_that_is_away_is_asked_once_for_all_who_come() -> None:
    provider = faked()

    def away() -> None:
        raise ProviderProblem("away")

    provider.answers["/.well-known/openid-configuration"] = away
    for _ in range(5):
        with pytest.raises(ProviderProblem, match="away"):
            await provider.begin("/account", 0)
    assert len(provider.asked) == 1
    provider.clock.advance(6)
    provider.answers["/.well-known/openid-configuration"] = DISCOVERY
    await asyncio.gather(*(provider.begin("/account", 0) for _ in range(5)))
    assert len(provider.asked) == 2
    provider.clock.advance(4000)
    provider.answers["/.well-known/openid-configuration"] = away
    for _ in range(5):
        await provider.begin("/account", 0)
    assert len(provider.asked) == 3, "what is known of it is good enough meanwhile"


async def test_a_provider_that_never_ends_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dripping(httpx.AsyncByteStream):
        async def __aiter__(self):  # type: ignore[no-untyped-def]
            while True:
                await asyncio.sleep(0.01)
                yield b" "

    client = httpx.AsyncClient
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Dripping()))
    monkeypatch.setattr(oidc.httpx, "AsyncClient", lambda **_: client(transport=transport))
    monkeypatch.setattr(oidc, "_PATIENCE_S", 0.1)
    provider = Provider(CONFIG, "", "https://w.example/cb", FakeClock(), CountedEntropy())
    began = time.monotonic()
    with pytest.raises(ProviderProblem, match="does not answer"):
        await provider.discover()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "odd",
    [
        {"sub": ""}, {"sub": "x" * 256}, {"email": "ann"}, {"email": ["a@b"]}, {"email": None},
        {"email": "a b@example.com"}, {"email": "a\u202e@example.com"},
        {"email": "a@b.example\r\nx"},
        {"email_verified": "yes"}, {"email_verified": 1.5}, {"email": "x" * 300 + "@example.com"},
    ],
    ids=str,
)  # fmt: skip
def test_people_who_cannot_be_told(odd: dict[str, Any]) -> None:
    good = {"sub": "1", "email": "ann@example.com", "email_verified": True}
    with pytest.raises(NotAdmitted):
        identity_untrusted({**good, **odd}, CONFIG)


def test_what_cannot_be_seen_is_left_out_of_names_for_people() -> None:
    good = {"sub": "1", "email": "ann@example.com", "email_verified": True}
    odd = "Ann\r\nset-cookie: x\u202e \x00" + "x" * 300
    found = identity_untrusted({**good, "name": odd}, CONFIG)
    assert found.display_name == ("Annset-cookie: x " + "x" * 300)[:254]
    assert identity_untrusted({**good, "name": ["Ann"]}, CONFIG).display_name == ""


def test_groups_become_the_policys() -> None:
    good = {"sub": "1", "email": "ann@Example.com", "email_verified": "true"}
    groups = [
        "A",
        "/b/c",
        "a",
        "x@example.com",
        "x@evil.example",
        "",
        "@example.com",
        5,
        "\n",
        "g" * 300,
    ]
    found = identity_untrusted({**good, "groups": groups}, CONFIG)
    assert found.groups == ("group:a@example.com", "group:b/c@example.com", "group:x@example.com")
    assert identity_untrusted({**good, "groups": "one"}, CONFIG).groups == (
        "group:one@example.com",
    )
    many = identity_untrusted({**good, "groups": [str(n) for n in range(5000)]}, CONFIG)
    assert len(many.groups) == 500
    for strange in ({"a": 1}, None, 5, [[["x"]]]):
        assert identity_untrusted({**good, "groups": strange}, CONFIG).groups == ()


def config(**fields: Any) -> ProviderConfig:
    return ProviderConfig(**{"name": "a", "issuer": ISSUER, "client_id": "w", **fields})


@pytest.mark.parametrize(
    ("providers", "reason"),
    [
        ([config(name="A b")], "short word"),
        ([config(), config()], "two providers"),
        ([config(issuer="http://login.example.com")], "https://"),
        ([config(issuer="https://x?y")], "https://"),
        ([config(client_id="")], "client-id"),
        ([config(scopes=["email"])], "openid"),
        ([config(ca="/nowhere")], "no such file"),
        ([config(client_secret_file="/nowhere")], "cannot read"),
        ([config(name=f"p{n}") for n in range(21)], "20 are the most"),
    ],
)
def test_settings_that_make_no_sense(providers: list[ProviderConfig], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check(providers, {})


def test_where_a_secret_comes_from(tmp_path: Any) -> None:
    assert client_secret(config(), {}) == ""
    name = "WARREN_SERVER_OIDC_MY_COMPANY_SECRET"
    assert client_secret(config(name="my-company"), {name: " s3cret\n"}) == "s3cret"
    for bad in (b"", b"two\nlines", b"\xff", b"x" * 5000):
        (tmp_path / "secret").write_bytes(bad)
        with pytest.raises(ValueError, match="one line"):
            client_secret(config(client_secret_file=str(tmp_path / "secret")), {})
    (tmp_path / "secret").write_bytes(b"s3cret\n")
    assert client_secret(config(client_secret_file=str(tmp_path / "secret")), {}) == "s3cret"


def test_providers_in_the_configuration_or_in_a_file_of_their_own(tmp_path: Any) -> None:
    table = f'[[oidc]]\nname = "company"\nissuer = "{ISSUER}"\nclient-id = "w"\n'
    main, other = tmp_path / "server.toml", tmp_path / "oidc.toml"
    other.write_text(table)
    main.write_text(table.replace("company", "main"))
    for file, flags, name in (
        (main, {}, "main"), (None, {"oidc": str(other)}, "company"),
        (main, {"oidc": str(other)}, "company"),
    ):  # fmt: skip
        (found,) = identity_providers(load(file, flags))
        assert (found.name, found.scopes) == (name, ["openid", "profile", "email"])
        assert found.admits_everyone
    assert identity_providers(load(None, {})) == []
    for wrong, reason in (
        ("oidc = 5", "wrong type"), ("[[oidc]]", "missing required field `name`"),
        (table + 'allowed-domain = ["a"]', "allowed-domain"), ('oidc = "/nowhere"', "cannot read"),
        (table + table, "two providers are called"), (table + "x = [", "not TOML"),
    ):  # fmt: skip
        main.write_text(wrong)
        with pytest.raises(BadConfig, match=reason):
            load(main, {})
        if "nowhere" not in wrong:
            with pytest.raises(BadConfig):
                load(None, {"oidc": str(main)})
