"""The server's site: the front page, and what stands beside it."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from warren.coordinator.exchange import served
from warren.coordinator.page import page
from warren.edge.linux.local_socket import peer_of


def site(more: Sequence[Route]) -> Starlette:
    """Return the pages. more: routes that stand beside the front page."""

    async def front(request: Request) -> Response:
        return page(
            "Warren",
            "<p>This is the coordinator of a Warren network. A machine joins with</p>"
            "<pre>warren up --server "
            + html.escape(f"{request.url.scheme}://{request.url.netloc}")
            + '</pre><p><a href="/account">Log in</a></p>',
        )

    async def robots(request: Request) -> Response:
        return PlainTextResponse("User-agent: *\nDisallow: /\n")

    async def nothing(request: Request, error: Exception) -> Response:
        # Of what is here and cannot be asked so, the router says how it can be.
        status = error.status_code if isinstance(error, HTTPException) else 404
        headers = (error.headers or {}) if isinstance(error, HTTPException) else {}
        title, said = "Not found", "There is no such page here."
        if status == 405:
            title, said = "Not so", f"This page cannot be asked with {html.escape(request.method)}."
        response = page(title, f'<p>{said} <a href="/">Where to begin</a></p>', status)
        response.headers.update(headers)
        return response

    made = Starlette(
        routes=[
            Route("/", front),
            Route("/robots.txt", robots),
            *more,
        ],
        exception_handlers={404: nothing, 405: nothing},
    )
    # It would lead to whatever host a request names.
    made.router.redirect_slashes = False
    return made


def http_protocol(
    app: Starlette, kind: type[H11Protocol] = H11Protocol
) -> Callable[[], asyncio.Protocol]:
    """Return what makes a protocol that serves `app` on a port of its own, where no stranger is.

    Needs a running loop. Connections close after one answer.
    """
    config, state = served(app, 512), ServerState()
    state.default_headers = [(b"connection", b"close")]
    return lambda: kind(config, state, {})


class LocalProtocol(H11Protocol):
    """For a Unix socket: requests have who has connected it as `request.state.peer`."""

    def connection_made(  # type: ignore[override] # as uvicorn's own
        self, transport: asyncio.Transport
    ) -> None:
        """Ask the kernel, before there is a request."""
        super().connection_made(transport)
        self.app_state = {"peer": peer_of(transport.get_extra_info("socket"))}
