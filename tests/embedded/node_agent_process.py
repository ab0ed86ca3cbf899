"""A node agent in a process of its own, for tests that kill it: `python node_agent_process.py STATE FOLDER [INTERPRETER]`; says `ready` once it runs.

INTERPRETER runs the shims in place of this one's."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from moorage.embedded.local import open_cluster
from moorage.embedded.node.run import Nodes
from moorage.embedded.tokens import open_issuer


async def main(state: Path, folder: Path) -> None:
    cluster = await open_cluster(state)
    nodes = Nodes(cluster, open_issuer(None), names=["n1"], folder=folder, api=("127.0.0.1", 6550), ca=b"CA")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(nodes.run())
        await nodes.ready.wait()
        print("ready", flush=True)


if len(sys.argv) > 3:
    sys.executable = sys.argv[3]
asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
