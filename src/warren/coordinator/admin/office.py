"""What administrators do, over the registry; every answer is a shape of the API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import msgspec
from msgspec.structs import replace

from warren.coordinator import members, policies, questions
from warren.coordinator.admin import shapes
from warren.coordinator.audit import Actor
from warren.coordinator.auth import authkeys, credentials
from warren.coordinator.auth.flow import Registration
from warren.coordinator.change import Facet
from warren.coordinator.delta import Delta
from warren.coordinator.durations import parse_duration
from warren.coordinator.login import invites
from warren.coordinator.policy_edits import Questions as PolicyQuestions
from warren.coordinator.policy_edits import edit_policy
from warren.coordinator.questions import Questions
from warren.coordinator.records import (
    AuditRecord,
    AuthKeyRecord,
    CredentialRecord,
    NodeRecord,
    PolicyRecord,
    UserRecord,
)
from warren.coordinator.refusal import Conflict, NotFound, Refused
from warren.coordinator.registry import Registry
from warren.coordinator.settings import Settings, in_force
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import AuditQuestion
from warren.edge.clock import Clock
from warren.edge.entropy import Entropy

UserDecision = Callable[[Snapshot, UserRecord], Delta]
NodeDecision = Callable[[Snapshot, NodeRecord], Delta]


class Office:
    """Carries out what an administrator asks. Methods raise Refused and StoreProblem.

    by: whose change it is.
    """

    def __init__(
        self,
        registry: Registry,
        registration: Registration,
        settings: Settings,
        clock: Clock,
        entropy: Entropy,
        about: Callable[[], shapes.ServerStatus],
        questions: Questions,
        regions: Callable[[], shapes.RelayRegions],
    ) -> None:
        self._registry = registry
        self._registration = registration
        self._settings = settings
        self._clock = clock
        self._entropy = entropy
        self._about = about
        self._questions = questions
        self._regions = regions
        self._looking = PolicyQuestions()

    def status(self) -> shapes.ServerStatus:
        """Return the server at a glance."""
        return self._about()

    def regions(self) -> shapes.RelayRegions:
        """Return the relay regions that machines are told."""
        return self._regions()

    def users(self) -> list[shapes.User]:
        """Return all users, oldest first."""
        snapshot = self._registry.snapshot
        return [_show_user(snapshot, user) for _, user in sorted(snapshot.users.items())]

    async def create_user(self, by: Actor, new: shapes.NewUser) -> shapes.User:
        """Add a user."""
        wall = self._clock.wall()

        def decide(snapshot: Snapshot) -> tuple[Delta, UserRecord]:
            delta = members.create_user(snapshot, new.name, new.display_name, wall)
            return delta, delta.users[0]

        user = await self._registry.commit(decide, by)
        return _show_user(self._registry.snapshot, user)

    async def delete_user(self, by: Actor, name: str, with_nodes: bool = False) -> shapes.User:
        """Remove a user; one who owns nodes only with those."""

        def decide(snapshot: Snapshot) -> tuple[Delta, shapes.User]:
            shown = _show_user(snapshot, members.find_user(snapshot, name))
            return members.delete_user(snapshot, name, with_nodes=with_nodes), shown

        return await self._registry.commit(decide, by)

    async def invite(self, by: Actor, name: str, new: shapes.NewInvite) -> shapes.Invite:
        """Make a one-time link for a user, who is created if need be."""
        try:
            life = parse_duration(new.expires)
        except ValueError as error:
            raise Refused(str(error)) from error
        if life is None or life > timedelta(days=90):
            raise Refused("a link expires after 90 days at the most")
        wall = self._clock.wall()

        def decide(snapshot: Snapshot) -> tuple[Delta, tuple[str, str]]:
            if new.must_exist and snapshot.user_named(name) is None:
                raise NotFound(f"there is no user {name!r}")
            delta, user, link = invites.invite(
                snapshot,
                name,
                role=new.role,
                display_name=new.display_name,
                wall=wall,
                life=life,
                entropy=self._entropy,
            )
            return delta, (user.name, link)

        user_name, link = await self._registry.commit(decide, by)
        return shapes.Invite(
            user=user_name, url=f"{self._settings.url}{invites.PATH}{link}", expiry=wall + life
        )

    async def suspend(self, by: Actor, name: str) -> shapes.User:
        """Shut a user out."""
        wall = self._clock.wall()
        return await self._change_user(
            by, name, lambda snapshot, user: members.suspend(snapshot, user, wall)
        )

    async def approve_user(self, by: Actor, name: str) -> shapes.User:
        """Let a user in who waits for it."""
        return await self._change_user(by, name, lambda _, user: members.approve_user(user))

    async def restore(self, by: Actor, name: str) -> shapes.User:
        """Let a suspended user in again."""
        return await self._change_user(by, name, lambda _, user: members.restore(user))

    def keys(self) -> list[shapes.AuthKey]:
        """Return all auth keys, newest last."""
        snapshot = self._registry.snapshot
        ordered = sorted(snapshot.auth_keys.values(), key=lambda key: key.created)
        return [self._show_key(snapshot, key) for key in ordered]

    async def create_key(self, by: Actor, new: shapes.NewAuthKey) -> shapes.AuthKey:
        """Make an auth key; the answer is the only one that holds its text."""
        try:
            life = parse_duration(new.expires)
        except ValueError as error:
            raise Refused(str(error)) from error
        wall = self._clock.wall()

        def decide(snapshot: Snapshot) -> tuple[Delta, tuple[str, AuthKeyRecord]]:
            text, record = authkeys.mint(
                user_id=_owner(snapshot, new.user).id,
                wall=wall,
                entropy=self._entropy,
                life=life,
                reusable=new.reusable,
                ephemeral=new.ephemeral,
                pre_approved=new.pre_approved,
                tags=new.tags,
                description=new.description,
            )
            return Delta(auth_keys=(record,)), (text, record)

        text, record = await self._registry.commit(decide, by)
        return replace(self._show_key(self._registry.snapshot, record), key=text)

    async def revoke_key(self, by: Actor, key: str) -> shapes.AuthKey:
        """Remove an auth key, named by its id or its whole text; its machines stay."""
        key_id = key.strip().removeprefix(authkeys.PREFIX).partition("-")[0]

        def decide(snapshot: Snapshot) -> tuple[Delta, shapes.AuthKey]:
            record = snapshot.auth_keys.get(key_id)
            if record is None:
                raise NotFound(f"there is no auth key {key_id!r}")
            return Delta(removed_auth_keys=(key_id,)), self._show_key(snapshot, record)

        return await self._registry.commit(decide, by)

    def nodes(self) -> shapes.Listing:
        """Return all machines, and those that wait for approval."""
        snapshot, wall = self._registry.snapshot, self._clock.wall()
        waiting = [p for p in snapshot.pending.values() if not p.rejected and p.expiry > wall]
        return shapes.Listing(
            nodes=[self._show_node(snapshot, node) for _, node in sorted(snapshot.nodes.items())],
            pending=[
                shapes.Pending(
                    id=pending.id,
                    hostname=pending.hostinfo.hostname,
                    os=pending.hostinfo.os,
                    requested_tags=pending.hostinfo.request_tags,
                    created=pending.created,
                    expiry=pending.expiry,
                    node_key=str(pending.node_key),
                )
                for pending in sorted(waiting, key=lambda p: p.created)
            ],
        )

    def node(self, wanted: str) -> shapes.Node:
        """Return one machine."""
        snapshot = self._registry.snapshot
        return self._show_node(snapshot, members.find_node(snapshot, wanted))

    async def why(self, wanted: str, peer: str) -> msgspec.Raw:
        """Have a node explain its path to a peer: what `warren why --json` says there."""
        snapshot = self._registry.snapshot
        node, other = members.find_node(snapshot, wanted), members.find_node(snapshot, peer)
        if node.id == other.id:
            raise Refused(f"{node.name} needs no path to itself; name another machine")
        target = f"/warren/why?peer={other.ipv4}"
        answer = await self._questions.ask(node.id, node.machine_key, node.name, target)
        if answer.status not in (200, 409, questions.UNREADABLE):
            # A stock client calls the path unknown (400), an older Warren does not find it (404).
            program = node.hostinfo.ipn_version or "a program that does not say which"
            raise Conflict(f"{node.name} cannot explain its paths: it runs {program}")
        try:
            if answer.status == 200:
                msgspec.json.decode(answer.body)
                return msgspec.Raw(answer.body)
            reason = msgspec.json.decode(answer.body, type=shapes.NodeProblem).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Conflict(f"{node.name} gave an answer that cannot be read") from None
        raise Conflict(f"{node.name} says: {reason[:300]}")

    async def delete_node(self, by: Actor, wanted: str) -> shapes.Node:
        """Remove a machine from the network."""

        def decide(snapshot: Snapshot) -> tuple[Delta, shapes.Node]:
            node = members.find_node(snapshot, wanted)
            return members.removed_node(node, "deleted"), self._show_node(snapshot, node)

        return await self._registry.commit(decide, by)

    async def approve(self, by: Actor, wanted: str, approval: shapes.Approval) -> shapes.Node:
        """Admit a machine: one that waits (by id, URL or host name), or a node by any name."""
        snapshot = self._registry.snapshot
        pending_id = self._pending_id(snapshot, wanted)
        if pending_id is None:
            try:
                return await self._change(by, wanted, lambda _, node: _authorize(node))
            except NotFound:
                raise NotFound(
                    f"no machine waits under {wanted!r}, nor is there one of that name here; "
                    "`warren admin nodes list` shows both"
                ) from None
        user = _owner(snapshot, approval.user)
        tags = None if approval.tags is None else tuple(sorted(set(approval.tags)))
        node_id = await self._registration.approve(pending_id, user.id, tags, by)
        return self.node(str(node_id))

    async def reject(self, by: Actor, wanted: str) -> shapes.Problem:
        """Turn a waiting machine away."""
        pending_id = self._pending_id(self._registry.snapshot, wanted)
        if pending_id is None:
            raise NotFound(f"no machine waits under {wanted!r}")
        await self._registration.reject(pending_id, by)
        return shapes.Problem(message="turned away")

    async def rename(self, by: Actor, wanted: str, name: str) -> shapes.Node:
        """Give a machine another name."""
        return await self._change(
            by, wanted, lambda snapshot, node: members.rename(snapshot, node, name)
        )

    async def tag(self, by: Actor, wanted: str, tags: list[str]) -> shapes.Node:
        """Replace a machine's tags."""
        wall = self._clock.wall()
        life = in_force(self._settings, self._registry.snapshot.settings).key_expiry
        return await self._change(by, wanted, lambda _, node: members.tag(node, tags, wall, life))

    async def expire(self, by: Actor, wanted: str) -> shapes.Node:
        """End a machine's key: its user must log in again."""
        wall = self._clock.wall()
        return await self._change(by, wanted, lambda _, node: members.expire(node, wall))

    def policy(self) -> shapes.Policy:
        """Return the policy in force."""
        snapshot = self._registry.snapshot
        if snapshot.policy is None:
            return shapes.Policy(text=policies.DEFAULT_TEXT, etag=policies.policy_etag(snapshot))
        return _show_policy(snapshot.policy)

    async def set_policy(self, by: Actor, new: shapes.NewPolicy) -> shapes.Policy:
        """Put a policy in force. It may be refused; then the old one stays."""
        wall = self._clock.wall()
        record = await edit_policy(self._registry, new.text, new.author, wall, new.etag, by)
        shown = _show_policy(record)
        found = self._regions()
        return shown if found.derp_map.regions else replace(shown, warnings=found.problems[-1:])

    async def check_policy(self, new: shapes.NewPolicy) -> shapes.Problem:
        """Say whether a policy would be taken, and change nothing. Raises Busy too."""
        work = partial(policies.check_policy, self._registry.snapshot, new.text)
        await self._looking.answer(work)
        return shapes.Problem(message="this policy would be taken")

    def policy_version(self, version: int) -> shapes.Policy:
        """Return an older policy."""
        record = self._registry.snapshot.policies.get(version)
        if record is None:
            raise NotFound(f"version {version} of the policy is not kept")
        return _show_policy(record)

    def tokens(self) -> list[shapes.Token]:
        """Return what opens the HTTP API, newest last."""
        snapshot = self._registry.snapshot
        ordered = sorted(snapshot.credentials.values(), key=lambda record: record.created)
        return [_show_token(snapshot, record) for record in ordered]

    async def create_token(self, by: Actor, new: shapes.NewToken) -> shapes.Token:
        """Make a token or an OAuth client; the answer is the only one that holds its text."""
        try:
            life = parse_duration(new.expires)
        except ValueError as error:
            raise Refused(str(error)) from error
        wall = self._clock.wall()

        def decide(snapshot: Snapshot) -> tuple[Delta, tuple[str, CredentialRecord]]:
            text, record = credentials.mint(
                credentials.CLIENT if new.scopes else credentials.API,
                user_id=_owner(snapshot, new.user).id,
                wall=wall,
                entropy=self._entropy,
                life=life,
                scopes=new.scopes,
                tags=new.tags,
                description=new.description,
            )
            return Delta(credentials=(record,)), (text, record)

        text, record = await self._registry.commit(decide, by)
        return replace(_show_token(self._registry.snapshot, record), text=text)

    async def revoke_token(self, by: Actor, token_id: str) -> shapes.Token:
        """Remove a token or an OAuth client; it opens nothing from now on."""

        def decide(snapshot: Snapshot) -> tuple[Delta, shapes.Token]:
            record = snapshot.credentials.get(token_id)
            if record is None:
                raise NotFound(f"there is no token {token_id!r}")
            return Delta(removed_credentials=(token_id,)), _show_token(snapshot, record)

        return await self._registry.commit(decide, by)

    async def set_role(self, by: Actor, name: str, new: shapes.Role) -> shapes.User:
        """Give a user another role."""

        return await self._change_user(
            by, name, lambda snapshot, user: members.set_role(snapshot, user, new.role)
        )

    async def audit(self, question: AuditQuestion) -> list[shapes.AuditEntry]:
        """Return entries of the audit log, newest first."""
        return [show_entry(entry) for entry in await self._registry.history(question)]

    async def _change_user(self, by: Actor, name: str, decision: UserDecision) -> shapes.User:
        def decide(snapshot: Snapshot) -> tuple[Delta, int]:
            user = members.find_user(snapshot, name)
            return decision(snapshot, user), user.id

        user_id = await self._registry.commit(decide, by)
        snapshot = self._registry.snapshot
        return _show_user(snapshot, snapshot.users[user_id])

    async def _change(self, by: Actor, wanted: str, decision: NodeDecision) -> shapes.Node:
        def decide(snapshot: Snapshot) -> tuple[Delta, int]:
            node = members.find_node(snapshot, wanted)
            return decision(snapshot, node), node.id

        node_id = await self._registry.commit(decide, by)
        return self.node(str(node_id))

    def _pending_id(self, snapshot: Snapshot, wanted: str) -> str | None:
        """Find a waiting machine by its id, the URL that it shows, or its host name."""
        name = wanted.rstrip("/").rpartition("/")[2]
        if name in snapshot.pending:
            return name
        wall = self._clock.wall()
        called = [
            pending.id
            for pending in snapshot.pending.values()
            if pending.hostinfo.hostname == name and not pending.rejected and pending.expiry > wall
        ]
        if len(called) > 1:
            raise Refused(f"several machines called {name!r} wait; name one by its id")
        return called[0] if called else None

    def _show_key(self, snapshot: Snapshot, key: AuthKeyRecord) -> shapes.AuthKey:
        state = "usable" if key.usable(self._clock.wall()) else "used"
        if key.expiry is not None and key.expiry <= self._clock.wall():
            state = "expired"
        return shapes.AuthKey(
            id=key.id,
            user=snapshot.users[key.user_id].name,
            state=state,
            reusable=key.reusable,
            ephemeral=key.ephemeral,
            pre_approved=key.pre_approved,
            tags=list(key.tags),
            created=key.created,
            expiry=key.expiry,
            uses=key.uses,
            description=key.description,
        )

    def _show_node(self, snapshot: Snapshot, node: NodeRecord) -> shapes.Node:
        expired = node.expired(self._clock.wall())
        state = "online" if node.online else "offline"
        if not node.authorized or expired:
            state = "expired" if expired else "unapproved"
        return shapes.Node(
            id=node.id,
            stable_id=node.stable_id,
            name=node.name,
            fqdn=f"{node.name}.{self._settings.domain}",
            user=snapshot.users[node.user_id].name,
            state=state,
            online=node.online,
            authorized=node.authorized,
            expired=expired,
            ephemeral=node.ephemeral,
            addresses=[str(node.ipv4), str(node.ipv6)],
            tags=list(node.tags),
            os=node.hostinfo.os,
            hostname=node.hostinfo.hostname,
            client_version=node.hostinfo.ipn_version,
            capability_version=node.version,
            home_region=node.home_derp,
            endpoints=list(node.endpoints),
            created=node.created,
            last_seen=node.last_seen,
            key_expiry=node.key_expiry,
            node_key=str(node.node_key),
            machine_key=str(node.machine_key),
            disco_key=str(node.disco_key),
        )


def _show_token(snapshot: Snapshot, record: CredentialRecord) -> shapes.Token:
    user = snapshot.users[record.user_id]
    return shapes.Token(
        id=record.id,
        kind=record.kind,
        user=user.name,
        role="" if record.kind == credentials.CLIENT else user.role,
        scopes=list(record.scopes),
        tags=list(record.tags),
        created=record.created,
        expiry=record.expiry,
        description=record.description,
    )


def show_entry(entry: AuditRecord) -> shapes.AuditEntry:
    """Return an entry of the audit log as it is told."""
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__ if name != "wall"}
    return shapes.AuditEntry(time=entry.wall, **fields)


def _authorize(node: NodeRecord) -> Delta:
    return members.changed_node(node, Facet.MEMBERSHIP, "approved", authorized=True)


def _show_user(snapshot: Snapshot, user: UserRecord) -> shapes.User:
    owned = sum(node.user_id == user.id for node in snapshot.nodes.values())
    return shapes.User(
        id=user.id,
        name=user.name,
        display_name=user.display_name,
        created=user.created,
        role=user.role,
        nodes=owned,
        suspended=user.suspended,
        approved=user.approved,
        logs_in=user.issuer or ("password" if user.password else ""),
        groups=list(user.groups),
        last_login=user.last_login,
    )


def _owner(snapshot: Snapshot, name: str) -> UserRecord:
    """Return who is meant: the user of that name, or the only one where none is said."""
    if name:
        return members.find_user(snapshot, name)
    if len(snapshot.users) == 1:
        return next(iter(snapshot.users.values()))
    raise Refused("say for which user: --user NAME")


def _show_policy(record: PolicyRecord) -> shapes.Policy:
    return shapes.Policy(
        text=record.text,
        etag=record.etag,
        version=record.id,
        author=record.author,
        created=record.created,
    )
