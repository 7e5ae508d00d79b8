"""Registration messages (PROTOCOL §2.7, §2.8)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from warren.keys import LockPublic, MachinePublic, NodePublic
from warren.netmap.node import Hostinfo, WireStruct

ZERO_TIME = datetime(1, 1, 1, tzinfo=UTC)
"""Go's zero time, which the wire uses for "none" where a time is always present."""


class ServerKeys(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer of `GET /key`."""

    legacy_public_key: MachinePublic = MachinePublic.zero()
    public_key: MachinePublic


class Auth(WireStruct, frozen=True, kw_only=True):
    """How a registration proves its right."""

    auth_key: str = ""
    oauth2_token: dict[str, Any] | None = msgspec.field(default=None, name="Oauth2Token")


class RegisterRequest(WireStruct, frozen=True, kw_only=True, omit_defaults=False):
    """A node asks to join, to prolong, to leave (`expiry` in the past) or to wait.

    Everything is written, as Go does: a zero time and zero keys mean something here.
    """

    version: int
    node_key: NodePublic
    old_node_key: NodePublic = NodePublic.zero()
    nl_key: LockPublic = LockPublic.zero()
    auth: Auth | None = None
    expiry: datetime = ZERO_TIME
    followup: str = ""
    hostinfo: Hostinfo = Hostinfo()
    ephemeral: bool = False
    node_key_signature: str | None = None
    tailnet: str = ""


class User(WireStruct, frozen=True, kw_only=True):
    """The owner of a machine."""

    id: int = 0
    display_name: str = ""
    profile_pic_url: str = ""
    created: datetime | None = None


class Login(WireStruct, frozen=True, kw_only=True):
    """The log-in that a machine was joined by."""

    id: int = 0
    provider: str = ""
    login_name: str = ""
    display_name: str = ""
    profile_pic_url: str = ""


class RegisterResponse(WireStruct, frozen=True, kw_only=True, omit_defaults=False):
    """What the coordinator says; see the flow table in PROTOCOL §2.8."""

    user: User = User()
    login: Login = Login()
    node_key_expired: bool = False
    machine_authorized: bool = False
    auth_url: str = ""
    node_key_signature: str | None = None
    error: str = ""
