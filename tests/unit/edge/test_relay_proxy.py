"""The proxy that HTTPS_PROXY names, for relays."""

from __future__ import annotations

import pytest

from warren.edge.dial import RelayProxy


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://192.0.2.9:3128", "192.0.2.9:3128"),
        ("192.0.2.9:8080", "192.0.2.9:8080"),
        ("http://[2001:db8::9]:3128", "[2001:db8::9]:3128"),
        ("http://localhost:3128", "127.0.0.1:3128"),
    ],
)
def test_the_proxy_leads_to_relays(monkeypatch: pytest.MonkeyPatch, url: str, place: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    monkeypatch.setenv("NO_PROXY", "near.example")
    proxy = RelayProxy()
    if url.startswith("http://localhost"):
        assert proxy.of(["far.example"])["far.example"] in (place, "[::1]:3128")
    else:
        assert proxy.of(["far.example", "near.example"]) == {"far.example": place}
    assert proxy.problem == ""


@pytest.mark.parametrize("url", ["socks5://192.0.2.9:1", "http://", "http://192.0.2.9:99999"])
def test_a_bad_proxy_is_a_sentence(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    proxy = RelayProxy()
    assert proxy.problem.startswith("The proxy for relays cannot be used: ")
    assert proxy.of(["far.example"]) == {}


def test_without_the_variable() -> None:
    assert RelayProxy().of(["far.example"]) == {}
