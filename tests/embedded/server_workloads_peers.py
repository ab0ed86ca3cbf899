"""Peers for the tests of workloads: the service on a loopback port, a user, and an agent that speaks the gateway protocol as a cluster would."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import uvicorn

from moorage import clock
from moorage.clock import Clock
from moorage.identity.roles import Role
from moorage.ids import Workspace, kube_name
from moorage.server.app import create_app, running_engines
from moorage.server.services import Services, open_services
from moorage.server.settings import Settings

WS = Workspace("s1", "g1", "w1")
CLUSTER = "/subscriptions/s1/resourceGroups/g1/providers/Microsoft.Kubernetes/connectedClusters/c1"
OTHER_CLUSTER = CLUSTER.replace("/c1", "/c2")
PATIENCE = 90.0


@dataclass
class Service:
    """One life of the service."""

    services: Services
    url: str
    user: httpx2.AsyncClient

    async def call(self, method: str, path: str, body: Any = None, *, status: int | tuple[int, ...] = 200, **options: Any) -> Any:
        """A user's request below the workspace; its JSON."""
        target = path if path.startswith("/") else f"{WS.id}/{path}"
        answer = await self.user.request(method, target, json=body, **options)
        expected = status if isinstance(status, tuple) else (status,)
        assert answer.status_code in expected, f"{method} {target}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def operation(self, method: str, path: str, body: Any = None) -> str:
        """Start a long-running operation; the address of its status."""
        answer = await self.user.request(method, f"{WS.id}/{path}", json=body)
        assert answer.status_code in (200, 201, 202), answer.text
        assert answer.headers["retry-after"] == "1"
        return str(answer.headers["azure-asyncoperation"]).replace(self.url, "")

    async def ended(self, operation: str) -> Any:
        """Wait for the end of an operation; its last status."""
        with self.services.store.changes.subscribe("operations") as bell:
            while True:
                status = await self.call("GET", operation)
                if status["status"] != "InProgress":
                    return status
                assert await bell.wait(timedelta(seconds=PATIENCE)), f"still in progress: {operation}"

    async def seed(self) -> None:
        """An environment, code, a model and some data, as a client would have made them."""
        blobs, key = self.services.blobs, await self._container("workspaceblobstore")
        await blobs.put(key, "data/in.csv", b"1,2\n")
        await blobs.put(key, "model/model.pkl", b"x")
        code = key.replace("-blob", "-code-1111")
        await blobs.put(code, "src/train.py", b"print()")
        await blobs.put(code, "src/score.py", b"def run(x): ...")
        await self.call("PUT", "environments/e/versions/1", {"properties": {"image": "img:1"}}, status=201)
        await self.call("PUT", "codes/c/versions/1", {"properties": {"codeUri": f"{self.url}/blobstore/{code}/src"}}, status=201)
        model = {"modelType": "custom_model", "modelUri": "azureml://datastores/workspaceblobstore/paths/model/model.pkl"}
        await self.call("PUT", "models/m/versions/1", {"properties": model}, status=201)

    async def _container(self, datastore: str) -> str:
        return str((await self.call("GET", f"datastores/{datastore}"))["properties"]["containerName"])

    async def agent(self, cluster: str = CLUSTER) -> Agent:
        """Register a cluster (again) and get its agent, which has not connected yet."""
        await self.call("PUT", cluster, {"location": "local", "properties": {}}, status=(200, 201))
        grant = await self.call("POST", f"{cluster}/issueAgentToken")
        return Agent(self.url, grant["registration"], grant["token"])

    async def attached(self, name: str = "local", *, cluster: str = CLUSTER) -> Agent:
        """A connected agent whose cluster is attached."""
        agent = await self.agent(cluster)
        await agent.report(inventory())
        status = await self.ended(await self.operation("PUT", f"computes/{name}", compute_body(cluster)))
        assert status["status"] == "Succeeded", status
        return agent


def compute_body(cluster: str = CLUSTER, namespace: str = "ml") -> Any:
    return {"location": "local", "properties": {"computeType": "Kubernetes", "resourceId": cluster, "properties": {"namespace": namespace}}}


def job_body(**changes: Any) -> Any:
    properties: dict[str, Any] = {
        "jobType": "Command",
        "command": "python train.py --data ${{inputs.data}} --out ${{outputs.out}}",
        "environmentId": WS.child("environments", "e", "versions", "1"),
        "codeId": WS.child("codes", "c", "versions", "1"),
        "computeId": WS.child("computes", "local"),
        "inputs": {"data": {"jobInputType": "uri_file", "uri": "azureml://datastores/workspaceblobstore/paths/data/in.csv"}},
        "outputs": {"out": {"jobOutputType": "uri_folder"}},
        "_source": "SDK",
    }
    return {"properties": {**properties, **changes}}


def endpoint_body(**changes: Any) -> Any:
    return {"location": "local", "properties": {"authMode": "Key", "compute": WS.child("computes", "local"), **changes}}


def deployment_body(**changes: Any) -> Any:
    properties: dict[str, Any] = {
        "model": WS.child("models", "m", "versions", "1"),
        "environmentId": WS.child("environments", "e", "versions", "1"),
        "codeConfiguration": {"codeId": WS.child("codes", "c", "versions", "1"), "scoringScript": "score.py"},
    }
    return {"location": "local", "sku": {"name": "Default", "capacity": 2}, "properties": {**properties, **changes}}


def inventory(version: str = "v1.37.0", router: str = "http://127.101.0.7:80") -> Any:
    small = {"apiVersion": "amlarc.azureml.com/v1alpha1", "kind": "InstanceType", "metadata": {"name": "small"}}
    return {
        "kind": "inventory",
        "kubernetesVersion": version,
        "agentVersion": "0.1.0",
        "nodes": [{"name": "n1", "ready": True, "allocatable": {"cpu": "2"}}],
        "instanceTypes": [{**small, "spec": {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}}],
        "routerUrl": router,
    }


@dataclass
class Agent:
    """The protocol's other side. `objects` is what its cluster holds; `generations` count the specs it was given."""

    url: str
    registration: str
    token: str
    objects: dict[str, Any] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    deleted: list[Any] = field(default_factory=list)
    asks: list[Any] = field(default_factory=list)
    resets: int = 0
    revision: int | None = None
    instance: str = field(default_factory=lambda: uuid4().hex)
    sequence: int = 0
    _heard: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def base(self) -> str:
        return f"{self.url}/gateway/v1/clusters/{self.registration}"

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Agent]:
        """Read the stream for as long as the context lasts."""
        task = asyncio.create_task(self._read())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _read(self) -> None:
        query = "" if self.revision is None else f"?since={self.revision}"
        async with self._client() as client, client.stream("GET", f"{self.base}/desired{query}", timeout=None) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line:
                    async with self._heard:
                        self._hear(json.loads(line))
                        self._heard.notify_all()

    def _hear(self, event: Any) -> None:
        match event["type"]:
            case "RESET":
                self.resets += 1
                self.objects.clear()
            case "APPLY":
                name = event["object"]["metadata"]["name"]
                if self.objects.get(name, {}).get("spec") != event["object"]["spec"]:
                    self.generations[name] = self.generations.get(name, 0) + 1
                self.objects[name] = event["object"]
                self.revisions[name] = event["revision"]
            case "DELETE":
                self.objects.pop(event["key"]["name"], None)
                self.deleted.append(event["key"])
            case "SYNCED":
                self.revision = event["revision"]
            case "ASK":
                self.asks.append(event["ask"])

    async def until(self, holds: Callable[[Agent], bool]) -> None:
        async with self._heard, asyncio.timeout(PATIENCE):
            await self._heard.wait_for(lambda: holds(self))

    async def has(self, *names: str) -> Any:
        """Wait until the cluster was given the object of a job, endpoint or deployment; the object."""
        name = kube_name(WS, *names)
        await self.until(lambda agent: name in agent.objects)
        return self.objects[name]

    async def report(self, *reports: Any, sequence: int | None = None, instance: str | None = None) -> Any:
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        return await self.post("reports", {"instance": instance or self.instance, "sequence": sequence, "reports": list(reports)})

    async def post(self, path: str, body: Any) -> Any:
        async with self._client() as client:
            answer = await client.post(f"{self.base}/{path}", **({"content": body} if isinstance(body, bytes) else {"json": body}))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def status(self, object: Any, status: Any, *, logs_complete: bool = False, generation: int | None = None) -> Any:
        name = object["metadata"]["name"]
        generation = generation or self.generations.get(name, 1)
        return {
            "kind": "status",
            "key": key_of(object),
            "uid": f"uid-{name}",
            "generation": generation,
            "status": {"observedGeneration": generation, **status},
            "logsComplete": logs_complete,
        }

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(headers={"Authorization": f"Bearer {self.token}"}, trust_env=False, timeout=PATIENCE)


def key_of(object: Any) -> Any:
    return {"kind": object["kind"], "namespace": object["metadata"]["namespace"], "name": object["metadata"]["name"]}


def gone(key: Any) -> Any:
    return {"kind": "gone", "key": key}


def log(object: Any, text: bytes, offset: int, stream: str = "user_logs/std_log.txt") -> Any:
    return {"kind": "log", "key": key_of(object), "stream": stream, "offset": offset, "data": base64.b64encode(text).decode()}


@asynccontextmanager
async def running(home: Path, database: str = "", *, now: Clock = clock.now, **settings: Any) -> AsyncIterator[Service]:
    """The service from start to stop, on whatever the state folder holds."""
    chosen = Settings(home=home, database_url=database, subscription="s1", resource_group="g1", workspace="w1", **settings)
    async with open_services(chosen, now=now) as services, running_engines(services):
        server = uvicorn.Server(
            uvicorn.Config(create_app(services), host="127.0.0.1", port=0, lifespan="off", log_config=None, access_log=False)
        )
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        token = services.tokens.issue_user("tester", {"/": Role.OWNER}, timedelta(hours=1))
        try:
            async with httpx2.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=90) as user:
                yield Service(services, url, user)
        finally:
            services.store.changes.close()
            server.should_exit = True
            await task
