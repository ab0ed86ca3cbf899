"""The HTTP surface of a scoring script, as an ASGI application: `/`, `/score`, `/swagger.json`. run() runs in its own threads."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from .raw import AMLRequest
from .script import Refused, Script
from .swagger import document

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_HEADER_LIMIT = 100
_DEFAULT_TIMEOUT_MS = 3_600_000
_JSON = "application/json"


@dataclass
class Answer:
    """What is sent."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Application:
    """Serves one script.

    Args:
        script: loaded and initialised.
        threads: as many as requests may run at once.
    """

    def __init__(self, script: Script, threads: Executor) -> None:
        self._script = script
        self._threads = threads
        self._timeout_ms = float(os.environ.get("SCORING_TIMEOUT_MS") or _DEFAULT_TIMEOUT_MS)
        self._origins = [origin.strip() for origin in os.environ.get("AML_CORS_ORIGINS", "").split(",") if origin.strip()]
        self._version = os.environ.get("HTTP_X_MS_SERVER_VERSION", "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode("latin-1")
        request = AMLRequest(scope["method"], scope["path"], query, headers, await _body(receive))
        identity, refused = _identity(request.headers)
        answer = refused or await self._answer(request, identity)
        answer.headers.update(identity)
        self._complete(answer, request)
        await send({"type": "http.response.start", "status": answer.status, "headers": _encoded(answer)})
        await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else answer.body})
        if request.path != "/":
            where = f"{request.path}?{query}" if query else request.path
            span = (time.perf_counter() - started) * 1000
            print(
                f"{request.method} {where} {answer.status} {span:.3f}ms {len(answer.body)} {identity.get('x-request-id', '')}", flush=True
            )

    async def _answer(self, request: AMLRequest, identity: Mapping[str, str]) -> Answer:
        if request.path == "/score":
            return await self._score(request, identity)
        if request.method not in ("GET", "HEAD"):
            return _error(405 if request.path in ("/", "/swagger.json") else 404, "Method not allowed")
        if request.path == "/":
            return Answer(200, b"Healthy", {"content-type": "text/html; charset=utf-8"})
        if request.path == "/swagger.json":
            found, message = document(request.args.get("version", "2"), self._script)
            return _error(404, message) if found is None else Answer(200, json.dumps(found).encode(), {"content-type": _JSON})
        return _error(404, "The requested URL was not found on the server.")

    async def _score(self, request: AMLRequest, identity: Mapping[str, str]) -> Answer:
        if request.method not in ("GET", "POST", "OPTIONS"):
            return _error(405, "Method not allowed")
        try:
            arguments = self._script.arguments(request)
        except Refused as refused:
            # The original answers a preflight this way, CORS or not.
            return Answer(200, b'""', {"content-type": _JSON}) if request.method == "OPTIONS" else _error(refused.status, str(refused))
        call = asyncio.get_running_loop().run_in_executor(self._threads, _timed, functools.partial(self._script.run, **arguments))
        done, _ = await asyncio.wait({call}, timeout=self._timeout_ms / 1000)
        if not done:
            # The thread cannot be stopped; it goes on and its answer is dropped.
            _log(f"Request {identity.get('x-request-id')}: scoring timeout after {self._timeout_ms:g} ms")
            return _failed(f"Scoring timeout after {self._timeout_ms:g} ms")
        output, took, failure = call.result()
        answer = _rendered(output) if failure is None else failure
        if isinstance(answer, BaseException):
            _log(f"Request {identity.get('x-request-id')}: run() failed\n{trimmed(answer)}")
            return _failed("An unexpected error occurred in scoring script. Check the logs for more info.")
        answer.headers["x-ms-run-fn-exec-ms"] = f"{took:.3f}"
        return answer

    def _complete(self, answer: Answer, request: AMLRequest) -> None:
        if self._version:
            answer.headers["x-ms-server-version"] = self._version
        if trace := request.headers.get("TraceId"):
            answer.headers["TraceId"] = trace
        origin = request.headers.get("Origin")
        if origin and self._origins and ("*" in self._origins or origin in self._origins):
            answer.headers["access-control-allow-origin"] = origin
            answer.headers["vary"] = "Origin"
            if request.method == "OPTIONS":
                answer.headers["access-control-allow-methods"] = "GET, POST"
                if wanted := request.headers.get("Access-Control-Request-Headers"):
                    answer.headers["access-control-allow-headers"] = wanted


def trimmed(error: BaseException) -> str:
    """The traceback from the user's code on: the server's own frames say nothing to its author."""
    here = os.path.dirname(__file__)
    trace = error.__traceback__
    while trace is not None and (trace.tb_frame.f_code.co_filename.startswith(here) or "importlib" in trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace or error.__traceback__)).rstrip()


def _timed(call: Callable[[], Any]) -> tuple[Any, float, BaseException | None]:
    """In the thread: output and milliseconds, or what the user's code raised, sys.exit() included."""
    started = time.perf_counter()
    try:
        output, failure = call(), None
    except BaseException as error:  # noqa: BLE001 - the boundary to the user's code
        output, failure = None, error
    return output, (time.perf_counter() - started) * 1000, failure


def _rendered(output: Any) -> Answer | BaseException:
    """run()'s result: a response object as it is, anything else as JSON."""
    if hasattr(output, "status_code") and hasattr(output, "headers"):
        body = output.get_data() if hasattr(output, "get_data") else output.body
        headers = {str(name).lower(): str(value) for name, value in output.headers.items() if str(name).lower() != "content-length"}
        if output.status_code >= 500:
            headers["x-ms-run-function-failed"] = "True"
        return Answer(int(output.status_code), body if isinstance(body, bytes) else str(body).encode(), headers)
    try:
        text = json.dumps(output, default=_plain)
    except (TypeError, ValueError) as error:
        return error
    return Answer(200, text.encode(), {"content-type": _JSON, "x-ms-run-function-failed": "False"})


def _plain(value: Any) -> Any:
    """Arrays and scalars of numpy and its kin."""
    if callable(getattr(value, "tolist", None)):
        return value.tolist()
    raise TypeError(
        f"run() returned a {type(value).__name__}, which is not JSON serializable; return lists, dictionaries, numbers and strings."
    )


def _error(status: int, message: str, *, failed: bool = False) -> Answer:
    return Answer(status, json.dumps({"message": message}).encode(), {"content-type": _JSON, "x-ms-run-function-failed": str(failed)})


def _failed(message: str) -> Answer:
    return _error(500, message, failed=True)


def _identity(headers: Mapping[str, str]) -> tuple[dict[str, str], Answer | None]:
    """Request ids to answer with, after the original's rules, or the refusal of one that is too long."""
    request_id = headers.get("x-request-id") or str(uuid.uuid4())
    if len(request_id) > _HEADER_LIMIT:
        return {}, _error(431, f"x-request-id must not exceed {_HEADER_LIMIT} characters")
    legacy, client = headers.get("x-ms-request-id") or "", headers.get("x-ms-client-request-id") or ""
    if len(legacy) > _HEADER_LIMIT or len(client) > _HEADER_LIMIT:
        refusal = _error(431, f"x-ms-request-id and x-ms-client-request-id must not exceed {_HEADER_LIMIT} characters")
        return {"x-request-id": request_id}, refusal
    found = {"x-request-id": request_id, "x-ms-request-id": legacy or client or request_id}
    if client or legacy:
        found["x-ms-client-request-id"] = client or legacy
    return found, None


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _encoded(answer: Answer) -> list[tuple[bytes, bytes]]:
    headers = {**answer.headers, "content-length": str(len(answer.body))}
    return [(name.encode("latin-1"), value.encode("latin-1", errors="replace")) for name, value in headers.items()]


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
