"""A router that means harm: bombs, floods, silence, and answers that name another machine."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from router_client import Client

from warren.lab.plan import Host, Plan, Router
from warren.lab.world import Part, World
from warren.nat.mapping import Finding, MapProtocol

pytestmark = pytest.mark.netlab

UPNP = MapProtocol.UPNP
HOME = Plan(
    routers=(Router("home", kind="symmetric", address="203.0.113.10"),),
    hosts=(Host("alice", behind="home"), Host("bob", behind="home")),
)


@pytest.fixture(scope="module")
def home() -> Iterator[World]:
    with World(HOME) as world:
        yield world


BOMB = (
    b'<!DOCTYPE b [<!ENTITY a "' + b"x" * 1000 + b'">'
    b'<!ENTITY c "' + b"&a;" * 1000 + b'"><!ENTITY d "' + b"&c;" * 1000 + b'">]><root>&d;</root>'
)


class EvilRouter:
    """Answers searches, and HTTP with `page` before it falls silent with the line open."""

    def __init__(self, part: Part, location: str, page: bytes) -> None:
        self._answer = f"HTTP/1.1 200 OK\r\nST: x\r\nLOCATION: {location}\r\n\r\n".encode()
        self._page = page
        self.asked = 0
        self._udp = part.socket(socket.SOCK_DGRAM)
        self._tcp = part.socket(socket.SOCK_STREAM)
        self._udp.bind(("192.168.1.1", 1900))
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._tcp.bind(("192.168.1.1", 5000))
        self._tcp.listen()
        self._lines: list[socket.socket] = []
        self._threads = [threading.Thread(target=work) for work in (self._search, self._serve)]

    def _search(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                _, src = self._udp.recvfrom(4096)
                if not src:
                    return  # The socket was shut down.
                self._udp.sendto(self._answer, src)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self._tcp.accept()
                self._lines.append(line)
                self.asked += 1
                with contextlib.suppress(OSError):
                    line.recv(4096)
                    line.settimeout(5)
                    line.sendall(self._page)

    def __enter__(self) -> EvilRouter:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        for each in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for line in self._lines:
            line.close()
        for thread in self._threads:
            thread.join(5)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\n"
PAGE = "http://192.168.1.1:5000/d.xml"
MALFORMED, CUT = "malformed reply", "no whole reply"


@pytest.mark.parametrize(
    ("page", "word", "dropped"),
    [
        (HEAD + b"Content-Length: %d\r\n\r\n" % len(BOMB) + BOMB, "document type", MALFORMED),
        (HEAD + b"\r\n" + bytes(4_000_000), "more than", CUT),
        (HEAD + b"Content-Length: 10\r\n\r\n", "did not answer", CUT),
        (
            b"HTTP/1.1 302 x\r\nLocation: http://192.168.1.3/\r\nContent-Length: 0\r\n\r\n",
            "redirects",
            CUT,
        ),
        (b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n", "404", ""),
        (b"SSH-2.0-dropbear\r\n\r\n", "HTTP", CUT),
    ],
    ids=["bomb", "huge", "slow", "elsewhere", "absent", "garbage"],
)
def test_a_router_that_means_harm(home: World, page: bytes, word: str, dropped: str) -> None:
    with EvilRouter(home["home"], PAGE, page) as router, Client(home["alice"]) as alice:
        alice.wait_found(UPNP, Finding.BROKEN)
        assert word in alice.details()[UPNP]
        assert router.asked <= 3
        counted = {name for name in alice.it.drops if "UPnP" in name}
        assert counted == ({"port mapping: UPnP: " + dropped} if dropped else set())


def test_a_search_answered_with_another_place(home: World) -> None:
    """A router does not make us fetch what somebody else serves."""
    with (
        EvilRouter(home["home"], f"http://{home['bob'].address}:5000/", b"") as router,
        Client(home["alice"]) as alice,
    ):
        alice.wait_found(UPNP, Finding.SILENT)
        name = "port mapping: UPnP: names another machine"
        home.wait(lambda: alice.it.drops[name], 2, "a count")
        assert router.asked == 0
        counted = alice.it.drops[name]
        alice.network_changed()
        # What the conversation of before dropped is not forgotten with it.
        home.wait(lambda: alice.it.drops[name] > counted, 5, "the count goes on")
