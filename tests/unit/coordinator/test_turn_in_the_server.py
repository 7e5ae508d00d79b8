"""The server's own TURN server: who is told of it, who gets in, and settings that make no sense."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import ssl
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from coordinator_server import Running, joined

from warren.coordinator.config import BadConfig, Config, check, load, networks, turn_places
from warren.lab.ports import free_port
from warren.nat.turn.client import TurnClient
from warren.nat.turn.credentials import timed_credentials
from warren.nat.turn.events import Allocated, Event, Failed, Permitted, Refused
from warren.nat.turn.grants import CAPABILITY, Grant, parse_grant_untrusted
from warren.netmap.endpoint import Endpoint
from warren.netmap.node import Hostinfo

WARREN = Hostinfo(hostname="a", os="linux", ipn_version="0.1.0-warren")


async def granted(machine: Any) -> Grant:
    await machine.update(hostinfo=WARREN)
    view = await machine.until(lambda view: CAPABILITY in view.node.cap_map)
    (value,) = view.node.cap_map[CAPABILITY]
    return parse_grant_untrusted(json.dumps(value).encode())


async def run(client: TurnClient, sock: socket.socket) -> Event:
    """Serve a client until it tells something."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        while True:
            while (data := client.poll_transmit()) is not None:
                await loop.sock_sendall(sock, data)
            if (event := client.poll_event()) is not None:
                return event
            client.receive(await loop.sock_recv(sock, 2000), loop.time())


async def certificate_of(port: int) -> str:
    """The SHA-256 of what is shown for TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()
    return hashlib.sha256(shown).hexdigest()


async def test_a_warren_node_is_told_and_let_in_until_it_is_removed(tmp_path: Path) -> None:
    port = free_port()
    running = Running(tmp_path, turn=f"127.0.0.1:{port}", turn_allow="127.0.0.9/32")
    await running.start()
    loop = asyncio.get_running_loop()
    async with joined(running, "a", "b") as (a, b):
        assert CAPABILITY not in b.view.node.cap_map  # a stock client
        grant = await granted(a)
        pin = await certificate_of(port)
        assert [place.uri() for place in grant.places] == [
            f"turn:127.0.0.1:{port}?transport=udp",
            f"turn:127.0.0.1:{port}?transport=tcp",
            f"turns:127.0.0.1:{port}?transport=tcp#sha256-raw:{pin}",
        ]
        assert 12 * 3600 < grant.ends_unix_s - datetime.now(UTC).timestamp() <= 24 * 3600
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(("127.0.0.1", port))
            client = TurnClient(grant.credentials, os.urandom, loop.time())
            assert isinstance(await run(client, sock), Allocated)
            client.permit(ip_address("127.0.0.9"), loop.time())
            assert isinstance(await run(client, sock), Permitted)
            client.permit(ip_address("127.0.0.2"), loop.time())
            assert isinstance(await run(client, sock), Refused)
            client.permit(ip_address("10.1.2.3"), loop.time())
            assert isinstance(await run(client, sock), Refused)
            status = await running.admin(lambda admin: admin.status())
            assert status.relay["turn_allocations"] == 1
            assert status.relay["turn_refused_peers"] == 2
            await running.admin(lambda admin: admin.delete_node("a"))
            client.renew(grant.credentials, loop.time())
            failed = await run(client, sock)
            assert isinstance(failed, Failed) and failed.code == 401
    await running.stop()


async def test_without_a_turn_server_nobody_is_told_of_one(tmp_path: Path) -> None:
    running = Running(tmp_path)
    await running.start()
    async with joined(running, "a") as (a,):
        await a.update(hostinfo=WARREN)
        await a.until(lambda view: view.node.hostinfo.ipn_version == WARREN.ipn_version)
        assert CAPABILITY not in a.view.node.cap_map
        assert "turn_allocations" not in (await running.admin(lambda admin: admin.status())).relay
    await running.stop()


async def test_a_warren_node_is_told_of_the_servers_of_others(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("shared with coturn\n")
    uris = "turn:turn.example.com:3478?transport=udp, turns:[2001:db8::7]:5349?transport=tcp"
    running = Running(tmp_path, turn_servers=uris, turn_secret=str(secret))
    await running.start()
    async with joined(running, "a", "b") as (a, b):
        assert CAPABILITY not in b.view.node.cap_map
        grant = await granted(a)
        assert [place.uri() for place in grant.places] == uris.split(", ")
        end, _, owner = grant.credentials.username.partition(":")
        assert (int(end), owner) == (grant.ends_unix_s, a.view.node.stable_id)
        expected = timed_credentials(b"shared with coturn", owner, grant.ends_unix_s)
        assert grant.credentials == expected
    await running.stop()


def test_a_secret_file_that_is_none(tmp_path: Path) -> None:
    uri, file = "turn:turn.example.com", tmp_path / "secret"
    for content in (b"", b"\n", b"two\nlines", bytes(2000)):
        file.write_bytes(content)
        with pytest.raises(BadConfig, match="one line"):
            load(None, {"turn-servers": uri, "turn-secret": str(file)})
    with pytest.raises(BadConfig, match="cannot read"):
        load(None, {"turn-servers": uri, "turn-secret": str(tmp_path / "missing")})


def test_settings() -> None:
    both = Config(turn="203.0.113.7:5349, [2001:db8::7]:5350")
    assert turn_places(both) == [
        Endpoint.parse("203.0.113.7:5349"),
        Endpoint.parse("[2001:db8::7]:5350"),
    ]
    assert turn_places(Config()) == []
    assert [str(net) for net in networks("turn-allow", "10.0.0.0/8, fd00::/8,")] == [
        "10.0.0.0/8",
        "fd00::/8",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"turn": ":5349"},
        {"turn": "0.0.0.0:5349"},
        {"turn": "203.0.113.7"},
        {"turn": "203.0.113.7:0"},
        {"turn": "name.example:5349"},
        {"turn": "203.0.113.7:3478"},
        {"turn": "203.0.113.7:5349,203.0.113.8:5349"},
        {"turn": ""},
        {"turn": "203.0.113.7:5349", "turn-allow": "10.0.0.1/8"},
        {"turn-allow": "home"},
        {"turn-servers": "turn:turn.example.com"},
        {"turn-servers": "turn.example.com:3478", "turn-secret": "x"},
        {"turn-servers": "turns:turn.example.com?transport=udp", "turn-secret": "x"},
        {"turn-servers": ",".join(["turn:turn.example.com"] * 17), "turn-secret": "x"},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, str]) -> None:
    with pytest.raises(BadConfig, match=r"turn|203"):
        load(None, settings)


def test_check_is_what_load_does() -> None:
    check(Config(turn="203.0.113.7:5349"))
