"""Operations on names and resolvers, each on its own part of one choice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from warren.coordinator.api import shapes
from warren.coordinator.api.operation import Call, Operation
from warren.coordinator.change import Change
from warren.coordinator.delta import Delta
from warren.coordinator.dns import (
    DnsChoice,
    Nameserver,
    Nameservers,
    as_settings,
    checked,
    chosen,
    domain_name,
)
from warren.coordinator.snapshot import Snapshot

SplitDns = dict[str, list[str] | None]
"""Domain → its resolvers; none, or null: it has none of its own any more."""


async def nameservers(call: Call) -> shapes.Nameservers:
    """Return the resolvers for all names."""
    # Nothing beside it: the public Go client takes every member for a list of texts.
    return shapes.Nameservers(dns=[server.address for server in _now(call).nameservers])


async def set_nameservers(call: Call) -> shapes.NameserversSet:
    """Replace the resolvers for all names.

    Unless `overrideLocalDNS` is on (see `dns/configuration`), machines ask them only where they
    have no others.
    """
    given = _servers(call.body.dns)
    after = await _change(call, lambda now: replace(now, nameservers=given))
    told = [server.address for server in after.nameservers]
    return shapes.NameserversSet(dns=told, magic_dns=after.magic)


async def preferences(call: Call) -> shapes.DnsPreferences:
    """Return whether machines answer the network's names themselves."""
    return shapes.DnsPreferences(magic_dns=_now(call).magic)


async def set_preferences(call: Call) -> shapes.DnsPreferences:
    """Let machines answer the network's names themselves, or no longer."""
    magic = call.body.magic_dns
    after = await _change(call, lambda now: replace(now, magic=magic))
    return shapes.DnsPreferences(magic_dns=after.magic)


async def search_paths(call: Call) -> shapes.SearchPaths:
    """Return the domains that short names are tried in, without the network's own."""
    return shapes.SearchPaths(search_paths=list(_now(call).search_paths))


async def set_search_paths(call: Call) -> shapes.SearchPaths:
    """Replace the domains that short names are tried in."""
    paths = tuple(call.body.search_paths)
    after = await _change(call, lambda now: replace(now, search_paths=paths))
    return shapes.SearchPaths(search_paths=list(after.search_paths))


async def split_dns(call: Call) -> dict[str, list[str]]:
    """Return the domains that have resolvers of their own."""
    return _shown_split(_now(call))


async def update_split_dns(call: Call) -> dict[str, list[str]]:
    """Change the resolvers of some domains; with none, or null, a domain has none any more."""
    wish: SplitDns = call.body
    given = {domain_name(name): _servers(servers or ()) for name, servers in wish.items()}
    return _shown_split(await _change(call, lambda now: replace(now, split={**now.split, **given})))


async def set_split_dns(call: Call) -> dict[str, list[str]]:
    """Replace all domains that have resolvers of their own."""
    wish: SplitDns = call.body
    given = {domain_name(name): _servers(servers or ()) for name, servers in wish.items()}
    return _shown_split(await _change(call, lambda now: replace(now, split=given)))


async def configuration(call: Call) -> shapes.DnsConfiguration:
    """Return all of it."""
    return _shown(_now(call))


async def set_configuration(call: Call) -> shapes.DnsConfiguration:
    """Replace all of it; what is left out is empty, or off."""
    wish: shapes.DnsConfiguration = call.body

    def resolvers(given: list[shapes.Resolver]) -> Nameservers:
        return tuple(Nameserver(one.address, one.use_with_exit_node) for one in given)

    choice = DnsChoice(
        nameservers=resolvers(wish.nameservers),
        split={name: resolvers(servers) for name, servers in wish.split_dns.items()},
        search_paths=tuple(wish.search_paths),
        magic=wish.preferences.magic_dns,
        override_local=wish.preferences.override_local_dns,
    )
    return _shown(await _change(call, lambda _: choice))


def _now(call: Call) -> DnsChoice:
    return chosen(call.snapshot.settings)


async def _change(call: Call, change: Callable[[DnsChoice], DnsChoice]) -> DnsChoice:
    def decide(snapshot: Snapshot) -> tuple[Delta | None, DnsChoice]:
        before = chosen(snapshot.settings)
        after = checked(change(before), call.context.settings.domain)
        differing = as_settings(before, after)
        told = Change(everything=True, why=frozenset({"dns"}))
        return (Delta(settings=differing, change=told) if differing else None), after

    return await call.commit(decide)


def _servers(addresses: Iterable[str]) -> Nameservers:
    return tuple(Nameserver(address) for address in addresses)


def _shown_split(choice: DnsChoice) -> dict[str, list[str]]:
    return {name: [one.address for one in servers] for name, servers in choice.split.items()}


def _shown(choice: DnsChoice) -> shapes.DnsConfiguration:
    def resolvers(servers: Nameservers) -> list[shapes.Resolver]:
        return [
            shapes.Resolver(address=one.address, use_with_exit_node=one.use_with_exit_node)
            for one in servers
        ]

    return shapes.DnsConfiguration(
        nameservers=resolvers(choice.nameservers),
        split_dns={name: resolvers(servers) for name, servers in choice.split.items()},
        search_paths=list(choice.search_paths),
        preferences=shapes.DnsConfigurationPreferences(
            override_local_dns=choice.override_local, magic_dns=choice.magic
        ),
    )


def _pair(
    part: str, reads: Any, sets: Any, takes: Any, what: str, gives: Any = None
) -> list[Operation]:
    path = f"/tailnet/{{tailnet}}/dns/{part}"
    return [
        Operation("GET", path, "dns:read", f"Return {what}", reads, gives=takes),
        Operation("POST", path, "dns", f"Replace {what}", sets, takes, gives or takes),
    ]


_SPLIT = "/tailnet/{tailnet}/dns/split-dns"
_SPLIT_GIVEN = dict[str, list[str]]
OPERATIONS = (
    *_pair("nameservers", nameservers, set_nameservers, shapes.Nameservers,
           "nameservers", shapes.NameserversSet),
    *_pair("preferences", preferences, set_preferences, shapes.DnsPreferences,
           "DNS preferences"),
    *_pair("searchpaths", search_paths, set_search_paths, shapes.SearchPaths,
           "search paths"),
    *_pair("configuration", configuration, set_configuration, shapes.DnsConfiguration,
           "the whole DNS configuration"),
    Operation("GET", _SPLIT, "dns:read", "Return split DNS", split_dns, gives=_SPLIT_GIVEN),
    Operation("PATCH", _SPLIT, "dns", "Change split DNS", update_split_dns, SplitDns, _SPLIT_GIVEN),
    Operation("PUT", _SPLIT, "dns", "Replace split DNS", set_split_dns, SplitDns, _SPLIT_GIVEN),
)  # fmt: skip
