"""Events about objects (core/v1), for people to read; nothing in this project decides by them (that a pod was refused is quoted from them). Their names follow from what they say, so that a
repeated event counts up instead of piling up, also across restarts."""

from __future__ import annotations

from moorage.clock import Clock, now, rfc3339
from moorage.errors import Conflict, NotFound
from moorage.ids import digest
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import EVENT
from moorage.kube.metadata import name_of, namespace_of, uid_of
from moorage.specs.manifest import Manifest

_LONGEST_MESSAGE = 1024  # Kubernetes' limit for Event.message
_LONGEST_REASON = 128


class EventRecorder:
    """Writes events as `component`. Not for secrets: events are readable by many."""

    def __init__(self, cluster: Cluster, component: str, clock: Clock = now) -> None:
        self._cluster = cluster
        self._component = component
        self._clock = clock

    async def record(self, about: Manifest, type: str, reason: str, message: str, *, again: bool = True) -> None:
        """Record that something happened to `about`.

        Args:
            type: Normal or Warning.
            again: False: an event that is there already is left as it is instead of being counted up.
        """
        event = self._event(about, type, reason[:_LONGEST_REASON], message[:_LONGEST_MESSAGE])
        for _ in range(3):
            try:
                await self._cluster.create(EVENT, event)
                return
            except Conflict:
                if not again:
                    return
            try:
                await self._count_up(event)
                return
            except NotFound:
                continue  # it ran out of its hour between the two requests
            except Conflict:
                continue  # somebody else counted; read again

    async def _count_up(self, event: Manifest) -> None:
        meta = event["metadata"]
        known = await self._cluster.get(EVENT, meta["name"], meta["namespace"])
        patch = {
            "metadata": {"resourceVersion": known["metadata"]["resourceVersion"]},
            "count": int(known.get("count") or 1) + 1,
            "lastTimestamp": event["lastTimestamp"],
        }
        await self._cluster.patch(EVENT, meta["name"], meta["namespace"], patch)

    def _event(self, about: Manifest, type: str, reason: str, message: str) -> Manifest:
        moment = rfc3339(self._clock())
        reference = {"apiVersion": about.get("apiVersion", ""), "kind": about.get("kind", ""), "name": name_of(about), "uid": uid_of(about)}
        if namespace_of(about):
            reference["namespace"] = namespace_of(about)
        name = f"{name_of(about)[:200]}.{digest(uid_of(about), self._component, type, reason, message, length=16)}"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            # Events about cluster-scoped objects live in `default`, where Kubernetes' own components put them.
            "metadata": {"name": name, "namespace": namespace_of(about) or "default"},
            "involvedObject": reference,
            "type": type,
            "reason": reason,
            "message": message,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": self._component,
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
        }
