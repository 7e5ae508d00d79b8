"""From the state to what one node is told: `view(node, snapshot)`, without effects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from msgspec import structs

from warren.coordinator.compiled_policy import CompiledPolicy
from warren.coordinator.dns import DnsChoice, chosen, dns_config
from warren.coordinator.records import NodeRecord, UserRecord
from warren.coordinator.relay_rules import concern_relays, relay_rules
from warren.coordinator.settings import Settings
from warren.coordinator.snapshot import Snapshot
from warren.netmap.codec import encode_json
from warren.netmap.derpmap import DERPMap
from warren.netmap.dnsconfig import DNSConfig
from warren.netmap.filterrule import FilterRule
from warren.netmap.node import CapMap, Hostinfo, Node, UserProfile
from warren.netmap.view import EMPTY, View

_T = TypeVar("_T")

TAGGED_DEVICES = UserProfile(
    id=2147455555, login_name="tagged-devices", display_name="Tagged Devices"
)
"""The owner that tagged machines are shown under: they belong to no person (PROTOCOL §3.5)."""


_NEVER = datetime.max.replace(tzinfo=UTC)
_MAX_SHARED = 200_000
"""Entries that are kept for viewers of equal outlook, over all outlooks."""


class _Seen:
    """What viewers of one outlook see, made at `wall` from `records`, all that they may see."""

    __slots__ = (
        "_from", "_profiles", "_records", "_until",
        "entries", "named", "relays", "users", "without",
    )  # fmt: skip

    def __init__(self, wall: datetime, entries: dict[int, Node], records: list[NodeRecord]) -> None:
        self.entries = entries
        self.users = {entry.user for entry in entries.values()}
        self.relays = _relays(entries)
        self.without: NodeRecord | None = None
        """Whoever it was made for, while nobody else asked; it does not see itself."""
        self.named = False
        """Whether the policy named all of them."""
        self._profiles: dict[int, dict[int, UserProfile]] = {}
        self._from = wall
        self._records: list[NodeRecord] | None = records
        self._until = _NEVER

    def holds(self, wall: datetime) -> bool:
        """Whether no key's time came meanwhile."""
        if self._records is not None:
            # Most are asked for once.
            ends = (one.key_expiry for one in self._records if one.key_expiry is not None)
            self._until = min((end for end in ends if end > self._from), default=_NEVER)
            self._records = None
        return self._from <= wall < self._until

    def add(self, entries: dict[int, Node]) -> None:
        """Complete it; views hold what was there before."""
        self.without = None
        self._profiles.clear()
        self.entries = {**self.entries, **entries}
        self.users |= {entry.user for entry in entries.values()}
        self.relays += _relays(entries)

    def profiles(self, user: int, snapshot: Snapshot) -> dict[int, UserProfile]:
        """Return who owns what is seen, and the viewer, a machine of `user`."""
        if user not in self._profiles:
            self._profiles[user] = _profiles({user, *self.users}, snapshot)
        return self._profiles[user]


class Mapper:
    """Makes views. It remembers the map entry of each record, and nothing else that counts.

    derp_map: the relays before the policy's word on them, the same for all nodes; may be replaced
    by others, which every node is then to be told. grants: what a node's own entry says beside the
    policy's capabilities.
    """

    def __init__(
        self,
        settings: Settings,
        derp_map: DERPMap,
        grants: Callable[[NodeRecord, datetime], CapMap] = lambda node, wall: {},
    ) -> None:
        self._settings = settings
        self._grants = grants
        self.derp_map = derp_map
        self._read: Mapping[str, str] = {}
        self._choice = DnsChoice()
        self._dns = dns_config(settings.domain, self._choice)
        self._entries: dict[int, tuple[NodeRecord, bool, Node]] = {}
        self._written: dict[int, tuple[Node, msgspec.Raw]] = {}
        self._routed: dict[int, tuple[Node, dict[tuple[str, ...], Node]]] = {}
        self._narrowed: dict[int, tuple[Node, Node]] = {}
        # By outlook, for one snapshot.
        self._shared: dict[Hashable, _Seen] = {}
        self._shared_for: tuple[Snapshot | None, CompiledPolicy | None] = (None, None)
        self._shared_size = 0

    def view(
        self,
        node: NodeRecord,
        snapshot: Snapshot,
        policy: CompiledPolicy,
        wall: datetime,
        before: View = EMPTY,
    ) -> View:
        """Return the whole map of `node` at the time `wall`.

        before: an earlier one; what is equal in it is the same object.
        """
        seen = self._seen(node, snapshot, policy, wall)
        peers = seen.entries
        if node.id in peers:
            peers = peers.copy()
            del peers[node.id]
        entry = self._self_entry(node, policy, wall)
        asked = peers if node.hostinfo.peer_relay else seen.relays
        # What a coordinator says nothing of is taken over, the same objects too.
        return structs.replace(
            before,
            node=_kept(before.node, entry),
            peers=_kept(before.peers, peers),
            derp_map=_kept(before.derp_map, policy.derp_map(self.derp_map)),
            dns=_kept(before.dns, self._dns_config(snapshot)),
            domain=self._settings.domain,
            packet_filters=_kept(
                before.packet_filters, _filters(node, snapshot, policy, wall, asked)
            ),
            ssh_policy=_kept(before.ssh_policy, policy.ssh(node)),
            profiles=_kept(before.profiles, seen.profiles(entry.user, snapshot)),
        )

    def advance(
        self,
        view: View,
        node: NodeRecord,
        snapshot: Snapshot,
        policy: CompiledPolicy,
        changed: Collection[int],
        wall: datetime,
    ) -> View:
        """Return the view after only the nodes `changed` became others, in their proportion.

        It equals `view(…)` as long as settings stayed as they were, and what the policy has of
        `node` itself. What did not change is the same object, so that a caller need not compare.
        """
        present = [snapshot.nodes[peer] for peer in changed if peer in snapshot.nodes]
        new = self._peers(node, present, policy, wall)
        old = view.peers
        moved = [peer for peer in changed if new.get(peer) is not old.get(peer)]
        peers = old.copy() if moved else old
        for peer in moved:
            if peer in new:
                peers[peer] = new[peer]
            else:
                del peers[peer]
        assert view.node is not None
        own = node.id in changed
        entry = _kept(view.node, self._self_entry(node, policy, wall)) if own else view.node
        filters = view.packet_filters
        # The same object is the same filter.
        base = policy.filters(node).get("base")
        stale = node.in_force(wall) and filters.get("base") is not base
        concerned = own or any(
            concern_relays(node, view.peers.get(peer), snapshot.nodes.get(peer)) for peer in changed
        )
        if stale and not concerned and len(filters) == 1:
            # No peer's relaying was worth a word, so there is no need to look at all of them.
            filters = policy.filters(node)
        elif stale or concerned:
            asked = peers if node.hostinfo.peer_relay else _relays(peers)
            filters = _filters(node, snapshot, policy, wall, asked)
        before = {old[peer].user for peer in moved if peer in old}
        after = {new[peer].user for peer in moved if peer in new}
        profiles = view.profiles
        if own or before - after or after - profiles.keys():
            users = {entry.user, *(peer.user for peer in peers.values())}
            profiles = _kept(profiles, _profiles(users, snapshot))
        return structs.replace(
            view,
            node=entry,
            peers=peers,
            profiles=profiles,
            packet_filters=filters,
            ssh_policy=policy.ssh(node),
        )

    def _dns_config(self, snapshot: Snapshot) -> DNSConfig:
        """Return names and resolvers; the same object while nobody chooses others."""
        if snapshot.settings is not self._read:
            self._read, choice = snapshot.settings, chosen(snapshot.settings)
            if choice != self._choice:
                self._choice = choice
                self._dns = dns_config(self._settings.domain, choice)
        return self._dns

    def raw(self, entry: Node) -> msgspec.Raw:
        """Return an entry as JSON; as it travels in many maps, it is written once."""
        known = self._written.get(entry.id)
        if known is None or known[0] is not entry:
            known = self._written[entry.id] = (entry, msgspec.Raw(encode_json(entry)))
        return known[1]

    def forget(self, node_ids: Iterable[int]) -> None:
        """Let go of what is remembered of nodes that are gone."""
        for node_id in node_ids:
            self._entries.pop(node_id, None)
            self._routed.pop(node_id, None)
            self._narrowed.pop(node_id, None)
            self._written.pop(node_id, None)

    def _seen(
        self, node: NodeRecord, snapshot: Snapshot, policy: CompiledPolicy, wall: datetime
    ) -> _Seen:
        """Return what `node` sees, itself perhaps too; made once for those of equal outlook."""
        if not node.in_force(wall):
            return _Seen(wall, {}, [])
        if self._shared_for[0] is not snapshot or self._shared_for[1] is not policy:
            self._shared_for = snapshot, policy
            self._forget_shared()
        outlook = policy.outlook(node)
        known = None if outlook is None else self._shared.get(outlook)
        if known is not None and known.holds(wall):
            if known.without is not None and known.without.id != node.id:
                # Whoever saw this first is one of those whom the others see.
                rest = self._peers(node, [known.without], policy, wall, known=known.named)
                known.add(rest)
            return known
        told = policy.peers(node)
        nodes = snapshot.nodes
        candidates = (
            list(nodes.values()) if told is None else [nodes[n] for n in told if n in nodes]
        )
        entries = self._peers(node, candidates, policy, wall, known=told is not None)
        seen = _Seen(wall, entries, candidates)
        if outlook is not None:
            seen.named = told is not None
            seen.without = node if told is None or node.id in told else None
            self._shared_size += len(entries)
            if self._shared_size > _MAX_SHARED:
                self._forget_shared()
            self._shared[outlook] = seen
        return seen

    def _forget_shared(self) -> None:
        self._shared.clear()
        self._shared_size = 0

    def _peers(
        self,
        node: NodeRecord,
        candidates: Iterable[NodeRecord],
        policy: CompiledPolicy,
        wall: datetime,
        known: bool = False,
    ) -> dict[int, Node]:
        """Return those that `node` is told of. known: the policy itself named the candidates."""
        if not node.in_force(wall):
            return {}
        return {
            peer.id: self._shown(node, peer, policy, wall)
            for peer in candidates
            if peer.id != node.id and peer.authorized and (known or policy.visible(node, peer))
        }

    def _shown(
        self, viewer: NodeRecord, peer: NodeRecord, policy: CompiledPolicy, wall: datetime
    ) -> Node:
        """Return a peer's entry with the routes that it serves for the viewer."""
        entry = self._addressed(peer, policy, wall)
        if not peer.hostinfo.routable_ips:
            return entry
        subnets, exits = policy.routes(viewer, peer)
        if not (subnets or exits):
            return entry
        key = (*subnets, *exits)
        known = self._routed.get(peer.id)
        if known is None or known[0] is not entry:
            known = self._routed[peer.id] = (entry, {})
        if key not in known[1]:
            known[1][key] = structs.replace(
                entry,
                allowed_ips=[*entry.addresses, *key],
                primary_routes=subnets,
                cap_map={"suggest-exit-node": None} if exits else {},
            )
        return known[1][key]

    def _addressed(self, record: NodeRecord, policy: CompiledPolicy, wall: datetime) -> Node:
        """Return a node's entry with the addresses that the policy leaves it."""
        entry = self._entry(record, wall)
        if not policy.takes_ipv4 or not policy.is_only_ipv6(record):
            return entry
        known = self._narrowed.get(record.id)
        if known is None or known[0] is not entry:
            six = [f"{record.ipv6}/128"]
            narrow = structs.replace(entry, addresses=six, allowed_ips=six)
            known = self._narrowed[record.id] = (entry, narrow)
        return known[1]

    def _entry(self, record: NodeRecord, wall: datetime) -> Node:
        """Return a node's entry as its peers see it; the same object while nothing changes."""
        expired = record.expired(wall)
        known = self._entries.get(record.id)
        if known is not None and known[0] is record and known[1] is expired:
            return known[2]
        entry = self._build(record, expired)
        if known is not None and known[2] == entry:
            entry = known[2]  # what changed, peers do not see
        self._entries[record.id] = (record, expired, entry)
        return entry

    def _self_entry(self, record: NodeRecord, policy: CompiledPolicy, wall: datetime) -> Node:
        entry = self._addressed(record, policy, wall)
        approved, served = policy.own_routes(record)
        return structs.replace(
            entry,
            allowed_ips=[*entry.addresses, *approved],
            primary_routes=served,
            hostinfo=record.hostinfo,
            cap_map={**policy.capabilities(record), **self._grants(record, wall)},
            online=True,
            last_seen=None,
        )

    def _build(self, record: NodeRecord, expired: bool) -> Node:
        addresses = [f"{record.ipv4}/32", f"{record.ipv6}/128"]
        return Node(
            id=record.id,
            stable_id=record.stable_id,
            name=f"{record.name}.{self._settings.domain}.",
            user=TAGGED_DEVICES.id if record.tags else record.user_id,
            key=record.node_key,
            key_expiry=record.key_expiry,
            machine=record.machine_key,
            disco_key=record.disco_key,
            addresses=addresses,
            allowed_ips=addresses,
            endpoints=list(record.endpoints),
            home_derp=record.home_derp,
            hostinfo=_for_peers(record.hostinfo),
            created=record.created,
            cap=record.version,
            tags=list(record.tags),
            last_seen=None if record.online else record.last_seen,
            online=record.online,
            machine_authorized=record.authorized,
            expired=expired,
        )


def _kept(before: _T, new: _T) -> _T:
    return before if before is new or before == new else new


def _filters(
    node: NodeRecord,
    snapshot: Snapshot,
    policy: CompiledPolicy,
    wall: datetime,
    peers: Collection[int],
) -> dict[str, list[FilterRule]]:
    """Return the filters. peers: those who relay, and where `node` does, all that it sees."""
    if not node.in_force(wall):
        return {"base": []}
    if policy.says_who_relays or not (peers or node.hostinfo.peer_relay):
        return policy.filters(node)
    seen = [snapshot.nodes[peer] for peer in peers]
    asking = relay_rules(node, seen, policy)
    return {**policy.filters(node), **asking} if asking else policy.filters(node)


def _relays(entries: dict[int, Node]) -> list[int]:
    return [number for number, entry in entries.items() if entry.hostinfo.peer_relay]


def _for_peers(hostinfo: Hostinfo) -> Hostinfo:
    """Return what peers may know of a host: nothing that only we or its owner need.

    Without latencies, most reports of a node change nothing for others. What its NAT is like
    stays: a peer chooses by it how to reach it, and can tell a person why it cannot.
    """
    net_info = hostinfo.net_info
    if net_info is not None:
        net_info = structs.replace(net_info, derp_latency={}, preferred_derp=0)
    return structs.replace(
        hostinfo,
        backend_log_id="",
        frontend_log_id="",
        push_device_token="",
        net_info=net_info,
        request_tags=[],
        tpm=None,
        wol_macs=[],
    )


def _profiles(wanted: Collection[int], snapshot: Snapshot) -> dict[int, UserProfile]:
    profiles = {
        user_id: _profile(snapshot.users[user_id])
        for user_id in wanted
        if user_id in snapshot.users
    }
    if TAGGED_DEVICES.id in wanted:
        profiles[TAGGED_DEVICES.id] = TAGGED_DEVICES
    return profiles


def _profile(user: UserRecord) -> UserProfile:
    return UserProfile(id=user.id, login_name=user.name, display_name=user.display_name)
