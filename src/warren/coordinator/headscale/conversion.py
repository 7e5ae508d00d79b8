"""Headscale's rows → a delta of ours; pure. Keys, addresses and names of machines stay.

A machine is marked as one that never spoke with this server by the capability version 0. Until
it does, its machine key is enough to come back with another node key (`auth/registration.py`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_network

from msgspec.structs import replace

from warren.coordinator import addresses
from warren.coordinator.auth.authkeys import id_and_secret, random_text
from warren.coordinator.change import Change
from warren.coordinator.delta import Delta
from warren.coordinator.headscale.source import Source, SourceKey, SourceNode
from warren.coordinator.members import LAST_ID, LAST_V4, MAX_ENDPOINTS, next_id
from warren.coordinator.names import dns_label, is_tag, is_user_name, unique_label
from warren.coordinator.records import AuthKeyRecord, NodeRecord, UserRecord
from warren.coordinator.snapshot import Snapshot
from warren.edge.entropy import Entropy
from warren.keys import DiscoPublic, MachinePublic, NodePublic
from warren.keys.kinds import MalformedKey
from warren.netmap.codec import MalformedMessage, decode_json_untrusted
from warren.netmap.node import Hostinfo

_OWNERLESS = "headscale"
"""Who gets machines that belong to nobody, where there is no user at all."""


@dataclass
class Converted:
    """What becomes of a database. `notes`: sentences about what is left out or differs."""

    users: list[UserRecord] = field(default_factory=list)
    keys: list[AuthKeyRecord] = field(default_factory=list)
    nodes: list[NodeRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    last_id: int = 0

    def delta(self) -> Delta:
        """Return all of it as one change."""
        settings = {LAST_ID: str(self.last_id)}
        if self.nodes:
            settings[LAST_V4] = str(max(node.ipv4 for node in self.nodes))
        return Delta(
            users=tuple(self.users),
            auth_keys=tuple(self.keys),
            nodes=tuple(self.nodes),
            settings=settings,
            change=Change(everything=True, why=frozenset({"imported"})),
        )


def convert(source: Source, snapshot: Snapshot, wall: datetime, entropy: Entropy) -> Converted:
    """Turn a database into records that fit beside the users of `snapshot`."""
    made = Converted(last_id=next_id(snapshot) - 1)
    owners = _users(source, snapshot, made, wall)
    needed = bool(source.nodes or source.keys)
    fallback = _owner_of_the_ownerless(snapshot, made, wall, needed=needed)
    key_ids = _keys(source, made, owners, fallback, wall)
    machines = _Machines(snapshot, made, wall, entropy)
    keys = {key.id: key for key in source.keys}
    for row in source.nodes:
        key = keys.get(row.auth_key_id or 0)
        user = owners.get(row.user_id or 0) or owners.get((key and key.user_id) or 0) or fallback
        machines.add(row, user, ephemeral=bool(key and key.ephemeral), key_ids=key_ids)
    return made


def _users(
    source: Source, snapshot: Snapshot, made: Converted, wall: datetime
) -> dict[int, UserRecord]:
    """Return the users by Headscale's ids; who is here already is the same person."""
    owners: dict[int, UserRecord] = {}
    taken: set[str] = set()
    for row in source.users:
        name = row.name if is_user_name(row.name) else dns_label(row.name)
        if name != row.name:
            made.notes.append(f"the user {row.name!r} is called {name!r} here")
        if name.casefold() in taken:
            name = unique_label(f"{name}-{row.id}", taken)
            made.notes.append(f"there are two users {row.name!r}; one is called {name!r} here")
        taken.add(name.casefold())
        known = snapshot.user_named(name)
        if known is None:
            made.last_id += 1
            first = not snapshot.users and not made.users
            known = UserRecord(
                id=made.last_id,
                name=name,
                display_name=row.display_name or name,
                created=row.created or wall,
                role="owner" if first else "member",
            )
            if first:
                made.notes.append(
                    f"{name} is the owner, as the oldest user; another with: "
                    "warren admin users role NAME owner"
                )
            made.users.append(known)
        owners[row.id] = known
    return owners


def _owner_of_the_ownerless(
    snapshot: Snapshot, made: Converted, wall: datetime, *, needed: bool
) -> UserRecord:
    """Tagged machines belong to nobody there, and here to who could have made them: the owner."""
    everyone = [*made.users, *snapshot.users.values()]
    for user in everyone:
        if user.role == "owner":
            return user
    if everyone:
        return everyone[0]
    user = UserRecord(
        id=made.last_id + 1, name=_OWNERLESS, display_name="Headscale", created=wall, role="owner"
    )
    if needed:
        made.last_id = user.id
        made.users.append(user)
    return user


def _keys(
    source: Source,
    made: Converted,
    owners: dict[int, UserRecord],
    fallback: UserRecord,
    wall: datetime,
) -> dict[int, str]:
    """Take over the keys that still admit machines; return ids here by ids there."""
    ids: dict[int, str] = {}
    over = 0
    for row in source.keys:
        expired = row.expiry is not None and row.expiry <= wall
        if expired or row.revoked or (row.used and not row.reusable):
            over += 1
            continue
        key_id, digest = _secret_of(row)
        if not key_id or key_id in ids.values():
            made.notes.append(f"auth key {row.id} is left out: its secret cannot be read")
            continue
        ids[row.id] = key_id
        made.keys.append(
            AuthKeyRecord(
                id=key_id,
                user_id=owners.get(row.user_id or 0, fallback).id,
                digest=digest,
                reusable=row.reusable,
                ephemeral=row.ephemeral,
                # There, a key admits a machine without anybody's approval.
                pre_approved=True,
                tags=tuple(sorted({tag for tag in row.tags if is_tag(tag)})),
                created=row.created or wall,
                expiry=row.expiry,
                uses=int(row.used),
                description=row.description[:254],
            )
        )
    if over:
        what = "1 auth key is" if over == 1 else f"{over} auth keys are"
        made.notes.append(f"{what} left out: expired, revoked or used up")
    return ids


def _secret_of(row: SourceKey) -> tuple[str, bytes]:
    if row.prefix and row.bcrypt_hash.startswith(b"$2"):
        return row.prefix[:32], row.bcrypt_hash
    key_id, secret = id_and_secret(row.text)
    return (key_id, hashlib.sha256(secret.encode()).digest()) if secret else ("", b"")


class _Machines:
    """Makes node records one after the other: names, addresses and keys are each one machine's."""

    def __init__(
        self, snapshot: Snapshot, made: Converted, wall: datetime, entropy: Entropy
    ) -> None:
        self._made, self._wall, self._entropy = made, wall, entropy
        known = snapshot.nodes.values()
        self._names = {node.name for node in known}
        self._v4 = {node.ipv4 for node in known}
        self._v6 = {node.ipv6 for node in known}
        self._node_keys = {node.node_key for node in known}

    def add(
        self, row: SourceNode, user: UserRecord, *, ephemeral: bool, key_ids: dict[int, str]
    ) -> None:
        called = row.given_name or row.hostname or str(row.id)
        try:
            machine_key = MachinePublic.parse(row.machine_key)
            node_key = NodePublic.parse(row.node_key)
        except MalformedKey as error:
            self._made.notes.append(f"machine {called!r} is left out: {error}")
            return
        if node_key in self._node_keys:
            self._made.notes.append(f"machine {called!r} is left out: another has its node key")
            return
        self._node_keys.add(node_key)
        self._made.last_id += 1
        hostinfo = _hostinfo(row)
        name = unique_label(dns_label(called), self._names)
        if name != called:
            self._made.notes.append(f"machine {called!r} is called {name!r} here")
        self._names.add(name)
        ipv4 = self._ipv4(row, called)
        tags = tuple(sorted({tag for tag in row.tags if is_tag(tag)}))
        self._made.nodes.append(
            NodeRecord(
                id=self._made.last_id,
                stable_id="n" + random_text(16, self._entropy),
                user_id=user.id,
                machine_key=machine_key,
                node_key=node_key,
                disco_key=_disco_key(row.disco_key),
                ipv4=ipv4,
                ipv6=self._ipv6(row, ipv4, called),
                name=name,
                renamed=name != dns_label(hostinfo.hostname),
                hostinfo=hostinfo,
                endpoints=row.endpoints[:MAX_ENDPOINTS],
                tags=tags,
                created=row.created or self._wall,
                key_expiry=None if tags else row.expiry,
                ephemeral=ephemeral,
                last_seen=row.last_seen,
                auth_key_id=key_ids.get(row.auth_key_id or 0),
                approved_routes=tuple(filter(_is_route, row.approved_routes)),
            )
        )

    def _ipv4(self, row: SourceNode, called: str) -> IPv4Address:
        wanted = _ipv4(row.ipv4)
        if wanted is not None and addresses.is_for_nodes(wanted) and wanted not in self._v4:
            self._v4.add(wanted)
            return wanted
        given = addresses.allocate(self._v4, None)
        self._v4.add(given)
        if row.ipv4:
            self._made.notes.append(f"machine {called!r} gets {given} instead of {row.ipv4}")
        return given

    def _ipv6(self, row: SourceNode, ipv4: IPv4Address, called: str) -> IPv6Address:
        wanted = _ipv6(row.ipv6)
        if wanted is not None and addresses.is_v6_for_nodes(wanted) and wanted not in self._v6:
            self._v6.add(wanted)
            return wanted
        given = addresses.v6_beside(ipv4)
        self._v6.add(given)
        if row.ipv6:
            self._made.notes.append(f"machine {called!r} gets {given} instead of {row.ipv6}")
        return given


def _hostinfo(row: SourceNode) -> Hostinfo:
    """What the machine last told of itself; it tells anew as soon as it is here."""
    try:
        hostinfo = decode_json_untrusted(row.hostinfo or b"{}", Hostinfo)
    except MalformedMessage:
        hostinfo = Hostinfo()
    # Versions of a while kept the host name beside it alone.
    return hostinfo if hostinfo.hostname else replace(hostinfo, hostname=row.hostname[:255])


def _disco_key(text: str) -> DiscoPublic:
    try:
        return DiscoPublic.parse(text)
    except MalformedKey:
        return DiscoPublic.zero()


def _ipv4(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except ValueError:
        return None


def _ipv6(text: str) -> IPv6Address | None:
    try:
        return IPv6Address(text)
    except ValueError:
        return None


def _is_route(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True
