"""Webhooks: subscribed to over the API, told in the transaction of the change, sent, sent again."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from ipaddress import ip_address, ip_network
from os import getuid
from pathlib import Path
from typing import Any

import pytest
from api_office import Office
from coordinator_server import Running
from msgspec.structs import replace
from structlog.testing import capture_logs

from warren.coordinator import members
from warren.coordinator.api import shapes
from warren.coordinator.client import AdminError
from warren.coordinator.config import BadConfig, Config, check
from warren.coordinator.delta import Delta
from warren.coordinator.records import DeliveryRecord, WebhookRecord
from warren.coordinator.webhooks import outbox
from warren.coordinator.webhooks.events import CATEGORIES, KINDS, Event, events_of, subscribed
from warren.coordinator.webhooks.messages import body
from warren.coordinator.webhooks.sender import Sender
from warren.edge.clock import SystemClock
from warren.edge.dial import verified_tls
from warren.edge.linux.local_socket import account_name
from warren.edge.tls import make_self_signed
from warren.nat.turn.reach import Reach

EVERYTHING = "categoryTailnetManagement"
HERE = Reach(own=[ip_network("127.0.0.0/8")], allow=[ip_network("127.0.0.1/32")])


async def hook(office: Office, url: str = "https://hooks.example/x", **more: Any) -> dict[str, Any]:
    wish = {"endpointUrl": url, "subscriptions": [EVERYTHING], **more}
    return dict(await office.told("POST", "/tailnet/-/webhooks", json=wish))


def waiting(office: Office) -> list[str]:
    return [outbox.event_of(d).type for _, d in sorted(office.registry.snapshot.deliveries.items())]


async def test_subscriptions(office: Office) -> None:
    made = await hook(office, providerType="discord")
    at = f"/webhooks/{made['endpointId']}"
    assert made["secret"].startswith("warren-webhook-") and made["creatorLoginName"] == "owner"
    shown = await office.told("GET", at)
    assert "secret" not in shown and shown["providerType"] == "discord"
    changed = await office.told("PATCH", at, json={"subscriptions": ["nodeDeleted", "userCreated"]})
    assert changed["subscriptions"] == ["nodeDeleted", "userCreated"] and "secret" not in changed
    turned = await office.told("POST", f"{at}/rotate")
    assert turned["secret"] not in ("", made["secret"])
    assert len((await office.told("GET", "/tailnet/-/webhooks"))["webhooks"]) == 1
    log = json.dumps(await office.told("GET", "/tailnet/-/logging/configuration"))
    assert "WEBHOOK" in log and made["secret"] not in log and turned["secret"] not in log
    assert (await office.ask("POST", f"{at}/test")).status_code == 202
    assert waiting(office) == ["test"]
    assert office.store.load() == office.registry.snapshot, "kept across a restart"
    await office.told("DELETE", at)
    assert (await office.ask("GET", at)).status_code == 404
    assert not office.registry.snapshot.deliveries and not office.store.load().deliveries


@pytest.mark.parametrize(
    "wish",
    [
        {"subscriptions": []},
        {"subscriptions": ["nodeExploded"]},
        {"providerType": "pigeon"},
        *(
            {"endpointUrl": url}
            for url in (
                "ftp://hooks.example/",
                "https://user:secret@hooks.example/",
                "https://hooks.example:0/",
                "https://hooks.example:99999/",
                "https://ho oks.example/",
                "https://hooks.example/\r\nx: y",
                "https://bücher.example/",
                "https://-x-/",
                "https:///path",
                "https://[::1]/",
                "https://[::ffff:127.0.0.1]/",
                "https://[fe80::1]/",
                "https://[fd7a:115c:a1e0::1]/",
                "https://127.0.0.1/",
                "http://0.0.0.0:8080/",
                "https://169.254.169.254/latest/meta-data/",
                "https://100.64.0.1/",
                "https://10.0.0.1/",
                "https://" + "x" * 1000 + ".example/",
            )
        ),
    ],
)
async def test_what_is_refused(office: Office, wish: dict[str, Any]) -> None:
    given = {"endpointUrl": "https://hooks.example/", "subscriptions": [EVERYTHING], **wish}
    answer = await office.ask("POST", "/tailnet/-/webhooks", json=given)
    assert answer.status_code == 400 and answer.json()["message"], given
    assert not office.registry.snapshot.webhooks


async def test_only_so_many(office: Office) -> None:
    for _ in range(20):
        await hook(office)
    wish = {"endpointUrl": "https://hooks.example/", "subscriptions": [EVERYTHING]}
    assert (await office.ask("POST", "/tailnet/-/webhooks", json=wish)).status_code == 409


async def test_what_changes_is_told(office: Office) -> None:
    before_it = f"/device/{office.node}"
    await office.told("POST", f"{before_it}/authorized", json={"authorized": False})
    await hook(office)
    assert waiting(office) == [], "not of what was before"
    await office.told("POST", f"{before_it}/authorized", json={"authorized": True})
    await office.told("POST", f"{before_it}/authorized", json={"authorized": True})
    policy = {"content": b'{"acls": []}', "headers": {"content-type": "application/hujson"}}
    await office.told("POST", "/tailnet/-/acl", **policy)
    users = (await office.told("GET", "/tailnet/-/users"))["users"]
    member = next(user["id"] for user in users if user["loginName"] == "member")
    await office.told("POST", f"/users/{member}/role", json={"role": "auditor"})
    await office.told("POST", f"/users/{member}/suspend")
    await office.told("POST", f"/users/{member}/restore")
    await office.told("POST", f"/users/{member}/delete")
    wall = office.world.clock.wall()
    await office.registry.commit(lambda now: (members.create_user(now, "bob", "", wall), None))
    await office.told("DELETE", before_it)
    assert waiting(office) == [
        "nodeApproved",
        "policyUpdate",
        "userRoleUpdated",
        "userSuspended",
        "userRestored",
        "userDeleted",
        "userCreated",
        "nodeDeleted",
    ]
    approved, _, role, *_ = map(outbox.event_of, office.registry.snapshot.deliveries.values())
    assert approved.data["deviceName"] == "one" and approved.data["actor"] == "owner"
    assert (role.data["oldRoles"], role.data["newRoles"]) == (["member"], ["auditor"])


def test_a_machine_that_joins(office: Office) -> None:
    world = office.world
    before = world.snapshot
    outcome = world.register("m2", "n2", hostname="two")
    assert outcome.delta is not None
    (event,) = events_of(before, outcome.delta, "m2", world.clock.wall())
    assert (event.type, event.data["deviceName"]) == ("nodeNeedsApproval", "two")
    before, key = world.snapshot, world.auth_key(office.owner)[0]
    outcome = world.register("m3", "n3", auth_key=key, hostname="three")
    assert outcome.delta is not None
    (event,) = events_of(before, outcome.delta, "m3", world.clock.wall())
    assert event.type == "nodeCreated" and event.data["expiration"] == "2026-08-28T12:00:00Z"


def test_categories() -> None:
    assert all(subscribed((category,), kind) for category, of in CATEGORIES.items() for kind in of)
    assert all(subscribed((kind,), kind) and not subscribed((), kind) for kind in KINDS)
    assert subscribed((), "test") and not subscribed(("nodeCreated",), "nodeDeleted")


def test_the_queue_is_bounded(office: Office) -> None:
    wall = office.world.clock.wall()
    one = WebhookRecord(id="w", url="https://x/", provider="", subscriptions=(EVERYTHING,),
                        secret="s", creator="ann", created=wall, modified=wall)  # fmt: skip
    snapshot = office.world.snapshot.after(Delta(webhooks=(one, replace(one, id="v"))))
    for start in range(0, 600, 30):
        events = [Event("nodeCreated", wall, str(n)) for n in range(start, start + 30)]
        snapshot = snapshot.after(outbox.waiting(snapshot, Delta(), events, wall))
    queues = outbox.by_webhook(snapshot)
    assert [len(queues[name]) for name in "wv"] == [500, 500]
    assert outbox.event_of(queues["w"][0]).message == "100", "the oldest went"
    batch = outbox.next_batch(queues["w"])
    assert batch == queues["w"][:50]
    heavy = [Event("policyUpdate", wall, "x" * 300_000)] * 9
    snapshot = snapshot.after(outbox.waiting(snapshot, Delta(), heavy, wall, only="v"))
    assert len(outbox.by_webhook(snapshot)["v"]) == 6, "2 MiB at the most"
    large = [DeliveryRecord(n, "w", wall, "x" * 200_000) for n in range(3)]
    assert len(outbox.next_batch(large)) == 1
    assert outbox.too_old(snapshot, wall + timedelta(hours=23)) == ()
    assert len(outbox.too_old(snapshot, wall + timedelta(days=1))) == 506


def test_chat_programs_are_sent_text(office: Office) -> None:
    event = Event("nodeCreated", office.world.clock.wall(), "Node one created", {"nodeID": "n"})
    for provider, field in (("slack", "text"), ("mattermost", "text"), ("discord", "content")):
        told = json.loads(body([event, event], provider, "x.internal", "https://x"))
        assert told == {field: "x.internal: Node one created\nx.internal: Node one created"}
    assert len(json.loads(body([event] * 50, "slack", "x" * 60, ""))["text"]) == 1900


class Receiver:
    """An HTTP server that keeps what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        self.heard = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in head}
        content = await reader.readexactly(int(headers["content-length"]))
        self.got.append((headers, content))
        writer.write(self.answer)
        writer.close()
        self.heard.set()

    async def next(self) -> list[Any]:
        async with asyncio.timeout(5):
            await self.heard.wait()
        self.heard.clear()
        return list(json.loads(self.got[-1][1]))


class Post:
    """A receiver, a sender, and what the sender's resolver says."""

    def __init__(self, office: Office, receiver: Receiver, sender: Sender, port: int) -> None:
        self.office, self.receiver, self.sender, self.port = office, receiver, sender, port

    async def settled(self) -> None:
        async with asyncio.timeout(5):
            while self.office.registry.snapshot.deliveries:
                await asyncio.sleep(0.01)

    async def failed(self, count: int) -> None:
        async with asyncio.timeout(5):
            while self.sender.counts["failed"] < count:
                await asyncio.sleep(0.01)

    async def later(self, seconds: float) -> None:
        self.office.world.clock.advance(seconds)
        # Any change of a machine lets the sender look at its watch.
        at = f"/device/{self.office.node}/name"
        await self.office.told("POST", at, json={"name": f"n{int(self.office.world.clock.now())}"})


@asynccontextmanager
async def post(
    office: Office,
    addresses: list[str] | None = None,
    served: ssl.SSLContext | None = None,
    trusted: ssl.SSLContext | None = None,
) -> AsyncIterator[Post]:
    """served, trusted: with TLS, what the receiver shows and the sender believes."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=served)
    told = ["127.0.0.1"] if addresses is None else addresses
    sender = Sender(
        office.registry,
        office.world.settings,
        HERE,
        office.world.clock,
        resolve=lambda host: [ip_address(told.pop(0) if len(told) > 1 else told[0])],
        tls=trusted,
    )
    office.trouble = sender.trouble
    running = asyncio.get_running_loop().create_task(sender.run())
    yield Post(office, receiver, sender, server.sockets[0].getsockname()[1])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    server.close()


async def test_it_is_sent_and_signed(office: Office) -> None:
    async with post(office) as at:
        made = await hook(office, f"http://hooks.example:{at.port}/in?x=1")
        await office.told("POST", f"/device/{office.node}/authorized", json={"authorized": False})
        (event,) = await at.receiver.next()
        assert event["type"] == "nodeNeedsApproval" and event["version"] == 1
        assert event["tailnet"] == "warren.internal" and event["timestamp"].startswith("2026-03-01")
        assert event["data"]["url"] == "http://warren.test"
        headers, content = at.receiver.got[0]
        assert headers["host"] == f"hooks.example:{at.port}"
        moment, _, mac = headers["tailscale-webhook-signature"].partition(",")
        assert moment == f"t={int(office.world.clock.wall().timestamp())}"
        signed = f"{moment[2:]}.".encode() + content
        secret = made["secret"].encode()
        assert mac == "v1=" + hmac.new(secret, signed, hashlib.sha256).hexdigest()
        await at.settled()
        assert at.sender.counts == {"sent": 1, "failed": 0, "dropped": 0}


async def test_only_to_who_shows_the_right_certificate(office: Office, tmp_path: Path) -> None:
    chain, key = make_self_signed("hooks.example", SystemClock().wall())
    (tmp_path / "chain.pem").write_bytes(chain)
    (tmp_path / "key.pem").write_bytes(key)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    known = ssl.create_default_context(cadata=chain.decode())
    for url, trusted, why in (
        ("https://hooks.example", verified_tls(), "is not trusted (self"),
        ("https://other.example", known, "is not trusted (Hostname mismatch"),
        ("https://hooks.example", known, ""),
    ):
        async with post(office, served=served, trusted=trusted) as at:
            made = await hook(office, f"{url}:{at.port}/in")
            await office.told("POST", f"/webhooks/{made['endpointId']}/test", status=202)
            if why:
                await at.failed(1)
                assert why in at.sender.trouble(made["endpointId"]) and not at.receiver.got
            else:
                assert [event["type"] for event in await at.receiver.next()] == ["test"]
                await at.settled()
            await office.told("DELETE", f"/webhooks/{made['endpointId']}")


async def test_it_is_sent_again(office: Office) -> None:
    async with post(office) as at:
        made = await hook(office, f"http://hooks.example:{at.port}/")
        at.receiver.answer = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\n\r\n"
        await office.told("POST", f"/webhooks/{made['endpointId']}/test", status=202)
        await at.failed(1)
        shown = await office.told("GET", f"/webhooks/{made['endpointId']}")
        assert (shown["problem"], shown["waiting"]) == ("it answered 302", 1)
        await at.later(4)
        await asyncio.sleep(0.05)
        assert len(at.receiver.got) == 1, "not before its time"
        at.receiver.answer = b"what?\r\n\r\n"
        await at.later(2)
        await at.failed(2)
        assert at.sender.trouble(made["endpointId"]) == "it does not speak HTTP"
        at.receiver.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        await at.later(11)
        await at.settled()
        assert len(json.loads(at.receiver.got[-1][1])) == 1
        assert "problem" not in await office.told("GET", f"/webhooks/{made['endpointId']}")


async def test_no_secret_is_in_the_log(office: Office) -> None:
    """Neither what signs, nor the address: those of chat programs are secrets themselves."""
    with capture_logs() as told:
        async with post(office) as at:
            made = await hook(office, f"http://hooks.example:{at.port}/services/T0KEN?key=T0KEN")
            path = f"/webhooks/{made['endpointId']}"
            for count, answer in enumerate((b"HTTP/1.1 500 T0KEN\r\n\r\n", b"T0KEN\r\n\r\n"), 1):
                at.receiver.answer = answer
                await office.told("POST", f"{path}/test", status=202)
                await at.failed(count)
                shown = await office.told("GET", path)
                assert "T0KEN" not in shown["problem"]
                await at.later(30)
            at.receiver.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
            await at.later(300)
            await at.settled()
            rotated = await office.told("POST", f"{path}/rotate")
            signed = at.receiver.got[-1][0]["tailscale-webhook-signature"]
    assert [line["event"] for line in told].count("a webhook was not reached") >= 2
    for secret in (made["secret"], rotated["secret"], signed.rpartition("=")[2], "T0KEN"):
        assert secret not in str(told)
    log = await office.told("GET", "/tailnet/-/logging/configuration")
    assert made["secret"] not in str(log) and rotated["secret"] not in str(log)
    last = log["logs"][-1]
    assert (last["action"], last["target"]["type"]) == ("UPDATE", "WEBHOOK")
    assert (last["old"]["secret"], last["new"]["secret"]) == ("(hidden)", "(another)")


async def test_a_name_that_leads_inside(office: Office) -> None:
    async with post(office, ["127.0.0.2", "169.254.169.254", "::1", "10.0.0.1"]) as at:
        made = await hook(office, f"https://hooks.example:{at.port}/")
        await office.told("POST", f"/webhooks/{made['endpointId']}/test", status=202)
        for count, seconds in ((1, 6), (2, 11), (3, 21), (4, 0)):
            await at.failed(count)
            assert "--webhook-allow" in at.sender.trouble(made["endpointId"])
            await at.later(seconds)
        assert at.receiver.got == []
    # Plain HTTP goes only where it was allowed by name, also not to the public network.
    async with post(office, ["192.88.98.1"]) as at:
        made = await hook(office, f"http://hooks.example:{at.port}/")
        await office.told("POST", f"/webhooks/{made['endpointId']}/test", status=202)
        await at.failed(1)
        assert "http:// is only" in at.sender.trouble(made["endpointId"])


async def test_nothing_stops_the_sender(office: Office) -> None:
    async with post(office, ["no address", "127.0.0.1"]) as at:
        made = await hook(office, f"http://hooks.example:{at.port}/")
        await office.told("POST", f"/webhooks/{made['endpointId']}/test", status=202)
        await at.failed(1)
        assert "could not be asked" in at.sender.trouble(made["endpointId"])
        await at.later(6)
        await at.settled()


async def test_what_only_the_clock_brings(office: Office) -> None:
    async with post(office) as at:
        await hook(office, f"http://hooks.example:{at.port}/")
        await office.told("POST", f"/device/{office.node}/key", json={"keyExpiryDisabled": False})
        await at.later(179 * 86400 + 1)
        assert [e["type"] for e in await at.receiver.next()] == ["nodeKeyExpiringInOneDay"]
        await at.settled()
        await at.later(86400)
        (event,) = await at.receiver.next()
        assert event["type"] == "nodeKeyExpired" and event["data"]["nodeID"]
        await at.settled()
    # Another start of the program: what was told is not told once more, what came is.
    await office.told("POST", f"/device/{office.node}/tags", json={"tags": []})
    async with post(office) as at:
        await at.later(1)
        await asyncio.sleep(0.05)
        assert at.receiver.got == []


def test_where_webhooks_may_be() -> None:
    with pytest.raises(BadConfig, match="webhook-allow"):
        check(Config(webhook_allow="home"))


async def test_a_whole_server_sends(tmp_path: Path) -> None:
    """Also after a restart: what waits then was kept."""
    receiver = Receiver()
    receiver.answer = b"HTTP/1.1 503 Later\r\ncontent-length: 0\r\n\r\n"
    listening = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
    wish = shapes.NewWebhook(endpoint_url=url, subscriptions=["userCreated"])
    running = Running(tmp_path)
    await running.start()
    with pytest.raises(AdminError, match="--webhook-allow"):
        await running.admin(lambda client: client.create_webhook(wish))
    await running.stop()
    running.settings["webhook_allow"] = "127.0.0.1/32"
    await running.start()
    await running.admin(lambda client: client.create_webhook(wish))
    await running.admin(lambda client: client.create_user("bob"))
    (event,) = await receiver.next()
    assert (event["type"], event["data"]["actor"]) == (
        "userCreated",
        f"administrator {account_name(getuid())}",
    )
    await running.stop()
    receiver.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    await running.start()
    assert await receiver.next() == [event]
    (shown,) = await running.admin(lambda client: client.webhooks())
    assert not shown.problem
    await running.stop()
    listening.close()
