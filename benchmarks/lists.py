"""Lists of the workspace service on SQLite with 1,000 and 10,000 jobs: CPU time of the service for one answer, without HTTP around it.

The store is filled directly, in states as a workspace has them after a while: most jobs have ended, each tenth waits, each tenth runs. With `PYTHONPATH` the same
is measured of another version: `PYTHONPATH=OTHER/src .venv/bin/python benchmarks/lists.py`.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from table import Row

SIZES = (1_000, 10_000)
ROUNDS = 7
LISTS = {
    "page of 200 jobs": "jobs?$top=200",
    "page of 200 failed jobs": "jobs?$top=200&status=Failed",
    "page of 20 jobs of one experiment": "jobs?$top=20&experimentName=e37",
    "page of 1 job by a tag that none has": "jobs?$top=1&tag=none",
    "jobs of a status that there is not": "jobs?status=NoSuch",
    "page of 200 models": "models",
    "page of 200 versions of one environment": "environments/e/versions",
    "the only version of one model": "models/m3/versions",
    "a job": "jobs/j7",
}
_STATUSES = ["Completed"] * 6 + ["Failed", "Canceled", "Running", "Queued"]


def measure() -> Iterator[Row]:
    for size in SIZES:
        with tempfile.TemporaryDirectory(prefix="moorage-bench-") as folder:
            yield from asyncio.run(_of_size(Path(folder), size))


async def _of_size(home: Path, size: int) -> list[Row]:
    from moorage.identity.roles import Role
    from moorage.ids import Workspace
    from moorage.server.app import create_app
    from moorage.server.engine.jobs import retire
    from moorage.server.services import open_services
    from moorage.server.settings import Settings
    from moorage.store import ResourceKey

    workspace = Workspace("s", "g", "w1")
    async with open_services(Settings(home=home, subscription="s", resource_group="g", workspace="w1")) as services:
        for first in range(0, size, 1000):
            await services.store.write(lambda tx, first=first: _fill(tx, range(first, min(first + 1000, size))))  # type: ignore[misc]
        app, token = create_app(services), services.tokens.issue_user("bench", {"/": Role.OWNER}, timedelta(hours=1))
        rows = []
        for name, path in LISTS.items():
            scope = _scope(f"{workspace.id}/{path}", token)
            rows.append((f"{size} jobs: {name}", _figure([await _asked(app, scope) for _ in range(ROUNDS)])))
        works: dict[str, Callable[[Any], object]] = {
            "what a job wants of its cluster": lambda tx: tx.desired.of_owner(ResourceKey(workspace, "jobs", "j8")),
            "a look for jobs to take off the cluster": lambda tx: retire(tx, timedelta(days=1)),
        }
        for name, work in works.items():
            rows.append(
                (
                    f"{size} jobs: {name}",
                    _figure([await services.store.read(lambda tx, work=work: _timed(work, tx)) for _ in range(ROUNDS)]),
                )
            )  # type: ignore[misc]
        return rows


def _figure(seconds: list[float]) -> str:
    return f"{min(seconds) * 1000:8.2f} ms CPU"


def _timed(work: Callable[[Any], object], tx: Any) -> float:
    before = time.process_time()
    work(tx)
    return time.process_time() - before


async def _asked(app: Any, scope: dict[str, Any]) -> float:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    before = time.process_time()
    await app(dict(scope), receive, send)
    took = time.process_time() - before
    assert sent[0]["status"] == 200, sent
    return took


def _scope(target: str, token: str) -> dict[str, Any]:
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {token}".encode())],
        "server": ("localhost", 80),
    }


def _fill(tx: Any, numbers: range) -> None:
    """Jobs as submitted and reported, each with its object; for each tenth a model of one version and a version of one environment."""
    from moorage.ids import Workspace
    from moorage.store import DesiredOwner, ObjectName, ResourceKey

    workspace = Workspace("s", "g", "w1")
    if numbers.start == 0:
        tx.clusters.put("c", "/subscriptions/s/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c", {})
        tx.resources.create(
            ResourceKey(workspace, "environments", "e"), {"properties": {}}, state={"latestVersion": "1", "nextVersion": "2"}
        )
    for number in numbers:
        name, status = f"j{number}", _STATUSES[number % len(_STATUSES)]
        object = ObjectName("TrainingJob", "default", f"{name}-{number:08x}")
        tx.resources.create(
            ResourceKey(workspace, "jobs", name), _body(workspace.id, number), state=_state(workspace.id, number, status, object.name)
        )
        tx.desired.apply("c", object, _manifest(object.name, workspace.id), DesiredOwner(workspace, "jobs", name))
        if status not in ("Running", "Queued"):
            tx.desired.remove("c", object)
        if number % 10 == 3:
            model = {
                "modelUri": f"azureml://datastores/d/paths/{number}",
                "modelType": "custom_model",
                "tags": {},
                "properties": {},
                "flavors": {},
            }
            tx.resources.create(
                ResourceKey(workspace, "models", f"m{number}"), {"properties": {}}, state={"latestVersion": "1", "nextVersion": "2"}
            )
            tx.resources.create(ResourceKey(workspace, "models/versions", "1", f"m{number}"), {"properties": model})
            tx.resources.create(ResourceKey(workspace, "environments/versions", str(number), "e"), {"properties": {"image": "python:3.11"}})


def _body(workspace: str, number: int) -> Any:
    return {
        "properties": {
            "jobType": "Command",
            "command": "python train.py --lr ${{inputs.lr}} --out ${{outputs.model}}",
            "environmentId": f"{workspace}/environments/e/versions/1",
            "computeId": f"{workspace}/computes/local",
            "inputs": {"lr": {"jobInputType": "literal", "value": "0.1"}},
            "outputs": {"model": {"jobOutputType": "custom_model"}},
            "tags": {"owner": f"u{number % 50}", "project": "digits"},
            "experimentName": f"e{number % 50}",
            "displayName": f"job {number}",
        }
    }


def _state(workspace: str, number: int, status: str, object: str) -> Any:
    ended = status not in ("Running", "Queued")
    run = {
        "status": status,
        "reason": "UserCodeFailed" if status == "Failed" else "",
        "message": "Traceback (most recent call last):\n" * 10 if status == "Failed" else "",
        "startTime": None if status == "Queued" else "2026-11-01T10:00:00Z",
        "endTime": "2026-11-01T10:01:00Z" if ended else None,
        "exitCode": {"Completed": 0, "Failed": 1}.get(status),
        "logs": ["user_logs/std_log.txt"] if ended else [],
        "event": "",
        "pods": [{"name": f"{object}-0-abcde", "node": "n", "phase": "Succeeded", "exitCode": 0}] if ended else [],
        "notices": [],
    }
    return {
        "run": run,
        "cluster": "c",
        "compute": "local",
        "object": {"kind": "TrainingJob", "namespace": "default", "name": object},
        "instanceType": "defaultinstancetype",
        "environment": "e:1",
        "outputs": {"model": f"0123abcd-artifact/ExperimentRun/dcid.j{number}/outputs/model"},
        "artifacts": f"0123abcd-artifact/ExperimentRun/dcid.j{number}",
        "experiment": f"e{number % 50}",
    }


def _manifest(name: str, workspace: str) -> Any:
    labels = {f"ml.azure.com/{each}": "w1" for each in ("workspace", "resource-group", "compute")}
    spec = {
        "command": "python train.py --lr 0.1 --out /mnt/azureml/outputs/model",
        "environment": {"name": "e:1", "image": "python:3.11", "hash": "0" * 40},
        "resources": {"limits": {"cpu": "1", "memory": "2Gi"}},
        "outputs": [{"name": "model", "uri": f"0123abcd-artifact/ExperimentRun/dcid.{name}/outputs/model", "kind": "folder"}],
        "variables": {f"AZUREML_{each}": workspace for each in ("ARM_WORKSPACE_NAME", "ARM_SUBSCRIPTION", "ARM_RESOURCEGROUP", "RUN_ID")},
    }
    metadata = {"name": name, "namespace": "default", "labels": labels}
    return {"apiVersion": "moorage.dev/v1alpha1", "kind": "TrainingJob", "metadata": metadata, "spec": spec}


if __name__ == "__main__":
    for row in measure():
        print(*row, sep="  ")
