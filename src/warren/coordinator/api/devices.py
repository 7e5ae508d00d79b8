"""Operations on machines."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from ipaddress import IPv4Address, ip_network

import msgspec
from msgspec import UNSET

from warren.coordinator import members
from warren.coordinator.addresses import V4_POOL, is_for_nodes, v6_beside
from warren.coordinator.api import shapes
from warren.coordinator.api.operation import PAGES, Call, Operation, Page, node_of, numbered, page
from warren.coordinator.change import Change, Facet
from warren.coordinator.delta import Delta
from warren.coordinator.policy_topology import facts_of, routes_of
from warren.coordinator.records import NodeRecord
from warren.coordinator.refusal import Conflict, NotFound, Refused
from warren.coordinator.settings import in_force
from warren.coordinator.snapshot import Snapshot
from warren.netmap.node import NetInfo

MAX_ROUTES = 1000
MAX_ATTRIBUTES = 50
MAX_AT_ONCE = 500
MAX_ATTRIBUTE_CHARACTERS = 50
_CUSTOM = "custom:"


async def listed(call: Call) -> Page:
    """List machines: all, or those with one of the values given for each field.

    `limit`: no more than so many; the answer's `Link` then leads to the next ones.
    """
    everything = call.query.get("fields") == "all"
    names = [name for name in call.query if name not in ("fields", *PAGES)]
    wanted = {name: call.query.getlist(name) for name in names}
    if strange := sorted(wanted.keys() - FILTERS):
        raise Refused(f"devices are not told apart by {strange[0][:40]!r}")
    nodes = sorted(call.snapshot.nodes.values(), key=lambda node: node.id)
    if wanted:
        nodes = [node for node in nodes if _meets(_device(call, node, everything), wanted)]
    nodes, after = page(call.query, nodes, lambda node: numbered(node.id))
    devices = [_device(call, node, everything) for node in nodes]
    return Page(shapes.Devices(devices=devices), after)


async def one(call: Call) -> shapes.Device:
    """Return a machine."""
    node = node_of(call.snapshot, call.path["device"])
    return _device(call, node, call.query.get("fields") == "all")


async def delete(call: Call) -> object:
    """Remove a machine."""
    return await call.change_node(lambda node: members.removed_node(node, "deleted"))


async def authorize(call: Call) -> object:
    """Let a machine take part, or no longer."""
    authorized = call.body.authorized
    return await call.change_node(
        lambda node: members.changed_node(
            node,
            Facet.MEMBERSHIP,
            "approved" if authorized else "approval taken back",
            authorized=authorized,
        )
    )


async def rename(call: Call) -> object:
    """Give a machine another name."""
    name = call.body.name.split(".", 1)[0]

    def decide(snapshot: Snapshot) -> tuple[Delta, None]:
        node = node_of(snapshot, call.path["device"])
        return members.rename(snapshot, node, name), None

    await call.commit(decide)
    return {}


async def tag(call: Call) -> object:
    """Give a machine these tags, and no others."""
    wall = call.context.clock.wall()
    life = in_force(call.context.settings, call.snapshot.settings).key_expiry
    return await call.change_node(lambda node: members.tag(node, call.body.tags, wall, life))


async def key_expiry(call: Call) -> object:
    """Switch the expiry of a machine's key off or on."""
    wall = call.context.clock.wall()
    life = in_force(call.context.settings, call.snapshot.settings).key_expiry
    disabled = call.body.key_expiry_disabled

    def decide(node: NodeRecord) -> Delta:
        if not node.tags:
            members.check_active(call.snapshot, node.user_id)
        renewed = node.key_expiry or (None if life is None else wall + life)
        expiry = None if disabled else renewed
        return members.changed_node(node, Facet.MEMBERSHIP, "key expiry", key_expiry=expiry)

    return await call.change_node(decide)


async def expire(call: Call) -> object:
    """End a machine's key now: it has to log in again."""
    wall = call.context.clock.wall()
    return await call.change_node(lambda node: members.expire(node, wall))


async def readdress(call: Call) -> object:
    """Give a machine another IPv4 address, and the IPv6 address that belongs to it."""
    try:
        ipv4 = IPv4Address(call.body.ipv4)
    except ValueError:
        raise Refused(f"{call.body.ipv4[:40]!r} is not an IPv4 address") from None
    if not is_for_nodes(ipv4):
        raise Refused(f"{ipv4} is not an address for machines; they are in {V4_POOL}")

    def decide(snapshot: Snapshot) -> tuple[Delta, None]:
        node = node_of(snapshot, call.path["device"])
        if any(other.ipv4 == ipv4 and other.id != node.id for other in snapshot.nodes.values()):
            raise Conflict(f"another machine has {ipv4}")
        facets = Facet.MEMBERSHIP | Facet.OWNER
        return members.changed_node(
            node, facets, "readdressed", ipv4=ipv4, ipv6=v6_beside(ipv4)
        ), None

    await call.commit(decide)
    return {}


async def routes(call: Call) -> shapes.Routes:
    """Return what a machine offers to route, and what of it is approved."""
    return _routes(node_of(call.snapshot, call.path["device"]))


async def set_routes(call: Call) -> shapes.Routes:
    """Approve these routes of a machine, and no others."""
    if len(call.body.routes) > MAX_ROUTES:
        raise Refused(f"a machine may have {MAX_ROUTES} routes")
    approved = []
    for text in call.body.routes:
        try:
            approved.append(str(ip_network(text)))
        except ValueError as error:
            raise Refused(f"{text[:80]!r} is not a route: {error}") from None
    await call.change_node(
        lambda node: members.changed_node(
            node, Facet.OWNER, "routes", approved_routes=tuple(dict.fromkeys(approved))
        )
    )
    return _routes(node_of(call.snapshot, call.path["device"]))


async def attributes(call: Call) -> shapes.Attributes:
    """Return a machine's posture attributes: what it says itself, and what was set."""
    node = node_of(call.snapshot, call.path["device"])
    return shapes.Attributes(attributes=facts_of(node), expiries=dict(node.attribute_expiries))


async def set_attribute(call: Call) -> shapes.Attributes:
    """Set one posture attribute of a machine; its name begins with `custom:`."""
    name, wish = call.path["attribute"], call.body
    wall = call.context.clock.wall()
    await call.change_node(lambda node: _with_attributes(node, {name: wish}, wall))
    return await attributes(call)


async def set_attributes(call: Call) -> object:
    """Set posture attributes of several machines at once; null removes one."""
    wish: shapes.ManyAttributes = call.body
    if len(wish.nodes) > MAX_AT_ONCE:
        raise Refused(f"{MAX_AT_ONCE} machines at once are the most")

    wall = call.context.clock.wall()

    def decide(snapshot: Snapshot) -> tuple[Delta, None]:
        deltas = [
            _with_attributes(node_of(snapshot, name), given, wall)
            for name, given in wish.nodes.items()
        ]
        change = Change()
        for delta in deltas:
            change = change.merge(delta.change)
        nodes = {node.id: node for delta in deltas for node in delta.nodes}
        if len(nodes) < len(deltas):
            raise Refused("the request names a machine twice")
        return Delta(nodes=tuple(nodes.values()), change=change), None

    await call.commit(decide)
    return {}


def _with_attributes(
    node: NodeRecord, given: Mapping[str, shapes.NewAttribute | None], wall: datetime
) -> Delta:
    new, expiries = dict(node.attributes), dict(node.attribute_expiries)
    for name, wish in given.items():
        expiries.pop(name, None)
        if wish is None:
            new.pop(name, None)
            continue
        if not name.startswith(_CUSTOM) or not name.removeprefix(_CUSTOM).isidentifier():
            raise Refused(f"an attribute is called {_CUSTOM}name, with letters, digits and _")
        if max(len(name), len(str(wish.value))) > MAX_ATTRIBUTE_CHARACTERS + len(_CUSTOM):
            raise Refused(f"an attribute has {MAX_ATTRIBUTE_CHARACTERS} characters at the most")
        if wish.expiry is not None and wish.expiry != shapes.NEVER:
            if wish.expiry <= wall:
                raise Refused(f"the time of {name} would be over already")
            expiries[name] = wish.expiry
        new[name] = wish.value
    if len(new) > MAX_ATTRIBUTES:
        raise Refused(f"a machine has {MAX_ATTRIBUTES} attributes at the most")
    return members.changed_node(
        node, Facet.OWNER, "attribute", attributes=new, attribute_expiries=expiries
    )


async def delete_attribute(call: Call) -> object:
    """Remove one posture attribute of a machine."""
    name, wall = call.path["attribute"], call.context.clock.wall()

    def decide(node: NodeRecord) -> Delta:
        if name not in node.attributes:
            raise NotFound(f"the machine has no attribute {name[:80]!r} that was set")
        return _with_attributes(node, {name: None}, wall)

    return await call.change_node(decide)


def _meets(device: shapes.Device, wanted: Mapping[str, list[str]]) -> bool:
    told = msgspec.to_builtins(device) if wanted else {}

    def texts(value: object) -> set[str]:
        if isinstance(value, list):
            return set(value)
        return {str(value).lower() if isinstance(value, bool) else str(value)}

    return all(texts(told.get(name, [])) & set(values) for name, values in wanted.items())


def _device(call: Call, node: NodeRecord, everything: bool) -> shapes.Device:
    hostinfo = node.hostinfo
    owner = call.snapshot.users[node.user_id]
    device = shapes.Device(
        id=str(node.id),
        node_id=node.stable_id,
        name=f"{node.name}.{call.context.settings.domain}",
        hostname=hostinfo.hostname,
        addresses=[str(node.ipv4), str(node.ipv6)],
        user="tagged-devices" if node.tags else owner.name,
        os=hostinfo.os,
        client_version=hostinfo.ipn_version,
        created=node.created,
        expires=node.key_expiry or shapes.NEVER,
        last_seen=None if node.online else node.last_seen or node.created,
        connected_to_control=node.online,
        authorized=node.authorized,
        is_ephemeral=node.ephemeral,
        key_expiry_disabled=node.key_expiry is None,
        blocks_incoming_connections=hostinfo.shields_up,
        ssh_enabled=bool(hostinfo.ssh_host_keys),
        machine_key=str(node.machine_key),
        node_key=str(node.node_key),
        tags=list(node.tags) or UNSET,
    )
    if everything:
        offered = _routes(node)
        info = hostinfo.net_info
        device.advertised_routes = offered.advertised_routes
        device.enabled_routes = offered.enabled_routes
        device.client_connectivity = shapes.Connectivity(
            endpoints=list(node.endpoints),
            latency=_latency(call, info) if info else {},
            mapping_varies_by_dest_ip=info.mapping_varies_by_dest_ip if info else None,
            client_supports={
                "ipv6": info.working_ipv6 if info else None,
                "udp": info.working_udp if info else None,
                "upnp": info.upnp if info else None,
                "pmp": info.pmp if info else None,
                "pcp": info.pcp if info else None,
            },
        )
        if hostinfo.distro:
            device.distro = shapes.Distro(
                name=hostinfo.distro,
                version=hostinfo.distro_version,
                code_name=hostinfo.distro_code_name,
            )
    return device


def _latency(call: Call, info: NetInfo) -> dict[str, shapes.Latency]:
    """Return the better of both families' latency for each region that was measured."""
    names, best = call.context.regions(), dict[int, float]()
    for place, seconds in info.derp_latency.items():
        number, _, family = place.partition("-")
        if family in ("v4", "v6") and number.isascii() and number.isdecimal():
            region = int(number[:6])
            best[region] = min(seconds, best.get(region, seconds))
    return {
        names.get(region, f"region {region}"): shapes.Latency(
            latency_ms=round(seconds * 1000, 3), preferred=region == info.preferred_derp
        )
        for region, seconds in best.items()
    }


def _routes(node: NodeRecord) -> shapes.Routes:
    return shapes.Routes(
        advertised_routes=routes_of(node.hostinfo.routable_ips),
        enabled_routes=routes_of(node.approved_routes),
    )


_FIELDS = ("fields",)
# What a list may be asked for by: text, truth values, and lists of texts.
FILTERS = {
    field.encode_name
    for field in msgspec.structs.fields(shapes.Device)
    if field.type in (str, bool, list[str], list[str] | msgspec.UnsetType)
}
_CORE, _ROUTES, _POSTURE = "devices:core", "devices:routes", "devices:posture_attributes"
OPERATIONS = (
    Operation(
        "GET",
        "/tailnet/{tailnet}/devices",
        f"{_CORE}:read",
        "List machines",
        listed,
        gives=shapes.Devices,
        query=(*_FIELDS, *PAGES, *sorted(FILTERS)),
    ),
    Operation(
        "GET",
        "/device/{device}",
        f"{_CORE}:read",
        "Return a machine",
        one,
        gives=shapes.Device,
        query=_FIELDS,
    ),
    Operation("DELETE", "/device/{device}", _CORE, "Remove a machine", delete),
    Operation(
        "POST",
        "/device/{device}/authorized",
        _CORE,
        "Approve a machine",
        authorize,
        shapes.Authorization,
    ),
    Operation("POST", "/device/{device}/name", _CORE, "Rename a machine", rename, shapes.Name),
    Operation("POST", "/device/{device}/tags", _CORE, "Tag a machine", tag, shapes.Tags),
    Operation(
        "POST",
        "/device/{device}/key",
        _CORE,
        "Switch key expiry off or on",
        key_expiry,
        shapes.KeyExpiry,
    ),
    Operation("POST", "/device/{device}/expire", _CORE, "Expire a machine's key", expire),
    Operation(
        "POST", "/device/{device}/ip", _CORE, "Give another address", readdress, shapes.Address
    ),
    Operation(
        "GET",
        "/device/{device}/routes",
        f"{_ROUTES}:read",
        "Return routes",
        routes,
        gives=shapes.Routes,
    ),
    Operation(
        "POST",
        "/device/{device}/routes",
        _ROUTES,
        "Approve routes",
        set_routes,
        shapes.NewRoutes,
        shapes.Routes,
    ),
    Operation(
        "GET",
        "/device/{device}/attributes",
        f"{_POSTURE}:read",
        "Return posture attributes",
        attributes,
        gives=shapes.Attributes,
    ),
    Operation(
        "POST",
        "/device/{device}/attributes/{attribute}",
        _POSTURE,
        "Set a posture attribute",
        set_attribute,
        shapes.NewAttribute,
        shapes.Attributes,
    ),
    Operation(
        "PATCH",
        "/tailnet/{tailnet}/device-attributes",
        _POSTURE,
        "Set posture attributes of several machines",
        set_attributes,
        shapes.ManyAttributes,
    ),
    Operation(
        "DELETE",
        "/device/{device}/attributes/{attribute}",
        _POSTURE,
        "Remove a posture attribute",
        delete_attribute,
    ),
)
