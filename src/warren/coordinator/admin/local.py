"""Who asks over the admin socket: an account of the server's own machine, as the kernel says."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request

from warren.coordinator.audit import Actor
from warren.coordinator.auth.credentials import Principal
from warren.coordinator.roles import OWNER, ROLES
from warren.coordinator.snapshot import Snapshot
from warren.edge.aside import run_aside
from warren.edge.linux.local_socket import Peer, account_name, login_uid

ADMINISTRATOR = "administrator"
_HERE = "on the server's own machine"


async def local_actor(request: Request) -> Actor:
    """Return who asks, for the log of changes: an account, and who had logged in before."""
    peer: Peer | None = getattr(request.state, "peer", None)
    if peer is None:
        return Actor("local", ADMINISTRATOR, _HERE)
    return await run_aside(partial(actor_of, peer))


def actor_of(peer: Peer) -> Actor:
    """Return the account behind a connection. Names may have to be looked up elsewhere: blocks."""
    before = login_uid(peer.pid)
    origin = f"{_HERE}, uid {peer.uid}"
    if before is not None and before != peer.uid:
        # Such as by sudo, which makes everybody root.
        origin += f", logged in as {account_name(before)} (uid {before})"
    return Actor("local", f"{ADMINISTRATOR} {account_name(peer.uid)}", origin)


async def administrator(request: Request, snapshot: Snapshot) -> tuple[Principal, Actor]:
    """Return who asks the HTTP API over the socket: what is made belongs to the first owner."""
    owners = [user.id for user in snapshot.users.values() if user.role == OWNER]
    who = Principal("server", ADMINISTRATOR, min(owners, default=0), ROLES[OWNER])
    return who, await local_actor(request)
