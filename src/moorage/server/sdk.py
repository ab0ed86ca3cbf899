"""Which SDK asks: before 1.35 its generated clients were of another kind, and read some answers otherwise (each place that looks says what)."""

from __future__ import annotations

import re

from moorage.server.arm import Answer, Call
from moorage.server.operations import accepted
from moorage.store import Operation, Resource, Transaction

_VERSION = re.compile(r"azure-ai-ml/1\.(\d+)\.")
_CHANGED = 35
# How its client of a registry called itself until then; the SDK's own name is missing there.
_OLD_REGISTRY_CLIENT = "azsdk-python-mgmt-machinelearningservices/0.1.0"


def is_old(call: Call) -> bool:
    """Whether the request comes from azure-ai-ml before 1.35."""
    agent = call.request.headers.get("user-agent", "")
    found = _VERSION.search(agent)
    return int(found[1]) < _CHANGED if found else agent.startswith(_OLD_REGISTRY_CLIENT)


def conclude(tx: Transaction, call: Call, resource: Resource) -> Operation | None:
    """An operation that has ended already, for the old SDK; None for others, which need none."""
    if not is_old(call):
        return None
    operation = tx.operations.start(call.workspace, resource.id, "create")
    tx.operations.succeed(resource.id)
    return operation


def through(call: Call, operation: Operation | None, answer: Answer) -> Answer:
    """The answer to a PUT, for the old SDK with an operation to ask first.

    It reads the body of an answer twice where there is no operation, and has taken the names of its types out by the second time.
    """
    if operation is None or answer.body is None:
        return answer
    headers = accepted(call, operation, answer.body).headers
    return Answer(answer.body, answer.status, {**answer.headers, **headers})
