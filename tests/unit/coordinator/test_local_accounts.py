"""Changes over the admin socket are those of an account of the machine, as the kernel says."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from coordinator_server import Running

from warren.coordinator.admin import local
from warren.coordinator.api import shapes as wire
from warren.coordinator.audit import Actor
from warren.coordinator.client import AdminClient
from warren.edge.linux.local_socket import Peer, account_name, login_uid, peer_of


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    server = Running(tmp_path)
    await server.start()
    yield server
    await server.stop()


async def test_both_apis_of_the_socket_name_the_account(running: Running) -> None:
    me = account_name(os.getuid())

    def work(near: AdminClient) -> None:
        near.create_user("bob")
        hook = wire.NewWebhook(endpoint_url="https://x.invalid/", subscriptions=["nodeCreated"])
        assert near.create_webhook(hook).creator_login_name == f"administrator {me}"
        bob, made = (
            next(e for e in near.audit(20) if e.target_kind == kind) for kind in ("user", "webhook")
        )
        for entry in (bob, made):
            assert (entry.actor_kind, entry.actor) == ("local", f"administrator {me}")
            assert entry.origin.startswith(f"on the server's own machine, uid {os.getuid()}")

    await running.admin(work)


def test_who_has_connected() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer_of(one) == Peer(os.getpid(), os.getuid())


def test_names_of_accounts() -> None:
    assert account_name(0) == "root"
    assert account_name(2**31 - 7) == f"uid {2**31 - 7}"


@pytest.mark.parametrize(
    ("text", "uid"),
    [("1000", 1000), ("0", 0), (str(2**32 - 1), None), ("", None), ("-1", None), ("x", None)],
)
def test_who_had_logged_in(tmp_path: Path, text: str, uid: int | None) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "loginuid").write_text(text)
    assert login_uid(7, tmp_path) == uid
    assert login_uid(8, tmp_path) is None, "it has ended"


@pytest.mark.parametrize(
    ("before", "told"),
    [(None, ""), (0, ""), (2**31 - 7, f", logged in as uid {2**31 - 7} (uid {2**31 - 7})")],
)
def test_sudo_does_not_hide_who_it_is(
    monkeypatch: pytest.MonkeyPatch, before: int | None, told: str
) -> None:
    monkeypatch.setattr(local, "login_uid", lambda pid: before)
    expected = Actor("local", "administrator root", f"on the server's own machine, uid 0{told}")
    assert local.actor_of(Peer(7, 0)) == expected
