"""kill -9 in the middle of writing loses nothing that was acknowledged."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from moorage.embedded.local import open_cluster
from moorage.kube.kinds import CONFIG_MAP

WRITER = """
import asyncio, sys
from pathlib import Path
from moorage.embedded.local import open_cluster
from moorage.kube.kinds import CONFIG_MAP

async def write(cluster, worker):
    for index in range(100_000):
        made = await cluster.create(CONFIG_MAP, {"metadata": {"name": f"c-{worker}-{index}", "namespace": "default"}})
        print(made["metadata"]["name"], made["metadata"]["resourceVersion"], flush=True)
        if index % 3 == 0:
            await cluster.delete(CONFIG_MAP, made["metadata"]["name"], "default")
            print("-" + made["metadata"]["name"], 0, flush=True)

async def main():
    cluster = await open_cluster(Path(sys.argv[1]))
    await asyncio.gather(*(write(cluster, worker) for worker in range(4)))

asyncio.run(main())
"""


async def test_every_acknowledged_write_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, str(path), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    acknowledged = [(await process.stdout.readline()).decode() for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    # A last line may be cut in two by the kill; what is whole was acknowledged.
    acknowledged += [line for line in (await process.stdout.read()).decode().splitlines(keepends=True) if line.endswith("\n")]
    await process.wait()

    cluster = await open_cluster(path)
    stored = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in (await cluster.list(CONFIG_MAP, "default")).items}
    highest = 0
    lines = [line.split() for line in acknowledged]
    deleted = {name[1:] for name, _ in lines if name.startswith("-")}
    for name, version in lines:
        if name.startswith("-"):
            assert name[1:] not in stored
        elif name not in deleted and int(name.rpartition("-")[2]) % 3:
            assert stored[name] == version
        highest = max(highest, int(version))
    fresh = await cluster.create(CONFIG_MAP, {"metadata": {"name": "after", "namespace": "default"}})
    assert int(fresh["metadata"]["resourceVersion"]) > highest
    await cluster.close()
