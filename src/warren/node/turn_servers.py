"""Which TURN servers this node may use: the grants in its own map entry, names looked up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

import structlog

from warren.nat.turn.allocation import Transport
from warren.nat.turn.credentials import Credentials
from warren.nat.turn.grants import (
    CAPABILITY,
    Grant,
    MalformedGrant,
    TurnPlace,
    parse_grant_untrusted,
)
from warren.nat.turn.keeper import MAX_SERVERS, Server
from warren.netmap.codec import encode_json
from warren.netmap.endpoint import Endpoint
from warren.netmap.view import View

GRANTS_MAX = 4
_LOOKUP_S = 5.0
RETRY_S, RETRY_MAX_S = 5.0, 300.0
"""A name that was not found is looked up again after so long, then after twice that, and so on."""

Address = IPv4Address | IPv6Address
Resolve = Callable[[str], Awaitable[list[Address]]]

log = structlog.get_logger(__name__)


class TurnServers:
    """Keeps `servers`, in the order of preference; `on_change` is told when they are others.

    resolve: the addresses of a name; it may raise OSError.
    """

    def __init__(
        self, resolve: Resolve, on_change: Callable[[], None], transports: Iterable[Transport]
    ) -> None:
        self._resolve = resolve
        self._on_change = on_change
        self._transports = tuple(transports)
        self._grants: list[Grant] = []
        self._known: dict[str, list[Address]] = {}
        self._wanted: set[str] = set()
        """Names that are to be looked up; what is known of them stays until there is an answer."""
        self._malformed = ""
        self._unknown: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self.servers: dict[Server, Credentials] = {}

    @property
    def is_offered(self) -> bool:
        """Whether the coordinator names any server."""
        return bool(self._grants)

    @property
    def problem(self) -> str:
        """Why there is none, or not every one, in half a sentence; empty if all is well."""
        return self._malformed or next(iter(self._unknown.values()), "")

    def set_view(self, view: View) -> None:
        """Take what the map says of this node itself."""
        grants, self._malformed = read_grants(view)
        if grants != self._grants:
            self._grants = grants
            self._settle()

    def set_transports(self, transports: Iterable[Transport]) -> None:
        """Take which ways may be used, the best first."""
        self._transports = tuple(transports)
        self._publish()

    def look_up(self) -> None:
        """Look names up again: the network is another, or a server does not serve us any more."""
        self._settle(again=True)

    def close(self) -> None:
        """Stop what is under way."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _settle(self, again: bool = False) -> None:
        hosts = {place.host for place in self._places()}
        for table in (self._known, self._unknown):
            for gone in table.keys() - hosts:
                del table[gone]
        names = set()
        for host in hosts:
            try:
                self._known[host] = [ip_address(host)]
            except ValueError:
                names.add(host)
        new = names if again else names - self._known.keys()
        self._wanted = (self._wanted & names) | new
        if not self._wanted or not new <= self._unknown.keys() or again:
            self.close()
        if self._wanted and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._look_up())
        self._publish()

    async def _look_up(self) -> None:
        """Look up what is wanted until every name is found."""
        pause_s = RETRY_S
        while self._wanted:
            await asyncio.gather(*(self._look_up_one(name) for name in self._wanted))
            if self._wanted:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
        self._task = None

    async def _look_up_one(self, name: str) -> None:
        try:
            async with asyncio.timeout(_LOOKUP_S):
                found = await self._resolve(name)
        except (OSError, TimeoutError, UnicodeError) as error:
            log.warning("turn server not found", name=name, reason=str(error))
            self._unknown[name] = f"the name {name} of a TURN server could not be looked up"
            return
        self._known[name] = found
        self._unknown.pop(name, None)
        self._wanted.discard(name)
        self._publish()

    def _places(self) -> list[TurnPlace]:
        return [place for grant in self._grants for place in grant.places]

    def _publish(self) -> None:
        found: dict[Server, Credentials] = {}
        for transport in self._transports:
            for grant in self._grants:
                for place in grant.places:
                    for ip in self._known.get(place.host, ()):
                        if place.transport is transport and len(found) < MAX_SERVERS:
                            at = Endpoint(ip, place.port)
                            server = Server(at, transport, place.host, place.pin)
                            found.setdefault(server, grant.credentials)
        # Their order counts as well.
        if list(found.items()) != list(self.servers.items()):
            self.servers = found
            self._on_change()


def read_grants(view: View) -> tuple[list[Grant], str]:
    """Return the grants of this node, and what is wrong with one of them in half a sentence."""
    values = view.node.cap_map.get(CAPABILITY) if view.node is not None else None
    grants, problem = [], ""
    for value in (values or [])[:GRANTS_MAX]:
        try:
            grants.append(parse_grant_untrusted(encode_json(value)))
        except MalformedGrant as error:
            problem = f"what the coordinator says of TURN cannot be used ({error})"
    return grants, problem


async def look_up(name: str) -> list[Address]:
    """Return the addresses of a name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(name, None)
    return list(dict.fromkeys(ip_address(entry[4][0]) for entry in found))
