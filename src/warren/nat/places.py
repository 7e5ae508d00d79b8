"""Where a STUN server listens so that it can answer from elsewhere (RFC 5780 §3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from warren.netmap.endpoint import Endpoint


def group_places(endpoints: Iterable[Endpoint]) -> list[list[Endpoint]]:
    """Return all sockets to open for one or two addresses of each family, the first one first.

    Two addresses answer on both ports; if they name the same port, the next one is the other.
    Raises ValueError, in words for a person, for what makes no sense.
    """
    groups = []
    given = list(endpoints)
    for version in (4, 6):
        family = [endpoint for endpoint in given if endpoint.ip.version == version]
        if len(set(family)) != len(family):
            raise ValueError("one address is given twice")
        if len(family) > 2:
            raise ValueError("more than two addresses of one kind are of no use")
        if len(family) == 2 and any(endpoint.ip.is_unspecified for endpoint in family):
            raise ValueError("two ports need an address each, so that clients can be told it")
        if not family:
            continue
        first, last = family[0], family[-1]
        other_port = last.port
        if len(family) == 2 and first.port == last.port:
            other_port = first.port + 1 if first.port < 0xFFFF else first.port - 1
        groups.append(
            list(
                dict.fromkeys(
                    Endpoint(ip, port)
                    for ip in (first.ip, last.ip)
                    for port in (first.port, other_port)
                )
            )
        )
    return groups


def abilities(groups: Sequence[Sequence[Endpoint]]) -> str:
    """Tell a person which tests these sockets make possible."""
    ips = max((len({e.ip for e in group}) for group in groups), default=0)
    ports = max((len({e.port for e in group}) for group in groups), default=0)
    if ips > 1 and ports > 1:
        return "with mapping and filtering tests"
    return "with filtering tests by port" if ports > 1 else ""
