"""A relay that asks elsewhere whom to serve, and what `warren relay` takes as settings."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from test_relay import Client, Relay, key, until

from warren.edge.settings import BadConfig
from warren.keys import NodePublic
from warren.netmap.codec import encode_json
from warren.policy.derpmap import parse_derp_map_untrusted
from warren.relay.settings import admission_url, load, region_of


async def test_an_answer_that_takes_time_holds_up_nobody_else() -> None:
    asked: dict[NodePublic, asyncio.Future[bool]] = {}

    async def wait(who: NodePublic) -> bool:
        asked[who] = asyncio.get_running_loop().create_future()
        return await asked[who]

    def admits(who: NodePublic):  # type: ignore[no-untyped-def]
        return True if who == key("quick").public() else wait(who)

    async with Relay(admits, handshake_ms=1000) as relay, asyncio.timeout(20):
        slow = asyncio.create_task(Client("slow").connect(relay.port))  # noqa: TID251
        gone = Client("left")
        left = asyncio.create_task(gone.connect(relay.port))  # noqa: TID251
        await until(lambda: len(asked) == 2)
        quick = await Client("quick").connect(relay.port)
        assert relay.hub.connected() == {key("quick").public()}
        asked[key("slow").public()].set_result(True)
        client = await slow
        assert relay.hub.connected() == {key("quick").public(), key("slow").public()}
        gone.writer.transport.abort()
        with pytest.raises(ConnectionError):
            await left
        await until(lambda: asked[key("left").public()].cancelled())
        for each in (quick, client):
            await each.close()
        await until(lambda: len(relay.hub) == 0)
        refused = asyncio.create_task(Client("refused").connect(relay.port))  # noqa: TID251
        await until(lambda: len(asked) == 3)
        asked[key("refused").public()].set_result(False)
        with pytest.raises(ConnectionError):
            await refused
        assert relay.count("refused_clients") == 1


GOOD = {"host": "fra.example.com", "server": "https://vpn.example.com"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host": None}, "--host"),
        ({"host": "a b"}, "'a b'"),
        ({"server": None}, "the coordinator's URL"),
        ({"server": "vpn.example.com"}, "the coordinator's URL"),
        ({"server": "ftp://x"}, "the coordinator's URL"),
        ({"server": "https://x/?q"}, "the coordinator's URL"),
        ({"listen": "443"}, "listen is '443'"),
        ({"http": "x"}, "http is 'x'"),
        ({"stun": "1.2.3.4"}, "stun is '1.2.3.4'"),
        ({"tls": "off"}, "machines speak to relays over TLS"),
        ({"tls": "best"}, "it can be acme"),
        ({"tls": "files"}, "tls-cert"),
        ({"tls": "acme", "host": "192.0.2.1"}, "is an address"),
        ({"region_id": 0}, "region-id"),
        ({"region_id": "x"}, "wrong type"),
        ({"log_level": "loud"}, "log-level"),
        ({"regoin": 1}, "region"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        load(None, GOOD | settings)


def test_what_it_prints_is_what_the_server_reads(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('region-id = 903\nregion-code = "fra"\nlisten = "192.0.2.1:8443"\n')
    settings = load(file, GOOD)
    shown = region_of(settings, "sha256-raw:" + "ab" * 32)
    assert parse_derp_map_untrusted(encode_json(shown).decode()) == shown
    (region,) = (shown.regions or {}).values()
    assert region is not None
    assert (region.region_code, region.nodes[0].derp_port) == ("fra", 8443)
    assert admission_url(settings) == "https://vpn.example.com/verify"
    assert admission_url(load(file, GOOD | {"server": "https://x/ask"})) == "https://x/ask"
