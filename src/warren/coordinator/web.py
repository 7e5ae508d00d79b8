"""Pages for people, until there is a console: what this is, and how a machine is approved."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Callable, Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from warren.coordinator.registry import Registry
from warren.edge.clock import Clock

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem;
color:#222;background:#fff}}pre{{background:#f0f0ee;padding:1rem;border-radius:6px;
overflow-x:auto}}@media(prefers-color-scheme:dark){{body{{color:#ddd;background:#1b1b1b}}
pre{{background:#2a2a2a}}}}</style><h1>{title}</h1>{body}</html>"""
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_PENDING_ID = re.compile(r"[0-9A-Za-z]{1,64}")


def site(registry: Registry, clock: Clock, more: Sequence[Route] = ()) -> Starlette:
    """Return the pages. more: routes that stand beside them."""

    async def front(request: Request) -> Response:
        return _page(
            "Warren",
            "<p>This is the coordinator of a Warren network. A machine joins with</p>"
            "<pre>warren up --server "
            + html.escape(f"{request.url.scheme}://{request.url.netloc}")
            + "</pre>",
        )

    async def register(request: Request) -> Response:
        pending_id = request.path_params["pending_id"]
        pending = registry.snapshot.pending.get(pending_id)
        if pending is None or pending.rejected or pending.expiry <= clock.wall():
            return _page(
                "Nothing waits here",
                "<p>This machine has been approved already, was turned away, or has waited too "
                "long. If it is not in the network yet, let it log in once more.</p>",
                404,
            )
        host = html.escape(pending.hostinfo.hostname or "a machine")
        return _page(
            "A machine wants to join",
            f"<p><b>{host}</b> waits for an administrator, who lets it in by running this on the "
            f"server:</p><pre>warren admin nodes approve {pending_id} --user NAME</pre>"
            "<p>Approve only a machine that you know; this page goes on by itself on the "
            "machine.</p>",
        )

    async def robots(request: Request) -> Response:
        return PlainTextResponse("User-agent: *\nDisallow: /\n")

    return Starlette(
        routes=[
            Route("/", front),
            Route("/register/{pending_id:str}", register),
            Route("/robots.txt", robots),
            *more,
        ]
    )


def http_protocol(app: Starlette) -> Callable[[], asyncio.Protocol]:
    """Return what makes a protocol that serves `app` on a transport. Needs a running loop.

    Connections close after one answer: the next request on one might be an upgrade, which only
    the front door can serve.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        limit_concurrency=512,
        ws="none",
    )
    config.load()
    state = ServerState()
    state.default_headers = [(b"connection", b"close")]
    return lambda: H11Protocol(config, state, {})


def _page(title: str, body: str, status: int = 200) -> Response:
    return HTMLResponse(_PAGE.format(title=title, body=body), status, headers=_HEADERS)
