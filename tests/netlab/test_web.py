"""The lab's own HTTP: greetings, files whose hash matches, and clear failures."""

from __future__ import annotations

import http.client

import pytest

from warren.lab.plan import Host, Plan, Router
from warren.lab.web import Route, WebServer, download, get
from warren.lab.world import World

pytestmark = pytest.mark.netlab

PLAN = Plan(
    routers=(Router("home", kind="port-restricted", address="203.0.113.10"),),
    hosts=(Host("a", address="198.51.100.10"), Host("b", behind="home")),
)


def test_pages_and_files() -> None:
    with World(PLAN) as world, WebServer(world["a"], 8000, "hello", 3_000_001) as server:
        route = Route(world["b"])
        page = get(route, "198.51.100.10", 8000)
        assert (page.status, page.body, page.seen_from) == (200, b"hello", "203.0.113.10")
        assert get(route, "198.51.100.10", 8000, path="/nothing").status == 404
        got = download(route, "198.51.100.10", 8000)
        assert (got.size_bytes, got.sha256) == (3_000_001, server.sha256)
        with pytest.raises(ConnectionRefusedError):
            get(route, "198.51.100.10", 8001)
        with WebServer(world["a"], 8001, "no file"), pytest.raises(http.client.HTTPException):
            download(route, "198.51.100.10", 8001)
