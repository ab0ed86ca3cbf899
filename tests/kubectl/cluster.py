"""`python -m tests.kubectl.cluster FOLDER`: an embedded cluster with two nodes on a free port, in a process of its own, until its input ends."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from moorage.cli.run import log_to_stderr
from moorage.embedded import kubeconfig
from moorage.embedded.control.run import run_controllers
from moorage.embedded.local import open_cluster
from moorage.embedded.node.run import Nodes
from moorage.embedded.serve import serve_api
from moorage.errors import NotFound
from moorage.identity.pki import ensure_authority, ensure_server_certificate
from moorage.kube.kinds import POD


async def main(folder: Path) -> None:
    log_to_stderr()
    authority = ensure_authority(folder / "pki")
    certificate = ensure_server_certificate(authority, folder / "pki", "cluster", ["127.0.0.1", "localhost"])
    cluster = await open_cluster(folder / "state.db")
    async with serve_api(cluster, certificate) as serving:
        nodes = Nodes(
            cluster.with_manager("kubelet"),
            cluster.tokens,
            names=("node-0", "node-1"),
            folder=folder / "nodes",
            api=(serving.host, serving.port),
            ca=authority.pem,
        )
        cluster.backend = nodes
        kubeconfig.write(folder / "kubeconfig", serving.url, authority.pem, cluster.tokens.admin_token)
        controllers = cluster.with_manager("kube-controller-manager")
        working = [
            asyncio.create_task(run_controllers(controllers, volumes=folder / "volumes", root_ca=authority.pem.decode())),
            asyncio.create_task(nodes.run()),
        ]
        ended = asyncio.create_task(asyncio.to_thread(os.read, 0, 1))
        print("serving", flush=True)
        await asyncio.wait([*working, ended], return_when=asyncio.FIRST_COMPLETED)
        for task in working:
            if task.done():
                task.result()
        # Nobody waits for the grace of what the cases leave.
        for pod in (await cluster.list(POD)).items:
            with suppress(NotFound):
                await cluster.delete(POD, pod["metadata"]["name"], pod["metadata"]["namespace"], grace=timedelta(0))
        await nodes.stop_containers()
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
    await cluster.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
