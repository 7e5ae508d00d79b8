"""One record of every kind that the store keeps, with awkward values; and all of them at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv6Address

from coordinator_world import START, machine_key, node_key

from warren.coordinator.delta import Delta
from warren.coordinator.records import (
    AuditRecord,
    AuthKeyRecord,
    CredentialRecord,
    DeliveryRecord,
    InviteRecord,
    NodeRecord,
    PendingRecord,
    PolicyRecord,
    SshPassRecord,
    UserRecord,
    WebhookRecord,
)
from warren.coordinator.snapshot import Snapshot
from warren.keys import DiscoPublic, NodePublic
from warren.netmap.node import Hostinfo, NetInfo

LATER = START + timedelta(days=1, microseconds=123456)
ODD = "žluť 🐇 'quoted' \"twice\" \\back\nline; DROP TABLE users; -- %s :name"

USER = UserRecord(
    id=1,
    name="a" * 254,
    display_name=ODD,
    created=START,
    role="owner",
    issuer="https://login.example.com/realms/ž",
    subject="s" * 255,
    groups=("group:a@example.com", ODD),
    password="$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA",
    password_set=LATER,
    suspended=True,
    last_login=LATER,
    approved=False,
)
NODE = NodeRecord(
    id=2,
    stable_id="n2CNTRL",
    user_id=1,
    machine_key=machine_key("m").public(),
    node_key=node_key("n").public(),
    disco_key=DiscoPublic(bytes(range(32))),
    ipv4=IPv4Address("100.64.0.1"),
    ipv6=IPv6Address("fd7a:115c:a1e0::1"),
    name="x" * 63,
    renamed=True,
    hostinfo=Hostinfo(hostname=ODD + "\0", os="linux", net_info=NetInfo(preferred_derp=900)),
    endpoints=("192.0.2.1:5", "[2001:db8::1]:6"),
    version=2**31 - 1,
    tags=("tag:a", "tag:b"),
    created=START,
    key_expiry=LATER,
    authorized=False,
    ephemeral=True,
    last_seen=datetime(1970, 1, 1, tzinfo=UTC),
    auth_key_id="k1",
    approved_routes=("10.0.0.0/8",),
    attributes={"custom:odd": ODD, "custom:n": 1, "custom:yes": True, "custom:half": 0.5},
    attribute_expiries={"custom:n": LATER},
)
PLAIN_NODE = NodeRecord(
    id=3,
    stable_id="n3CNTRL",
    user_id=1,
    machine_key=machine_key("m").public(),
    node_key=node_key("n3").public(),
    ipv4=IPv4Address("100.64.0.2"),
    ipv6=IPv6Address("fd7a:115c:a1e0::2"),
    name="plain",
    created=START,
)
AUTH_KEY = AuthKeyRecord(
    id="k1",
    user_id=1,
    digest=bytes(range(224, 256)),
    reusable=True,
    ephemeral=False,
    pre_approved=True,
    tags=("tag:a",),
    created=START,
    expiry=None,
    uses=7,
    description=ODD,
)
PENDING = PendingRecord(
    id="p" * 64,
    machine_key=machine_key("p").public(),
    node_key=node_key("p").public(),
    old_node_key=NodePublic.zero(),
    hostinfo=Hostinfo(hostname="waits"),
    version=113,
    ephemeral=False,
    created=START,
    expiry=LATER,
    rejected=True,
)
POLICY = PolicyRecord(id=1, text="{// " + ODD.replace("\n", " ") + '\n"acls": []}',
                      author="ann", created=LATER)  # fmt: skip
LONG_POLICY = PolicyRecord(id=2, text="// " + "ž" * 500_000 + "\n{}", author="", created=LATER)
CREDENTIAL = CredentialRecord(
    id="c1",
    kind="client",
    user_id=1,
    digest=b"\0" * 32,
    scopes=("devices:core", "policy_file:read"),
    tags=("tag:ci",),
    created=START,
    expiry=LATER,
    description="CI",
)
WEBHOOK = WebhookRecord(
    id="w1",
    url="https://hooks.example.com/" + "x" * 900,
    provider="slack",
    subscriptions=("nodeCreated", "policyUpdate"),
    secret="warren-webhook-w1-secret",
    creator="ann",
    created=START,
    modified=LATER,
)
DELIVERY = DeliveryRecord(7, "w1", LATER, '{"message": "' + "ž" * 1000 + '"}')
INVITE = InviteRecord(
    id="i1", user_id=1, digest=b"\xff" * 32, created=START, expiry=LATER, renames=True
)
SSH_PASS = SshPassRecord(
    id="2.1.3." + "ž" * 64, source=2, user_id=1, target=3, local_user="ž" * 64, passed=LATER
)
AUDIT = AuditRecord(
    wall=LATER.astimezone(timezone(timedelta(hours=9))),
    actor_kind="user",
    actor="ann",
    origin="192.0.2.9",
    action="update",
    target_kind="machine",
    target="2",
    target_name="x" * 63,
    before=None,
    after={"name": ODD, "deep": {"list": [1, 2.5, None, True]}},
)

EVERYTHING = Delta(
    users=(USER,),
    nodes=(NODE, PLAIN_NODE),
    auth_keys=(AUTH_KEY,),
    pending=(PENDING,),
    policies=(POLICY, LONG_POLICY),
    credentials=(CREDENTIAL,),
    webhooks=(WEBHOOK,),
    deliveries=(DELIVERY,),
    invites=(INVITE,),
    ssh_passes=(SSH_PASS,),
    settings={"last_id": "3", "last_ipv4": "100.64.0.2"},
    audit=(AUDIT, AUDIT),
)
SNAPSHOT = Snapshot().after(EVERYTHING)
