"""What opens the HTTP API, and what it allows."""

from __future__ import annotations

from datetime import timedelta

import pytest
from coordinator_world import World
from msgspec.structs import replace

from warren.coordinator import members
from warren.coordinator.auth import credentials
from warren.coordinator.auth.credentials import API, CLIENT, Gate, NotAllowed
from warren.coordinator.delta import Delta
from warren.coordinator.refusal import Refused
from warren.coordinator.roles import ROLES, SCOPES, allows

GATE = Gate(b"secret")


def made(world: World, kind: str, **fields: object) -> tuple[str, str]:
    """Return id and text."""
    text, record = credentials.mint(
        kind,
        user_id=1,
        wall=world.clock.wall(),
        entropy=world.entropy,
        life=timedelta(days=1),
        **fields,  # type: ignore[arg-type]
    )
    world.apply(Delta(credentials=(record,)))
    return record.id, text


@pytest.fixture
def owned(world: World) -> World:
    assert world.user("ann") == 1
    return world


def test_a_token_may_what_its_user_may(owned: World) -> None:
    _, text = made(owned, API)
    who = GATE.principal(text, owned.snapshot, owned.clock.wall())
    assert (who.kind, who.name, who.scopes) == ("user", "ann", ROLES["owner"])
    ann = members.find_user(owned.snapshot, "ann")
    owned.apply(Delta(users=(replace(ann, role="auditor"),)))
    who = GATE.principal(text, owned.snapshot, owned.clock.wall())
    assert allows(who.scopes, "users:read") and not allows(who.scopes, "users")


def test_tokens_that_open_nothing(owned: World) -> None:
    key_id, text = made(owned, API)
    _, client = made(owned, CLIENT, scopes=["dns"])
    wrong = [
        "",
        "warren-api-",
        f"warren-api-{key_id}-{'a' * 33}",
        f"warren-api-{key_id}",
        text[:-1],
        client,  # a client's secret is no token
        "warren-access-",
        "warren-access-AAAA.AAAA",
        "warren-access-" + "A" * 10_000 + ".AA",
        "warren-access-\N{SNOWMAN}.é",
    ]
    for bad in wrong:
        with pytest.raises(NotAllowed):
            GATE.principal(bad, owned.snapshot, owned.clock.wall())
    owned.clock.advance(86400)
    with pytest.raises(NotAllowed, match="expired"):
        GATE.principal(text, owned.snapshot, owned.clock.wall())


def test_a_clients_access_tokens(owned: World) -> None:
    client, secret = made(owned, CLIENT, scopes=["devices:core", "dns:read"], tags=["tag:ci"])
    wall = owned.clock.wall()
    token, scopes = GATE.grant(client, secret, [], owned.snapshot, wall)
    assert scopes == ["devices:core", "dns:read"]
    who = GATE.principal(token, owned.snapshot, wall)
    assert (who.kind, who.tags, who.credential) == ("client", ("tag:ci",), client)
    narrow, scopes = GATE.grant(client, secret, ["devices:core:read"], owned.snapshot, wall)
    who = GATE.principal(narrow, owned.snapshot, wall)
    assert allows(who.scopes, "devices:core:read") and not allows(who.scopes, "devices:core")
    with pytest.raises(Refused, match="may not have"):
        GATE.grant(client, secret, ["dns"], owned.snapshot, wall)
    with pytest.raises(NotAllowed):
        GATE.grant("other", secret, [], owned.snapshot, wall)
    with pytest.raises(NotAllowed):
        Gate(b"another server's").principal(token, owned.snapshot, wall)
    with pytest.raises(NotAllowed, match="get a new one"):
        GATE.principal(token, owned.snapshot, wall + timedelta(hours=1))
    owned.apply(Delta(removed_credentials=(client,)))
    with pytest.raises(NotAllowed, match="gone"):
        GATE.principal(token, owned.snapshot, wall)


def test_what_no_credential_may_be_made_of(owned: World) -> None:
    for fields in ({"scopes": ["everything"]}, {"tags": ["server"]}):
        with pytest.raises(Refused):
            made(owned, CLIENT, **fields)


def test_tokens_go_with_their_user(owned: World) -> None:
    owned.user("bob")
    text, record = credentials.mint(
        API, user_id=2, wall=owned.clock.wall(), entropy=owned.entropy, life=None
    )
    owned.apply(Delta(credentials=(record,)))
    owned.apply(members.delete_user(owned.snapshot, "bob"))
    with pytest.raises(NotAllowed):
        GATE.principal(text, owned.snapshot, owned.clock.wall())


def test_roles_hold_scopes_that_there_are() -> None:
    for held in ROLES.values():
        assert {s.removesuffix(":read") for s in held} <= SCOPES | {"all"}
    assert not allows(ROLES["member"], "devices:core:read")
    assert allows(ROLES["auditor"], "logs:configuration:read")
    assert not allows(ROLES["auditor"], "logs:configuration")
    assert not allows(["all:read"], "dns") and allows(["dns"], "dns:read")
