"""`/healthz` (the process answers), `/readyz` (the database does too) and `/metrics`, for everybody: they tell nothing about anyone."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from moorage.server.arm import Answer, Call, Route


async def _alive(_: Call) -> Answer:
    return Answer({"status": "ok"})


async def _ready(call: Call) -> Answer:
    await call.services.store.ready()
    return Answer({"status": "ok"})


async def _metrics(call: Call) -> Response:
    return Response(generate_latest(call.services.metrics), media_type=CONTENT_TYPE_LATEST)


ROUTES = (
    Route("GET", "/healthz", _alive, public=True),
    Route("GET", "/readyz", _ready, public=True),
    Route("GET", "/metrics", _metrics, public=True),
)
