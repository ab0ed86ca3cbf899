"""Creates a second and the time to list 2,000 pods over HTTPS on the embedded API, with the server in a process of its own.

python benchmarks/embedded_api.py [--pods 2000] [--clients 8]
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import ssl
import statistics
import sys
import tempfile
import time
from pathlib import Path

import orjson

from moorage.embedded.local import open_cluster
from moorage.embedded.serve import serve_api
from moorage.identity.pki import ensure_authority, ensure_server_certificate

PODS = "/api/v1/namespaces/default/pods"


def pod(name: str) -> dict[str, object]:
    container = {
        "name": "main",
        "image": "example.org/image:1",
        "command": ["/bin/sh", "-c", "exec python train.py"],
        "env": [{"name": f"V{index}", "value": "x" * 20} for index in range(10)],
        "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}},
        "volumeMounts": [{"name": "work", "mountPath": "/work"}],
    }
    spec = {"containers": [container], "volumes": [{"name": "work", "emptyDir": {}}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}}, "spec": spec}


async def serve(folder: Path) -> None:
    authority = ensure_authority(folder)
    certificate = ensure_server_certificate(authority, folder, "api", ["127.0.0.1"])
    cluster = await open_cluster(folder / "state.db")
    async with serve_api(cluster, certificate) as serving:
        print(serving.url, cluster.tokens.admin_token, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"server: {used.ru_utime + used.ru_stime:.1f} s CPU, {used.ru_maxrss / 1024:.0f} MB at most", flush=True)
    await cluster.close()


class Connection:
    """One keep-alive connection with no more client than the measurement needs: a full HTTP client costs more than the server it measures."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader, self._writer = reader, writer
        self._common = f"host: localhost\r\nauthorization: Bearer {token}\r\n"

    async def request(self, method: str, body: bytes = b"", accept: str = "application/json") -> bytes:
        head = f"{method} {PODS} HTTP/1.1\r\n{self._common}accept: {accept}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        assert answer.split(b" ", 2)[1] in (b"200", b"201"), answer
        size = int(answer.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return await self._reader.readexactly(size)

    def close(self) -> None:
        self._writer.close()


async def measure(url: str, token: str, authority: Path, pods: int, clients: int) -> None:
    context = ssl.create_default_context(cafile=str(authority))
    host, port = url.removeprefix("https://").split(":")
    names = iter(range(pods))

    async def connect() -> Connection:
        return Connection(*await asyncio.open_connection(host, int(port), ssl=context, limit=1 << 26), token)

    async def create() -> None:
        connection = await connect()
        for index in names:
            await connection.request("POST", orjson.dumps(pod(f"p-{index}")))
        connection.close()

    start = time.perf_counter()
    await asyncio.gather(*(create() for _ in range(clients)))
    print(f"creates: {pods / (time.perf_counter() - start):.0f} a second ({pods} pods, {clients} clients)")
    connection = await connect()
    for label, accept in (("objects", "application/json"), ("table", "application/json;as=Table;v=v1;g=meta.k8s.io")):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            body = await connection.request("GET", accept=accept)
            times.append(time.perf_counter() - start)
        print(f"list of {pods} pods as {label}: {statistics.median(times):.3f} s, {len(body) / 1e6:.1f} MB")
    connection.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        await serve(options.serve)
        return
    with tempfile.TemporaryDirectory() as folder:
        pipe = asyncio.subprocess.PIPE
        server = await asyncio.create_subprocess_exec(sys.executable, __file__, "--serve", folder, stdin=pipe, stdout=pipe)
        assert server.stdout is not None
        url, token = (await server.stdout.readline()).decode().split()
        await measure(url, token, Path(folder) / "ca.pem", options.pods, options.clients)
        out, _ = await server.communicate(b"\n")
        print(out.decode(), end="")


if __name__ == "__main__":
    asyncio.run(main())
