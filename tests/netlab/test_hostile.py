"""What a hostile network sends to a running node is dropped, counted, and leaves nothing behind.

Mallory is in alice's own LAN, may write any source address, and has the router on her side. What
is dropped is read where people read it: `warren status --json`, and the server's metrics.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from warren.lab import web
from warren.lab.mesh import Node, Server
from warren.lab.plan import Host, Plan, Router
from warren.lab.program import ProgramFailed
from warren.lab.world import Part, World
from warren.nat.stun import (
    TxId,
    binding_request,
    binding_response,
    parse_binding_request_untrusted,
)
from warren.netmap.endpoint import Endpoint

pytestmark = pytest.mark.netlab

SERVER, EVIL, LIAR = "198.51.100.10", "198.51.100.20", "198.51.100.21"
ROUTER, PORT, METRICS = "192.168.1.1", 41641, 9100
DISCO = b"TS\xf0\x9f\x92\xac"
PLAN = Plan(
    routers=(Router("home", kind="port-restricted", address="203.0.113.10"),),
    hosts=(
        Host("server", address=SERVER),
        Host("evil", address=EVIL, extra=(LIAR,)),
        Host("alice", behind="home"),
        Host("mallory", behind="home"),
        Host("bob", address="203.0.113.20"),
    ),
)
# Their relays are not there, so they had better be no home.
REGIONS = {
    "HomeParams": {"RegionScore": {"901": 1000, "902": 1000}},
    "Regions": {
        number: {
            "RegionID": number,
            "RegionCode": code,
            "RegionName": code,
            "Nodes": [
                {
                    "Name": code,
                    "RegionID": number,
                    "HostName": ip,
                    "IPv4": ip,
                    "IPv6": "none",
                }
            ],
        }
        for number, code, ip in ((901, "evil", EVIL), (902, "liar", LIAR))
    },
}


class EvilStun:
    """Two STUN servers: one that surrounds its honest answers with others, and one that lies."""

    def __init__(self, part: Part, aside: Callable[[bytes], None]) -> None:
        """aside: give a datagram to alice from elsewhere, past her router's filter."""
        self._aside = aside
        self._sockets = [part.socket(socket.SOCK_DGRAM) for _ in range(2)]
        for sock, place in zip(self._sockets, (EVIL, LIAR), strict=True):
            sock.bind((place, 3478))
        self._threads = [
            threading.Thread(target=self._serve, args=(self._sockets[0], self._evil)),
            threading.Thread(target=self._serve, args=(self._sockets[1], self._lie)),
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self, sock: socket.socket, answer: Callable[[TxId, Endpoint], None]) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, src = sock.recvfrom(2048)
                if not src:
                    return  # The socket was shut down.
                with contextlib.suppress(ValueError):
                    seen = Endpoint(IPv4Address(src[0]), src[1])
                    answer(parse_binding_request_untrusted(data), seen)

    def _evil(self, tx_id: TxId, src: Endpoint) -> None:
        here = self._sockets[0]
        to = (str(src.ip), src.port)
        honest = binding_response(tx_id, src)
        reserved = [Endpoint.parse(text) for text in ("224.0.0.1:9", "0.0.0.0:9", "127.0.0.1:9")]
        for endpoint in reserved:
            here.sendto(binding_response(tx_id, endpoint), to)
        here.sendto(honest[:-2], to)
        here.sendto(binding_response(TxId(bytes(12)), src), to)
        self._aside(binding_response(TxId(bytes(12)), src))
        here.sendto(honest, to)
        here.sendto(honest, to)

    def _lie(self, tx_id: TxId, src: Endpoint) -> None:
        lie = Endpoint.parse("192.0.2.66:6666")
        self._sockets[1].sendto(binding_response(tx_id, lie), (str(src.ip), src.port))

    def close(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(5)


@dataclass
class Net:
    world: World
    server: Server
    alice: Node
    bob: Node

    def drops(self) -> dict[str, int]:
        found: dict[str, int] = self.alice.status()["drops"]
        return found

    def wait_counted(self, before: dict[str, int], *names: str, least: int = 1) -> dict[str, int]:
        """Wait until each of these has grown by so much; how much each reason has grown."""

        def grown() -> dict[str, int] | None:
            now = self.drops()
            more = {name: now[name] - before.get(name, 0) for name in now}
            return more if all(more.get(name, 0) >= least for name in names) else None

        try:
            return self.world.wait(grown, 15, f"{names} are counted")
        except BaseException as error:
            raise AssertionError(f"{names}: {before} → {self.drops()}") from error


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with World(PLAN) as world:
        router = raw(world["home"])

        def aside(data: bytes) -> None:
            to = (str(world["alice"].address), PORT)
            router.sendto(spoofed(("192.0.2.77", 7), to, data), (to[0], 0))

        evil = EvilStun(world["evil"], aside)
        try:
            regions = world.scratch / "regions.json"
            regions.write_text(json.dumps(REGIONS))
            more = ("--derp-map", str(regions), "--metrics", f"127.0.0.1:{METRICS}")
            server = Server(world["server"], world.scratch / "server", more=more)
            server.start()
            server.create_user("tester")
            key = server.create_key("tester", "--reusable")
            nodes = []
            for name in ("alice", "bob"):
                node = Node(world[name], name, world.scratch / name, tun=False, port=PORT)
                node.start()
                node.wait_daemon()
                node.up(server.url, key)
                nodes.append(node)
            alice, bob = nodes
            world.wait(lambda: alice.peer("bob"), 20, "alice knows bob")
            alice.ping_until_direct("bob", 20)
            yield Net(world, server, alice, bob)
            for program in world.programs:
                assert "Traceback" not in program.output(), program.tail(60)
        finally:
            evil.close()
            router.close()


def raw(part: Part) -> socket.socket:
    """A socket whose IP headers are written by the sender."""
    return part.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))


def spoofed(src: tuple[str, int], to: tuple[str, int], payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram; the kernel fills in the checksum of the header, and
    UDP's is left out."""
    udp = struct.pack("!HHHH", src[1], to[1], 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    return head + IPv4Address(src[0]).packed + IPv4Address(to[0]).packed + udp


def router_ports(net: Net) -> list[int]:
    """The ports of alice's sockets that talk with her router: bound to her address."""
    table = net.world["alice"].run(["cat", "/proc/net/udp"])
    packed = IPv4Address(str(net.world["alice"].address)).packed[::-1].hex().upper()
    return [int(port, 16) for port in re.findall(rf"{packed}:([0-9A-F]{{4}}) ", table)]


def resident_bytes(node: Node) -> int:
    """The memory of a node's daemon."""
    status = node.part.run(["cat", f"/proc/{node.status()['pid']}/status"])
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


def test_stun_that_is_no_answer(net: Net) -> None:
    """Malformed, of a wrong or used transaction, foreign, reserved, lying, not asked for."""
    before = net.drops()
    report = json.loads(net.alice.run("netcheck", "--json", timeout_s=40))
    assert report["ipv4"] == f"203.0.113.10:{PORT}"
    assert list(report["nat4"]["liars"].values()) == ["192.0.2.66:6666"]
    assert {"reserved address", "malformed", "unknown transaction"} <= set(
        report["nat4"]["dropped"]
    )
    more = net.wait_counted(
        before,
        "stun malformed",
        "stun with a wrong or used transaction id",
        "stun of an address that nobody has",
        "stun from a foreign source",
        "stun of a server that was outvoted",
    )
    assert more["stun of an address that nobody has"] >= 3
    before = net.drops()
    with raw(net.world["home"]) as sender:
        answer = binding_response(TxId(bytes(12)), Endpoint.parse("203.0.113.10:1"))
        to = (str(net.world["alice"].address), PORT)
        # As from a server, as from anybody.
        for src in ((SERVER, 3478), ("192.0.2.77", 7)):
            for _ in range(20):
                sender.sendto(spoofed(src, to, answer), (to[0], 0))
    net.wait_counted(before, "stun not asked for", least=20)


def test_disco_that_is_seen_forged_and_sent_again(net: Net) -> None:
    """Every message of a conversation, from where it came and from elsewhere, many times."""
    tap = net.world["alice"].inside(
        lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    )
    alice = str(net.world["alice"].address)
    seen: list[bytes] = []
    with tap:
        tap.settimeout(0.2)
        end = time.monotonic() + 20
        while len(seen) < 6 and time.monotonic() < end:
            with contextlib.suppress(ProgramFailed):
                net.alice.ping("bob", 2)
                net.bob.ping("alice", 2)
            with contextlib.suppress(TimeoutError):
                while True:
                    packet = tap.recv(2048)
                    inner = packet[28:]
                    if packet[16:20] == IPv4Address(alice).packed and inner.startswith(DISCO):
                        seen.append(inner)
    assert len(seen) >= 6
    before, memory = net.drops(), resident_bytes(net.alice)
    to, bob = (alice, PORT), ("203.0.113.20", PORT)
    with raw(net.world["home"]) as sender:
        for message in seen:
            forged = message[:-1] + bytes([message[-1] ^ 1])
            stranger = DISCO + bytes([9]) * 32 + message[38:]
            for number in range(200):
                elsewhere = (f"192.0.2.{1 + number}", 1000 + number)
                for src, data in (
                    (bob, message),
                    (elsewhere, message),
                    (elsewhere, forged),
                    (elsewhere, stranger),
                ):
                    sender.sendto(spoofed(src, to, data), (alice, 0))
                if number % 20 == 19:
                    time.sleep(0.05)  # the engine lets through only so many
    more = net.wait_counted(
        before, "disco malformed", "disco of unknown key", "pong to no ping", least=10
    )
    assert more.get("ping from too many addresses", 0) + more.get("ping over the rate", 0) > 0
    assert net.alice.ping("bob", 3).path == f"203.0.113.20:{PORT}"
    candidates = json.loads(net.alice.run("why", "bob", "--json"))["candidates"]
    assert len(candidates) <= 192
    assert resident_bytes(net.alice) - memory < 30_000_000


def test_a_flood_is_held_off_before_python(net: Net) -> None:
    """Twenty thousand datagrams at once: the engine lets through so many a second."""
    before, memory = net.drops(), resident_bytes(net.alice)
    to = (str(net.world["alice"].address), PORT)
    with raw(net.world["home"]) as sender:
        for number in range(20_000):
            data = DISCO + number.to_bytes(4, "big") * 8 + bytes(100)
            sender.sendto(spoofed(("192.0.2.9", 9), to, data), (to[0], 0))
    net.wait_counted(before, "rate-limit", "disco of unknown key", least=100)
    assert resident_bytes(net.alice) - memory < 30_000_000
    assert net.alice.ping("bob", 5).via == "direct"


PCP_GRANT = struct.pack("!BBBBII12x", 2, 129, 0, 0, 7200, 5) + struct.pack(
    "!12sB3xHH16s", bytes(12), 17, PORT, 4444, bytes(10) + b"\xff\xff\xcb\x00\x71\x42"
)
NATPMP_GRANT = struct.pack("!BBHIHHI", 0, 129, 0, 5, PORT, 4444, 7200)
NATPMP_ADDRESS = struct.pack("!BBHI4s", 0, 128, 0, 5, bytes((203, 0, 113, 66)))
SSDP_ANSWER = b"HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nLOCATION: http://%s:5000/d.xml\r\n\r\n"


def test_routers_answers_that_are_none(net: Net) -> None:
    """PCP, NAT-PMP and SSDP: from a neighbour, in the router's name, cut, huge, of no version."""
    before = net.drops()
    alice = str(net.world["alice"].address)
    ports = net.world.wait(lambda: router_ports(net), 10, "alice asks her router")
    mallory, router = str(net.world["mallory"].address), ROUTER
    packets = [
        ((mallory, 5351), PCP_GRANT),
        ((mallory, 5351), NATPMP_GRANT),
        ((mallory, 1900), SSDP_ANSWER % router.encode()),
        ((router, 5351), PCP_GRANT),
        ((router, 5351), NATPMP_GRANT),
        ((router, 5351), PCP_GRANT[:30]),
        ((router, 5351), NATPMP_GRANT[:7]),
        ((router, 5351), b"\x07" * 20),
        ((router, 1900), SSDP_ANSWER % mallory.encode()),
        ((router, 1900), b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200),
        ((router, 1900), bytes(200)),
    ]
    with raw(net.world["mallory"]) as sender:
        for port in ports:
            for src, data in packets:
                sender.sendto(spoofed(src, (alice, port), data), (alice, 0))
    more = net.wait_counted(
        before,
        "port mapping: from another machine than the router",
        "port mapping: PCP: another nonce or internal port",
        "port mapping: PCP: malformed",
        "port mapping: NAT-PMP: not asked for",
        "port mapping: NAT-PMP: malformed",
        "port mapping: UPnP: names another machine",
        "port mapping: UPnP: malformed",
        "port mapping: of no known version",
    )
    assert more["port mapping: from another machine than the router"] >= 3
    assert sum(count for name, count in more.items() if "port mapping" in name) >= len(packets)
    report = json.loads(net.alice.run("netcheck", "--json", timeout_s=40))
    assert [each["external"] for each in report["routers"]] == [None]
    assert not any("4444" in endpoint for endpoint in report["endpoints"])


def test_announcements_of_a_restart_that_was_none(net: Net) -> None:
    """Multicast by a neighbour it is dropped; in the router's name it causes a probe now and
    then, not one each."""
    before, memory = net.drops(), resident_bytes(net.alice)
    mallory = str(net.world["mallory"].address)
    announcement = struct.pack("!BBBBII12x", 2, 128, 0, 0, 0, 1)
    notice = b"NOTIFY * HTTP/1.1\r\nNTS: ssdp:alive\r\nBOOTID.UPNP.ORG: %d\r\n\r\n"
    with raw(net.world["mallory"]) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(mallory))
        for number in range(2000):
            for src, to, data in (
                ((mallory, 5351), ("224.0.0.1", 5350), announcement),
                ((ROUTER, 5351), ("224.0.0.1", 5350), announcement),
                ((ROUTER, 1900), ("239.255.255.250", 1900), notice % number),
                ((ROUTER, 1900), ("239.255.255.250", 1900), bytes(100)),
            ):
                sender.sendto(spoofed(src, to, data), (to[0], 0))
            if number % 100 == 99:
                time.sleep(0.02)
    net.wait_counted(
        before,
        "port mapping: from another machine than the router",
        "port mapping: from another port than the router's",
        least=100,
    )
    assert resident_bytes(net.alice) - memory < 30_000_000
    assert net.alice.ping("bob", 5).via == "direct"


def test_the_servers_stun_counts_what_it_drops(net: Net) -> None:
    def counted() -> dict[str, float]:
        page = web.get(web.Route(net.server.part), "127.0.0.1", METRICS, path="/metrics")
        found = re.findall(r"^(warren_stun_\w+) ([0-9.e+]+)$", page.body.decode(), re.MULTILINE)
        return {name: float(value) for name, value in found}

    before = counted()
    good = binding_request(TxId(bytes(12)))
    with net.world["evil"].socket(socket.SOCK_DGRAM) as sock:
        for data in (b"", bytes(20), good[:-3], good[:-1] + b"\x00", bytes(1600), good):
            sock.sendto(data, (SERVER, 3478))
        sock.settimeout(5)
        assert sock.recv(100)[8:20] == bytes(12)
        with pytest.raises(TimeoutError):
            sock.settimeout(0.3)
            sock.recv(100)
    now = counted()
    assert now["warren_stun_dropped_total"] - before["warren_stun_dropped_total"] == 5
    assert now["warren_stun_answered_total"] > before["warren_stun_answered_total"]
