"""The gateway put together: one stream down, one outbox up, and between them informers on the cluster."""

from __future__ import annotations

import asyncio

from moorage.gateway.access import AccessKeeper
from moorage.gateway.asks import Asks
from moorage.gateway.connection import Connection, Workspace
from moorage.gateway.desired import KINDS, Desired, Target
from moorage.gateway.down import Converger, Stream
from moorage.gateway.logs import JobLogs
from moorage.gateway.outbox import Outbox
from moorage.gateway.podlogs import JOB_LABEL
from moorage.gateway.up import Events, Inventory, Statuses
from moorage.kube.cluster import Cluster
from moorage.kube.informer import Informers
from moorage.kube.kinds import INSTANCE_TYPE, NODE, POD, SERVICE

ROUTER_NAMESPACE = "azureml"
ROUTER_SERVICE = "azureml-fe"


class Gateway:
    """A cluster's link to its workspace.

    Args:
        informers: shared with controllers of the same process and run by whoever shares them; None: the gateway runs its own.
    """

    def __init__(self, cluster: Cluster, connection: Connection, *, informers: Informers | None = None) -> None:
        self._own_informers = informers is None
        self._informers = informers or Informers(cluster)
        self._workspace = Workspace(connection)
        self._desired = Desired()
        self._outbox = Outbox(self._workspace)
        self._asks = Asks(cluster, self._workspace)
        objects = {name: self._informers.informer(kind) for name, kind in KINDS.items()}
        self._needed = list(objects.values())
        self._access = AccessKeeper(cluster, self._workspace, connection, objects, self._desired)
        self._converger = Converger(cluster, self._desired, objects, self._outbox, self._access.before_change, self._again)
        self._stream = Stream(
            self._workspace, self._desired, changed=self._converger.look, renewed=self._outbox.repeat, asked=self._asks.ask
        )
        pods = self._informers.informer(POD, labels=JOB_LABEL)
        self._needed.append(pods)
        self._logs = JobLogs(cluster, self._outbox, objects["TrainingJob"], pods, self._again)
        self._statuses = Statuses(objects, self._outbox, self._logs.complete, self._converger.revision)
        self._events = Events(cluster, objects, self._outbox)
        self._inventory = Inventory(
            cluster,
            self._informers.informer(NODE),
            self._informers.informer(INSTANCE_TYPE),
            self._informers.informer(SERVICE, ROUTER_NAMESPACE, fields=f"metadata.name={ROUTER_SERVICE}"),
            self._outbox,
        )

    def _again(self, target: Target) -> None:
        self._statuses.again(target)

    @property
    def connected(self) -> bool:
        """Whether the stream from the workspace is open."""
        return self._stream.connected

    async def run(self) -> None:
        """Work until cancelled. The workspace being away is no error."""
        try:
            async with asyncio.TaskGroup() as group:
                if self._own_informers:
                    group.create_task(self._informers.run(), name="gateway informers")
                group.create_task(self._outbox.run(), name="outbox")
                group.create_task(self._inventory.run(), name="inventory")
                # Nothing is decided on half a picture: an object not yet listed would look as if it were gone.
                for informer in self._needed:
                    await informer.synced.wait()
                for name, part in (
                    ("stream", self._stream.run()),
                    ("converger", self._converger.run()),
                    ("access", self._access.run()),
                    ("events", self._events.run()),
                    ("logs", self._logs.run()),
                    ("asks", self._asks.run()),
                ):
                    group.create_task(part, name=f"gateway {name}")
        finally:
            await self._workspace.close()


async def run_gateway(cluster: Cluster, connection: Connection, *, informers: Informers | None = None) -> None:
    """Link `cluster` to its workspace until cancelled."""
    await Gateway(cluster, connection, informers=informers).run()
