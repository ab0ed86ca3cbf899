"""Long-running operations over HTTP: started in the transaction that stores what is wanted, finished by whichever engine sees it come true.

`Azure-AsyncOperation` and `Location` are absolute, and every answer to a poll has `Retry-After: 1`: without it the SDK waits half a minute.
"""

from __future__ import annotations

from moorage.clock import rfc3339_micro
from moorage.identity.roles import Action
from moorage.server.arm import LOCATION, Answer, Call, Route
from moorage.server.authorization import require
from moorage.specs.manifest import Manifest
from moorage.store import Operation, OperationStatus

_RETRY = {"Retry-After": "1"}


def accepted(call: Call, operation: Operation, body: Manifest | None = None, *, created: bool = False) -> Answer:
    """The first answer: 200 or 201 with the resource for a PUT, 202 without a body for DELETE and POST.

    Usage: `operation = tx.operations.start(call.workspace, resource.id, "create")` within the write, `return accepted(call, operation, body)` after it,
    and in an engine `tx.operations.succeed(resource.id)` or `tx.operations.fail(resource.id, code, message)`.
    """
    headers = {
        "Azure-AsyncOperation": call.absolute(_path(call, "operationsStatus", operation), **_version(call)),
        "Location": call.absolute(_path(call, "operationResults", operation), **_version(call)),
        **_RETRY,
    }
    if body is None:
        return Answer(None, 202, headers)
    # With a Location the SDK's PUT polling would look there in place of the resource.
    return Answer(body, 201 if created else 200, {name: value for name, value in headers.items() if name != "Location"})


async def _asked(call: Call) -> Operation:
    """The operation in the path, whose address names no workspace: the role that counts is the one on the operation's own."""
    operation = await call.services.store.read(lambda tx: tx.operations.get(call.names["operation"]))
    require(call.user, Action.READ, operation.workspace)
    return operation


async def _status(call: Call) -> Answer:
    operation = await _asked(call)
    body: Manifest = {
        "id": call.path,
        "name": operation.id,
        "status": operation.status.value,
        "startTime": rfc3339_micro(operation.created_at),
    }
    if operation.finished_at:
        body["endTime"] = rfc3339_micro(operation.finished_at)
    if operation.status is OperationStatus.FAILED:
        body["error"] = _error(operation)
    return Answer(body, 200, _RETRY)


async def _result(call: Call) -> Answer:
    operation = await _asked(call)
    match operation.status:
        case OperationStatus.IN_PROGRESS:
            location = call.absolute(_path(call, "operationResults", operation), **_version(call))
            return Answer(None, 202, {"Location": location, **_RETRY})
        case OperationStatus.FAILED:
            return Answer({"error": _error(operation)}, 409, _RETRY)
        case _:
            return Answer(None, 204, _RETRY)


def _error(operation: Operation) -> Manifest:
    return {"code": operation.error_code, "message": operation.error_message, "details": []}


def _path(call: Call, kind: str, operation: Operation) -> str:
    location = LOCATION.replace("{subscription}", call.workspace.subscription).replace("{location}", call.services.settings.location)
    return f"{location}/{kind}/{operation.id}"


def _version(call: Call) -> dict[str, str]:
    version = call.query.get("api-version")
    return {"api-version": version} if version else {}


ROUTES = (
    Route("GET", LOCATION + "/operationsStatus/{operation}", _status, by_user=True),
    Route("GET", LOCATION + "/operationResults/{operation}", _result, by_user=True),
)
