"""The state file: identities survive, damage is told, secrets stay secret."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from warren.edge.entropy import system_entropy
from warren.node.state import (
    FILE_NAME,
    MalformedServerUrl,
    NodeState,
    Prefs,
    StateProblem,
    normal_url,
)

URL = "http://198.51.100.10"


def reopen(state: NodeState) -> NodeState:
    """As after a restart: `kill -9` gives the lock back too."""
    state.close()
    return NodeState(state.directory, system_entropy)


def test_identity_survives_a_restart(tmp_path: Path) -> None:
    state = NodeState(tmp_path / "n", system_entropy)
    state.select(URL)
    node, machine, log_id = state.node_key(), state.machine_key, state.log_id
    state.set_prefs(Prefs(want_running=True, hostname="x"))
    state = reopen(state)
    assert (state.node_key(), state.machine_key, state.log_id) == (node, machine, log_id)
    assert state.profile is not None
    assert state.profile.prefs == Prefs(want_running=True, hostname="x")


def test_another_coordinator_gets_another_node_key(tmp_path: Path) -> None:
    state = NodeState(tmp_path, system_entropy)
    state.select(URL)
    first = state.node_key()
    state.select("https://other.example")
    assert state.node_key() != first
    state.select(URL + "/")
    assert state.node_key() == first


def test_renewal_keeps_the_old_key_until_accepted(tmp_path: Path) -> None:
    state = NodeState(tmp_path, system_entropy)
    state.select(URL)
    first = state.node_key()
    second = state.renew_node_key()
    state = reopen(state)
    assert state.node_key() == second
    assert state.old_node_key() == first
    third = state.renew_node_key()
    assert state.old_node_key() == first, "the coordinator knows the first key only"
    state.accepted()
    assert (state.node_key(), state.old_node_key()) == (third, None)


def test_log_out_forgets_the_node_key_only(tmp_path: Path) -> None:
    state = NodeState(tmp_path, system_entropy)
    state.select(URL)
    node, machine = state.node_key(), state.machine_key
    state.forget_login()
    state = reopen(state)
    assert state.machine_key == machine
    assert state.node_key() != node


def test_file_is_private(tmp_path: Path) -> None:
    state = NodeState(tmp_path / "n", system_entropy)
    state.select(URL)
    mode = (tmp_path / "n" / FILE_NAME).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE((tmp_path / "n").stat().st_mode) == 0o700
    secret = state.node_key().reveal_text()
    assert secret not in repr(state) + repr(state.node_key())


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"format":1}', b'{"format":1,"machine_key":"privkey:00"}'],
)
def test_damage_is_one_sentence(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(damage)
    with pytest.raises(StateProblem, match=r"is damaged or not a node's state"):
        NodeState(tmp_path, system_entropy)
    assert (tmp_path / FILE_NAME).read_bytes() == damage, "nothing is overwritten"


def test_a_damaged_key_is_damage(tmp_path: Path) -> None:
    state = NodeState(tmp_path, system_entropy)
    state.select(URL)
    text = state.node_key().reveal_text()
    state.close()
    path = tmp_path / FILE_NAME
    path.write_text(path.read_text().replace(text, text[:-1]))
    with pytest.raises(StateProblem, match="damaged"):
        NodeState(tmp_path, system_entropy)


def test_another_format_is_told(tmp_path: Path) -> None:
    NodeState(tmp_path, system_entropy).close()
    path = tmp_path / FILE_NAME
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(StateProblem, match="another version"):
        NodeState(tmp_path, system_entropy)


def test_a_second_daemon_is_told(tmp_path: Path) -> None:
    first = NodeState(tmp_path, system_entropy)
    with pytest.raises(StateProblem, match="already uses"):
        NodeState(tmp_path, system_entropy)
    first.close()
    NodeState(tmp_path, system_entropy).close()


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "n").write_text("")
    with pytest.raises(StateProblem, match="--state"):
        NodeState(tmp_path / "n", system_entropy)


def test_a_failed_write_keeps_the_old_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = NodeState(tmp_path, system_entropy)
    state.select(URL)
    key = state.node_key()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateProblem, match="no space left"):
        state.renew_node_key()
    assert state.node_key() == key
    monkeypatch.undo()
    assert reopen(state).node_key() == key


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("mesh.example.com", "https://mesh.example.com"),
        ("https://mesh.example.com/", "https://mesh.example.com"),
        ("http://[2001:db8::1]:80", "http://[2001:db8::1]:80"),
        (" HTTP://Mesh.Example.com:8080 ", "http://mesh.example.com:8080"),
    ],
)
def test_urls(text: str, url: str) -> None:
    assert normal_url(text) == url


@pytest.mark.parametrize(
    "text",
    ["", "ftp://x", "http://", "http://x:99999", "http://x/path", "http://u:p@x", "http://[x"],
)
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(MalformedServerUrl):
        normal_url(text)
