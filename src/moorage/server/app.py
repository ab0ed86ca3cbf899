"""Puts the service together: routes, boundary, engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from moorage.server import health
from moorage.server.arm import Table
from moorage.server.blobs import PREFIX, BlobFacade
from moorage.server.boundary import Boundary
from moorage.server.parts import ENGINES, ROUTES
from moorage.server.services import Services


def create_app(services: Services) -> ASGIApp:
    """The ASGI application over opened services."""
    routes = [*health.ROUTES, *(route for table in ROUTES for route in table)]
    return Boundary(_Front(BlobFacade(services), Table(services, routes)), services.metrics)


class _Front:
    """Blob names may hold anything, so they do not go through the table of routes."""

    def __init__(self, blobs: ASGIApp, table: ASGIApp) -> None:
        self._blobs = blobs
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._blobs if scope["path"].startswith(PREFIX) else self._table
        await app(scope, receive, send)


@asynccontextmanager
async def running_engines(services: Services) -> AsyncIterator[None]:
    """The background work, for as long as the context lasts."""
    async with AsyncExitStack() as stack:
        for engine in ENGINES:
            await stack.enter_async_context(engine(services))
        yield
