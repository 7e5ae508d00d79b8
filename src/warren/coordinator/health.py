"""A port for those who watch over a server: metrics, and whether it lives and is ready.

It asks for no credential and tells no names; where it listens decides who may ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from warren.coordinator.store import StoreProblem

Ready = Callable[[], Awaitable[None]]


def application(metrics: CollectorRegistry, ready: Ready) -> Starlette:
    """Return the application. ready: raises StoreProblem while changes cannot be kept."""

    async def show_metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics), headers={"content-type": kind})

    async def alive(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def is_ready(request: Request) -> Response:
        try:
            await ready()
        except StoreProblem as problem:
            return JSONResponse({"status": "not ready", "reason": str(problem)}, 503)
        return JSONResponse({"status": "ready"})

    async def front(request: Request) -> Response:
        return PlainTextResponse("/metrics\n/healthz\n/readyz\n")

    return Starlette(
        routes=[
            Route("/", front),
            Route("/metrics", show_metrics),
            Route("/healthz", alive),
            Route("/readyz", is_ready),
        ]
    )
