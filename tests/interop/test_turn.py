"""TURN against others: our client with coturn, our server with coturn's client and aioice."""

from __future__ import annotations

import asyncio
import os
import re
import select
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import aioice
import pytest
from aioice.turn import create_turn_endpoint
from turn_flows import Flow, OurServer, Peer, connect, coturn

from warren.edge.tls import make_self_signed
from warren.lab.program import wait_until
from warren.nat.turn.credentials import (
    Credentials,
    StaticAccounts,
    TimedAccounts,
    timed_credentials,
)
from warren.nat.turn.events import (
    Allocated,
    Cause,
    ChannelOpen,
    Failed,
    Permitted,
    Received,
    Refused,
    Released,
)
from warren.nat.turn.keeper import Server as KeptServer
from warren.nat.turn.keeper import TurnKeeper
from warren.netmap.endpoint import Endpoint

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(
        shutil.which("turnserver") is None or shutil.which("turnutils_uclient") is None,
        reason="needs coturn: apt-get install coturn",
    ),
]

SECRET = b"shared with the coordinator"
STATIC = ["--lt-cred-mech", "--user", "alice:wonderland"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    scratch = tmp_path_factory.mktemp("coturn")
    chain, key = make_self_signed("127.0.0.1", datetime.now(UTC))
    (scratch / "chain.pem").write_bytes(chain)
    (scratch / "key.pem").write_bytes(key)
    arguments = ["--cert", str(scratch / "chain.pem"), "--pkey", str(scratch / "key.pem")]
    with coturn(scratch, [*STATIC, *arguments, "--denied-peer-ip", "127.0.0.9"]) as (port, _):
        yield port


def relay_both_ways(flow: Flow, peer: Peer, relayed: Endpoint, size: int) -> None:
    """Send to a peer and back, and look that both came whole."""
    text = bytes(number % 251 for number in range(size))
    assert flow.do(lambda client, now: client.send(peer.endpoint, text))
    assert peer.receive() == (text, relayed)
    peer.send(text[::-1], relayed)
    assert flow.wait(Received) == Received(peer.endpoint, text[::-1])


def allocate(flow: Flow) -> Endpoint:
    allocated = flow.wait(Allocated)
    assert isinstance(allocated, Allocated)
    return allocated.relayed


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_a_datagram_goes_through_coturn_by_permission_and_by_channel(
    server: int, transport: str
) -> None:
    flow, peer = Flow(transport, "127.0.0.1", server), Peer()
    relayed = allocate(flow)
    assert not flow.do(lambda client, now: client.send(peer.endpoint, b"too early"))
    flow.do(lambda client, now: client.permit(peer.endpoint.ip, now))
    assert flow.wait(Permitted) == Permitted(peer.endpoint.ip)
    for size in (1, 2, 3, 148, 1400):
        relay_both_ways(flow, peer, relayed, size)
    flow.do(lambda client, now: client.open_channel(peer.endpoint, now))
    assert flow.wait(ChannelOpen) == ChannelOpen(peer.endpoint, 0x4000)
    for size in (0, 1, 2, 3, 148, 1400):
        relay_both_ways(flow, peer, relayed, size)
    flow.do(lambda client, now: client.close(now))
    flow.wait(Released)
    assert not any(vars(flow.client.counters)[name] for name in ("malformed", "forged"))


def test_a_peer_that_coturn_forbids_is_refused(server: int) -> None:
    flow, forbidden = Flow("udp", "127.0.0.1", server), ip_address("127.0.0.9")
    allocate(flow)
    flow.do(lambda client, now: client.permit(forbidden, now))
    refused = flow.wait(Refused)
    assert isinstance(refused, Refused) and (refused.peer, refused.code) == (forbidden, 403)
    peer = Endpoint(forbidden, 9)
    flow.do(lambda client, now: client.open_channel(peer, now))
    refused = flow.wait(Refused)
    assert isinstance(refused, Refused) and (refused.peer, refused.code) == (peer, 403)


def test_wrong_credentials_end_the_client(server: int) -> None:
    for credentials in (Credentials("alice", "wrong"), Credentials("bob", "wonderland")):
        failed = Flow("udp", "127.0.0.1", server, credentials).wait(Failed)
        assert isinstance(failed, Failed)
        assert (failed.cause, failed.code) == (Cause.CREDENTIALS, 401)


def test_a_port_with_an_old_allocation_is_freed_and_used(server: int) -> None:
    first = Flow("udp", "127.0.0.1", server)
    old = allocate(first)
    second = Flow("udp", "127.0.0.1", server, socket_=first.socket)
    assert allocate(second) != old


def test_all_is_renewed_in_time(server: int) -> None:
    flow, peer, other = Flow("udp", "127.0.0.1", server), Peer(), Peer("127.0.0.2")
    relayed = allocate(flow)
    flow.do(lambda client, now: client.permit(other.endpoint.ip, now))
    flow.do(lambda client, now: client.open_channel(peer.endpoint, now))
    flow.wait(ChannelOpen)
    for _ in range(6):
        due = flow.client.next_timeout()
        assert due is not None and 50 < due - flow.now() < 241
        flow.skew_s += due - flow.now() + 1
        flow.run_until(lambda: flow.client.next_timeout() > flow.now() + 40)  # type: ignore[operator]
    relay_both_ways(flow, peer, relayed, 100)
    relay_both_ways(flow, other, relayed, 100)


def test_nonces_that_grow_old_are_replaced(tmp_path: Path) -> None:
    with coturn(tmp_path, [*STATIC, "--stale-nonce=1"]) as (port, log):
        flow, peer = Flow("udp", "127.0.0.1", port), Peer()
        allocate(flow)
        time.sleep(2.5)
        flow.do(lambda client, now: client.permit(peer.endpoint.ip, now))
        flow.wait(Permitted)
        assert "error 438" in log.read_text()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_time_limited_credentials(tmp_path: Path, transport: str) -> None:
    arguments = ["--use-auth-secret", "--static-auth-secret", SECRET.decode()]
    with coturn(tmp_path, arguments) as (port, _):
        now = int(time.time())
        good = timed_credentials(SECRET, "node7", now + 60)
        allocate(Flow(transport, "127.0.0.1", port, good))
        late = timed_credentials(SECRET, "node7", now - 60)
        failed = Flow(transport, "127.0.0.1", port, late).wait(Failed)
        assert isinstance(failed, Failed) and failed.cause is Cause.CREDENTIALS


def test_credentials_of_another_name_take_the_place_of_the_old(tmp_path: Path) -> None:
    """The name of time-limited credentials holds their end: it changes with every renewal."""
    arguments = ["--use-auth-secret", "--static-auth-secret", SECRET.decode()]
    with coturn(tmp_path, arguments) as (port, log), socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        at, keeper = KeptServer(Endpoint.parse(f"127.0.0.1:{port}")), TurnKeeper(os.urandom)
        allocated: list[Allocated] = []

        def serve() -> int:
            while (out := keeper.poll_transmit()) is not None:
                sock.sendto(out.data, ("127.0.0.1", port))
            if select.select([sock], [], [], 0.02)[0]:
                keeper.receive(sock.recv(1 << 16), at, time.monotonic())
            keeper.handle_timeout(time.monotonic())
            while (event := keeper.poll_event()) is not None:
                allocated.extend([event] if isinstance(event, Allocated) else [])
            return len(allocated)

        for round_, life_s in enumerate((60, 3600), 1):
            good = timed_credentials(SECRET, "node7", int(time.time()) + life_s)
            keeper.set_servers({at: good}, time.monotonic())
            wait_until(lambda round_=round_: serve() >= round_, 30, "an allocation")
        assert keeper.client is not None and keeper.client.relayed is not None
        assert "error 441" in log.read_text(), "coturn does not take another name for it"


def test_a_quota_is_told_and_another_server_named(tmp_path: Path) -> None:
    with coturn(tmp_path, [*STATIC, "--user-quota=1"]) as (port, _):
        first = Flow("udp", "127.0.0.1", port)
        allocate(first)
        failed = Flow("udp", "127.0.0.1", port).wait(Failed)
        assert isinstance(failed, Failed)
        assert (failed.cause, failed.code) == (Cause.QUOTA, 486) and failed.retry_after_s
    other = tmp_path / "other"
    other.mkdir()
    with coturn(other, [*STATIC, "--alternate-server", "127.0.0.1:9999"]) as (port, _):
        failed = Flow("udp", "127.0.0.1", port).wait(Failed)
        assert isinstance(failed, Failed)
        assert failed.cause is Cause.ALTERNATE
        assert failed.alternate == Endpoint.parse("127.0.0.1:9999")


def test_ipv6(tmp_path: Path) -> None:
    with coturn(tmp_path, STATIC, host="::1") as (port, _):
        for transport in ("udp", "tcp"):
            flow, peer = Flow(transport, "::1", port, family=6), Peer("::1")
            relayed = allocate(flow)
            assert not relayed.is_v4
            flow.do(lambda client, now, peer=peer: client.open_channel(peer.endpoint, now))
            flow.wait(ChannelOpen)
            relay_both_ways(flow, peer, relayed, 1280)


def test_both_families_of_one_server(tmp_path: Path) -> None:
    """REQUESTED- and ADDITIONAL-ADDRESS-FAMILY (RFC 8656 §7.1), asked over IPv4."""
    with coturn(tmp_path, [*STATIC, "-E", "::1"]) as (port, _):
        flow, six, four = Flow("udp", "127.0.0.1", port, family=6), Peer("::1"), Peer()
        relayed = allocate(flow)
        flow.do(lambda client, now: client.open_channel(six.endpoint, now))
        flow.wait(ChannelOpen)
        relay_both_ways(flow, six, relayed, 1280)
        flow.do(lambda client, now: client.permit(four.endpoint.ip, now))
        refused = flow.wait(Refused)
        assert isinstance(refused, Refused) and refused.code == 443

        flow = Flow("udp", "127.0.0.1", port, family=0)
        allocated = flow.wait(Allocated)
        assert isinstance(allocated, Allocated)
        assert [each.is_v4 for each in allocated.addresses] == [True, False]
        for peer, relayed in zip((four, six), allocated.addresses, strict=True):
            flow.do(lambda client, now, peer=peer: client.open_channel(peer.endpoint, now))
            flow.wait(ChannelOpen)
            relay_both_ways(flow, peer, relayed, 1280)
    alone = tmp_path / "alone"
    alone.mkdir()
    with coturn(alone, STATIC) as (port, _):
        allocated = Flow("udp", "127.0.0.1", port, family=0).wait(Allocated)
        assert isinstance(allocated, Allocated) and allocated.also is None


def test_no_answer_is_noticed() -> None:
    silent = Peer()
    flow = Flow("udp", "127.0.0.1", silent.port)
    for _ in range(20):
        due = flow.client.next_timeout()
        if due is None:
            break
        flow.client.handle_timeout(due)
        flow.flush()
    assert flow.events == [Failed(Cause.NO_ANSWER)]


# From here on: our server.

ACCOUNTS = StaticAccounts({"alice": "wonderland"})


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurServer]:
    with OurServer(tmp_path_factory.mktemp("ours"), ACCOUNTS, max_per_user=500) as server:
        yield server


def uclient(*arguments: str, host: str = "127.0.0.1") -> subprocess.Popen[str]:
    """Start coturn's client; it sends 20 datagrams on each of its ways and waits for them."""
    command = ["turnutils_uclient", "-n", "20", "-z", "5", *arguments, host]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_coturns_client_loses_nothing(ours: OurServer, tmp_path: Path) -> None:
    user = ("-u", "alice", "-w", "wonderland")
    port = str(ours.port)
    before = ours.counters.to_peers
    with OurServer(tmp_path, ACCOUNTS, host="::1", max_per_user=500) as six:
        runs = [
            uclient(*user, "-p", port, "-y"),  # channels, with pairs of ports
            uclient(*user, "-p", port, "-y", "-s"),  # Send indications
            uclient(*user, "-p", port, "-y", "-c", "-D"),  # padded channels
            uclient(*user, "-p", port, "-y", "-t"),
            uclient(*user, "-p", port, "-y", "-t", "-S"),
            uclient(*user, "-p", port, "-y", "-Z"),  # both families in one allocation
            uclient(*user, "-p", port, "-y", "-N"),  # wrong requests among the right ones
            uclient(*user, "-p", port, "-y", "-m", "5"),
            uclient(*user, "-p", str(six.port), "-y", "-x", host="::1"),
        ]
        for run in runs:
            text, _ = run.communicate(timeout=60)
            assert run.returncode == 0, text
            lost = re.findall(r"Total lost packets (\d+)", text)
            assert lost and lost[-1] == "0", text
            sent, received = re.findall(r"tot_send_msgs=(\d+), tot_recv_msgs=(\d+)", text)[-1]
            assert sent == received != "0", text
    assert ours.counters.to_peers > before + 200
    assert ours.counters.dropped_rate == ours.counters.dropped_full == 0


def test_coturns_client_with_time_limited_credentials(tmp_path: Path) -> None:
    accounts = TimedAccounts([b"new", b"before"], lambda: datetime.now(UTC))
    with OurServer(tmp_path, accounts) as server:
        runs = {
            secret: uclient("-u", "node7", "-W", secret, "-p", str(server.port), "-y", "-c")
            for secret in ("new", "before", "foreign")
        }
        texts = {secret: run.communicate(timeout=60)[0] for secret, run in runs.items()}
        codes = {secret: run.returncode == 0 for secret, run in runs.items()}
        assert codes == {"new": True, "before": True, "foreign": False}, texts


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.transport.sendto(data[::-1], addr)  # type: ignore[attr-defined]


class _Collect(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.found: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.found.put_nowait(data)


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
async def test_aioice_relays_through_our_server(ours: OurServer, transport: str) -> None:
    loop = asyncio.get_running_loop()
    echo, _ = await loop.create_datagram_endpoint(_Echo, local_addr=("127.0.0.1", 0))
    peer = echo.get_extra_info("sockname")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    turn, collect = await create_turn_endpoint(
        _Collect,
        ("127.0.0.1", ours.port),
        "alice",
        "wonderland",
        ssl=context if transport == "tls" else None,
        transport="udp" if transport == "udp" else "tcp",
    )
    for size in (1, 2, 3, 148, 1400):
        text = bytes(number % 251 for number in range(size))
        turn.sendto(text, peer)
        assert await asyncio.wait_for(collect.found.get(), 5) == text[::-1]
    turn.close()
    echo.close()


async def test_ice_between_two_that_only_have_our_server(ours: OurServer) -> None:
    sides = [
        aioice.Connection(
            ice_controlling=leads,
            turn_server=("127.0.0.1", ours.port),
            turn_username="alice",
            turn_password="wonderland",
            transport_policy=aioice.TransportPolicy.RELAY,
        )
        for leads in (True, False)
    ]
    for side in sides:
        await side.gather_candidates()
        assert {candidate.type for candidate in side.local_candidates} == {"relay"}
    for one, other in (sides, reversed(sides)):
        for candidate in one.local_candidates:
            await other.add_remote_candidate(candidate)
        await other.add_remote_candidate(None)
        other.remote_username, other.remote_password = one.local_username, one.local_password
    await asyncio.wait_for(asyncio.gather(*(side.connect() for side in sides)), 10)
    for one, other in ((sides[0], sides[1]), (sides[1], sides[0])):
        await one.send(b"by way of the relay")
        assert await asyncio.wait_for(other.recv(), 5) == b"by way of the relay"
    for side in sides:
        await side.close()


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_our_client_and_our_server(ours: OurServer, transport: str) -> None:
    port = ours.port
    flow, peer = Flow(transport, "127.0.0.1", port), Peer()
    relayed = allocate(flow)
    flow.do(lambda client, now: client.open_channel(peer.endpoint, now))
    flow.wait(ChannelOpen)
    relay_both_ways(flow, peer, relayed, 1400)
    before = len(ours.service.machine)  # type: ignore[union-attr,arg-type]
    flow.close()
    if transport != "udp":
        wait_until(lambda: len(ours.service.machine) < before, 5, "the allocation's end")  # type: ignore[union-attr,arg-type]


def test_garbage_on_every_port(ours: OurServer) -> None:
    for transport in ("tcp", "tls"):
        port = ours.port
        with connect(transport, "127.0.0.1", port) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            sock.settimeout(5)
            with suppress(ConnectionError):
                assert sock.recv(100) == b""
    with connect("udp", "127.0.0.1", ours.port) as sock:
        before = ours.counters.malformed
        for text in (b"", b"\0", b"\xff" * 1400, bytes(20), b"\0\3\0\0\x21\x12\xa4\x42"):
            sock.send(text)
        wait_until(lambda: ours.counters.malformed >= before + 5, 5, "five drops")
    allocate(Flow("udp", "127.0.0.1", ours.port))
