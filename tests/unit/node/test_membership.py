"""Log-in, the long poll and their faults, against a coordinator that says what it is told."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from node_coordinator import FakeCoordinator, frame

from warren.control.mapstream import KEEP_ALIVE
from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.keys import DiscoPrivate, NodePublic
from warren.netmap.node import Node, PeerChange
from warren.netmap.view import View
from warren.netmap.wire import (
    Hostinfo,
    MapResponse,
    PingRequest,
    RegisterRequest,
    RegisterResponse,
)
from warren.node import membership as membership_module
from warren.node.control_client import LOGOUT_EXPIRY, Refused
from warren.node.control_link import ControlLink, dial_plan
from warren.node.control_pings import answer_c2n, answer_control_ping
from warren.node.localapi import RequestFailed
from warren.node.membership import Facts, Membership
from warren.node.schema import Explanation, PathStatus, PingReply, SideStatus, WhyRequest
from warren.node.schema import PingRequest as LocalPing
from warren.node.state import NodeState

DISCO = DiscoPrivate.from_entropy(bytes(32)).public()
ACCEPTED = RegisterResponse(machine_authorized=True)
SELF = Node(id=1, name="me.example.", addresses=["100.64.0.1/32"], machine_authorized=True)
PEER = Node(id=2, name="you.example.", addresses=["100.64.0.2/32"])
FIRST = frame(MapResponse(node=SELF, peers=[PEER]))


class Member:
    """A membership, and what it said."""

    def __init__(self, state: NodeState) -> None:
        self.state = state
        self.views: list[View] = []
        self.endpoints: tuple[str, ...] = ()
        self.phases: list[str] = []
        self.membership = Membership(
            state,
            SystemClock(),
            system_entropy,
            facts=self._facts,
            on_view=self.views.append,
            on_change=self._changed,
            on_ping=self._ping,
        )

    def _facts(self) -> Facts:
        types = tuple(1 for _ in self.endpoints)
        return Facts(DISCO, Hostinfo(hostname="me", backend_log_id="x"), self.endpoints, types)

    def _changed(self) -> None:
        phase = self.membership.phase
        if not self.phases or self.phases[-1] != phase:
            self.phases.append(phase)

    async def _ping(self, link: ControlLink, request: PingRequest) -> None:
        await answer_control_ping(link, request, self)

    def why(self, request: WhyRequest) -> Explanation:
        if request.peer != "100.64.0.2":
            raise RequestFailed(404, "There is no such machine.")
        path = PathStatus(kind="relay", region=1)
        side = SideStatus()
        return Explanation(
            peer="you", address=request.peer, path=path, summary="so", cause="idle", own=side,
            theirs=side,
        )  # fmt: skip

    async def ping(self, request: LocalPing) -> PingReply:
        return PingReply(ok=True, kind=request.kind, peer="you", address=request.peer, ms=2.0)

    async def until(self, condition: Callable[[], object], limit_s: float = 5.0) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(limit_s):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeCoordinator]:
    monkeypatch.setattr(membership_module, "BACKOFF_FIRST_S", 0.01)
    async with FakeCoordinator() as fake:
        yield fake


@pytest.fixture
async def member(server: FakeCoordinator, tmp_path: Path) -> AsyncIterator[Member]:
    state = NodeState(tmp_path / "state", system_entropy)
    state.select(server.url)
    yield Member(state)
    state.close()


@asynccontextmanager
async def running(member: Member, **arguments: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Run a membership inside an `async with`."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(member.membership.run(**arguments))
        try:
            yield task
        finally:
            task.cancel()


async def test_what_go_always_sends_is_sent(server: FakeCoordinator, member: Member) -> None:
    server.replies, server.maps = [ACCEPTED], [FIRST]
    async with running(member):
        await member.until(lambda: member.views)
    for name in (
        b'"Expiry":"0001-01-01T00:00:00Z"',
        b'"OldNodeKey":"nodekey:0',
        b'"NLKey":"nlpub:',
    ):
        assert name in server.raw_registrations[0]


async def test_an_auth_key_joins(server: FakeCoordinator, member: Member) -> None:
    server.replies, server.maps = [ACCEPTED], [FIRST]
    async with running(member, auth_key="k"):
        await member.until(lambda: member.membership.phase == "running")
        (asked,) = server.registered
        assert asked.auth is not None
        assert asked.auth.auth_key == "k"
        assert asked.node_key == member.state.node_key().public()
        assert asked.old_node_key.is_zero
        assert asked.hostinfo.backend_log_id
        assert member.views[-1].peers == {2: PEER}
        assert member.membership.connected
    assert member.state.profile is not None
    assert member.state.profile.logged_in
    assert "k" not in (member.state.directory / "node.json").read_text().split('"')


async def test_deltas_fold_without_another_connection(
    server: FakeCoordinator, member: Member
) -> None:
    server.replies, server.maps = [ACCEPTED], [FIRST, KEEP_ALIVE]
    async with running(member):
        await member.until(lambda: member.views)
        change = PeerChange(node_id=2, endpoints=["192.0.2.1:1"])
        server.send_map(MapResponse(peers_changed_patch=[change]))
        await member.until(lambda: len(member.views) == 2)
        assert member.views[-1].peers[2].endpoints == ["192.0.2.1:1"]
        assert server.connections == 1


async def test_updates_say_what_changed_and_only_then(
    server: FakeCoordinator, member: Member
) -> None:
    server.replies, server.maps = [ACCEPTED], [FIRST]
    async with running(member):
        await member.until(lambda: len(server.map_requests) == 2)
        stream, lite = sorted(server.map_requests, key=lambda request: not request.stream)
        assert (stream.stream, stream.omit_peers, stream.compress) == (True, False, "zstd")
        assert (lite.stream, lite.omit_peers, lite.disco_key) == (False, True, DISCO)
        member.membership.report()
        await asyncio.sleep(0.2)
        assert len(server.map_requests) == 2, "nothing changed, so nothing is told"
        member.endpoints = ("192.0.2.9:1",)
        member.membership.report()
        await member.until(lambda: len(server.map_requests) == 3)
        assert server.map_requests[-1].endpoints == ["192.0.2.9:1"]
        assert server.map_requests[-1].endpoint_types == [1]


async def test_interactive_login_waits_at_its_url(server: FakeCoordinator, member: Member) -> None:
    url = f"{server.url}/register/abc"
    server.replies = [RegisterResponse(auth_url=url), ACCEPTED]
    server.maps = [FIRST]
    async with running(member):
        await member.until(lambda: member.membership.phase == "running")
    first, second = server.registered
    assert (first.followup, second.followup) == ("", url)
    assert "needs-login" in member.phases
    assert member.membership.auth_url == ""


async def test_an_expired_key_is_renewed_once(server: FakeCoordinator, member: Member) -> None:
    old = member.state.node_key().public()
    server.replies = [RegisterResponse(node_key_expired=True), ACCEPTED]
    server.maps = [FIRST]
    async with running(member):
        await member.until(lambda: member.membership.phase == "running")
    _, second = server.registered
    assert second.old_node_key == old
    assert second.node_key not in (old, NodePublic.zero())
    assert member.state.old_node_key() is None


async def test_a_key_that_is_expired_even_when_new_ends_it(
    server: FakeCoordinator, member: Member
) -> None:
    server.replies = [RegisterResponse(node_key_expired=True)] * 2
    async with running(member) as task:
        await asyncio.wait_for(task, 5)
    assert member.membership.phase == "needs-login"
    assert "expired" in member.membership.error


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (RegisterResponse(error="auth key is used up"), "auth key is used up"),
        ((401, b"AuthKey not found", ()), "AuthKey not found"),
        ((403, b"\x1b[31mno\x00way", ()), "[31mno way"),
        ((404, b"", ()), "it answered 404"),
    ],
)
async def test_a_refusal_is_told_and_ends_it(
    server: FakeCoordinator, member: Member, answer: Any, said: str
) -> None:
    server.replies = [answer]
    async with running(member, auth_key="k") as task:
        await asyncio.wait_for(task, 5)
    assert member.membership.phase == "needs-login"
    assert member.membership.error == f"The coordinator refused: {said}."
    assert len(server.registered) == 1


async def test_trouble_is_not_a_refusal(server: FakeCoordinator, member: Member) -> None:
    server.replies = [(503, b"later", ()), (200, b"not json", ()), ACCEPTED]
    server.maps = [FIRST]
    async with running(member):
        await member.until(lambda: member.membership.phase == "running")
    assert len(server.registered) == 3


async def test_a_busy_coordinator_says_when(server: FakeCoordinator, member: Member) -> None:
    server.replies = [(429, b"", (("retry-after", "0"),)), ACCEPTED]
    server.maps = [FIRST]
    async with running(member):
        await member.until(lambda: member.membership.phase == "running")


async def test_approval_is_waited_for(server: FakeCoordinator, member: Member) -> None:
    waiting = Node(id=1, name="me.", machine_authorized=False)
    server.replies = [RegisterResponse(machine_authorized=False)]
    server.maps = [frame(MapResponse(node=waiting))]
    async with running(member):
        await member.until(lambda: member.views)
        assert member.membership.phase == "needs-approval"
        server.send_map(MapResponse(node=SELF))
        await member.until(lambda: member.membership.phase == "running")


async def test_a_lost_link_comes_back_with_the_same_key(
    server: FakeCoordinator, member: Member
) -> None:
    server.replies, server.maps = [ACCEPTED, ACCEPTED], [FIRST]
    async with running(member, auth_key="k"):
        await member.until(lambda: member.views)
        server.drop()
        await member.until(lambda: len(member.views) == 2)
    first, second = server.registered
    assert first.node_key == second.node_key
    assert second.auth is None, "an auth key is used once"


async def test_a_session_starts_from_nothing(server: FakeCoordinator, member: Member) -> None:
    server.replies, server.maps = [ACCEPTED, ACCEPTED], [FIRST]
    async with running(member):
        await member.until(lambda: member.views)
        server.maps = [frame(MapResponse(node=SELF))]
        server.drop()
        await member.until(lambda: len(member.views) == 2)
        assert member.views[-1].peers == {}, "a peer of the last session may be gone"


@pytest.mark.parametrize(
    "maps",
    [
        [frame(MapResponse(peers=[PEER]))],
        [b"\xff\xff\xff\xff"],
        [b"\x04\x00\x00\x00abcd"],
        [frame(MapResponse())[:9], b"\x00" * 20],
    ],
)
async def test_a_bad_map_is_a_lost_link(
    server: FakeCoordinator, member: Member, maps: list[bytes]
) -> None:
    server.replies, server.maps = [ACCEPTED, ACCEPTED], maps
    async with running(member):
        await member.until(lambda: len(server.registered) == 2)
        assert member.views == []


async def test_expiry_in_the_map_leads_to_a_new_login(
    server: FakeCoordinator, member: Member
) -> None:
    past = datetime.now(UTC) - timedelta(minutes=1)
    expired = Node(id=1, name="me.", machine_authorized=True, key_expiry=past)
    server.replies = [ACCEPTED, RegisterResponse(auth_url=f"{server.url}/register/x")]
    server.maps = [frame(MapResponse(node=expired))]
    async with running(member):
        await member.until(lambda: member.membership.auth_url)
    assert "expired" in member.phases


async def test_log_out_expires_the_key(server: FakeCoordinator, member: Member) -> None:
    server.replies = [ACCEPTED]
    key = member.state.node_key().public()
    await member.membership.log_out()
    (asked,) = server.registered
    assert (asked.node_key, asked.expiry) == (key, LOGOUT_EXPIRY)


async def test_a_log_out_that_is_refused_is_told(server: FakeCoordinator, member: Member) -> None:
    server.replies = [RegisterResponse(error="no")]
    member.state.node_key()
    with pytest.raises(Refused, match=r"refused: no\."):
        await member.membership.log_out()


async def test_an_old_version_is_told(server: FakeCoordinator, member: Member) -> None:
    server.refuse_with = "client is too old"
    async with running(member) as task:
        await asyncio.wait_for(task, 5)
    assert "client is too old" in member.membership.error
    assert member.membership.phase == "needs-login"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"x"),
        (200, b"x"),
        (200, b"{}"),
        (200, b'{"publicKey":"mkey:00"}'),
        (200, b"a" * 99999),
    ],
)
async def test_what_is_no_coordinator_is_told(
    server: FakeCoordinator, member: Member, status: int, body: bytes
) -> None:
    server.key_reply = (status, body)
    async with running(member) as task:
        await asyncio.wait_for(task, 5)
    assert member.membership.phase == "needs-login"
    assert server.url in member.membership.error
    assert member.membership.error.endswith(".")


async def test_nobody_there_is_tried_again(tmp_path: Path) -> None:
    state = NodeState(tmp_path, system_entropy)
    state.select("http://127.0.0.1:1")
    member = Member(state)
    async with running(member):
        await member.until(lambda: member.membership.error)
        assert "cannot be reached" in member.membership.error
        assert member.membership.phase == "stopped"
    state.close()


async def test_clocks_are_compared(server: FakeCoordinator, member: Member) -> None:
    wrong = datetime.now(UTC) + timedelta(days=800)
    server.replies = [ACCEPTED]
    server.maps = [frame(MapResponse(node=SELF, control_time=wrong))]
    async with running(member):
        await member.until(lambda: member.views)
        assert "800.0 days" in member.membership.clock_warning
        assert abs(member.membership.wall() - wrong) < timedelta(minutes=1)


async def test_a_clock_that_is_years_ahead_expires_nothing(
    server: FakeCoordinator, member: Member
) -> None:
    then = datetime.now(UTC) - timedelta(days=2000)
    me = Node(id=1, name="me.", machine_authorized=True, key_expiry=then + timedelta(days=180))
    server.replies = [ACCEPTED]
    server.maps = [frame(MapResponse(node=me, control_time=then))]
    async with running(member):
        await member.until(lambda: member.views)
        assert member.membership.phase == "running"


async def test_a_coordinators_pings_are_answered_inside_noise(
    server: FakeCoordinator, member: Member
) -> None:
    payload = base64.b64encode(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
    asked = [
        PingRequest(url="http://x/head?1", url_is_noise=True),
        PingRequest(url="http://x/head?1", url_is_noise=True),
        PingRequest(url="http://x/disco", url_is_noise=True, types="disco,TSMP", ip="100.64.0.2"),
        PingRequest(url="http://x/c2n", url_is_noise=True, types="c2n", payload=payload.decode()),
        PingRequest(url="http://127.0.0.1:1/elsewhere"),
    ]
    server.replies = [ACCEPTED]
    server.maps = [FIRST, *(frame(MapResponse(keep_alive=True, ping_request=p)) for p in asked)]
    async with running(member):
        await member.until(lambda: len(server.other) == 4)
        await asyncio.sleep(0.05)
    by_path = {(method, path): body for method, path, body in server.other}
    assert len(server.other) == 4, "a URL is answered once, and none outside Noise"
    assert by_path[("HEAD", "/head?1")] == b""
    assert by_path[("POST", "/c2n")].endswith(b"\r\n\r\nhi")
    assert b'"IP":"100.64.0.2"' in by_path[("POST", "/disco")]


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        ("", 400),
        ("!", 400),
        (base64.b64encode(b"garbage").decode(), 400),
        (base64.b64encode(b"GET /debug/prefs HTTP/1.1\r\nHost: x\r\n\r\n").decode(), 404),
    ],
)
def test_other_requests_of_a_coordinator(member: Member, payload: str, status: int) -> None:
    assert answer_c2n(payload, member).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("?peer=100.64.0.2", 200, b'"summary":"so"'),
        ("?peer=nobody", 409, b"There is no such machine."),
        ("", 409, b"There is no such machine."),
    ],
)
def test_a_coordinator_asks_why(member: Member, query: str, status: int, words: bytes) -> None:
    asked = f"GET /warren/why{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    answer = answer_c2n(base64.b64encode(asked).decode(), member)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert words in answer


@pytest.mark.parametrize(
    ("url", "plan"),
    [
        ("http://mesh.example.com", [(80, False), (443, True)]),
        ("http://mesh.example.com:8080", [(8080, False), (443, True)]),
        ("http://192.168.1.1:8080", [(8080, False)]),
        ("http://localhost", [(80, False)]),
        ("https://mesh.example.com", [(80, False), (443, True)]),
        ("https://mesh.example.com:8443", [(8443, True), (80, False)]),
        ("https://127.0.0.1:8443", [(8443, True)]),
    ],
)
def test_dial_plans(url: str, plan: list[tuple[int, bool]]) -> None:
    assert [(target.port, target.tls is not None) for target in dial_plan(url)] == plan


def test_tls_that_is_not_verified_reads_no_certificates() -> None:
    """They are read at each dial otherwise: 2 MB, and the loop stands for up to 40 ms."""
    (_, last) = dial_plan("https://control.example")
    assert last.tls is not None
    assert last.tls.verify_mode is ssl.CERT_NONE
    assert not last.tls.check_hostname
    assert last.tls.cert_store_stats()["x509_ca"] == 0


async def test_registration_never_carries_the_private_key(
    server: FakeCoordinator, member: Member
) -> None:
    server.replies, server.maps = [ACCEPTED], [FIRST]
    async with running(member):
        await member.until(lambda: member.views)
    said: list[RegisterRequest] = server.registered
    assert member.state.node_key().reveal().hex() not in repr(said)
