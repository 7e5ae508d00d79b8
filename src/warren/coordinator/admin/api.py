"""The administration API's server end, as an ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from warren.coordinator.admin import shapes
from warren.coordinator.admin.local import local_actor
from warren.coordinator.admin.office import Office
from warren.coordinator.audit import Actor
from warren.coordinator.refusal import Busy, Conflict, NotFound, Refused
from warren.coordinator.store import AuditQuestion, StoreProblem

_T = TypeVar("_T")
_log = structlog.get_logger("admin")

MAX_ENTRIES = 1000
"""Of the audit log, in one answer."""
# A policy of 1 MiB, escaped as JSON.
MAX_BODY_BYTES = 4 << 20


def application(office: Office, more: Sequence[Route] = ()) -> Starlette:
    """Return the application; `office` does the work. more: routes that stand beside it."""

    async def status(request: Request) -> object:
        return office.status()

    async def regions(request: Request) -> object:
        return office.regions()

    async def users(request: Request) -> object:
        return office.users()

    async def create_user(request: Request, by: Actor) -> object:
        return await office.create_user(by, await _body(request, shapes.NewUser))

    async def delete_user(request: Request, by: Actor) -> object:
        with_nodes = request.query_params.get("machines") == "true"
        return await office.delete_user(by, request.path_params["name"], with_nodes)

    async def invite(request: Request, by: Actor) -> object:
        new = await _body(request, shapes.NewInvite)
        return await office.invite(by, request.path_params["name"], new)

    async def suspend(request: Request, by: Actor) -> object:
        return await office.suspend(by, request.path_params["name"])

    async def approve_user(request: Request, by: Actor) -> object:
        return await office.approve_user(by, request.path_params["name"])

    async def restore(request: Request, by: Actor) -> object:
        return await office.restore(by, request.path_params["name"])

    async def keys(request: Request) -> object:
        return office.keys()

    async def create_key(request: Request, by: Actor) -> object:
        return await office.create_key(by, await _body(request, shapes.NewAuthKey))

    async def revoke_key(request: Request, by: Actor) -> object:
        return await office.revoke_key(by, request.path_params["key"])

    async def nodes(request: Request) -> object:
        return office.nodes()

    async def node(request: Request) -> object:
        return office.node(request.path_params["node"])

    async def why(request: Request) -> object:
        peer = request.query_params.get("peer", "")
        if not peer:
            raise Refused("say to which machine: ?peer=NAME")
        return await office.why(request.path_params["node"], peer)

    async def delete_node(request: Request, by: Actor) -> object:
        return await office.delete_node(by, request.path_params["node"])

    async def approve(request: Request, by: Actor) -> object:
        approval = await _body(request, shapes.Approval)
        return await office.approve(by, request.path_params["node"], approval)

    async def reject(request: Request, by: Actor) -> object:
        return await office.reject(by, request.path_params["node"])

    async def rename(request: Request, by: Actor) -> object:
        new = await _body(request, shapes.Rename)
        return await office.rename(by, request.path_params["node"], new.name)

    async def tag(request: Request, by: Actor) -> object:
        new = await _body(request, shapes.Tags)
        return await office.tag(by, request.path_params["node"], new.tags)

    async def expire(request: Request, by: Actor) -> object:
        return await office.expire(by, request.path_params["node"])

    async def policy(request: Request) -> object:
        return office.policy()

    async def set_policy(request: Request, by: Actor) -> object:
        return await office.set_policy(by, await _body(request, shapes.NewPolicy))

    async def check_policy(request: Request) -> object:
        return await office.check_policy(await _body(request, shapes.NewPolicy))

    async def policy_version(request: Request) -> object:
        return office.policy_version(request.path_params["version"])

    async def set_role(request: Request, by: Actor) -> object:
        return await office.set_role(
            by,
            request.path_params["name"],
            await _body(request, shapes.Role),
        )

    async def tokens(request: Request) -> object:
        return office.tokens()

    async def create_token(request: Request, by: Actor) -> object:
        return await office.create_token(by, await _body(request, shapes.NewToken))

    async def revoke_token(request: Request, by: Actor) -> object:
        return await office.revoke_token(by, request.path_params["token"])

    async def audit(request: Request) -> object:
        return await office.audit(_audit_question(request))

    return Starlette(
        routes=[
            _route("GET", "/v1/status", status),
            _route("GET", "/v1/regions", regions),
            _route("GET", "/v1/users", users),
            _change("POST", "/v1/users", create_user),
            _change("DELETE", "/v1/users/{name}", delete_user),
            _change("PUT", "/v1/users/{name}/role", set_role),
            _change("POST", "/v1/users/{name}/invite", invite),
            _change("POST", "/v1/users/{name}/suspend", suspend),
            _change("POST", "/v1/users/{name}/approve", approve_user),
            _change("POST", "/v1/users/{name}/restore", restore),
            _route("GET", "/v1/tokens", tokens),
            _change("POST", "/v1/tokens", create_token),
            _change("DELETE", "/v1/tokens/{token}", revoke_token),
            _route("GET", "/v1/keys", keys),
            _change("POST", "/v1/keys", create_key),
            _change("DELETE", "/v1/keys/{key}", revoke_key),
            _route("GET", "/v1/nodes", nodes),
            _route("GET", "/v1/nodes/{node}", node),
            _route("GET", "/v1/nodes/{node}/why", why),
            _change("DELETE", "/v1/nodes/{node}", delete_node),
            _change("POST", "/v1/nodes/{node}/approve", approve),
            _change("POST", "/v1/nodes/{node}/reject", reject),
            _change("POST", "/v1/nodes/{node}/rename", rename),
            _change("POST", "/v1/nodes/{node}/tags", tag),
            _change("POST", "/v1/nodes/{node}/expire", expire),
            _route("GET", "/v1/audit", audit),
            _route("GET", "/v1/policy", policy),
            _change("PUT", "/v1/policy", set_policy),
            _route("POST", "/v1/policy/check", check_policy),
            _route("GET", "/v1/policy/history/{version:int}", policy_version),
            *more,
        ]
    )


def _route(method: str, path: str, work: Callable[[Request], Awaitable[object]]) -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            return _json(await work(request))
        except NotFound as error:
            return _problem(404, str(error))
        except Conflict as error:
            return _problem(409, str(error))
        except Busy as error:
            return _problem(503, str(error))
        except Refused as error:
            return _problem(400, str(error))
        except StoreProblem as error:
            _log.error("a change was refused", problem=str(error))
            return _problem(503, str(error))

    return Route(path, endpoint, methods=[method])


def _change(method: str, path: str, work: Callable[[Request, Actor], Awaitable[object]]) -> Route:
    """Return the route of what changes something, and so is noted as somebody's."""

    async def named(request: Request) -> object:
        return await work(request, await local_actor(request))

    return _route(method, path, named)


def _audit_question(request: Request) -> AuditQuestion:
    """Read `limit`, `before` (an id), `since` and `until` (RFC 3339). Raises Refused."""
    query = request.query_params
    try:
        return msgspec.convert(
            {
                name: query[key]
                for key, name in (
                    ("limit", "limit"),
                    ("before", "before_id"),
                    ("since", "since"),
                    ("until", "until"),
                )
                if key in query
            },
            _AuditQuery,
            strict=False,
        ).question()
    except msgspec.ValidationError as error:
        raise Refused(f"the question cannot be read: {error}") from error


class _AuditQuery(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_ENTRIES)] = 100
    before_id: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    since: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    until: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    def question(self) -> AuditQuestion:
        return AuditQuestion(self.limit, self.before_id, self.since, self.until)


async def _body(request: Request, kind: type[_T]) -> _T:
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY_BYTES:
            raise Refused("the request is larger than 4 MiB")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"the request cannot be read: {error}") from error


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _problem(status: int, message: str) -> Response:
    return _json(shapes.Problem(message=message), status)
