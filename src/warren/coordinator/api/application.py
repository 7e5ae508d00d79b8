"""The API as an ASGI application: who asks, whether they may, and what comes of it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlencode

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from warren.coordinator.api import (
    contacts,
    devices,
    dns,
    invites,
    keys,
    network,
    not_offered,
    people,
    policy_file,
    requests,
    shapes,
    webhooks,
)
from warren.coordinator.api.openapi import describe
from warren.coordinator.api.operation import (
    Answer,
    Call,
    Changed,
    Context,
    NotOffered,
    NotPermitted,
    Operation,
    Page,
)
from warren.coordinator.api.throttle import Throttle, place_of
from warren.coordinator.audit import Actor
from warren.coordinator.auth.credentials import ACCESS_LIFE, Gate, NotAllowed, Principal
from warren.coordinator.policies import PolicyRefused
from warren.coordinator.refusal import Busy, Conflict, NotFound, Refused
from warren.coordinator.roles import allows
from warren.coordinator.snapshot import Snapshot
from warren.coordinator.store import StoreProblem

PREFIX = "/api/v2"
OPERATIONS: tuple[Operation, ...] = (
    *devices.OPERATIONS,
    *requests.OPERATIONS,
    *keys.OPERATIONS,
    *people.OPERATIONS,
    *invites.OPERATIONS,
    *policy_file.OPERATIONS,
    *dns.OPERATIONS,
    *network.OPERATIONS,
    *contacts.OPERATIONS,
    *webhooks.OPERATIONS,
    *not_offered.OPERATIONS,
)
MAX_BODY_BYTES = 4 << 20

_REQUESTS_PER_S, _REQUESTS_BURST = 50.0, 500.0
# A person mistypes; a program that guesses gets one try in ten seconds.
_WRONG_PER_S, _WRONG_BURST = 0.1, 10.0

_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    429: "Too Many Requests",
    501: "Not Implemented",
    503: "Service Unavailable",
}
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_DOCS = """<!doctype html><html lang="en"><meta charset="utf-8"><title>API v2</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:3rem auto;padding:0 1rem}}
td{{padding:.2rem .8rem .2rem 0;vertical-align:top}}code{{overflow-wrap:anywhere}}
@media(max-width:40rem){{td{{display:block;padding:0}}td:last-child{{margin-bottom:1rem}}}}</style>
<h1>API v2</h1><p>As <a href="openapi.json">OpenAPI 3.1</a>. Every request bears a token:
<code>Authorization: Bearer …</code>, made by <code>warren admin tokens create</code>.</p>
<table>{rows}</table></html>"""

_log = structlog.get_logger("api")


Trusted = Callable[[Request, Snapshot], Awaitable[tuple[Principal, Actor]]]
"""Tells who asks where no credential is needed, and who that is for the log of changes."""


class _Stop(Exception):
    """Answer with this problem."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


class Api:
    """Serves the operations. gate: knows credentials. url: the server's own."""

    def __init__(self, context: Context, gate: Gate) -> None:
        self._context = context
        self._gate = gate
        self._asked = Throttle(_REQUESTS_PER_S, _REQUESTS_BURST)
        self._wrong = Throttle(_WRONG_PER_S, _WRONG_BURST)
        self._described = msgspec.json.encode(
            describe(OPERATIONS, f"{context.settings.url}{PREFIX}", context.settings.domain)
        )

    def routes(self, trusted: Trusted | None = None) -> list[Route]:
        """Return the routes, for the server's site.

        trusted: for the admin socket, where whoever asks needs no credential.
        """
        by_path: dict[str, dict[str, Operation]] = {}
        for operation in OPERATIONS:
            by_path.setdefault(operation.path, {})[operation.method] = operation
        routes = [
            Route(PREFIX + path, self._endpoint(methods, trusted), methods=_ANY)
            for path, methods in by_path.items()
        ]
        return [
            Route(f"{PREFIX}/oauth/token", self._token, methods=["POST"]),
            Route(f"{PREFIX}/openapi.json", self._openapi),
            Route(f"{PREFIX}/docs", self._docs),
            *routes,
            Route(PREFIX + "/{rest:path}", self._nothing, methods=_ANY),
        ]

    def application(self) -> Starlette:
        """Return an application of the API alone."""
        return Starlette(routes=self.routes())

    def _endpoint(self, methods: dict[str, Operation], trusted: Trusted | None) -> Any:
        async def endpoint(request: Request) -> Response:
            response = await answered(request)
            response.headers.update(getattr(request.state, "rate_limit", {}))
            return response

        async def answered(request: Request) -> Response:
            try:
                operation = methods.get(request.method)
                if operation is None:
                    allowed = ", ".join(sorted(methods))
                    raise _Stop(405, f"this path takes {allowed}", {"allow": allowed})
                return await self._serve(operation, request, trusted)
            except _Stop as stop:
                return _problem(stop.status, stop.message, stop.headers)
            except ClientDisconnect:
                return Response(status_code=400)

        return endpoint

    async def _serve(
        self, operation: Operation, request: Request, trusted: Trusted | None
    ) -> Response:
        if trusted is None:
            who = self._who(request)
            left = self._asked.left(who.credential, self._context.clock.now())
            request.state.rate_limit = _rate_limit(left)
            by = Actor(who.kind, who.name, _address(request))
        else:
            who, by = await trusted(request, self._context.registry.snapshot)
        if operation.scope and not allows(who.scopes, operation.scope):
            raise _Stop(403, f"this needs the scope {operation.scope!r}")
        tailnet = request.path_params.get("tailnet", "-")
        if tailnet not in ("-", self._context.settings.domain):
            raise _Stop(404, f"there is no network {tailnet[:80]!r} here; write - for this one")
        call = Call(
            context=self._context,
            who=who,
            by=by,
            path=request.path_params,
            query=request.query_params,
            headers=request.headers,
            body=_decoded(operation, await _body(request)),
        )
        try:
            return _answer(self._linked(request, await operation.work(call)), operation.status)
        except PolicyRefused as error:
            return _problem(400, str(error), data=policy_file.failures(error))
        except NotPermitted as error:
            raise _Stop(403, str(error)) from None
        except NotOffered as error:
            raise _Stop(501, str(error)) from None
        except Changed as error:
            raise _Stop(412, str(error)) from None
        except NotFound as error:
            raise _Stop(404, str(error)) from None
        except Conflict as error:
            raise _Stop(409, str(error)) from None
        except Busy as error:
            raise _Stop(503, str(error), {"retry-after": "5"}) from None
        except Refused as error:
            raise _Stop(400, str(error)) from None
        except StoreProblem as error:
            _log.error("a change was refused", problem=str(error))
            raise _Stop(503, str(error)) from None

    def _linked(self, request: Request, answer: object) -> object:
        """Put a link to the next page into the head of a list's answer (RFC 8288)."""
        if not isinstance(answer, Page):
            return answer
        headers = {}
        if answer.after:
            query = [(name, text) for name, text in request.query_params.multi_items()
                     if name != "after"]  # fmt: skip
            query.append(("after", answer.after))
            at = f"{self._context.settings.url}{request.url.path}?{urlencode(query)}"
            headers["link"] = f'<{at}>; rel="next"'
        return Answer(msgspec.json.encode(answer.value), headers=headers)

    def _who(self, request: Request) -> Principal:
        """Return who asks. Stops with 401, or 429 for who asks or guesses too often."""
        now, address = self._context.clock.now(), _address(request)
        if (wait_s := self._wrong.wait_s(place_of(address), now)) > 0:
            raise _slow_down(wait_s, "too many wrong credentials from this address")
        try:
            text = _credential(request.headers.get("authorization", ""))
            snapshot = self._context.registry.snapshot
            who = self._gate.principal(text, snapshot, self._context.clock.wall())
        except NotAllowed as error:
            raise self._refused(request, str(error)) from None
        name = who.credential
        if (wait_s := self._asked.wait_s(name, now)) > 0:
            raise _slow_down(wait_s, "too many requests")
        self._asked.take(name, now)
        return who

    def _refused(self, request: Request, why: str) -> _Stop:
        address = _address(request)
        self._wrong.take(place_of(address), self._context.clock.now())
        _log.warning("a credential was refused", address=address, reason=why)
        return _Stop(401, why, {"www-authenticate": 'Bearer realm="warren"'})

    async def _token(self, request: Request) -> Response:
        """Give an OAuth client an access token (RFC 6749 §4.4)."""
        try:
            now, address = self._context.clock.now(), _address(request)
            if (wait_s := self._wrong.wait_s(place_of(address), now)) > 0:
                raise _slow_down(wait_s, "too many wrong credentials from this address")
            form = _form(await _body(request))
            client, secret = form.get("client_id", ""), form.get("client_secret", "")
            header = request.headers.get("authorization", "")
            if header.lower().startswith("basic "):
                client, _, secret = _basic(header).partition(":")
            if form.get("grant_type", "client_credentials") != "client_credentials":
                raise _Stop(400, "grant_type is client_credentials")
            try:
                token, scopes = self._gate.grant(
                    client,
                    secret,
                    form.get("scope", "").split(),
                    self._context.registry.snapshot,
                    self._context.clock.wall(),
                )
            except NotAllowed as error:
                raise self._refused(request, str(error)) from None
            except Refused as error:
                raise _Stop(400, str(error)) from None
            return _answer(
                shapes.AccessToken(
                    access_token=token,
                    expires_in=int(ACCESS_LIFE.total_seconds()),
                    scope=" ".join(scopes),
                )
            )
        except _Stop as stop:
            return _problem(stop.status, stop.message, stop.headers)
        except ClientDisconnect:
            return Response(status_code=400)

    async def _openapi(self, request: Request) -> Response:
        return Response(self._described, media_type="application/json", headers=_HEADERS)

    async def _docs(self, request: Request) -> Response:
        rows = "".join(
            f"<tr><td><code>{o.method} {o.path}</code><td>{o.summary}<td><code>{o.scope}</code>"
            for o in OPERATIONS
        )
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return HTMLResponse(
            _DOCS.format(rows=rows), headers={**_HEADERS, "content-security-policy": policy}
        )

    async def _nothing(self, request: Request) -> Response:
        return _problem(404, "the API has nothing here; see /api/v2/docs")


def _rate_limit(left: int) -> dict[str, str]:
    """Tell how often a credential may ask (draft-ietf-httpapi-ratelimit-headers)."""
    window_s = round(_REQUESTS_BURST / _REQUESTS_PER_S)
    return {
        "ratelimit-policy": f'"requests";q={_REQUESTS_BURST:.0f};w={window_s}',
        "ratelimit": f'"requests";r={left};t={round((_REQUESTS_BURST - left) / _REQUESTS_PER_S)}',
    }


_ANY = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def _address(request: Request) -> str:
    return request.client.host if request.client else "local"


def _credential(header: str) -> str:
    """Return the token of an Authorization header. Raises NotAllowed."""
    kind, _, rest = header.partition(" ")
    if kind.lower() == "bearer":
        return rest.strip()
    if kind.lower() == "basic":
        return _basic(header).partition(":")[0]
    raise NotAllowed("a token is needed: Authorization: Bearer …")


def _basic(header: str) -> str:
    """Return the name and password of a Basic header (RFC 7617 §2). Raises NotAllowed."""
    try:
        return base64.b64decode(header.partition(" ")[2].strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise NotAllowed("the Authorization header cannot be read") from None


def _form(body: bytes) -> dict[str, str]:
    try:
        found = parse_qs(body.decode("ascii"), strict_parsing=True, max_num_fields=20)
    except ValueError:
        raise _Stop(400, "the form cannot be read") from None
    return {name: values[-1] for name, values in found.items()}


async def _body(request: Request) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY_BYTES:
            raise _Stop(413, "the request is larger than 4 MiB")
    return bytes(data)


def _decoded(operation: Operation, body: bytes) -> Any:
    if operation.takes is None or operation.takes is bytes:
        return body
    try:
        return msgspec.json.decode(body, type=operation.takes)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Stop(400, f"the request cannot be read: {error}") from None


def _answer(value: object, status: int = 200) -> Response:
    if isinstance(value, Answer):
        headers = {**_HEADERS, **value.headers}
        return Response(value.body, value.status, headers, value.media_type)
    content = msgspec.json.encode(value)
    return Response(content, status, media_type="application/json", headers=_HEADERS)


def _slow_down(wait_s: float, why: str) -> _Stop:
    wait = max(1, round(wait_s + 0.5))
    return _Stop(429, f"{why}; come back in {wait} s", {"retry-after": str(wait)})


def _problem(
    status: int,
    message: str,
    headers: dict[str, str] | None = None,
    data: list[shapes.TestFailure] | None = None,
) -> Response:
    problem = shapes.Problem(
        title=_TITLES[status], status=status, detail=message, message=message, data=data or []
    )
    return Response(
        msgspec.json.encode(problem),
        status,
        {**_HEADERS, **(headers or {})},
        "application/problem+json",
    )
