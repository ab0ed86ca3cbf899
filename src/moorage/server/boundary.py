"""The HTTP boundary: request ids, the access log, metrics, and the one place where an unexpected error becomes a 500 without internals."""

from __future__ import annotations

import logging
from urllib.parse import quote
from uuid import uuid4

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moorage import clock
from moorage.errors import MoorageError
from moorage.server.errors import envelope_of, headers_of, status_of

_access = logging.getLogger("moorage.access")
_log = logging.getLogger(__name__)


class Boundary:
    """Wraps the whole application."""

    def __init__(self, app: ASGIApp, metrics: CollectorRegistry) -> None:
        self._app = app
        self._requests = Counter(
            "moorage_server_requests", "Requests by route, method and status.", ("route", "method", "status"), registry=metrics
        )
        self._seconds = Histogram("moorage_server_request_seconds", "Time to the last byte of the answer.", ("route",), registry=metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _header(scope, b"x-ms-client-request-id")[:64] or uuid4().hex
        started, status = clock.monotonic(), 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).append((b"x-ms-request-id", request_id.encode("latin-1", "replace")))
            await send(message)

        try:
            await self._app(scope, receive, note)
        except MoorageError as error:
            if status:
                raise
            headers = headers_of(error)
            await JSONResponse(envelope_of(error, request_id), status_of(error), headers)(scope, receive, note)
        except ClientDisconnect:
            _log.debug("request %s: the client went away", request_id)
        except Exception:
            # Whatever it was, the client gets an answer and the log the traceback.
            _log.exception("request %s failed: %s %s", request_id, scope["method"], quote(scope["path"]))
            if status:
                raise
            unexpected = MoorageError("The service failed. Its log has the reason under this request's id.")
            await JSONResponse(envelope_of(unexpected, request_id), 500)(scope, receive, note)
        finally:
            self._note(scope, status, started, request_id)

    def _note(self, scope: Scope, status: int, started: float, request_id: str) -> None:
        # Neither log nor metrics get the query string: signed links stand in it.
        seconds = clock.monotonic() - started
        route = scope.get("moorage.pattern", "other")
        self._requests.labels(route, scope["method"], str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        user = scope.get("moorage.user", "-")
        _access.info("%s %s %s %.1fms user=%s id=%s", scope["method"], quote(scope["path"]), status, seconds * 1000, user, request_id)


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")
