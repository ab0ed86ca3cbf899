"""The operators with one write of several refused."""

from __future__ import annotations

import asyncio

from moorage.errors import Unavailable
from moorage.inference import controller as inference
from moorage.kube.controller import Controller
from moorage.kube.kinds import CONFIG_MAP, DEPLOYMENT, ONLINE_DEPLOYMENT, SERVICE
from moorage.specs.manifest import Manifest
from moorage.testing.builders import an_online_deployment
from moorage.testing.faults import Request, WiredCluster
from moorage.testing.memory import in_memory_cluster
from moorage.testing.world import until


def revision(deployment: Manifest) -> str:
    return str(deployment["spec"]["template"]["metadata"]["annotations"]["moorage.dev/revision"])


async def test_new_pods_of_a_deployment_come_only_once_their_plan_is_there() -> None:
    """They read it once: with the former one, the former model would be served under the new revision for good."""
    code = {"uri": "store/code", "scoringScript": "score.py"}
    async with in_memory_cluster() as memory:
        wired = WiredCluster(memory)
        controller = asyncio.create_task(Controller(wired, inference.config()).run())
        try:
            await memory.create(ONLINE_DEPLOYMENT, an_online_deployment("blue", code=code))
            await until(memory, SERVICE, "blue", "default", lambda found: True)
            first = revision(await memory.get(DEPLOYMENT, "blue", "default"))
            begun, refusals = len(wired.requests), 3

            def refuse_plans(request: Request) -> None:
                nonlocal refusals
                if request.verb == "apply" and request.kind == CONFIG_MAP and refusals:
                    refusals -= 1
                    raise Unavailable("etcdserver: request timed out")

            wired.before = refuse_plans
            await memory.patch(ONLINE_DEPLOYMENT, "blue", "default", {"spec": {"code": {**code, "uri": "store/other"}}})
            await until(memory, DEPLOYMENT, "blue", "default", lambda found: revision(found) != first)
            applied = [request.kind for request in wired.requests[begun:] if request.verb == "apply"]
            assert applied[:5] == [CONFIG_MAP] * 4 + [DEPLOYMENT]
        finally:
            controller.cancel()
            await asyncio.gather(controller, return_exceptions=True)
