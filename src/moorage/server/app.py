"""Puts the service together: routes, boundary, engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.types import ASGIApp

from moorage.server import health
from moorage.server.arm import Table
from moorage.server.boundary import Boundary
from moorage.server.parts import ENGINES, ROUTES
from moorage.server.services import Services


def create_app(services: Services) -> ASGIApp:
    """The ASGI application over opened services."""
    routes = [*health.ROUTES, *(route for table in ROUTES for route in table)]
    return Boundary(Table(services, routes), services.metrics)


@asynccontextmanager
async def running_engines(services: Services) -> AsyncIterator[None]:
    """The background work, for as long as the context lasts."""
    async with AsyncExitStack() as stack:
        for engine in ENGINES:
            await stack.enter_async_context(engine(services))
        yield
