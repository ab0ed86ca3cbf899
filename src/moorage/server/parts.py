"""What the service is made of: the tables of routes and the engines that run beside them. A new resource type adds a line here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from moorage.server import gateway, operations
from moorage.server.arm import Route
from moorage.server.engine.engine import workload_engine
from moorage.server.engine.signers import signers
from moorage.server.images.engine import image_builds
from moorage.server.resources import (
    batch,
    clusters,
    codes,
    components,
    computes,
    curated,
    data,
    datastores,
    deployments,
    endpoints,
    history,
    jobs,
    me,
    models,
    registries,
    schedules,
    uploads,
    workspaces,
)
from moorage.server.services import Services
from moorage.server.upkeep import upkeep

# Each a context manager that starts its tasks on entry and has stopped them on exit.
Engine = Callable[[Services], AbstractAsyncContextManager[None]]

ROUTES: tuple[tuple[Route, ...], ...] = (
    operations.ROUTES,
    workspaces.ROUTES,
    me.ROUTES,
    datastores.ROUTES,
    curated.ROUTES,
    registries.ROUTES,
    codes.ROUTES,
    models.ROUTES,
    data.ROUTES,
    components.ROUTES,
    uploads.ROUTES,
    clusters.ROUTES,
    computes.ROUTES,
    jobs.ROUTES,
    history.ROUTES,
    endpoints.ROUTES,
    deployments.ROUTES,
    batch.ROUTES,
    schedules.ROUTES,
    gateway.ROUTES,
)
ENGINES: tuple[Engine, ...] = (upkeep, signers, workload_engine, image_builds)
