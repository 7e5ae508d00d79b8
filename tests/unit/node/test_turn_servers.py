"""Which TURN servers a node knows: names that fail, change, and come back."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_address

import pytest

from warren.nat.turn.allocation import Transport
from warren.nat.turn.credentials import Credentials
from warren.nat.turn.grants import CAPABILITY, Grant, TurnPlace, encode
from warren.netmap.node import Node
from warren.netmap.view import View
from warren.node import turn_servers
from warren.node.turn_servers import Address, TurnServers

NAME, OTHER = "turn.example.com", "other.example.com"


class Names:
    """A resolver."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.asked: list[str] = []

    async def __call__(self, name: str) -> list[Address]:
        self.asked.append(name)
        if name not in self.known:
            raise OSError("no such name")
        return [ip_address(self.known[name])]


def view(*hosts: str, user: str = "alice") -> View:
    places = tuple(TurnPlace(Transport.UDP, host, 3478) for host in hosts)
    granted = json.loads(encode(Grant(places, Credentials(user, "x"), 0)))
    return View(node=Node(id=1, cap_map={CAPABILITY: [granted]}))


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def test_a_name_that_is_not_found_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_servers, "RETRY_S", 0.02)
    names = Names()
    names.known[OTHER] = "192.0.2.2"
    servers = TurnServers(names, lambda: None, (Transport.UDP,))
    servers.set_view(view(NAME, OTHER))
    await until(lambda: names.asked.count(NAME) >= 3)
    assert [str(server.at.ip) for server in servers.servers] == ["192.0.2.2"]
    assert servers.problem == f"the name {NAME} of a TURN server could not be looked up"
    # Another map, and other credentials, make nobody forget that.
    servers.set_view(view(NAME, OTHER))
    servers.set_view(view(NAME, OTHER, user="bob"))
    assert NAME in servers.problem and names.asked.count(OTHER) == 1
    names.known[NAME] = "192.0.2.1"
    await until(lambda: len(servers.servers) == 2)
    assert not servers.problem
    asked = len(names.asked)
    await asyncio.sleep(0.05)
    assert len(names.asked) == asked, "what is known is not asked for"
    servers.close()


async def test_old_addresses_stay_until_new_ones_come() -> None:
    names, changes = Names(), []
    names.known[NAME] = "192.0.2.1"
    servers = TurnServers(
        names, lambda: changes.append([str(s.at.ip) for s in servers.servers]), (Transport.UDP,)
    )
    servers.set_view(view(NAME))
    await until(lambda: changes)
    names.known.clear()
    servers.look_up()
    await until(lambda: servers.problem)
    names.known[NAME] = "192.0.2.9"
    servers.look_up()
    await until(lambda: len(changes) == 2)
    assert changes == [["192.0.2.1"], ["192.0.2.9"]]
    servers.set_view(view("192.0.2.7"))
    assert [str(server.at.ip) for server in servers.servers] == ["192.0.2.7"]
    servers.close()
