"""A served cluster on a free loopback port, an HTTP client for it, and the stock kubectl."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from moorage.embedded import kubeconfig
from moorage.embedded.local import LocalCluster, open_cluster
from moorage.embedded.serve import serve_api
from moorage.identity.pki import Authority, ServerCertificate, ensure_authority, ensure_server_certificate


@dataclass(frozen=True)
class Keys:
    authority: Authority
    certificate: ServerCertificate


@dataclass(frozen=True)
class Served:
    cluster: LocalCluster
    url: str
    kubeconfig: Path
    context: ssl.SSLContext


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Kubectl = Callable[..., Awaitable[Ran]]
DEADLINE = 90


class Client:
    """A kubectl that goes on while the test does."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        self.process = process
        self.out = process.stdout

    async def line(self) -> str:
        return (await asyncio.wait_for(self.out.readline(), DEADLINE)).decode().strip()

    async def type(self, text: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        await self.process.stdin.drain()

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), DEADLINE)


Begin = Callable[..., "asyncio.Future[Client]"]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("pki")
    authority = ensure_authority(folder)
    return Keys(authority, ensure_server_certificate(authority, folder, "api", ["127.0.0.1", "localhost"]))


@pytest.fixture
async def served(keys: Keys, tmp_path: Path) -> AsyncIterator[Served]:
    cluster = await open_cluster(tmp_path / "state.db")
    async with serve_api(cluster, keys.certificate) as serving:
        path = tmp_path / "kubeconfig"
        kubeconfig.write(path, serving.url, keys.authority.pem, cluster.tokens.admin_token)
        context = ssl.create_default_context(cafile=str(keys.authority.certificate_path))
        yield Served(cluster, serving.url, path, context)
    await cluster.close()


@pytest.fixture
async def http(served: Served) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"authorization": f"Bearer {served.cluster.tokens.admin_token}"}
    async with httpx2.AsyncClient(base_url=served.url, verify=served.context, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture
def kubectl(served: Served, tmp_path: Path) -> Kubectl:
    """Runs kubectl; the loop goes on serving meanwhile. A non-zero exit fails the test unless `code` says otherwise."""
    binary = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or pytest.skip("kubectl is not in this environment")
    environment = {**os.environ, "KUBECONFIG": str(served.kubeconfig), "HOME": str(tmp_path)}

    async def run(*arguments: str, stdin: str | None = None, code: int = 0) -> Ran:
        process = await asyncio.create_subprocess_exec(
            str(binary),
            *arguments,
            env=environment,
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin.encode() if stdin is not None else None)
        ran = Ran(process.returncode or 0, out.decode(), err.decode())
        assert ran.code == code, ran
        return ran

    return run


@pytest.fixture
async def begin(served: Served, tmp_path: Path) -> AsyncIterator[Begin]:
    """Starts kubectl and hands it over running; what is left of it ends with the test."""
    binary = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or pytest.skip("kubectl is not in this environment")
    started: list[asyncio.subprocess.Process] = []

    async def run(*arguments: str, environment: dict[str, str] | None = None) -> Client:
        pipe = asyncio.subprocess.PIPE
        env = {**os.environ, "KUBECONFIG": str(served.kubeconfig), "HOME": str(tmp_path), **(environment or {})}
        process = await asyncio.create_subprocess_exec(
            binary, *arguments, env=env, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        started.append(process)
        return Client(process)

    yield lambda *arguments, **named: asyncio.ensure_future(run(*arguments, **named))
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()
