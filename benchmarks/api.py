"""The workspace service's API: jobs submitted and read a second, on SQLite and on PostgreSQL, against a server that does nothing.

Plain HTTP on loopback, service and load in processes of their own, both databases as they are used (every commit is on disk). Every PUT is a new job: its body
is checked, its references are resolved, and job, operation and the cluster's wish are one transaction.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import processes
from table import Row

HERE = Path(__file__).parent
CLIENTS = 8
PUTS, GETS = 300, 2000
_NOBODY = 65534
WORKSPACE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w1"
CLUSTER = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c"


def measure() -> Iterator[Row]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moorage-bench-")))
        idle = _baseline(stack)
        yield "a server that does nothing (httptools on uvloop), GET", f"{idle:8.0f} a second"
        databases: list[tuple[str, str]] = [("SQLite", f"sqlite:///{folder / 'moorage.db'}")]
        if (server := stack.enter_context(_postgres())) is not None:
            databases.append(("PostgreSQL", f"postgresql://moorage@/postgres?host={quote(server, safe='')}"))
        for name, database in databases:
            yield from _of_database(name, database, folder / name, idle)


def _baseline(stack: ExitStack) -> float:
    server = stack.enter_context(
        subprocess.Popen(processes.python(str(HERE / "backend.py")), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    stack.callback(server.kill)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    return asyncio.run(_load(port, GETS, lambda number: _request("GET", "/", "")))


def _of_database(name: str, database: str, home: Path, idle: float) -> Iterator[Row]:
    home.mkdir()
    environment = os.environ | {"MOORAGE_DATABASE_URL": database, "MOORAGE_HOME": str(home)}
    service = subprocess.Popen(
        processes.python(str(HERE / "api.py"), "--serve"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert service.stdout is not None
        port, token = service.stdout.readline().split()
        _prepare(f"http://127.0.0.1:{port}", token)
        before = processes.cpu([service.pid])
        puts = asyncio.run(_load(int(port), PUTS, lambda number: _request("PUT", f"{WORKSPACE}/jobs/j{number}", token, _job())))
        between = processes.cpu([service.pid])
        gets = asyncio.run(_load(int(port), GETS, lambda number: _request("GET", f"{WORKSPACE}/jobs/j{number % PUTS}", token)))
        after = processes.cpu([service.pid])
        lists = asyncio.run(_load(int(port), 20, lambda number: _request("GET", f"{WORKSPACE}/jobs?$top=200", token)))
    finally:
        service.kill()
        service.wait()
        for pipe in (service.stdin, service.stdout):
            if pipe is not None:
                pipe.close()
    yield f"{name}: PUT of a new job, {CLIENTS} clients", _figure(puts, idle, (between - before) / PUTS)
    yield f"{name}: GET of a job, {CLIENTS} clients", _figure(gets, idle, (after - between) / GETS)
    yield f"{name}: pages of 200 jobs", f"{lists:8.1f} a second"


def _figure(rate: float, idle: float, seconds: float) -> str:
    return f"{rate:8.0f} a second, {idle / rate:.0f} times slower than nothing, {seconds * 1000:.2f} ms CPU each"


def _prepare(url: str, token: str) -> None:
    """A compute with a cluster behind it and an environment, as a client and an agent make them."""
    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=60) as http:

        def call(method: str, path: str, body: Any = None, **headers: str) -> Any:
            answer = http.request(method, path, json=body if body is not None else {}, headers=headers)
            assert answer.status_code < 300, answer.text
            return answer.json()

        call("PUT", CLUSTER, {"location": "local", "properties": {}})
        granted = call("POST", f"{CLUSTER}/issueAgentToken")
        inventory = {
            "kind": "inventory",
            "kubernetesVersion": "v1.37.0",
            "agentVersion": "0.1.0",
            "nodes": [{"name": "n", "ready": True, "allocatable": {"cpu": "4"}}],
        }
        batch = {"instance": "bench", "sequence": 1, "reports": [inventory]}
        call("POST", f"/gateway/v1/clusters/{granted['registration']}/reports", batch, Authorization=f"Bearer {granted['token']}")
        target = {"computeType": "Kubernetes", "resourceId": CLUSTER, "properties": {"namespace": "default"}}
        call("PUT", f"{WORKSPACE}/computes/local", {"location": "local", "properties": target})
        while call("GET", f"{WORKSPACE}/computes/local")["properties"]["provisioningState"] != "Succeeded":
            time.sleep(0.05)
        call("PUT", f"{WORKSPACE}/environments/e/versions/1", {"properties": {"image": "python:3.11"}})


def _job() -> bytes:
    properties = {
        "jobType": "Command",
        "command": "python train.py --lr ${{inputs.lr}} --out ${{outputs.model}}",
        "environmentId": f"{WORKSPACE}/environments/e/versions/1",
        "computeId": f"{WORKSPACE}/computes/local",
        "inputs": {"lr": {"jobInputType": "literal", "value": "0.1"}},
        "outputs": {"model": {"jobOutputType": "custom_model"}},
        "tags": {"owner": "ann", "project": "digits"},
        "experimentName": "bench",
    }
    return json.dumps({"properties": properties}).encode()


def _request(method: str, path: str, token: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _load(port: int, count: int, request: Callable[[int], bytes]) -> float:
    """Requests a second over keep-alive connections, each of which asks again when it was answered."""
    numbers = iter(range(count))

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
        for number in numbers:
            writer.write(request(number))
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(answer.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(size)
            assert answer.split(b" ", 2)[1] in (b"200", b"201"), body
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(CLIENTS)))
    return count / (time.perf_counter() - began)


@contextmanager
def _postgres() -> Iterator[str | None]:
    """The socket folder of a private server, from the binaries of `pgserver` or the system; None where there are none."""
    spec = importlib.util.find_spec("pgserver")
    shipped = Path(str(spec.origin)).parent / "pginstall" / "bin" if spec and spec.origin else None
    found = shutil.which("initdb")
    binaries = shipped if shipped and (shipped / "initdb").is_file() else Path(found).parent if found else None
    if binaries is None:
        yield None
        return
    # It refuses to run as root.
    identity: dict[str, Any] = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="moorage-pg-"))
    try:
        if identity:
            os.chown(folder, _NOBODY, _NOBODY)
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(folder)}
        make = [binaries / "initdb", "-D", folder / "data", "-U", "moorage", "-A", "trust", "-E", "UTF8"]
        subprocess.run(make, check=True, capture_output=True, env=environment, cwd=folder, **identity)
        server = subprocess.Popen(
            [binaries / "postgres", "-D", folder / "data", f"-k{folder}", "-clisten_addresses="],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=folder,
            **identity,
        )
        try:
            deadline = time.monotonic() + 60
            while subprocess.run([binaries / "pg_isready", "-h", folder, "-q"], env=environment, check=False).returncode:
                if time.monotonic() > deadline:
                    raise SystemExit("PostgreSQL did not start")
                time.sleep(0.1)
            yield str(folder)
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _serve() -> None:
    """The service without TLS; prints its port and an owner's token, and ends with whoever started it."""
    import uvicorn

    from moorage.identity.roles import Role
    from moorage.server.app import create_app, running_engines
    from moorage.server.services import open_services
    from moorage.server.settings import Settings

    async with open_services(Settings(subscription="s", resource_group="g", workspace="w1")) as services, running_engines(services):
        config = uvicorn.Config(create_app(services), port=0, lifespan="off", log_config=None, access_log=False, http="httptools")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has nothing else to wait for
            await asyncio.sleep(0.01)
        token = services.tokens.issue_user("bench", {"/": Role.OWNER}, timedelta(hours=1))
        print(server.servers[0].sockets[0].getsockname()[1], token, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        server.should_exit = True
        await task


if __name__ == "__main__":
    if "--serve" in sys.argv[1:]:
        import uvloop

        uvloop.run(_serve())
    else:
        for row in measure():
            print(*row, sep="  ")
