"""TURN against others: our client with coturn, our server with coturn's client and aioice."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from turn_flows import Flow, Peer, coturn

from warren.edge.tls import make_self_signed
from warren.nat.turn.credentials import Credentials, timed_credentials
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
    from datetime import UTC, datetime

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
