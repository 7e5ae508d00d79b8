"""A whole server in this process, over loopback sockets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import secrets
import socket
import ssl
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from coordinator_machine import Machine, http_get
from coordinator_server import Running, joined
from coordinator_world import LONG_AGO, machine_key
from web_browser import Browser
from wsproto import ConnectionType, WSConnection
from wsproto.events import BytesMessage, Message, Request

from warren.control.channel import ClientChannel, Early, Response
from warren.control.handshake import RESPONSE_BYTES, HandshakeRefused, Initiator
from warren.control.upgrade import WEBSOCKET_SUBPROTOCOL, websocket_target
from warren.coordinator import presence, session
from warren.coordinator.admin import shapes
from warren.coordinator.client import AdminClient, AdminError
from warren.coordinator.session import Session
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.ts2021 import ControlConnection
from warren.derp.metacert import certificate_pin, server_key_untrusted
from warren.edge.clock import SystemClock
from warren.edge.entropy import system_entropy
from warren.edge.http import Door
from warren.netmap.codec import encode_json
from warren.netmap.node import Hostinfo, NetInfo
from warren.node import control_link
from warren.node.control_link import LinkLost, open_link
from warren.policy.verdict import World


async def test_first_start_tells_how_to_join(running: Running) -> None:
    command = running.join.split()
    assert command[:4] == ["warren", "up", "--server", f"http://127.0.0.1:{running.http}"]
    machine = await Machine(running.http, "a").connect()
    assert (await machine.register(auth_key=command[-1])).machine_authorized
    assert machine.early, "the early payload comes before HTTP/2"
    await machine.close()


async def test_first_start_tells_who_becomes_the_owner(running: Running) -> None:
    link = running.owner.removeprefix(f"http://127.0.0.1:{running.http}")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.http}") as client:
        browser = Browser(client)
        page = await browser.submit(await browser.get(link), link, new="a good password")
        assert "You are admin (owner)" in page
        assert (await browser.get(link)).status == 403, "it makes one owner"
        invite = await running.admin(lambda admin: admin.invite("ann", shapes.NewInvite()))
        assert "You are ann (member)" in await browser.get(invite.url)
    users = {user.name: user for user in await running.admin(AdminClient.users)}
    assert users["admin"].logs_in == "password" and users["admin"].last_login
    assert (await running.admin(lambda admin: admin.suspend("ann"))).suspended
    with pytest.raises(AdminError, match="suspended"):
        await running.admin(lambda admin: admin.invite("ann", shapes.NewInvite()))
    assert not (await running.admin(lambda admin: admin.restore("ann"))).suspended
    for name, new, reason in (
        ("eve", shapes.NewInvite(must_exist=True), "no user 'eve'"),
        ("eve", shapes.NewInvite(role="king"), "is no role"),
        ("eve", shapes.NewInvite(expires="never"), "90 days"),
        ("e v e", shapes.NewInvite(), "is not a user name"),
    ):
        with pytest.raises(AdminError, match=reason):
            await running.admin(lambda admin, name=name, new=new: admin.invite(name, new))
    await running.admin(lambda admin: admin.delete_user("ann"))


async def test_two_machines_see_each_other_by_deltas(running: Running) -> None:
    async with joined(running, "a") as (a,):
        assert not a.view.peers
        assert a.messages[0].debug is not None and a.messages[0].debug.disable_log_tail
        assert a.messages[0].control_time is not None
        key = await running.key()
        b = await running.join_machine("b", key)
        await a.until(lambda view: any(peer.online for peer in view.peers.values()), 2)
        for message in a.messages[1:]:
            assert message.peers is None and message.dns_config is None, "only what changed"
        endpoints = ["192.0.2.1:41641", "[2001:db8::1]:5", "nonsense", "192.0.2.1:41641"]
        info = Hostinfo(hostname="b", net_info=NetInfo(preferred_derp=900))
        assert await b.update(endpoints=endpoints, hostinfo=info) == (200, b"")
        view = await a.until(lambda view: any(peer.home_derp for peer in view.peers.values()))
        (peer,) = view.peers.values()
        assert peer.endpoints == ["192.0.2.1:41641", "[2001:db8::1]:5"]
        assert peer.disco_key == b.disco and peer.home_derp == 900
        assert peer.name == "b.warren.internal."
        assert peer.user in view.profiles
        await b.close()


async def test_endpoint_change_is_a_patch(running: Running) -> None:
    async with joined(running, "a", "b") as (a, b):
        await a.until(lambda view: bool(view.peers))
        await b.update(endpoints=["192.0.2.1:1"])
        await a.until(lambda view: any(p.endpoints for p in view.peers.values()))
        seen = len(a.messages)
        await b.update(endpoints=["192.0.2.1:2"])
        await a.until(lambda v: any("192.0.2.1:2" in p.endpoints for p in v.peers.values()))
        (message,) = a.messages[seen:]
        assert message.peers_changed_patch and not message.peers_changed and message.node is None


async def test_offline_after_a_grace(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "OFFLINE_GRACE_S", 0.1)
    async with joined(running, "a", "b") as (a, b):
        await a.until(lambda view: any(p.online for p in view.peers.values()))
        await b.close()
        view = await a.until(lambda view: any(p.online is False for p in view.peers.values()))
        assert all(peer.last_seen is not None for peer in view.peers.values())


async def test_ephemeral_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "OFFLINE_GRACE_S", 0.1)
    running = Running(tmp_path, ephemeral_after="1s")
    await running.start()
    async with joined(running, "a") as (a,):
        b = await running.join_machine("b", await running.key(ephemeral=True))
        await a.until(lambda view: bool(view.peers))
        await b.close()
        await a.until(lambda view: not view.peers)
    await running.stop()


async def test_logout_and_expiry_reach_both_sides(running: Running) -> None:
    async with joined(running, "a", "b") as (a, b):
        await a.until(lambda view: bool(view.peers))
        await b.register(expiry=LONG_AGO)
        await a.until(lambda view: all(peer.expired for peer in view.peers.values()))
        view = await b.until(lambda view: view.node is not None and view.node.expired)
        assert not view.peers and view.packet_filters == {"base": []}
        again = await b.register()
        assert again.node_key_expired


async def test_key_expiry_is_told_when_its_time_comes(running: Running) -> None:
    async with joined(running, "a", "b") as (a, b):
        await a.until(lambda view: bool(view.peers))
        soon = SystemClock().wall() + timedelta(seconds=1)
        await b.register(expiry=soon)
        await a.until(lambda view: all(peer.expired for peer in view.peers.values()))


async def test_deleted_node_hears_that_its_key_is_over(running: Running) -> None:
    async with joined(running, "a", "b") as (a, b):
        await a.until(lambda view: bool(view.peers))
        await running.admin(lambda client: client.delete_node("b"))
        await a.until(lambda view: not view.peers)
        await b.until(lambda view: view.node is not None and view.node.expired)
        await b.until_ended()
        b.poll()  # a stock client tries again; it is told the same
        await b.until(lambda view: bool(view.node and view.node.stable_id == "gone"))
        assert (await b.update())[0] == 404


async def test_newer_poll_ends_the_older(running: Running) -> None:
    async with joined(running, "a") as (a,):
        second = await Machine(running.http, "a").connect()
        second.poll()
        await second.until(lambda view: view.node is not None)
        await a.until_ended()
        assert second.view.node == a.view.node
        await second.close()


async def test_restart_of_the_server(running: Running) -> None:
    async with joined(running, "a", "b") as (a, _):
        await a.until(lambda view: bool(view.peers))
        before = a.view
        await running.stop()
        await running.start()
        again = await Machine(running.http, "a").connect()
        again.poll()
        await again.until(lambda view: view.node is not None)
        assert again.view.node == before.node
        assert set(again.view.peers) == set(before.peers)
        await again.close()


async def test_interactive_login(running: Running) -> None:
    a = await Machine(running.http, "a").connect()
    url = (await a.register()).auth_url
    status, page = await http_get(running.http, url.partition(str(running.http))[2])
    assert status == 200 and b"warren admin nodes approve" in page and b"<b>a</b>" in page
    waiting = asyncio.get_running_loop().create_task(a.register(followup=url))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    listing = await running.admin(lambda client: client.nodes())
    assert [pending.hostname for pending in listing.pending] == ["a"]
    node = await running.admin(lambda client: client.approve(url))
    assert node.user == "admin"
    assert (await waiting).machine_authorized
    assert (await http_get(running.http, url.partition(str(running.http))[2]))[0] == 404
    await a.close()


async def test_interactive_reject(running: Running) -> None:
    a = await Machine(running.http, "a").connect()
    url = (await a.register()).auth_url
    waiting = asyncio.get_running_loop().create_task(a.register(followup=url))
    await asyncio.sleep(0.05)
    await running.admin(lambda client: client.reject("a"))
    assert "turned this machine away" in (await waiting).error
    await a.close()


async def test_page_escapes_host_names(running: Running) -> None:
    a = await Machine(running.http, "a").connect()
    url = (await a.register(hostname="<script>alert(1)</script>")).auth_url
    _, page = await http_get(running.http, url.partition(str(running.http))[2])
    assert b"<script>" not in page
    await a.close()


async def test_administration(running: Running) -> None:
    async with joined(running, "a", "b") as (a, b):
        await running.admin(lambda client: client.create_user("bob@example.com", "Bob"))
        with pytest.raises(AdminError, match="already"):
            await running.admin(lambda client: client.create_user("BOB@example.com"))
        with pytest.raises(AdminError, match="not a user name"):
            await running.admin(lambda client: client.create_user("b o b"))
        with pytest.raises(AdminError, match="still owns 2 nodes"):
            await running.admin(lambda client: client.delete_user("admin"))
        await running.admin(lambda client: client.delete_user("bob@example.com"))
        with pytest.raises(AdminError, match="another node is called"):
            await running.admin(lambda client: client.rename("a", "b"))
        with pytest.raises(AdminError, match="'anns-mac' would be one"):
            await running.admin(lambda client: client.rename("a", "Ann's Mac"))
        await running.admin(lambda client: client.rename("a", "first"))
        await a.until(lambda view: bool(view.node and view.node.name.startswith("first.")))
        await running.admin(lambda client: client.tag("first", ["tag:web"]))
        view = await a.until(lambda view: bool(view.node and view.node.tags))
        assert (
            view.node is not None and view.profiles[view.node.user].login_name == "tagged-devices"
        )
        assert view.node.key_expiry is None
        with pytest.raises(AdminError, match="not a tag"):
            await running.admin(lambda client: client.tag("first", ["web"]))
        with pytest.raises(AdminError, match="no node 'nobody'"):
            await running.admin(lambda client: client.node("nobody"))
        keys = await running.admin(lambda client: client.keys())
        assert all(key.key is None for key in keys)
        await running.admin(lambda client: client.revoke_key(keys[-1].id))
        with pytest.raises(AdminError, match="no auth key"):
            await running.admin(lambda client: client.revoke_key(keys[-1].id))
        status = await running.admin(lambda client: client.status())
        assert (status.nodes, status.online) == (2, 2)
        # A name given by an administrator stays, whatever the host is called.
        await a.update(hostinfo=Hostinfo(hostname="renamed"))
        await b.update(hostinfo=Hostinfo(hostname="renamed"))
        listing = await running.admin(lambda client: client.nodes())
        assert [node.name for node in listing.nodes] == ["first", "renamed"]


async def test_machine_approval(tmp_path: Path) -> None:
    running = Running(tmp_path, approve_machines=True)
    await running.start()
    key = await running.key()
    a = await Machine(running.http, "a").connect()
    assert not (await a.register(auth_key=key)).machine_authorized
    a.poll()
    await a.until(lambda view: view.node is not None)
    assert a.view.node is not None and not a.view.node.machine_authorized
    await running.admin(lambda client: client.approve("a"))
    await a.until(lambda view: bool(view.node and view.node.machine_authorized))
    await a.close()
    await running.stop()


async def test_unserved_endpoints(running: Running) -> None:
    a = await Machine(running.http, "a").connect()
    for method, path, status in [
        ("POST", "/machine/set-dns", 501),
        ("PATCH", "/machine/set-device-attr", 501),
        ("GET", "/machine/whoami", 501),
        ("GET", "/machine/tka/init/begin", 404),
        ("GET", "/machine/map", 404),
        ("POST", "/", 404),
    ]:
        assert (await a.call(method, path, b"{}"))[0] == status, path
    await a.close()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"Version":"x"}', b"\xff\xfe", b'{"NodeKey":"nodekey:00"}', b"[" * 9999],
)
async def test_malformed_bodies(running: Running, body: bytes) -> None:
    a = await Machine(running.http, "a").connect()
    for path in ("/machine/register", "/machine/map"):
        status, reason = await a.call("POST", path, body)
        assert status == 400 and b"cannot be read" in reason
    await a.close()


async def test_oversized_body(running: Running) -> None:
    a = await Machine(running.http, "a").connect()
    status, _ = await a.call("POST", "/machine/register", b" " * (1 << 20) + b"xx")
    assert status == 413
    assert (await a.register()).auth_url, "the connection goes on"
    await a.close()


async def test_many_large_bodies_at_once_are_bounded(running: Running) -> None:
    a = await Machine(running.http, "a").connect()
    bodies = [a.call("POST", "/machine/register", b" " * 1_000_000) for _ in range(12)]
    results = await asyncio.gather(*bodies)
    assert {status for status, _ in results} <= {400, 413}
    await a.close()


async def test_foreign_node_key_in_map(running: Running) -> None:
    async with joined(running, "a") as (a,):
        thief = await Machine(running.http, "thief").connect()
        wanted = encode_json(thief.map_request(node_key=a.node.public(), omit_peers=True))
        assert (await thief.call("POST", "/machine/map", wanted))[0] == 403
        await thief.close()


async def raw(port: int, data: bytes, timeout_s: float = 5) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), timeout_s)
        writer.close()
        return answer
    return b""


def upgrade(initiation: bytes) -> bytes:
    return (
        b"POST /ts2021 HTTP/1.1\r\nHost: x\r\nUpgrade: tailscale-control-protocol\r\n"
        b"Connection: upgrade\r\nX-Tailscale-Handshake: "
        + base64.b64encode(initiation)
        + b"\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01" + secrets.token_bytes(200) + b"\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
        (b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"GET /key HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n", b"400"),
        (b"POST /ts2021 HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (upgrade(b"short"), b"400"),
        (upgrade(secrets.token_bytes(101)), b"400"),
        (upgrade(b"\x00\x71\x01\x00\x60" + secrets.token_bytes(96)), b"400"),
        (b"GET /derp HTTP/1.1\r\nHost: x\r\n\r\n", b"426"),
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
    ],
)
async def test_bad_input_at_the_door(running: Running, data: bytes, status: bytes) -> None:
    answer = await raw(running.http, data)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:80]
    assert (await http_get(running.http, "/health"))[0] == 200


async def test_handshake_for_another_server(running: Running) -> None:
    wrong = machine_key("another server").public()
    initiator = Initiator(machine_key("a"), wrong, 113, secrets.token_bytes(32))
    assert (await raw(running.http, upgrade(initiator.message()))).startswith(b"HTTP/1.1 400")


async def test_replayed_initiation_gets_no_further(running: Running) -> None:
    """Whoever replays an initiation can't read the answer, so the next record fails."""
    server = running.server._identity.noise.public()
    message = Initiator(machine_key("a"), server, 113, secrets.token_bytes(32)).message()
    reader, writer = await asyncio.open_connection("127.0.0.1", running.http)
    writer.write(upgrade(message) + b"\x04\x00\x20" + secrets.token_bytes(32))
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 101")
    writer.close()


async def test_old_client_is_told(running: Running) -> None:
    server = running.server._identity.noise.public()
    machine = Machine(running.http, "old", version=106)
    with pytest.raises(HandshakeRefused, match="too old"):
        await machine.connect_to(server)


async def test_pipelined_and_kept_alive_requests(running: Running) -> None:
    get = b"GET /derp/probe HTTP/1.1\r\nHost: x\r\n\r\n"
    page = b"GET / HTTP/1.1\r\nHost: x\r\n"
    last = page + b"Connection: close\r\n\r\n"
    answer = await raw(running.http, get * 3 + page + b"\r\n" + get + page + b"\r\n" + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 7
    assert answer.lower().count(b"connection: close") == 1


async def test_generate_204(running: Running) -> None:
    answer = await raw(
        running.http,
        b"GET /generate_204 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"X-Tailscale-Challenge: ts_1.2\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 204")
    assert b"x-tailscale-response: response ts_1.2" in answer.lower()


async def test_tls_port_and_meta_certificate(running: Running) -> None:
    def look() -> tuple[bytes, list[bytes]]:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", running.tls)) as sock,
            context.wrap_socket(sock) as tls,
        ):
            chain = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
            tls.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            data = b""
            while piece := tls.recv(4096):
                data += piece
            return data, [ssl.PEM_cert_to_DER_cert(cert.public_bytes()) for cert in chain]

    answer, chain = await asyncio.to_thread(look)
    assert b"200 OK" in answer
    relay = running.server._identity.relay.public()
    assert server_key_untrusted(chain[1]) == relay
    async with joined(running, "a") as (a,):
        (region,) = (a.view.derp_map.regions or {}).values()
        assert region is not None
        (node,) = region.nodes
        assert node.cert_name == certificate_pin(chain[0])
        assert (node.host_name, node.derp_port) == ("127.0.0.1", running.tls)
        assert node.stun_port == running.stun


async def test_slow_heads_are_dropped(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warren.edge.http.HEAD_TIMEOUT_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.http)
    writer.write(b"GET / HTTP/1.1\r\n")
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 3) == b""
    writer.close()


async def test_keep_alives(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "KEEP_ALIVE_S", 0.05)
    monkeypatch.setattr(session, "KEEP_ALIVE_JITTER_S", 0.05)
    async with joined(running, "a") as (a,):
        async with asyncio.timeout(5):
            while a.keep_alives < 3:
                await asyncio.sleep(0.02)


async def test_refused_store_keeps_serving(running: Running) -> None:
    async with joined(running, "a", "b") as (a, b):
        await a.until(lambda view: bool(view.peers))
        engine = running.store._engine
        with engine.begin() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        with pytest.raises(AdminError, match="full"):
            await running.admin(lambda client: client.create_user("x" * 250, "y" * 100_000))
        # What machines report still reaches the others.
        big = Hostinfo(hostname="b", net_info=NetInfo(preferred_derp=900), os_version="v" * 300_000)
        assert (await b.update(endpoints=["192.0.2.9:9"], hostinfo=big))[0] == 200
        await a.until(lambda view: any(p.endpoints for p in view.peers.values()))


async def test_ts2021_over_websocket(running: Running) -> None:
    server = running.server._identity.noise.public()
    initiator = Initiator(machine_key("web"), server, 113, secrets.token_bytes(32))
    websocket = WSConnection(ConnectionType.CLIENT)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.http)
    target = websocket_target(initiator.message())
    writer.write(
        websocket.send(Request(host="x", target=target, subprotocols=[WEBSOCKET_SUBPROTOCOL]))
    )
    channel: ClientChannel | None = None
    data, status = b"", 0
    while not status:
        websocket.receive_data(await asyncio.wait_for(reader.read(4096), 5))
        for event in websocket.events():
            if isinstance(event, BytesMessage):
                data += bytes(event.data)
        if channel is None and len(data) >= RESPONSE_BYTES:
            channel = ClientChannel(initiator.finish(data[:RESPONSE_BYTES]))
            data = data[RESPONSE_BYTES:]
            channel.request("GET", "/machine/whoami")
        if channel is not None:
            for found in channel.receive(data):
                assert not isinstance(found, Early), "no early payload on this variant"
                status = found.status if isinstance(found, Response) else status
            data = b""
            if out := channel.poll_transmit():
                writer.write(websocket.send(Message(data=out)))
    assert status == 501
    writer.close()


class Middlebox:
    """A proxy that knows only HTTP: no upgrade but to a WebSocket passes it."""

    def __init__(self, behind: int, *, says_no: bool = True) -> None:
        self.behind = behind
        self.says_no = says_no
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode().split("\r\n", 1)[0].split("?")[0])
        if b"tailscale-control-protocol\r\n" in head and head.startswith(b"POST"):
            if not self.says_no:
                await reader.read()
            writer.write(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.behind)
        inner_writer.write(head)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(4096):
                    sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))


async def test_a_node_gets_through_a_middlebox(running: Running) -> None:
    box = Middlebox(running.http)
    async with await asyncio.start_server(box.serve, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        server = running.server._identity.noise.public()
        async with open_link(url, machine_key("far"), server, system_entropy) as link:
            assert (await link.call("GET", "/machine/whoami")).status == 501
            answers = [link.call("GET", f"/machine/whoami?{n}") for n in range(20)]
            assert {reply.status for reply in await asyncio.gather(*answers)} == {501}
    assert box.heads == ["POST /ts2021 HTTP/1.1", "GET /ts2021"]


async def test_a_middlebox_that_swallows_the_upgrade_is_got_around(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_link, "NATIVE_PATIENCE_S", 0.2)
    box = Middlebox(running.http, says_no=False)
    async with await asyncio.start_server(box.serve, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        server = running.server._identity.noise.public()
        async with open_link(url, machine_key("far"), server, system_entropy) as link:
            assert (await link.call("GET", "/machine/whoami")).status == 501
    assert box.heads == ["POST /ts2021 HTTP/1.1", "GET /ts2021"]


async def test_where_nothing_gets_through_it_says_so() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        with pytest.raises(LinkLost, match="403"):
            async with open_link(
                url, machine_key("far"), machine_key("s").public(), system_entropy
            ):
                pass


@pytest.mark.parametrize(
    "target", ["/ts2021", "/ts2021?X-Tailscale-Handshake=AAAA", "/ts2021?" + "a=b&" * 50]
)
async def test_bad_websocket_handshakes(running: Running, target: str) -> None:
    websocket = WSConnection(ConnectionType.CLIENT)
    request = Request(host="x", target=target, subprotocols=[WEBSOCKET_SUBPROTOCOL])
    assert (await raw(running.http, websocket.send(request))).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (secrets.token_bytes(100) + b"\r\n\r\n", b"400"),
        (b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{", b"400"),
        (
            b"POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n"
            b'{"name":"a","what":1}',
            b"400",
        ),
        (
            b"POST /v1/keys HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n"
            + b" " * 2_000_000,
            b"400",
        ),
        (b"DELETE /v1/users/%00%ff HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
    ],
)
async def test_bad_input_at_the_admin_socket(running: Running, data: bytes, status: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(running.state / "admin.sock"))
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(100), 5)
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    writer.close()
    assert (await running.admin(lambda client: client.status())).users == 1
    with pytest.raises(AdminError, match="nothing is called"):
        await running.admin(lambda client: client.node("a/b"))


async def test_what_ends_leaves_no_circles(running: Running) -> None:
    """The server's collector never looks again at what lives long (`edge/collector.py`)."""
    gc.collect()
    gc.disable()
    try:
        async with joined(running, "a", "b") as (a, b):
            await a.until(lambda view: bool(view.peers))
            for port in (80, 443):
                grants = [{"src": ["*"], "dst": ["*"], "ip": [f"tcp:{port}"]}]
                text = json.dumps({"grants": grants})
                await running.admin(lambda client, text=text: client.set_policy(text, "a", None))
                await b.until(
                    lambda view, port=port: any(
                        end.ports.first == port for rule in view.rules() for end in rule.dst_ports
                    )
                )
        async with asyncio.timeout(5):
            while len(running.server._maps):
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        ours = {type(thing).__name__ for thing in gc.garbage}
        ended = {ControlConnection, Door, Session, Snapshot, World}
        assert not ours & {kind.__name__ for kind in ended}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
